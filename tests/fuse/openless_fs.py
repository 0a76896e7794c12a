"""A file system of three files that refuses OPEN and OPENDIR, mounted and read by one process.

Run as a program (``python -m tests.fuse.openless_fs MOUNTPOINT [early]``) it prints as JSON what was read and
which requests came; *early*: with pyfuse3 imported before the hook was loaded.  It needs neither a store nor
Dovecot, so the hook can be tried with any libfuse.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections import Counter
from importlib import import_module

import trio

if "early" in sys.argv[2:]:
    import_module("pyfuse3").FileInfo  # noqa: B018 - what was imported is in force
hook = import_module("dboxfs.fuse").HOOK
pyfuse3 = import_module("pyfuse3")

FILES = {2: (b"two", b"the second file\n" * 5000), 3: (b"three", b"3"), 4: (b"four", b"")}


class Openless(pyfuse3.Operations):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def entry(self, inode: int) -> object:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o500 if inode == 1 else stat.S_IFREG | 0o400
        entry.st_size = 0 if inode == 1 else len(FILES[inode][1])
        entry.entry_timeout = entry.attr_timeout = 3600
        return entry

    async def getattr(self, inode: int, ctx: object) -> object:
        return self.entry(inode)

    async def lookup(self, parent: int, name: bytes, ctx: object) -> object:
        for inode, (known, _) in FILES.items():
            if known == name:
                return self.entry(inode)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def opendir(self, inode: int, ctx: object) -> int:
        self.requests["opendir"] += 1
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def readdir(self, fh: int, start: int, token: object) -> None:
        self.requests[f"readdir {fh}"] += 1
        for at, (inode, (name, _)) in enumerate(FILES.items()):
            if at >= start and not pyfuse3.readdir_reply(token, name, self.entry(inode), at + 1):
                return

    async def open(self, inode: int, flags: int, ctx: object) -> object:
        self.requests["open"] += 1
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        self.requests[f"read {fh}"] += 1
        return FILES[fh][1][offset : offset + size]

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)


def read_all(mountpoint: str) -> dict[str, str]:
    """What a client finds: name -> content, twice over the same."""
    for _ in range(2):
        found = {}
        for name in sorted(os.listdir(mountpoint)):
            with open(os.path.join(mountpoint, name)) as file:
                found[name] = file.read()
    return found


async def main(mountpoint: str) -> None:
    operations = Openless()
    pyfuse3.init(operations, mountpoint, {"ro", "fsname=openless", "default_permissions"})
    why_not, found = hook.why_not(), {}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            if not why_not:
                found = await trio.to_thread.run_sync(read_all, mountpoint, abandon_on_cancel=True)
            pyfuse3.terminate()
    finally:
        pyfuse3.close(unmount=True)
    answer = {"why_not": why_not, "found": found, "requests": operations.requests, "filled": hook.filled}
    print(json.dumps(answer))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
