"""Messages are written in format 3, beside those of format 2, and stay what they are through every change.

No Dovecot: it can't read them.  What was written is looked at with the format page's own means (``golden3``),
and read back by the reading side.
"""

from __future__ import annotations

import re
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.dbox import FoundRecord, scan_file
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, Mailbox, Store, open_store
from dboxfs.store.write import (
    BytesSource,
    Eol,
    HandleSource,
    Neighbour,
    NewMessage,
    Spool,
    StoreWriter,
    WriteOptions,
    init_store,
)
from tests.dbox.golden3 import file_of, page_example

BOTH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
THREE = WriteOptions(Neighbour.ALONE, dbox_version=3, memory_limit=10_000)
TWO = WriteOptions(Neighbour.ALONE, memory_limit=10_000)
SMALL = b"Subject: small\n\ntext\n"
LARGE = b"Subject: large\r\n\n" + b"a line\n" * 300_000
ODD = [b"\n", b"\x1f\x8b\x08 no gzip\n", page_example(), file_of([b"a", page_example()])[0], b"x" * 10_001]


@dataclass(slots=True)
class Made:
    fs: FileSystem
    store: Store
    location: Location

    def writer(self, options: WriteOptions = THREE) -> StoreWriter:
        return StoreWriter(self.fs, self.location, self.store.owner, options)

    @property
    def box(self) -> Mailbox:
        box = self.store.folders["INBOX"].mailbox
        assert box is not None
        return box

    async def texts(self) -> list[bytes]:
        """What the messages of INBOX are, by uid."""
        await self.store.refresh_mailbox(self.store.folders["INBOX"])
        found = []
        for uid in self.box.uids.tolist():
            body = await self.box.open(uid)
            found.append(await body.read(body.size + 1, 0))
            assert (await self.box.facts_of(uid)).size == len(found[-1])
            body.close()
        return found

    def files(self) -> list[bytes]:
        """All message files, in order."""
        paths = [p for p in Path(self.location.root).rglob("[um].*") if re.fullmatch(r"[um]\.\d+", p.name)]
        return [path.read_bytes() for path in sorted(paths, key=lambda p: (p.parent, int(p.name[2:])))]

    def leftovers(self) -> list[str]:
        return [path.name for path in Path(self.location.root).rglob(".temp.*")]


@asynccontextmanager
async def made(kind: Kind, path: Path) -> AsyncIterator[Made]:
    location = Location(kind, str(path / "store"))
    async with FileSystem(ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        async with open_store(fs, location, follow=False) as store:
            yield Made(fs, store, location)


def records_of(data: bytes) -> list[tuple[bytes, tuple[tuple[bytes, bytes], ...]]]:
    """Bodies and metadata of a file that has nothing but whole records of format 3."""
    found = []
    for region in scan_file(data):
        assert isinstance(region, FoundRecord)
        assert region.damage is None
        body = data[region.trailer.body_offset : region.trailer.offset]
        assert zlib.crc32(body) == region.trailer.crc
        found.append((body, region.trailer.metadata.items))
    return found


@BOTH
async def test_every_message_is_read_back_exactly(kind: Kind, tmp_path: Path) -> None:
    expected = [SMALL, LARGE, *ODD]
    async with made(kind, tmp_path) as store:
        saved = await store.writer().save("INBOX", [NewMessage(text, received=5) for text in expected])
        assert await store.texts() == expected
        found = [one for data in store.files() for one in records_of(data)]
        assert sorted(body for body, _ in found) == sorted(expected)
        items = {body: dict(lines) for body, lines in found}
        assert items[LARGE][b"V"] == b"%x" % (len(LARGE) + LARGE.count(b"\n") - LARGE.count(b"\r\n"))
        assert items[SMALL][b"R"] == b"5"
        assert items[SMALL][b"G"] == saved.guids[0].hex().encode()
        assert items[SMALL].get(b"B") == (b"INBOX" if kind is Kind.MDBOX else None)
        assert store.leftovers() == []


@BOTH
async def test_a_large_message_is_never_in_memory(kind: Kind, tmp_path: Path) -> None:
    piece = b"a line of sixty-four bytes, CR and LF not counted among them...\r\n" * 1000
    async with made(kind, tmp_path) as store:
        writer = store.writer()
        tracemalloc.start()
        try:
            for source in ("spool", "handle"):
                begun = writer.spool("INBOX") if source == "spool" else None
                handle = store.fs.create(str(tmp_path / "handle"))
                for _ in range(400):
                    await (begun or handle).write_all(piece)
                await writer.save("INBOX", [NewMessage(begun or HandleSource(handle))])
                if begun is not None:
                    begun.close()
                await handle.aclose()
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()
        await store.store.refresh_mailbox(store.store.folders["INBOX"])
        assert [(await store.box.facts_of(uid)).size for uid in (1, 2)] == [400 * len(piece)] * 2


@BOTH
async def test_line_ends_are_those_that_were_asked_for(kind: Kind, tmp_path: Path) -> None:
    text = b"a\r\nb\rc\n" * 3000 + b"\r"
    options = WriteOptions(Neighbour.ALONE, eol=Eol.LF, dbox_version=3, memory_limit=10_000)
    async with made(kind, tmp_path) as store:
        writer = store.writer(options)
        spool = writer.spool("INBOX")
        await spool.write_all(text)
        await writer.save("INBOX", [NewMessage(text[:100]), NewMessage(text), NewMessage(spool)])
        spool.close()
        whole = b"a\nb\rc\n" * 3000
        assert await store.texts() == [whole[:85], whole, whole]
        assert store.leftovers() == []


async def spooled(writer: StoreWriter, text: bytes, name: str = "INBOX") -> Spool:
    spool = writer.spool(name)
    for at in range(0, len(text), 100_000):
        await spool.write_all(text[at : at + 100_000])
    return spool


@BOTH
async def test_upload_becomes_a_message_without_a_second_copy_of_its_bytes(
    kind: Kind, tmp_path: Path
) -> None:
    async with made(kind, tmp_path) as store:
        writer = store.writer()
        spool = await spooled(writer, LARGE)
        await spool.sync()
        (path,) = Path(store.location.root).rglob(".temp.*")
        inode = path.stat().st_ino
        await writer.save("INBOX", [NewMessage(SMALL), NewMessage(spool), NewMessage(BytesSource(SMALL))])
        assert sorted(await store.texts()) == sorted([SMALL, LARGE, SMALL])
        paths = {p.stat().st_ino: p for p in Path(store.location.root).rglob("[um].*") if p.is_file()}
        assert records_of(paths[inode].read_bytes())[0][0] == LARGE
        assert await spool.read(10, 3) == LARGE[3:13], "who wrote it can go on reading"
        spool.close()
        await store.fs.stat(str(paths[inode]))
        assert store.leftovers() == []


@BOTH
async def test_upload_that_begins_again_is_only_what_came_last(kind: Kind, tmp_path: Path) -> None:
    async with made(kind, tmp_path) as store:
        writer = store.writer()
        spool = await spooled(writer, LARGE)
        spool.rollback()
        assert spool.size == 0
        assert await spool.read(10, 0) == b""
        await spool.write_all(SMALL)
        await writer.save("INBOX", [NewMessage(spool)])
        spool.close()
        forgotten = await spooled(writer, LARGE)
        forgotten.close()
        assert await store.texts() == [SMALL]
        for data in store.files():
            assert [body for body, _ in records_of(data)] == [SMALL]
    assert store.leftovers() == []


@BOTH
async def test_upload_for_another_mailbox_is_copied_there(kind: Kind, tmp_path: Path) -> None:
    async with made(kind, tmp_path) as store:
        writer = store.writer()
        await writer.create_mailbox("Other")
        spool = await spooled(writer, LARGE, "Other")
        await writer.save("INBOX", [NewMessage(spool)])
        spool.close()
        assert await store.texts() == [LARGE]
    assert store.leftovers() == []


@BOTH
async def test_both_formats_live_in_one_store(kind: Kind, tmp_path: Path) -> None:
    async with made(kind, tmp_path) as store:
        for options in (TWO, THREE, TWO, THREE):
            await store.writer(options).save("INBOX", [NewMessage(SMALL), NewMessage(LARGE)])
        expected = [SMALL, LARGE] * 4
        assert await store.texts() == expected
        versions = [data[:2] for data in store.files()]
        assert {b"2 ", b"3 "} == set(versions)
        for data in store.files():
            if data[:2] == b"3 ":
                assert {body for body, _ in records_of(data)} <= {SMALL, LARGE}
            else:
                assert b"\n\x01\x03\n" in data
        writer = store.writer()
        await writer.create_mailbox("Other")
        await writer.copy("INBOX", [1, 2, 3, 4], "Other")
        await writer.move("INBOX", [1, 3], "Other")
        await writer.copy("Other", [1, 2, 3, 4, 5, 6], "INBOX")
        await writer.expunge("INBOX", [2, 4])
        await writer.save("INBOX", [NewMessage(b"instead\n", replaces=5), NewMessage(b"too\n", replaces=7)])
        kept = [LARGE, LARGE, SMALL, LARGE, SMALL, LARGE, SMALL, SMALL, b"instead\n", b"too\n"]
        assert await store.texts() == kept


async def test_new_messages_go_into_files_of_their_own_format_only(tmp_path: Path) -> None:
    async with made(Kind.MDBOX, tmp_path) as store:
        for options in (TWO, TWO, THREE, THREE, TWO, THREE):
            await store.writer(options).save("INBOX", [NewMessage(SMALL)])
        first, second = store.files()
        assert first.count(SMALL) == 3
        assert [body for body, _ in records_of(second)] == [SMALL] * 3


async def test_purge_moves_messages_with_new_trailers(tmp_path: Path) -> None:
    texts = [b"Subject: %d\n\n" % n + page_example() * (n % 3) for n in range(9)]
    async with made(Kind.MDBOX, tmp_path) as store:
        for options in (THREE, TWO):
            for text in texts:
                await store.writer(options).save("INBOX", [NewMessage(text)])
        writer = store.writer()
        await writer.expunge("INBOX", [1, 4, 5, 9, 10, 14])
        before = dict(records_of(store.files()[0]))
        done = await writer.purge()
        assert (done.messages, done.files, done.left) == (6, 2, ())
        kept = [n for n in range(9) if n not in (0, 3, 4, 8)]
        assert await store.texts() == [texts[n] for n in kept] + [
            texts[n] for n in range(9) if n not in (0, 4)
        ]
        (moved,) = [data for data in store.files() if data[:2] == b"3 "]
        assert records_of(moved) == [(texts[n], before[texts[n]]) for n in kept]


async def test_purge_leaves_a_damaged_file_alone(tmp_path: Path) -> None:
    async with made(Kind.MDBOX, tmp_path) as store:
        writer = store.writer()
        await writer.save("INBOX", [NewMessage(SMALL), NewMessage(SMALL), NewMessage(SMALL)])
        await writer.expunge("INBOX", [1])
        path = Path(store.location.storage) / "m.1"
        data = bytearray(path.read_bytes())
        data[-60] ^= 1
        path.write_bytes(data)
        done = await writer.purge()
        assert len(done.left) == 1
        assert "map uid 3" in done.left[0]
        assert path.read_bytes() == data
        assert store.leftovers() == []


@pytest.mark.parametrize("size", [1, 30, 100, 10_000])
async def test_torn_end_of_a_file_is_cut_off_and_nothing_else(tmp_path: Path, size: int) -> None:
    async with made(Kind.MDBOX, tmp_path) as store:
        await store.writer().save("INBOX", [NewMessage(SMALL), NewMessage(page_example())])
        path = Path(store.location.storage) / "m.1"
        whole = path.read_bytes()
        extra = file_of([LARGE[:20_000]])[0][50:]
        path.write_bytes(whole + extra[:size])
        await store.writer().recover()
        assert path.read_bytes() == whole
        await store.writer().save("INBOX", [NewMessage(b"next\n")])
        assert [body for body, _ in records_of(path.read_bytes())] == [SMALL, page_example(), b"next\n"]
