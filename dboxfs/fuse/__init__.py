"""The kernel's side: operations, inode numbers, attributes, invalidation, the control directory.

``mount.run`` is the whole life of a mount, ``options`` what it is told.  All but ``options`` needs FUSE.
"""
