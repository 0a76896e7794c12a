"""A mailbox that was deleted and made again under its name, before the mount has heard of it.

What a program does is about the mailbox that it has seen: ENOENT, and the new one is as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from dboxfs.errors import NoSuchMailbox
from dboxfs.store import Kind
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, meaning
from dboxfs.vfs.removals import ONE_BY_ONE
from tests.vfs.inside import ONE, TWO, Mounted, Program, mounted, raises

NEW = [(uid, b"Subject: new\n\n%d\n" % uid) for uid in range(1, 4)]

WAYS = ("create", "rename", "over", "out", "in", "link to", "link from", "unlink", "flags", "keywords")


async def made_again(m: Mounted, name: str = "Work") -> None:
    """By somebody else, with other messages under the same numbers."""
    await m.others.delete_mailbox(name)
    await m.others.create_mailbox(name)
    await m.others.save(name, [NewMessage(text) for _, text in NEW])


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_done_to_a_mailbox_is_not_done_to_the_one_that_has_got_its_name(
    m: Mounted, p: Program, way: str
) -> None:
    for name in ("one", "two"):
        await p.write(f"Work/{name}", TWO)
    work, inbox = await p.inode("Work"), await p.inode("INBOX")
    one, first = await p.inode("Work/one"), await p.inode("INBOX/1.eml")
    rw, pid = p.rw, p.pid
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "rename": lambda: rw.rename(work, b"one", work, b"four", 0, pid),
        "over": lambda: rw.rename(work, b"one", work, b"two", 0, pid),
        "out": lambda: rw.rename(work, b"one", inbox, b"three", 0, pid),
        "in": lambda: rw.rename(inbox, b"1.eml", work, b"four", 0, pid),
        "link to": lambda: rw.link(first, work, b"four", pid),
        "link from": lambda: rw.link(one, inbox, b"three", pid),
        "unlink": lambda: rw.unlink(work, b"one", pid),
        "flags": lambda: rw.setxattr(one, b"user.dbox.flags", b"\\Seen"),
        "keywords": lambda: rw.setxattr(one, b"user.dbox.keywords", b"red"),
    }
    file = await p.create("Work/three")
    await file.write(ONE)
    await made_again(m)
    with raises(errno.ENOENT, errno.ESTALE):
        await (file.close() if way == "create" else ways[way]())
    assert await m.stored("Work") == NEW
    assert [await m.flags(uid, "Work") for uid, _ in NEW] == [((), ())] * 3
    assert await m.stored("INBOX") == [(1, ONE)]


@pytest.mark.parametrize("way", ["append", "date", "truncate"])
async def test_a_message_of_a_mailbox_that_is_gone_is_not_replaced_in_the_one_that_has_its_name(
    m: Mounted, p: Program, way: str
) -> None:
    await p.write("Work/one", TWO)
    inode = await p.inode("Work/one")
    file = await p.open("Work/one", os.O_WRONLY | os.O_APPEND) if way == "append" else None
    if file is not None:
        await file.write(ONE)
    await made_again(m)
    with raises(errno.ENOENT, errno.ESTALE):
        if file is not None:
            await file.close()
        else:
            size, received = (3, None) if way == "truncate" else (None, 1)
            await p.rw.setattr(inode, size, received, None, p.pid)
    assert await m.stored("Work") == NEW


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "dovecot"])
async def test_a_row_of_removals_ends_with_its_mailbox(
    kind: Kind, alone: bool, autojump_clock: object
) -> None:
    options = WriteOptions(Neighbour.ALONE if alone else Neighbour.DOVECOT)
    async with mounted(kind, options) as m:
        p = m.program()
        many = ONE_BY_ONE + 6
        for number in range(many):
            await p.write(f"Work/{number}", TWO)
        work = await p.inode("Work")
        for number in range(many - 2):
            await p.rw.unlink(work, b"%d" % number, p.pid)
        await made_again(m)
        with raises(errno.ENOENT, errno.ESTALE):
            await p.rw.unlink(work, b"%d" % (many - 1), p.pid)
        await trio.sleep(2)
        assert await m.stored("Work") == NEW
        await m.store.refresh_tree()
        await m.follow("Work")
        assert sorted((await p.texts("Work")).values()) == [text for _, text in NEW]


async def test_saves_that_mean_different_mailboxes_of_one_name_are_no_group(m: Mounted) -> None:
    box = m.folder("Work").mailbox
    assert box is not None
    before, outcomes = box.guid, []
    await made_again(m)
    writer = StoreWriter(m.fs, m.location, m.store.owner, m.others.options)

    async def save(guid: bytes | None, text: bytes) -> None:
        try:
            with meaning(("Work", guid)):
                await writer.save("Work", [NewMessage(text)])
        except NoSuchMailbox as error:
            outcomes.append((text, error.errno))
        else:
            outcomes.append((text, 0))

    async with trio.open_nursery() as nursery:
        for guid, text in [(None, b"any\n"), (before, b"old\n"), (None, b"whichever\n")]:
            nursery.start_soon(save, guid, text)
    assert sorted(outcomes) == [(b"any\n", 0), (b"old\n", errno.ENOENT), (b"whichever\n", 0)]
    assert sorted(text for _, text in (await m.stored("Work"))[3:]) == [b"any\n", b"whichever\n"]
