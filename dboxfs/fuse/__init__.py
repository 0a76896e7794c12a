"""The kernel's side: operations, inode numbers, attributes, invalidation, the control directory.

``mount.run`` is the whole life of a mount, ``options`` what it is told.  All but ``options`` needs FUSE.

This package is the only one that imports pyfuse3, and none of its modules can be imported before the line
below: the hook of :mod:`dboxfs.fuse.openless` works only if it is loaded before pyfuse3.
"""

from dboxfs.fuse.openless import HOOK as HOOK
