"""Names that do not exist: when the kernel may remember that, and when it is told that one came."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind, Store
from dboxfs.store.write import NewMessage
from tests.vfs.inside import JULY, TWO, Mounted, Program, mounted, raises


@pytest.fixture
async def m(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mounted]:
    """``-o restore``, on a kernel with epochs; the store is watched."""
    monkeypatch.setattr(Store, "is_watched", lambda self, folder: True)
    async with mounted(kind, restore=True) as made:
        made.told.keeps_missing = True
        yield made


async def is_remembered(p: Program, path: str) -> bool:
    """Whether the kernel may remember for long that there is no file; it is told so by inode 0."""
    parent, name = await p.place(path)
    attrs = await p.vfs.lookup(parent, name, p.pid)
    return attrs.inode == 0 and attrs.entry_timeout > 60


async def test_the_kernel_remembers_a_missing_name_where_it_is_told_of_names_that_come(
    m: Mounted, p: Program
) -> None:
    assert await is_remembered(p, "Work/9.eml")
    assert await is_remembered(p, "Nowhere")
    assert not await is_remembered(p, "INBOX/1.eml")
    assert (await p.stat(".dboxfs")).inode != 0
    m.told.keeps_missing = False
    with raises(errno.ENOENT):
        await p.stat("Work/9.eml")


async def test_it_does_not_remember_a_name_that_another_process_is_about_to_give(
    m: Mounted, p: Program, q: Program
) -> None:
    parent = await p.inode("Work")
    opened, _ = await p.rw.create(parent, b"note", os.O_WRONLY | os.O_CREAT, p.pid)
    with raises(errno.ENOENT):
        await q.stat("Work/note")
    await opened.file.write(TWO, 0)
    await opened.file.flush()
    await opened.file.release()
    assert (await q.stat("Work/note")).size == len(TWO)


async def test_it_does_not_remember_the_name_of_a_message_that_is_being_removed(
    m: Mounted, p: Program
) -> None:
    names, inbox = m.reading.names, m.store.folders["INBOX"]
    names.hide(inbox, 1)
    with raises(errno.ENOENT):
        await p.stat("INBOX/1.eml")
    names.show(inbox, [1])
    assert (await p.stat("INBOX/1.eml")).inode != 0


async def test_it_is_told_of_messages_and_mailboxes_that_come_from_elsewhere(m: Mounted, p: Program) -> None:
    inbox = await p.inode("INBOX")
    await m.others.save("INBOX", [NewMessage(TWO, JULY)])
    await m.store.refresh_mailbox(m.store.folders["INBOX"])
    assert (inbox, b"2.eml", 0) in m.told.entries
    await m.others.create_mailbox("Lists")
    await m.store.refresh_tree()
    assert (await p.inode(""), b"Lists", 0) in m.told.entries


async def test_it_is_told_of_the_names_that_a_commit_gives(m: Mounted, p: Program) -> None:
    for name in ("7.eml", "note"):
        file = await p.rw.create(await p.inode("Work"), name.encode(), os.O_WRONLY | os.O_CREAT, p.pid)
        await file[0].file.write(TWO, 0)
        await file[0].file.flush()
        await file[0].file.release()
    assert m.vfs.staging is not None
    m.told.entries.clear()
    await m.vfs.staging.commit()
    work = await p.inode("Work")
    assert {(work, b"7.eml", 0), (work, b"note", 0)} <= set(m.told.entries)
    assert await p.names("Work") == ["7.eml", "note"]
