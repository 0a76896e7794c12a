"""The kernel's side: operations, inode numbers, attributes, invalidation, the control directory."""

from dboxfs.fuse.mount import MountOptions, check_mountpoint, run
from dboxfs.fuse.options import ViewOptions

__all__ = ["MountOptions", "ViewOptions", "check_mountpoint", "run"]
