"""The FUSE side of a mount: everything here needs FUSE, and no package below it knows pyfuse3.

``mount.run`` is the whole life of a mount; ``adapter`` has the handlers.

This package is the only one that imports pyfuse3, and none of its modules can be imported before the line
below: the hook of :mod:`dboxfs.fuse.openless` works only if it is loaded before pyfuse3.
"""

from dboxfs.fuse.openless import HOOK as HOOK
