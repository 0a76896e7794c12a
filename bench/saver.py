"""One process that saves messages and says how long it took; :mod:`bench.saves` starts it.

It gets itself ready, prints ``ready``, waits for a line on its standard input, saves, and prints ``done``.
The message comes from a file.

``files DIRECTORY PREFIX``: as cp does, a new file for each message.  ``library STORE FSYNC WRITERS``: with
``StoreWriter``, from so many tasks at once, ``--count`` messages each.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.writing import Fsync, NewMessage, StoreWriter, WriteOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Save as *argv* says."""
    parser = argparse.ArgumentParser("python -m bench.saver", description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--message", type=Path, required=True)
    commands = parser.add_subparsers(required=True, dest="how")
    files = commands.add_parser("files")
    files.add_argument("directory", type=Path)
    files.add_argument("prefix")
    library = commands.add_parser("library")
    library.add_argument("store")
    library.add_argument("fsync", type=Fsync)
    library.add_argument("writers", type=int)
    arguments = parser.parse_args(argv)
    text = arguments.message.read_bytes()
    if arguments.how == "files":
        _save_files(arguments.directory, arguments.prefix, text, arguments.count)
    else:
        trio.run(_save, arguments.store, arguments.fsync, arguments.writers, text, arguments.count)
    return 0


def _await_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _save_files(directory: Path, prefix: str, text: bytes, count: int) -> None:
    _await_start()
    for number in range(count):
        descriptor = os.open(directory / f"{prefix}{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
    print("done", flush=True)


async def _save(store: str, fsync: Fsync, writers: int, text: bytes, count: int) -> None:
    location = parse_location(store)
    async with FileSystem(ThreadsDriver(), sync=fsync is Fsync.COMMIT) as fs:
        writer = StoreWriter(fs, location, await fs.stat(location.root), WriteOptions(fsync=fsync))

        async def save(how_many: int) -> None:
            for _ in range(how_many):
                await writer.save("INBOX", [NewMessage(text)])

        await save(1)
        _await_start()
        async with trio.open_nursery() as nursery:
            for _ in range(writers):
                nursery.start_soon(save, count)
        print("done", flush=True)


if __name__ == "__main__":
    sys.exit(main())
