"""What a copy has in common with its record, how many there can be, and what goes while they are compared."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind, stored_once
from dboxfs.store.stored_once import StoredOnce
from dboxfs.store.write import Eol, Neighbour, NewMessage, StoreWriter, WriteOptions
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted
from tests.vfs.test_stored_once import copy, guid_of, is_clean, records

LINES = b"Subject: lines\n\none\ntwo\n"
GUID = b"00112233445566778899aabbccddee01"


@pytest.fixture
async def m() -> AsyncIterator[Mounted]:
    """An mdbox: INBOX with one message, Work with none."""
    async with mounted(Kind.MDBOX) as made:
        yield made


@pytest.mark.parametrize(
    ("pop3_uidl", "orig_mailbox", "why"),
    [
        (b"7-4711", None, "INBOX, uid 1, has it, and another POP3 UIDL"),
        (None, b"Archive", "INBOX, uid 1, has it, and another original mailbox"),
    ],
)
async def test_what_a_copy_would_share_with_its_record_has_to_be_the_same(
    m: Mounted, pop3_uidl: bytes | None, orig_mailbox: bytes | None, why: str
) -> None:
    new = NewMessage(ONE, JULY, guid_text=await guid_of(m), pop3_uidl=pop3_uidl, orig_mailbox=orig_mailbox)
    assert (await StoredOnce(m.store, m.others).save("Work", [new])).not_kept == {0: why}
    assert await records(m) == {1: 1, 2: 1}
    await m.follow("Work")
    box = m.folder("Work").mailbox
    assert box is not None
    metadata = (await box.details(1)).metadata
    assert (metadata.pop3_uidl or None) == pop3_uidl
    assert orig_mailbox in (None, metadata.orig_mailbox)


async def test_a_text_that_ends_sooner_once_its_line_ends_are_converted_is_another_text(m: Mounted) -> None:
    text, short = LINES + b"ab", LINES.replace(b"\n", b"\r\n")
    await m.others.save("Work", [NewMessage(text, JULY, guid_text=GUID)])
    await m.follow("Work")
    converting = StoreWriter(m.fs, m.location, m.store.owner, WriteOptions(Neighbour.ALONE, eol=Eol.LF))
    arrived = await StoredOnce(m.store, converting).save("Work", [NewMessage(short, JULY, guid_text=GUID)])
    assert (await m.stored("Work"), list(arrived.not_kept)) == ([(1, text), (2, LINES)], [0])


async def test_a_record_gets_no_more_copies_than_it_can_have(
    m: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_once, "REFCOUNT_LIMIT", 4)
    new = [NewMessage(ONE, JULY, guid_text=await guid_of(m)) for _ in range(4)]
    arrived = await StoredOnce(m.store, m.others).save("Work", new)
    assert arrived.not_kept == dict.fromkeys((2, 3), "the message that has it can't have more copies")
    assert sorted((await records(m)).values()) == [1, 1, 3]
    more = await StoredOnce(m.store, m.others).save("Work", new[:1])
    assert list(more.not_kept) == [0]
    assert [text for _, text in await m.stored("Work")] == [ONE] * 5
    await is_clean(m)


async def test_a_message_that_is_purged_before_it_can_be_read_is_no_reason_for_another_guid(
    m: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    guid, once = await guid_of(m), StoredOnce(m.store, m.others)
    opening = once._open

    async def purged_then(holder: object) -> object:
        monkeypatch.undo()
        await m.others.expunge("INBOX", [1])
        await m.others.purge()
        assert m.store.storage is not None
        await m.store.storage.map(fresh=True)
        return await opening(holder)  # type: ignore[arg-type]

    monkeypatch.setattr(once, "_open", purged_then)
    arrived = await once.save("Work", [NewMessage(ONE, JULY, guid_text=guid)])
    assert (arrived.not_kept, arrived.saved.guids[0].hex().encode()) == ({}, guid)
    assert (await m.stored("Work"), list((await records(m)).values())) == ([(1, ONE)], [1])
    await is_clean(m)


async def test_of_many_messages_that_were_not_purged_none_is_read(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_once, "MOST_NOT_PURGED", 1)
    await m.others.save("INBOX", [NewMessage(TWO, JULY)])
    await m.follow()
    await copy(p, "INBOX/1.eml", "Work/.kept")
    for name in ("1.eml", "2.eml"):
        await p.unlink(f"INBOX/{name}")
    await m.vfs.removals.finish(m.folder())
    await p.rename("Work/.kept", "Work/back")
    assert (await records(m), await m.stored("Work")) == ({3: 1}, [(1, ONE)])
