"""Saved messages are served by Dovecot as they were written."""

from __future__ import annotations

import hashlib
import os
import re

import pytest
import trio

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import CreateMode, FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import (
    Eol,
    HandleSource,
    Neighbour,
    NewMessage,
    RefusedMessage,
    StoreWriter,
    WriteOptions,
)
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC)
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def made(dovecot: Dovecot, driver: str, **settings: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.save(body(0))
    return account


@BOTH
async def test_messages_come_out_as_they_went_in(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    texts = [body(n, size) for n, size in enumerate((0, 1000, 300_000, 70_000), 1)]
    async with writing(account.location) as writer:
        first = await writer.save("INBOX", [NewMessage(texts[0])])
        more = await writer.save("INBOX", [NewMessage(text) for text in texts[1:]])
    shown = Shown.of(account)
    assert shown.texts == [body(0), *texts]
    assert [*first.uids, *more.uids] == shown.uids[1:] == [2, 3, 4, 5]
    assert [guid.hex() for guid in (*first.guids, *more.guids)] == [m.guid for m in shown.messages[1:]]
    assert first.uid_validity == shown.status.uidvalidity
    for message in shown.messages:
        lines = len(re.findall(rb"(?<!\r)\n", message.text))
        assert message.virtual_size == len(message.text) + lines
    assert_resync_changes_nothing(account)
    account.save(body(9))
    assert Shown.of(account).texts == [body(0), *texts, body(9)]


@BOTH
async def test_dates_flags_keywords_and_guid_are_kept(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    message = NewMessage(body(1), 1_000_000_007, 0x08 | 0x02, ("$Label1", "Work"), bytes(range(16)))
    other = NewMessage(body(2), 0, 0x1F, ("work", "other"))
    async with writing(account.location) as writer:
        await writer.save("INBOX", [message, other])
    first, second = Shown.of(account).messages[1:]
    assert (first.received, first.flags, first.guid) == (
        1_000_000_007,
        r"\Flagged \Seen",
        bytes(range(16)).hex(),
    )
    assert first.keywords.split() == ["$Label1", "Work"]
    assert second.received == 0
    assert second.flags == r"\Answered \Flagged \Deleted \Seen \Draft"
    assert [word.lower() for word in second.keywords.split()] == ["work", "other"]
    assert_resync_changes_nothing(account)


DATES = [
    -(2**40),
    -62_135_596_800,
    -2_177_452_800,
    -315_576_000,
    -2,
    -1,
    0,
    2**31,
    2**32 + 5,
    253_402_300_799,
]


@BOTH
async def test_dates_of_any_year_are_stored_as_dovecot_reads_and_writes_them(
    dovecot: Dovecot, driver: str
) -> None:
    account = made(dovecot, driver)
    account.append([Append(body(1), date="01-Jan-1960 12:00:00 +0000")])
    async with writing(account.location) as writer:
        await writer.save("INBOX", [NewMessage(body(2), seconds) for seconds in DATES])
        with pytest.raises(ValueError, match="64 bits"):
            await writer.save("INBOX", [NewMessage(body(3), 2**63)])
    account.forget_cache()
    messages = Shown.of(account).messages
    assert [message.received for message in messages[1:]] == [-315_576_000, *DATES]
    lines = [
        line
        for file in sorted(account.root.rglob("[um].[0-9]*"), key=lambda path: int(path.suffix[1:]))
        for line in file.read_bytes().split(b"\n")
        if line.startswith(b"R")
    ]
    assert b"Rffffffffed30b140" in lines[1:2], "Dovecot's own"
    assert lines[2:] == [b"R%x" % (seconds % 2**64) for seconds in DATES]
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_guid_that_is_no_hex_digits_is_stored_as_its_text(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    name = b"1500000000.M1P1.host"
    async with writing(account.location) as writer:
        saved = await writer.save("INBOX", [NewMessage(body(1), guid_text=name)])
        copied = await writer.copy("INBOX", saved.uids, "INBOX")
        for wrong in (b"", b"a\nb", b"a\r"):
            with pytest.raises(ValueError, match="no text of a guid"):
                await writer.save("INBOX", [NewMessage(body(2), guid_text=wrong)])
        with pytest.raises(ValueError, match="not that of its text"):
            await writer.save("INBOX", [NewMessage(body(2), guid=bytes(16), guid_text=name)])
    assert saved.guids == (hashlib.sha1(name).digest()[-16:],)
    messages = Shown.of(account).messages
    assert [m.guid for m in messages[1:]] == [name.decode()] * 2
    assert [m.uid for m in messages[1:]] == [*saved.uids, *copied.uids]
    assert_resync_changes_nothing(account)


NASTY = [
    b"",
    b"\n",
    b"no end",
    b"a\r\nb\r\n",
    b"a\r\r\nb\r",
    b"nul \0 and \xff 8 bit\n\0",
    b"\x01\x02N          00000000000000FF\n",
    b"text\n\x01\x03\nR1\n\n\x01\x02N          0000000000000001\n",
    b"\r\n" * 100_000 + b"\r",
    b"x" * 400_000 + b"\r\n",
]


@BOTH
async def test_bytes_are_stored_as_they_were_written(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        await writer.save("INBOX", [NewMessage(text) for text in NASTY])
    shown = Shown.of(account)
    assert shown.texts[1:] == NASTY
    for message in shown.messages:
        lines = message.text.count(b"\n") - message.text.count(b"\r\n")
        assert message.virtual_size == len(message.text) + lines
        assert message.physical_size == len(message.text)
    assert_resync_changes_nothing(account)


@BOTH
async def test_line_ends_as_dovecot_stores_them(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    for text in NASTY:
        account.save(text)
    async with writing(account.location, WriteOptions(eol=Eol.LF)) as writer:
        await writer.save("INBOX", [NewMessage(text) for text in NASTY])
    messages = Shown.of(account).messages[1:]
    theirs, ours = messages[: len(NASTY)], messages[len(NASTY) :]
    assert [m.text for m in ours] == [m.text for m in theirs]
    assert [m.virtual_size for m in ours] == [m.virtual_size for m in theirs]


@BOTH
@pytest.mark.parametrize(
    "magic", ["1f8b", "425a6839", "28b52ffd", "fd377a585a00", b"Dovecot-LZ4\r\x2a\x9b\xc5".hex()]
)
async def test_what_looks_compressed_is_refused_and_leaves_nothing(
    dovecot: Dovecot, driver: str, magic: str
) -> None:
    account = made(dovecot, driver)
    files = sorted(str(p) for p in account.root.rglob("*"))
    async with writing(account.location) as writer:
        with pytest.raises(RefusedMessage):
            await writer.save("INBOX", [NewMessage(body(1)), NewMessage(bytes.fromhex(magic) + b"text\n")])
    assert sorted(str(p) for p in account.root.rglob("*")) == files
    assert Shown.of(account).texts == [body(0)]


@BOTH
async def test_what_no_mailbox_can_hold_is_refused_alone(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    wrong = [
        NewMessage(body(1), keywords=("two words",)),
        NewMessage(body(1), keywords=("",)),
        NewMessage(body(1), keywords=("\\Seen",)),
        NewMessage(body(1), guid=b"short"),
    ]
    async with writing(account.location) as writer, trio.open_nursery() as nursery:
        for n in range(2, 6):
            nursery.start_soon(writer.save, "INBOX", [NewMessage(body(n))])
        for message in wrong:
            with pytest.raises(ValueError, match=r"keyword|guid"):
                await writer.save("INBOX", [message])
    assert sorted(Shown.of(account).texts) == sorted(body(n) for n in range(6) if n != 1)
    assert not list(account.root.rglob(".temp.*"))
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_message_larger_than_memory_is_copied_from_its_temporary(
    dovecot: Dovecot, driver: str
) -> None:
    account = made(dovecot, driver)
    text = body(1, 20_000_000)
    where = parse_location(account.location)
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, where, await fs.stat(where.root), WriteOptions())
        temporary = fs.create(os.path.join(where.mailbox_path("INBOX"), "new"), CreateMode.FAIL_IF_EXISTS)
        await temporary.write_all(text)
        await writer.save("INBOX", [NewMessage(HandleSource(temporary)), NewMessage(body(2))])
        await temporary.aclose()
    assert Shown.of(account).texts == [body(0), text, body(2)]
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_mailbox_that_does_not_exist(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        with pytest.raises(NoSuchMailbox):
            await writer.save("Nowhere", [NewMessage(body(1))])
    assert Shown.of(account).texts == [body(0)]
    assert not list(account.root.rglob(".temp.*"))


@BOTH
async def test_an_index_without_a_neighbour(dovecot: Dovecot, driver: str) -> None:
    """Enough messages that the index is rewritten and its log rotated."""
    account = made(dovecot, driver)
    async with writing(account.location, WriteOptions(neighbour=Neighbour.ALONE)) as writer:
        for start in range(0, 3000, 500):
            batch = [NewMessage(body(start + n), flags=n & 0x1F, keywords=(f"k{n % 7}",)) for n in range(500)]
            saved = await writer.save("INBOX", batch)
            await writer.set_flags("INBOX", saved.uids[::2], add=0x02, remove=0x08)
        for n in range(40):
            await writer.set_flags("INBOX", range(2 + n % 2, 3000, 2), add=1 << n % 5)
    shown = Shown.of(account)
    assert shown.texts == [body(0), *(body(n) for n in range(3000))]
    assert_resync_changes_nothing(account)
