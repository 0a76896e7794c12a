"""The floor of a restore: the least that a file system on pyfuse3 costs into which rsync puts a backup.

It keeps names and attributes of inodes, takes every write and every extended attribute, and keeps none of
their bytes.  The kernel remembers names, missing names and attributes for a day.  The event loop is that of
dboxfs.  So what a mount with ``-o restore`` takes longer than this is what mail costs::

    python -m bench.restore_floor MOUNTPOINT        in the foreground until it is unmounted
"""

from __future__ import annotations

import errno
import itertools
import stat
import sys
from typing import Any

import pyfuse3
import trio

from bench.floor import install_loop

_LONG = 86400.0


class RestoreFloor(pyfuse3.Operations):
    """The file system."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(pyfuse3.ROOT_INODE)
        self._names: dict[tuple[int, bytes], pyfuse3.EntryAttributes] = {}
        self._inodes: dict[int, pyfuse3.EntryAttributes] = {}
        self._make(stat.S_IFDIR | 0o700)
        self._missing = pyfuse3.EntryAttributes()
        self._missing.st_ino, self._missing.entry_timeout = pyfuse3.InodeT(0), _LONG

    def _make(self, mode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = pyfuse3.InodeT(next(self._numbers)), pyfuse3.ModeT(mode)
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = _LONG
        self._inodes[entry.st_ino] = entry
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._names.get((parent, name), self._missing)

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._inodes[inode]

    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        entry = self._inodes[inode]
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        if fields.update_mode:
            entry.st_mode = attr.st_mode
        return entry

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        entry = self._names[parent, name] = self._make(stat.S_IFREG | stat.S_IMODE(mode))
        opened = pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(entry.st_ino), direct_io=True, keep_cache=False)
        return opened, entry

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        entry = self._inodes[fh]
        entry.st_size = max(entry.st_size, offset + len(data))
        return len(data)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        entry = self._names[parent, name] = self._make(stat.S_IFDIR | stat.S_IMODE(mode))
        return entry

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: Any
    ) -> None:
        self._names[new_parent, new] = self._names.pop((old_parent, old))

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        pass  # rsync lists a directory to find what is to be deleted there, and it deletes nothing

    async def releasedir(self, fh: int) -> None:
        pass

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        pass

    async def listxattr(self, inode: int, ctx: Any) -> list[pyfuse3.XAttrNameT]:
        return []

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)


def main(mountpoint: str) -> None:
    """Serve until it is unmounted."""
    operations = RestoreFloor()
    install_loop()
    pyfuse3.init(operations, mountpoint, {"fsname=floor", "subtype=bench", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1])
