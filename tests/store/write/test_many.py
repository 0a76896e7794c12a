"""Memory of one save of many messages: bounded by what is written at a time, not by all that was written."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.dbox.encoders import parse_method
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

SIZE = 1 << 19
MANY = 64
MOST_BYTES = 20 << 20
"""What is composed in memory and the pieces that are being written; all messages are 32 MiB."""


@dataclass(frozen=True)
class Random:
    """A text that can't be compressed and is in memory only while it is read."""

    number: int
    size: int = SIZE

    async def read(self, size: int, offset: int) -> bytes:
        return random.Random(self.number).randbytes(self.size)[offset : offset + size]

    async def descriptor(self) -> int | None:
        return None


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
async def test_the_compressed_bytes_of_messages_that_are_written_are_given_up(
    kind: Kind, tmp_path: Path
) -> None:
    location = Location(kind, str(tmp_path / "store"))
    options = WriteOptions(Neighbour.ALONE, compress=parse_method("zstd"))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        writer = StoreWriter(fs, location, await fs.stat(location.root), options)
        tracemalloc.start()
        try:
            saved = await writer.save("INBOX", [NewMessage(Random(number)) for number in range(MANY)])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(saved.uids) == MANY
    assert peak < MOST_BYTES
