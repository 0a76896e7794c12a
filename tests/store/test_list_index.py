"""The list index of a store with LAYOUT=index: what it says, what contradicts itself, what is lost."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem, MemoryDriver
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_record
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.list_index import LISTED, RECORD, box_name_of, read_list, storage_name_of
from dboxfs.store.location import TreeLayout
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.store.write import (
    IndexMissing,
    InvalidName,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    init_store,
)
from dboxfs.store.write.list_index import listed
from dboxfs.store.write.session import Work

ALONE = WriteOptions(Neighbour.ALONE)
GUID = bytes(range(16))


@dataclass
class Made:
    """A store in memory with INBOX, ``Work`` and ``Work/Deep``, which has a message."""

    fs: FileSystem
    memory: MemoryDriver
    location: Location
    writer: StoreWriter
    work: Work

    async def names(self) -> list[str]:
        return sorted((await read_list(self.fs, self.location)).nodes)

    async def append(self, rows: Sequence[tuple[int, int, bytes]], names: bytes = b"") -> None:
        """Nodes (uid, flags, record) as somebody else would write them, and other names."""
        records = [encode_record(RecordType.APPEND, payload.append([(u, f) for u, f, _ in rows]), True)]
        intro = payload.ext_intro("list", hdr_size=128, record_size=28, record_align=4)
        records.append(encode_record(RecordType.EXT_INTRO, intro, True))
        if names:
            records.append(encode_record(RecordType.EXT_HDR_UPDATE, payload.ext_hdr_update(0, names), True))
        update = payload.ext_rec_update([(uid, record) for uid, _, record in rows])
        records.append(encode_record(RecordType.EXT_REC_UPDATE, update, True))
        index = self.work.list_index()
        async with index.locked():
            await index.append(records)


@pytest.fixture(params=[Kind.SDBOX, Kind.MDBOX], ids=["sdbox", "mdbox"])
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Made]:
    memory = MemoryDriver()
    memory.make_dirs("/mail")
    location = Location(request.param, "/mail/ann", index="/mail/index", layout=TreeLayout.INDEX, escape="^")
    async with FileSystem(memory) as fs:
        await init_store(fs, location, options=ALONE)
        owner = await fs.stat(location.root)
        writer = StoreWriter(fs, location, owner, ALONE)
        await writer.create_mailbox("Work")
        await writer.create_mailbox("Work/Deep")
        await writer.save("Work/Deep", [NewMessage(b"Subject: one\n\ntext\n")])
        yield Made(fs, memory, location, writer, Work(fs, location, owner, ALONE))


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([(9, LISTED, RECORD.pack(77, 0, GUID, 1))], "it has no name"),
        ([(9, LISTED, RECORD.pack(1, 8, GUID, 1))], "its parents lead nowhere"),
        ([(9, LISTED, RECORD.pack(1, 9, GUID, 1))], "its parents lead nowhere"),
        (
            [(8, LISTED, RECORD.pack(1, 9, GUID, 1)), (9, LISTED, RECORD.pack(1, 8, GUID[::-1], 1))],
            "lead nowhere",
        ),
        ([(9, LISTED, RECORD.pack(1, 0, GUID, 1))], "its name INBOX is that of another one"),
    ],
    ids=["no name", "no parent", "its own parent", "a circle", "a name twice"],
)
async def test_a_node_that_contradicts_the_others_is_left_out_alone_and_told(
    made: Made, rows: list[tuple[int, int, bytes]], what: str
) -> None:
    await made.append(rows)
    found = await read_list(made.fs, made.location)
    assert sorted(found.nodes) == ["INBOX", "Work", "Work/Deep"]
    assert len(found.damage) == len(rows)
    assert all(what in line for line in found.damage)
    async with open_store(made.fs, made.location, follow=False) as store:
        assert sorted(store.folders) == ["", "INBOX", "Work", "Work/Deep"]
        assert store.damaged_messages == len(rows)
    with pytest.raises(CorruptFile):
        await made.writer.create_mailbox("New")


async def test_no_name_is_ever_a_path(made: Made) -> None:
    names = b"\0" + b"".join(
        bytes([number, 0, 0, 0]) + name + b"\0"
        for number, name in enumerate([b"..", b"../../etc", b"/etc", b"a\nb", b"."], 1)
    )
    rows = [(10 + n, LISTED, RECORD.pack(n, 0, bytes([n] * 16), n)) for n in range(1, 6)]
    await made.append(rows, names + bytes(4))
    found = await read_list(made.fs, made.location)
    assert set(found.nodes) >= {"^2e.", "..^2f..^2fetc", "^2fetc", "a\nb", "^2e"}
    for name, node in found.nodes.items():
        assert node.guid is not None
        assert made.location.mailbox_path(name) == f"/mail/ann/mailboxes/{node.guid.hex()}"
        assert made.location.index_path(name) == f"/mail/index/mailboxes/{node.guid.hex()}"
    async with open_store(made.fs, made.location, follow=False) as store:
        shown = {folder.shown for folder in store.folders.values()}
    assert shown >= {"%2E.", "..%2F..%2Fetc", "%2Fetc", "a%0Ab", "%2E"}


async def test_a_name_that_is_not_listed_leads_nowhere(made: Made) -> None:
    for name in ("Nowhere", "..", "../..", ""):
        path = made.location.mailbox_path(name)
        assert os.path.dirname(path) == "/mail/ann/mailboxes"
        with pytest.raises(FileNotFoundError):
            await made.fs.stat(path)


@pytest.mark.parametrize("name", ["a\nb", "..", "~x", "a^5Eb", "a^41", "a//b", "inbox", "a\x7f"])
async def test_what_dovecot_would_not_name_a_mailbox(made: Made, name: str) -> None:
    with pytest.raises(InvalidName):
        await made.writer.create_mailbox(name)
    assert await made.names() == ["INBOX", "Work", "Work/Deep"]


async def test_a_lost_list_index_is_found_again_by_the_mailboxes_own_names(made: Made) -> None:
    await made.writer.create_mailbox("^7ex/a^2fb")
    await made.writer.rename_mailbox("Work", "Else")
    wanted = {"INBOX", "Else", "Else/Deep", "^7ex", "^7ex/a^2fb"}
    assert set(await made.names()) == wanted
    for entry in await made.fs.listdir("/mail/index"):
        if entry.name.startswith("dovecot.list.index"):
            await made.work.disk.unlink(f"/mail/index/{entry.name}")
    found = await read_list(made.fs, made.location)
    assert set(found.nodes) == wanted
    assert found.nodes["^7ex"].guid is None
    with pytest.raises(IndexMissing):
        await made.writer.create_mailbox("New")
    async with open_store(made.fs, made.location, follow=False) as store:
        box = store.folders["Else/Deep"].mailbox
        assert box is not None
        body = await box.open(1)
        assert await body.read(body.size, 0) == b"Subject: one\n\ntext\n"


async def test_a_parent_stays_while_it_has_children(made: Made) -> None:
    await made.writer.delete_mailbox("Work")
    found = await read_list(made.fs, made.location)
    assert sorted(found.nodes) == ["INBOX", "Work", "Work/Deep"]
    assert found.nodes["Work"].guid is None
    await made.writer.create_mailbox("Work")
    again = await read_list(made.fs, made.location)
    assert again.nodes["Work"].guid is not None
    assert again.nodes["Work"].uid == found.nodes["Work"].uid
    await made.writer.delete_mailbox("Work/Deep")
    assert await made.names() == ["INBOX", "Work"]


async def test_names_that_nobody_has_any_more_make_room(made: Made) -> None:
    for number in range(40):
        await made.writer.create_mailbox(f"a long name of a mailbox, number {number:3}")
    for number in range(40):
        await made.writer.delete_mailbox(f"a long name of a mailbox, number {number:3}")
    await made.writer.create_mailbox("Last")
    async with listed(made.work) as mailboxes:
        assert sorted(mailboxes.tree.nodes) == ["INBOX", "Last", "Work", "Work/Deep"]
        assert max(node.name_id for node in mailboxes.tree.nodes.values()) < 10


def test_own_names_of_both_dovecots_are_understood() -> None:
    coding = NameCoding(escape="^")
    for stored, theirs in (
        (b"p\0^64box-Mails\0c", b"p\0dbox-Mails\0c"),
        (b"^7etilde", b"~tilde"),
        (b"a^5eb", b"a^b"),
        (b"Work", b"Work"),
    ):
        name = os.fsdecode(stored.replace(b"\0", b"/"))
        assert storage_name_of(stored, coding) == storage_name_of(theirs, coding) == name
        assert box_name_of(name, coding) == theirs
    assert storage_name_of(b"a\0\0b", coding) is None


async def test_a_mailbox_is_deleted_that_has_the_name_now_whatever_had_it_before(made: Made) -> None:
    location = made.location
    elsewhere = Location(
        location.kind, location.root, index=location.index, layout=location.layout, escape="^"
    )
    other = StoreWriter(made.fs, elsewhere, await made.fs.stat(location.root), ALONE)
    await other.rename_mailbox("Work/Deep", "Kept")
    await other.create_mailbox("Work/Deep")
    await made.writer.delete_mailbox("Work/Deep")
    assert await made.names() == ["INBOX", "Kept", "Work"]
    async with open_store(made.fs, location, follow=False) as store:
        box = store.folders["Kept"].mailbox
        assert box is not None
        body = await box.open(1)
        assert await body.read(body.size, 0) == b"Subject: one\n\ntext\n"
        body.close()
