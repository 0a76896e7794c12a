"""``.dboxfs/unseen`` and its like: messages by flag, keyword and date, as links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import trio.testing

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs import searches
from dboxfs.vfs.unopened import Unopened
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted, raises
from tests.vfs.test_unopened import Pages

SEEN, FLAGGED = 0x08, 0x02


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
async def m(request: pytest.FixtureRequest) -> AsyncIterator[Mounted]:
    """INBOX: 1 unseen, 2 seen and flagged with two keywords; Work/Deep: 1 flagged, from another day."""
    async with mounted(request.param) as made:
        await made.others.save("INBOX", [NewMessage(TWO, JULY, SEEN | FLAGGED, ("Later", "$Work"))])
        await made.others.create_mailbox("Work/Deep")
        await made.others.save("Work/Deep", [NewMessage(TWO, JULY + 5 * 86400, FLAGGED)])
        await made.store.refresh_tree()
        await made.follow()
        await made.follow("Work/Deep")
        yield made


@pytest.fixture
def p(m: Mounted) -> Program:
    return m.program()


async def tree(p: Program, path: str) -> dict[str, int]:
    """The links below a directory, and their inodes."""
    found: dict[str, int] = {}
    for name, inode in (await p.listed(path)).items():
        is_directory = stat.S_ISDIR((await p.stat(f"{path}/{name}")).mode)
        found |= await tree(p, f"{path}/{name}") if is_directory else {f"{path}/{name}": inode}
    return found


def day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).date().isoformat()


async def test_each_directory_has_the_messages_for_which_it_is_true_and_no_other(p: Program) -> None:
    one, two, deep = [await p.inode(path) for path in ("INBOX/1.eml", "INBOX/2.eml", "Work/Deep/1.eml")]
    top = ".dboxfs"
    assert await tree(p, f"{top}/unseen") == {
        f"{top}/unseen/INBOX/1.eml": one,
        f"{top}/unseen/Work/Deep/1.eml": deep,
    }
    assert await tree(p, f"{top}/flagged") == {
        f"{top}/flagged/INBOX/2.eml": two,
        f"{top}/flagged/Work/Deep/1.eml": deep,
    }
    assert await p.names(f"{top}/keyword") == ["$Work", "Later"]
    assert await tree(p, f"{top}/keyword/Later") == {f"{top}/keyword/Later/INBOX/2.eml": two}
    assert await tree(p, f"{top}/keyword/later") == {f"{top}/keyword/later/INBOX/2.eml": two}
    after = day(JULY + 3 * 86400)
    assert await tree(p, f"{top}/since/{after}") == {f"{top}/since/{after}/Work/Deep/1.eml": deep}
    assert len(await tree(p, f"{top}/since/{day(JULY)}")) == 3
    assert await p.names(f"{top}/since") == []


async def test_a_link_is_the_message_itself(p: Program) -> None:
    path = ".dboxfs/flagged/INBOX/2.eml"
    assert await p.read(path) == TWO
    found, message = await p.stat(path), await p.stat("INBOX/2.eml")
    assert (found.inode, found.size, found.modified_ns) == (message.inode, len(TWO), message.modified_ns)
    assert await p.xattr(path, "flags") == "\\Flagged \\Seen"
    assert (await p.stat(path)).entry_timeout == 0.0


async def test_what_changes_is_seen_at_once(m: Mounted, p: Program) -> None:
    await m.others.set_flags("INBOX", [1], add=SEEN | FLAGGED)
    await m.follow()
    assert await p.names(".dboxfs/unseen") == ["Work"]
    assert await p.names(".dboxfs/flagged/INBOX") == ["1.eml", "2.eml"]
    with raises(errno.ENOENT):
        await p.stat(".dboxfs/unseen/INBOX")
    await p.unlink("INBOX/2.eml")
    assert await p.names(".dboxfs/keyword/Later") == []


@pytest.mark.parametrize("top", ["unseen", "flagged", "keyword/Later"])
async def test_links_come_ahead_in_the_order_of_their_listing_and_nothing_that_lies_between_them(
    m: Mounted, p: Program, top: str
) -> None:
    mark = {"unseen": (0, ()), "flagged": (SEEN | FLAGGED, ()), "keyword/Later": (SEEN, ("Later",))}[top]
    texts = [b"Subject: %d\n\n" % number for number in range(600)]
    some = [
        NewMessage(text, JULY, *(mark if number % 9 == 0 else (SEEN, ())))
        for number, text in enumerate(texts)
    ]
    await m.others.save("INBOX", some)
    await m.follow()
    pages, reads, found = Pages(), 0, []
    unopened = Unopened(m.reading, pages)
    names = await p.names(f".dboxfs/{top}/INBOX")
    for name in sorted(names, key=lambda name: int(name.removesuffix(".eml"))):
        inode = await p.inode(f".dboxfs/{top}/INBOX/{name}")
        if inode not in pages.there:
            reads += 1
            pages.there[inode] = await unopened.read(inode, 4096, 0)
            await trio.testing.wait_all_tasks_blocked()  # the program works with it
        found.append(pages.there[inode])
    assert found[1:] == texts[::9]
    assert reads < 10
    assert len(pages.there) == len(names) == 68


async def test_a_message_that_is_read_by_its_own_name_brings_no_links(m: Mounted, p: Program) -> None:
    some = [NewMessage(b"Subject: %d\n\n" % n, JULY, SEEN if n % 9 else 0) for n in range(600)]
    await m.others.save("INBOX", some)
    await m.follow()
    pages = Pages()
    unopened = Unopened(m.reading, pages)
    await p.names(".dboxfs/unseen/INBOX")
    for path in (".dboxfs/unseen/INBOX/3.eml", ".dboxfs/unseen/INBOX/12.eml", "INBOX/300.eml"):
        await unopened.read(await p.inode(path), 4096, 0)
    came, base = len(pages.there), await p.inode("INBOX")
    await unopened.read(await p.inode("INBOX/301.eml"), 4096, 0)
    assert {base | uid for uid in range(302, 306)} <= set(pages.there)
    assert came > 6


async def test_links_whose_messages_have_gone_meanwhile_bring_those_that_are_left(
    m: Mounted, p: Program
) -> None:
    some = [NewMessage(b"Subject: %d\n\n" % n, JULY, SEEN if n % 9 else 0) for n in range(600)]
    await m.others.save("INBOX", some)
    await m.follow()
    pages = Pages()
    unopened = Unopened(m.reading, pages)
    names = await p.names(".dboxfs/unseen/INBOX")
    assert names[1:3] == ["102.eml", "111.eml"]
    await m.others.expunge("INBOX", [21, 30, 595])
    await m.follow()
    for name in ("3.eml", "12.eml"):
        await unopened.read(await p.inode(f".dboxfs/unseen/INBOX/{name}"), 4096, 0)
    base = await p.inode("INBOX")
    assert sorted(inode - base for inode in pages.there)[:3] == [39, 48, 57]


async def test_a_name_that_a_program_gave_is_the_links_name(p: Program) -> None:
    await p.rename("INBOX/1.eml", "INBOX/note")
    assert await p.names(".dboxfs/unseen/INBOX") == ["note"]
    assert await p.read(".dboxfs/unseen/INBOX/note") == ONE


@pytest.mark.parametrize(
    "path",
    [
        "unseen/Nowhere", "unseen/INBOX/2.eml", "flagged/INBOX/1.eml", "keyword/never", "since/yesterday",
        "since/2024-1-1", "since/2024-02-30", "since/20240101", "since/99999-01-01",
    ],
)  # fmt: skip
async def test_what_is_not_true_is_not_there(p: Program, path: str) -> None:
    with raises(errno.ENOENT):
        await p.stat(f".dboxfs/{path}")


async def test_nothing_can_be_changed_through_it(p: Program) -> None:
    for change in (
        p.unlink(".dboxfs/unseen/INBOX/1.eml"),
        p.rename(".dboxfs/unseen/INBOX/1.eml", "INBOX/other"),
        p.rename("INBOX/1.eml", ".dboxfs/unseen/INBOX/other"),
    ):
        with raises(errno.EPERM):
            await change
    with raises(errno.ENOENT, errno.EPERM):
        await p.create(".dboxfs/unseen/INBOX/new", os.O_EXCL)
    assert await p.texts() == {"1.eml": ONE, "2.eml": TWO}


async def test_only_the_owner_may_look_into_it(p: Program) -> None:
    for path in ("unseen", "flagged/INBOX", "keyword/Later", f"since/{day(JULY - 86400)}"):
        mode = (await p.stat(f".dboxfs/{path}")).mode
        assert stat.S_ISDIR(mode)
        assert not mode & 0o077, path


async def test_numbers_are_bounded_and_one_that_was_forgotten_is_stale(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "DIRECTORIES", 10)
    first = await p.inode(".dboxfs/since/2020-01-01")
    start = datetime(2021, 1, 1)
    for number in range(20):
        await p.inode(f".dboxfs/since/{(start + timedelta(days=number)).date().isoformat()}")
    with raises(errno.ESTALE, errno.ENOENT):
        await m.vfs.getattr(first)
    assert await p.names(".dboxfs/since/2020-01-01/INBOX") == ["1.eml", "2.eml"]
