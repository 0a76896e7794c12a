"""``.dboxfs/events``: a line for each event, in a stream that goes on and stays small."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs import events
from dboxfs.vfs.waiting import MOST_WAKES, Polled
from tests.vfs.inside import JULY, ONE, TWO, Mounted, mounted

PATH = ".dboxfs/events"
SEEN = 0x08


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
async def m(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    async with mounted(request.param) as made:
        yield made


async def lines(m: Mounted) -> list[dict[str, object]]:
    """What is there, without times."""
    found = [json.loads(line) for line in (await m.program().read(PATH)).splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in found]


async def test_each_event_is_a_line_whoever_has_made_it(m: Mounted) -> None:
    assert await lines(m) == []
    await m.others.save("INBOX", [NewMessage(TWO, JULY, SEEN, ("later",))])
    await m.follow()
    await m.program().set_xattr("INBOX/1.eml", "flags", "\\Flagged")
    await m.others.expunge("INBOX", [2])
    await m.follow()
    assert await lines(m) == [
        {"event": "new", "mailbox": "INBOX", "uid": 2, "flags": ["\\Seen"], "keywords": ["later"]},
        {"event": "flags", "mailbox": "INBOX", "uid": 1, "flags": ["\\Flagged"], "keywords": []},
        {"event": "expunge", "mailbox": "INBOX", "uid": 2},
    ]


async def test_mailboxes_are_made_renamed_and_deleted(m: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    p = m.program()
    await p.mkdir("New")
    guid = await p.xattr("New", "guid")
    await p.rename("New", "Work/Old")
    assert await lines(m) == [
        {"event": "mailbox created", "mailbox": "New", "guid": guid},
        {"event": "mailbox renamed", "from": "New", "to": "Work/Old", "guid": guid},
    ]
    monkeypatch.setattr(events, "RENAME_SECONDS", 0.0)
    await p.rmdir("Work/Old")
    assert (await lines(m))[2:] == [{"event": "mailbox deleted", "mailbox": "Work/Old", "guid": guid}]


async def test_who_has_it_open_reads_on(m: Mounted) -> None:
    file = await m.program().open(PATH)
    assert await file.read() == b""
    await m.program().write("INBOX/note", ONE)
    first = await file.read()
    assert json.loads(first)["event"] == "new"
    assert (await file.stat()).size == len(first)
    await m.program().unlink("INBOX/note")
    second = await file.read(at=len(first))
    assert json.loads(second)["event"] == "expunge"
    assert await file.read(10, at=3) == first[3:13]
    assert (await m.program().stat(PATH)).inode == file.inode


async def test_no_line_has_a_word_of_a_message_and_only_the_owner_reads_it(m: Mounted) -> None:
    await m.program().write("INBOX/a secret name", b"From: x@example.org\nSubject: hush\n\nsecret\n")
    text = await m.program().read(PATH)
    assert text
    for word in (b"hush", b"secret", b"example"):
        assert word not in text
    attrs = await m.program().stat(PATH)
    assert not attrs.mode & (stat.S_IRWXG | stat.S_IRWXO)
    assert (attrs.entry_timeout, attrs.attr_timeout) == (0.0, 0.0)


async def test_it_stays_small_and_tells_what_was_lost(m: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAM_BYTES", 2000)
    file = await m.program().open(PATH)
    await m.program().read(PATH)
    for turn in range(40):
        await m.others.set_flags("INBOX", [1], add=SEEN if turn % 2 else 0, remove=0 if turn % 2 else SEEN)
        await m.follow()
        await m.others.set_flags("INBOX", [1], add=0 if turn % 2 else SEEN, remove=SEEN if turn % 2 else 0)
        await m.follow()
        await m.program().stat(PATH)
    fresh = await m.program().open(PATH)
    kept = await fresh.read()
    assert 1000 <= len(kept) <= 2000
    assert all(json.loads(line)["event"] == "flags" for line in kept.splitlines())
    late = await file.read(1 << 20)
    assert late.endswith(kept)
    dropped = late.removesuffix(kept)
    assert json.loads(dropped.strip()) == {"event": "lost"}
    assert (await file.stat()).size == len(late)


async def test_many_messages_at_once_take_no_more_memory_than_the_last_of_them(
    m: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PENDING_MESSAGES", 10)
    await m.others.save("INBOX", [NewMessage(ONE, JULY) for _ in range(25)])
    await m.follow()
    found = await lines(m)
    assert found[0] == {"event": "lost"}
    assert [line["uid"] for line in found[1:]] == list(range(17, 27))


async def test_who_polls_is_woken_once_by_an_event_that_it_has_not_read(
    m: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RENAME_SECONDS", 0.0)
    inode, woken = await m.program().inode(PATH), list[str]()
    one, other = (m.reading.control.open(inode) for _ in range(2))
    assert isinstance(one, Polled)
    assert isinstance(other, Polled)
    assert not one.is_ready(lambda: woken.append("one"))
    assert not other.is_ready(None)
    await m.program().write("INBOX/note", ONE)
    assert woken == ["one"]
    assert one.is_ready(lambda: woken.append("too early"))
    said = await one.read(1 << 20, 0)
    assert not one.is_ready(lambda: woken.append("one again"))
    assert other.is_ready(None)  # it has read nothing yet
    await m.program().mkdir("New")
    assert woken == ["one", "one again"]
    said += await one.read(1 << 20, len(said))
    assert not one.is_ready(lambda: woken.append("deleted"))
    await m.program().rmdir("New")
    with trio.fail_after(60):
        while "deleted" not in woken:
            await trio.sleep(0)
    assert json.loads(await one.read(1 << 20, len(said)))["event"] == "mailbox deleted"


async def test_wakes_of_programs_that_wait_no_more_are_few(m: Mounted) -> None:
    woken = list[int]()
    stream = m.reading.control.open(await m.program().inode(PATH))
    assert isinstance(stream, Polled)
    for number in range(MOST_WAKES - 1):
        assert not stream.is_ready(partial(woken.append, number))
    assert woken == []
    assert not stream.is_ready(partial(woken.append, MOST_WAKES - 1))
    assert woken == list(range(MOST_WAKES))  # the kernel asks again for each that still waits
