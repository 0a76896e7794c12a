"""A file system of three files that refuses OPEN and OPENDIR, mounted and read by one process.

Run as a program (``python -m tests.fuse.openless_fs MOUNTPOINT [early] [many]``) it prints as JSON what was
read and which requests came; *early*: with pyfuse3 imported before the hook was loaded; *many*: the directory
has messages, too, which are listed as a block, and what is printed is their attributes.  It needs neither a
store nor Dovecot, so the hook can be tried with any libfuse.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import trio

if "early" in sys.argv[2:]:
    import_module("pyfuse3").FileInfo  # noqa: B018 - what was imported is in force
hook = import_module("dboxfs.fuse").HOOK
pyfuse3 = import_module("pyfuse3")

add_messages = import_module("dboxfs.fuse.entries").add_messages
ListingBlock = import_module("dboxfs.vfs.listing").ListingBlock

FILES = {2: (b"two", b"the second file\n" * 5000), 3: (b"three", b"3"), 4: (b"four", b"")}

MANY = 3000
"""Messages that are listed as a block."""


def many() -> Any:
    """The block: names of one to 200 bytes, sizes of up to 4 GiB, times before 1970, too."""
    numbers = np.arange(1, MANY + 1)
    return ListingBlock.of(
        [b"%d" % number + b"n" * (number * 7 % 196) for number in numbers.tolist()],
        next=numbers + len(FILES),
        inode=numbers + (5 << 32),
        size=numbers * 1_431_655,
        received=numbers * 500_000 - 100_000_000,
        changed_ns=(numbers * 500_000 - 200_000_000) * 1_000_000_000 + numbers,
        attr_timeout=np.where(numbers % 2, np.nan, 3600.0),
    )


class Messages:
    """The directory, for its messages."""

    def blocks(self, start: int) -> Iterator[Any]:
        block = many().from_offset(start)
        half = len(block.rows) // 2
        yield ListingBlock(block.rows[:half], block.names)
        yield ListingBlock(block.rows[half:], block.names)


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
        if inode > 4:
            self.requests["getattr"] += 1
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
        if "many" in sys.argv:
            add_messages(token, Messages(), start, self.entry(3), 0)

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


def attributes(mountpoint: str) -> dict[str, list[int]]:
    """What a client finds: name -> inode, size, mtime and ctime (ns) of the messages."""
    own = {name.decode() for name, _ in FILES.values()}
    with os.scandir(mountpoint) as entries:
        listed = {entry.name: entry.stat() for entry in entries if entry.name not in own}
    return {name: [s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in listed.items()}


async def main(mountpoint: str) -> None:
    operations = Openless()
    pyfuse3.init(operations, mountpoint, {"ro", "fsname=openless", "default_permissions"})
    why_not, found = hook.why_not(), {}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            if not why_not:
                client: Any = attributes if "many" in sys.argv else read_all
                found = await trio.to_thread.run_sync(client, mountpoint, abandon_on_cancel=True)
            pyfuse3.terminate()
    finally:
        pyfuse3.close(unmount=True)
    answer = {"why_not": why_not, "found": found, "requests": operations.requests, "filled": hook.filled}
    if hook.loaded is not None:
        answer["singly"] = ctypes.c_ulong.in_dll(hook.loaded, "dboxfs_entries").value
    print(json.dumps(answer))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
