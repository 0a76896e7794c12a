"""Where messages are put: copies of one message, and records of all sizes in ``m.N`` files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store.location import Kind, Location
from dboxfs.store.write import Neighbour, WriteOptions
from dboxfs.store.write.session import Work
from dboxfs.tools.convert.source import SourceMessage, Stored
from dboxfs.tools.convert.target import MdboxTarget


def message(uid: int, size: int, key: str | None = None, *, known: bool = False) -> Stored:
    items = [(b"R", b"1"), (b"G", b"%032x" % uid)]
    return Stored(uid, 1, bytes(15) + bytes([uid]), key, size, None, items, b"x" * size, known)


@asynccontextmanager
async def target(tmp_path: Path, most_references: int = 100) -> AsyncIterator[MdboxTarget]:
    """An mdbox whose files have 1000 bytes."""
    (tmp_path / "storage").mkdir()
    options = WriteOptions(neighbour=Neighbour.ALONE, rotate_size=1000)
    async with FileSystem(ThreadsDriver()) as fs:
        made = MdboxTarget(
            Work(fs, Location(Kind.MDBOX, str(tmp_path)), tmp_path.stat(), options), most_references
        )
        yield made
        await made.finish()


async def test_a_message_with_too_many_copies_is_stored_again(tmp_path: Path) -> None:
    async with target(tmp_path, most_references=3) as made:
        first: list[SourceMessage] = [message(uid, 50, "key") for uid in range(1, 3)]
        await made.put("INBOX", first)
        late: list[SourceMessage] = [
            message(uid, 50, "key", known="key" in made.shared) for uid in range(3, 6)
        ]
        await made.put("INBOX", late)  # the third makes the record full; the others were read without bytes
        assert "key" not in made.shared
        last: list[SourceMessage] = [message(uid, 50, "key") for uid in range(6, 8)]
        batch = await made.put("INBOX", last)
        assert [row.ref for row in batch.rows] == [2, 2]
        assert made.rows().refcounts.tolist() == [5, 2]


async def test_files_are_filled_and_a_large_message_has_its_own(tmp_path: Path) -> None:
    async with target(tmp_path) as made:
        found: list[SourceMessage] = [
            message(uid, size) for uid, size in enumerate((400, 400, 400, 1000, 2000, 10), 1)
        ]
        await made.put("INBOX", found)
        assert made.rows().file_ids.tolist() == [1, 1, 2, 3, 4, 5]
    for number in range(1, 6):
        data = (tmp_path / f"storage/m.{number}").read_bytes()
        assert data.startswith(b"2 M1e C")
        rows = made.rows()
        ends = [
            int(offset + size)
            for file_id, offset, size in zip(rows.file_ids, rows.offsets, rows.sizes, strict=True)
            if file_id == number
        ]
        assert max(ends) == len(data)
