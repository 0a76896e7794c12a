"""``python -m bench.saver MESSAGE COUNT STORE FSYNC WRITERS``: save messages with ``StoreWriter``.

*WRITERS* tasks save *COUNT* messages each.  It saves one message, prints ``ready``, waits for a line on its
standard input, saves, and prints ``done`` (:mod:`bench.saves`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import Fsync, NewMessage, StoreWriter, WriteOptions


def main(message: str, count: str, store: str, fsync: str, writers: str) -> None:
    """Save."""
    trio.run(_save, Path(message).read_bytes(), int(count), store, Fsync(fsync), int(writers))


async def _save(text: bytes, count: int, store: str, fsync: Fsync, writers: int) -> None:
    location = parse_location(store)
    async with FileSystem(ThreadsDriver(), sync=fsync is Fsync.COMMIT) as fs:
        writer = StoreWriter(fs, location, await fs.stat(location.root), WriteOptions(fsync=fsync))

        async def save(how_many: int) -> None:
            for _ in range(how_many):
                await writer.save("INBOX", [NewMessage(text)])

        await save(1)
        print("ready", flush=True)
        sys.stdin.readline()
        async with trio.open_nursery() as nursery:
            for _ in range(writers):
                nursery.start_soon(save, count)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
