"""Message files of format 3 damaged anywhere: what is not damaged is as it was, nothing is invented."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dboxfs.dbox import FoundRecord, scan_file
from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from tests.dbox.golden3 import page_example
from tests.store.test_damage import Made, flips, look, message_files

KINDS = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
TEXTS = {
    1: b"Subject: 1\n\ntext\n", 2: page_example(), 3: b"\n", 4: b"Subject: 4\n\n" + b"some text\n" * 30,
    5: b"\x1f\x8bSubject: 5\n\n" + page_example()[50:],
}  # fmt: skip

MakeStore = Callable[[Kind], Awaitable[Made]]


@pytest.fixture
def make(tmp_path: Path) -> MakeStore:
    async def made(kind: Kind) -> Made:
        location = Location(kind, str(tmp_path / "store"))
        async with FileSystem(ThreadsDriver(1)) as fs:
            options = WriteOptions(Neighbour.ALONE, dbox_version=3)
            await init_store(fs, location, options=options)
            writer = StoreWriter(fs, location, await fs.stat(location.root), options)
            await writer.save("INBOX", [NewMessage(text) for text in TEXTS.values()])
        files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return Made(location, files, TEXTS)

    return made


def owners(made: Made, path: str) -> list[tuple[int, int, int]]:
    """(uid, start, end) of the records in a file."""
    regions = [region for region in scan_file(made.files[path]) if isinstance(region, FoundRecord)]
    first = 1 if made.location.kind is Kind.MDBOX else int(path.rpartition(".")[2])
    return [(uid, region.offset, region.end) for uid, region in enumerate(regions, first)]


@KINDS
async def test_a_bit_in_a_message_file_costs_its_message_alone(
    make: MakeStore, kind: Kind, autojump_clock: object
) -> None:
    made, errors = await make(kind), 0
    assert await look(made, made.files) == (TEXTS, True)
    for path, at, data in flips(random.Random(kind.value), made.files, message_files(made), 150):
        found, _ = await look(made, {**made.files, path: data})
        hit = {uid for uid, start, end in owners(made, path) if start <= at < end}
        if not hit and kind is Kind.SDBOX:
            hit = {uid for uid, _, _ in owners(made, path)}  # a file has one message, and its header line
        for uid, text in TEXTS.items():
            what = found[uid]
            if uid not in hit:
                assert what == text, (path, at, uid)
            elif isinstance(what, bytes):
                assert sum(a != b for a, b in zip(what, text, strict=True)) <= 1
            else:
                assert isinstance(what, CorruptFile), (path, at, what)
                errors += 1
    assert errors > 50


@KINDS
async def test_file_cut_anywhere_keeps_the_messages_before_the_cut(
    make: MakeStore, kind: Kind, autojump_clock: object
) -> None:
    made, rng = await make(kind), random.Random(kind.value)
    for path in message_files(made):
        for _ in range(60 if kind is Kind.MDBOX else 12):
            size = rng.randrange(len(made.files[path]))
            found, _ = await look(made, {**made.files, path: made.files[path][:size]})
            lost = {uid for uid, _, end in owners(made, path) if end > size}
            for uid, text in TEXTS.items():
                assert (found[uid] == text) if uid not in lost else isinstance(found[uid], CorruptFile)
