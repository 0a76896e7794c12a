"""A message that brings the guid of another one of its mdbox is stored once, or gets a guid of its own."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from dboxfs.errors import CorruptFile
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.store import Kind
from dboxfs.store.stored_once import Arrived, StoredOnce
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from dboxfs.tools.check.check import CheckOptions, check_store
from dboxfs.tools.check.findings import Finding, Severity
from tests.vfs.inside import ALONE, JULY, ONE, TWO, Mounted, Program, mounted, raises

ATTRIBUTES = ("flags", "keywords", "guid", "saved", "received", "orig_mailbox")
GUID = "00112233445566778899aabbccddee%02x"


@pytest.fixture
async def m() -> AsyncIterator[Mounted]:
    """An mdbox: INBOX with one message, Work with none."""
    async with mounted(Kind.MDBOX) as made:
        yield made


async def copy(p: Program, source: str, target: str, text: bytes | None = None) -> None:
    """``cp -a``; *text*: it was edited since."""
    file = await p.create(target, os.O_TRUNC)
    await file.write(await p.read(source) if text is None else text)
    attrs = await p.stat(source)
    await file.set_received(attrs.modified_ns // 10**9)
    for name in ATTRIBUTES:
        value = await p.xattr(source, name)
        await p.rw.setxattr(file.inode, b"user.dbox." + name.encode(), value.encode())
    await file.close()


async def records(m: Mounted) -> dict[int, int]:
    """Map uids that messages refer to, and the refcount of each, as the map has it; these agree."""
    mapping = await StoreWriter(m.fs, m.location, m.store.owner, ALONE).seen_map()
    counts = dict(zip(mapping.map_uids.tolist(), mapping.refcounts.tolist(), strict=True))
    referred: dict[int, int] = {}
    for folder in m.store.folders.values():
        await m.store.refresh_mailbox(folder)
        box = folder.mailbox
        column = map_uids(box.state) if box is not None and box.state is not None else None
        for place in column.tolist() if column is not None else []:
            referred[place] = referred.get(place, 0) + 1
    assert {place: count for place, count in counts.items() if count} == referred
    return referred


async def is_clean(m: Mounted) -> None:
    """``dboxfs check`` finds nothing."""
    found: list[Finding] = []
    await check_store(m.fs, m.location, found.append, CheckOptions(patience=()))
    assert [finding for finding in found if finding.severity is not Severity.NOTE] == []


async def test_cp_with_all_attributes_is_a_copy(m: Mounted, p: Program) -> None:
    await copy(p, "INBOX/1.eml", "Work/a")
    await copy(p, "Work/a", "INBOX/b")
    assert await records(m) == {1: 3}
    assert (await m.stored(), await m.stored("Work")) == ([(1, ONE), (2, ONE)], [(1, ONE)])
    assert len({await p.xattr(path, "guid") for path in ("INBOX/1.eml", "Work/a", "INBOX/b")}) == 1
    await m.others.expunge("INBOX", [1, 2])
    await m.others.purge()
    assert await m.stored("Work") == [(1, ONE)]
    await is_clean(m)


@pytest.mark.parametrize(
    ("text", "received", "why"),
    [
        (ONE.upper(), JULY, "INBOX, uid 1, has it, and another text"),
        (ONE + b"more\n", JULY, "INBOX, uid 1, has it, and another text"),
        (ONE, JULY + 1, "INBOX, uid 1, has it, and another received date"),
    ],
)
async def test_another_text_or_date_with_the_guid_of_a_message_has_a_guid_of_its_own(
    m: Mounted, p: Program, text: bytes, received: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    guid = await p.xattr("INBOX/1.eml", "guid")
    file = await p.create("Work/edited")
    await file.write(text)
    await p.rw.setxattr(file.inode, b"user.dbox.guid", guid.encode())
    await file.set_received(received)
    with caplog.at_level(logging.WARNING):
        await file.close()
    assert (await m.stored("Work"), await records(m)) == ([(1, text)], {1: 1, 2: 1})
    assert await p.xattr("Work/edited", "guid") != guid
    assert [record.getMessage() for record in caplog.records] == [f"Work: uid 1 has a new guid: {why}"]
    await is_clean(m)


async def test_a_message_that_is_written_over_with_its_own_attributes_is_another_one(
    m: Mounted, p: Program
) -> None:
    guid = await p.xattr("INBOX/1.eml", "guid")
    await copy(p, "INBOX/1.eml", "INBOX/.new", TWO)
    await p.rename("INBOX/.new", "INBOX/1.eml")
    assert await m.stored() == [(2, TWO)]
    assert await p.xattr("INBOX/1.eml", "guid") != guid
    await copy(p, "INBOX/1.eml", "INBOX/.again")
    await p.rename("INBOX/.again", "INBOX/1.eml")
    assert (await m.stored(), await records(m)) == ([(3, TWO)], {2: 1})


async def test_a_message_whose_removal_a_dovecot_has_not_carried_out_is_found_too() -> None:
    async with mounted(Kind.MDBOX, WriteOptions(Neighbour.DOVECOT)) as m:
        p = m.program()
        await copy(p, "INBOX/1.eml", "Work/.kept")
        await m.others.expunge("INBOX", [1], execute=False)
        await m.store.refresh_mailbox(m.folder())
        await p.rename("Work/.kept", "Work/back")
        assert (m.uids(), await m.stored("Work")) == ([], [(1, ONE)])
        assert await records(m) == {1: 2}


async def test_a_message_that_is_removed_and_put_back_is_the_one_that_was_there(
    m: Mounted, p: Program
) -> None:
    await copy(p, "INBOX/1.eml", "Work/.kept")
    guid = await p.xattr("INBOX/1.eml", "guid")
    await p.unlink("INBOX/1.eml")
    await m.vfs.removals.finish(m.folder())
    assert await records(m) == {}
    await p.rename("Work/.kept", "Work/back")
    assert (await records(m), await m.stored("Work")) == ({1: 1}, [(1, ONE)])
    assert await p.xattr("Work/back", "guid") == guid
    await m.others.purge()
    assert await m.stored("Work") == [(1, ONE)]
    await is_clean(m)


async def test_another_text_with_the_guid_of_an_expunged_message_has_a_guid_of_its_own(
    m: Mounted, p: Program
) -> None:
    await copy(p, "INBOX/1.eml", "Work/.kept", ONE.upper())
    guid = await p.xattr("INBOX/1.eml", "guid")
    await p.unlink("INBOX/1.eml")
    await m.vfs.removals.finish(m.folder())
    await p.rename("Work/.kept", "Work/back")
    assert (await records(m), await m.stored("Work")) == ({2: 1}, [(1, ONE.upper())])
    assert await p.xattr("Work/back", "guid") != guid


async def test_two_files_with_one_new_guid_at_once_are_one_record(m: Mounted, p: Program, q: Program) -> None:
    files = []
    for program, path in ((p, "INBOX/a"), (q, "Work/b"), (p, "Work/c")):
        file = await program.create(path)
        await file.write(TWO)
        await program.rw.setxattr(file.inode, b"user.dbox.guid", (GUID % 1).encode())
        files.append(file)
    async with trio.open_nursery() as nursery:
        for file in files:
            nursery.start_soon(file.close)
    assert sorted((await records(m)).values()) == [1, 3]
    assert {await p.xattr(path, "guid") for path in ("INBOX/a", "Work/b", "Work/c")} == {GUID % 1}


async def test_copies_come_back_as_copies_whichever_mailbox_is_first(kind: Kind) -> None:
    async with mounted(kind, restore=True) as m:
        p = m.program()
        await p.mkdir("Other")
        files = {"INBOX/5.eml": TWO, "INBOX/7.eml": TWO, "Other/3.eml": TWO, "Work/2.eml": TWO}
        for path, text in {**files, "Work/9.eml": ONE}.items():
            await p.write(path, text, received=JULY)
            await p.set_xattr(path, "guid", GUID % (2 if text == ONE else 1))
        assert m.vfs.staging is not None
        await m.vfs.staging.commit()
        report = m.vfs.staging.describe()
        assert (report["messages"], report["kept_guid"], report["not_kept"]) == (5, 5, [])
        assert await m.stored() == [(1, ONE), (5, TWO), (7, TWO)]
        assert await m.stored("Work") == [(2, TWO), (9, ONE)]
        if kind is Kind.MDBOX:
            assert sorted((await records(m)).values()) == [1, 1, 4]
        for path in files:
            assert await p.xattr(path, "guid") == GUID % 1
        await is_clean(m)


async def test_what_comes_back_with_the_guid_of_another_text_is_told() -> None:
    async with mounted(Kind.MDBOX, restore=True) as m:
        p = m.program()
        guid = await p.xattr("INBOX/1.eml", "guid")
        for path, text in {"Work/5.eml": TWO, "Work/6.eml": TWO + b"x"}.items():
            await p.write(path, text, received=JULY)
            await p.set_xattr(path, "guid", GUID % 1)
        await p.write("INBOX/8.eml", TWO, received=JULY)
        await p.set_xattr("INBOX/8.eml", "guid", guid)
        assert m.vfs.staging is not None
        await m.vfs.staging.commit()
        report = m.vfs.staging.describe()
        assert (report["messages"], report["kept_guid"]) == (3, 1)
        assert report["not_kept"] == [
            {
                "mailbox": "INBOX",
                "name": "8.eml",
                "what": f"guid {guid}",
                "why": "INBOX, uid 1, has it, and another text",
            },
            {
                "mailbox": "Work",
                "name": "6.eml",
                "what": f"guid {GUID % 1}",
                "why": "5.eml has it, and another text",
            },
        ]
        await is_clean(m)


async def test_a_store_whose_map_is_not_made_yet_takes_a_guid(m: Mounted) -> None:
    assert m.store.storage is not None

    async def missing(*, fresh: bool = False) -> MapIndex:
        raise CorruptFile("dovecot.map.index.log", 0, "the map of the storage is missing")

    m.store.storage.map = missing  # type: ignore[method-assign]
    new = NewMessage(TWO, guid_text=b"a guid of another program")
    arrived = await StoredOnce(m.store, m.others).save("Work", [new])
    assert (arrived.not_kept, await m.stored("Work")) == ({}, [(1, TWO)])


# -- while it is compared -----------------------------------------------------------------------------------


class Meanwhile:
    """A text; while it is read for the first time something *happens*."""

    def __init__(self, text: bytes, happens: Callable[[], Awaitable[None]] | None = None) -> None:
        self.text = text
        self.happens = happens
        self.reads = 0

    @property
    def size(self) -> int:
        return len(self.text)

    async def read(self, size: int, offset: int) -> bytes:
        self.reads += 1
        happens, self.happens = self.happens, None
        if happens is not None:
            await happens()
        return self.text[offset : offset + size]

    async def descriptor(self) -> int | None:
        return None


async def guid_of(m: Mounted) -> bytes:
    """The guid of the message in INBOX."""
    box = m.folder().mailbox
    assert box is not None
    text = (await box.details(1)).metadata.guid
    assert text is not None
    return text


async def save(m: Mounted, source: Meanwhile, guid: bytes | None = None) -> Arrived:
    """Save a text with the guid of the message in INBOX, or another one."""
    message = NewMessage(source, JULY, guid_text=guid or await guid_of(m))
    return await StoredOnce(m.store, m.others).save("Work", [message])


async def test_texts_of_different_sizes_are_not_read(m: Mounted) -> None:
    source = Meanwhile(ONE + b"x")
    assert list((await save(m, source)).not_kept) == [0]
    reads = source.reads
    other = Meanwhile(ONE + b"x")
    await m.others.save("Work", [NewMessage(other)])
    assert reads == other.reads, "as often as for a save without a guid"


async def test_the_same_message_purged_while_it_is_compared_is_stored_anew(m: Mounted) -> None:
    async def purge() -> None:
        await m.others.expunge("INBOX", [1])
        await m.others.purge()

    source = Meanwhile(ONE, purge)
    arrived = await save(m, source)
    assert (arrived.not_kept, await m.stored("Work")) == ({}, [(1, ONE)])
    assert arrived.saved.guids[0].hex().encode() == await guid_of_work(m)
    assert list((await records(m)).values()) == [1]
    await is_clean(m)


async def guid_of_work(m: Mounted) -> bytes | None:
    await m.follow("Work")
    box = m.folder("Work").mailbox
    assert box is not None
    return (await box.details(1)).metadata.guid


async def test_the_same_message_expunged_while_it_is_compared_lends_its_record(m: Mounted) -> None:
    async def expunge() -> None:
        await m.others.expunge("INBOX", [1])

    await save(m, Meanwhile(ONE, expunge))
    assert await records(m) == {1: 1}
    await m.others.purge()
    assert await m.stored("Work") == [(1, ONE)]
    await is_clean(m)


async def test_the_same_message_moved_by_a_purge_while_it_is_compared_is_referred_to(m: Mounted) -> None:
    await m.others.save("Work", [NewMessage(TWO)])
    await m.others.expunge("Work", [1])

    async def purge() -> None:
        assert (await m.others.purge()).messages == 1

    await save(m, Meanwhile(ONE, purge))
    assert await records(m) == {1: 2}
    assert (await m.stored(), await m.stored("Work")) == ([(1, ONE)], [(2, ONE)])
    await is_clean(m)


async def test_a_save_that_waits_for_the_comparison_of_another_one_holds_no_lock(m: Mounted) -> None:
    async def others() -> None:
        await m.others.save("INBOX", [NewMessage(TWO)])
        await m.others.save("Work", [NewMessage(TWO)])

    with trio.fail_after(5):
        await save(m, Meanwhile(ONE, others))
    assert [text for _, text in await m.stored("Work")] == [TWO, ONE]


async def test_a_message_that_cannot_be_read_lends_nothing(m: Mounted) -> None:
    guid = await guid_of(m)
    (path,) = [path for path in m.files() if path.endswith("/m.1")]
    data = m.file(path)
    at = data.index(b"\x01\x02")
    data[at : at + 2] = b"\xff\xff"
    assert m.store.storage is not None
    m.store.storage.drop(1)
    arrived = await save(m, Meanwhile(ONE), guid)
    assert list(arrived.not_kept) == [0]
    assert [text for _, text in await m.stored("Work")] == [ONE]


async def test_a_source_that_fails_is_no_reason_for_another_guid(m: Mounted) -> None:
    async def fail() -> None:
        raise OSError(errno.EIO, "the disk has gone")

    with raises(errno.EIO):
        await save(m, Meanwhile(ONE, fail))
    assert (m.uids("Work"), await records(m)) == ([], {1: 1})
