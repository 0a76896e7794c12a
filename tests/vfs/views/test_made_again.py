"""A mailbox that was deleted and made again under its name, before the mount has heard of it, in the views.

What a program does to a name is about the message that it has seen: ENOENT, and the new mailbox is as it was.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from tests.vfs.inside import TWO, Mounted, mounted, raises
from tests.vfs.test_deleted import remove
from tests.vfs.views.inside import InMaildir, InView, maildir, mh

NEW = [(uid, b"Subject: new\n\n%d\n" % uid) for uid in range(1, 4)]


async def made_again(m: Mounted) -> None:
    """By somebody else, with other messages under the same numbers."""
    await m.others.delete_mailbox("Work")
    await m.others.create_mailbox("Work")
    await m.others.save("Work", [NewMessage(text) for _, text in NEW])


async def is_as_it_was(m: Mounted) -> None:
    assert await m.stored("Work") == NEW
    assert [await m.flags(uid, "Work") for uid, _ in NEW] == [((), ())] * 3


@pytest.mark.parametrize("letters", ["F", "a"])
async def test_letters_of_a_maildir_name_don_t_become_flags_of_another_message(
    kind: Kind, tmp_path: Path, letters: str
) -> None:
    async with maildir(kind, directory=tmp_path) as m:
        assert isinstance(m, InMaildir)
        await m.came(TWO, flags=8, keywords=("red",) if letters == "F" else (), box="Work")
        if letters == "a":
            await m.came(TWO, flags=8, keywords=("red",), box="Work")
        name = (await m.cur("Work"))[0]
        cur, rw = await m.p.inode("Work/cur"), m.p.rw
        await m.p.stat(f"Work/cur/{name}")
        base, _, old = name.partition(":2,")
        await made_again(m.inner)
        with raises(errno.ENOENT, errno.ESTALE):
            new = f"{base}:2,{''.join(sorted({*old, *letters}))}"
            await rw.rename(cur, os.fsencode(name), cur, os.fsencode(new), 0, m.p.pid)
        await is_as_it_was(m.inner)


async def test_a_message_that_is_called_with_a_comma_doesn_t_mark_another_one_deleted(
    kind: Kind, tmp_path: Path
) -> None:
    async with mh(kind, directory=tmp_path) as w:
        await w.came(TWO, box="Work")
        work = await w.p.inode("Work")
        await w.p.stat("Work/1")
        await made_again(w.inner)
        with raises(errno.ENOENT, errno.ESTALE):
            await w.p.rw.rename(work, b"1", work, b",1", 0, w.p.pid)
        await is_as_it_was(w.inner)


async def test_sequences_of_a_mailbox_that_is_gone_are_no_flags_in_the_one_that_has_its_name(
    kind: Kind, tmp_path: Path
) -> None:
    async with mh(kind, directory=tmp_path) as w:
        await _two_in_work(w)
        file = await w.p.open("Work/.mh_sequences", os.O_RDWR)
        await file.read()
        await file.truncate(0)
        await file.write(b"unseen: 2\nflagged: 1\n", 0)
        await made_again(w.inner)
        with raises(errno.ENOENT, errno.ESTALE):
            await file.close()
        await is_as_it_was(w.inner)


async def _two_in_work(w: InView) -> None:
    for _ in range(2):
        await w.came(TWO, box="Work")


async def test_a_deleted_message_doesn_t_come_back_into_a_mailbox_that_was_not_seen() -> None:
    async with mounted(Kind.MDBOX) as m:
        p = m.program()
        path = await remove(p, "INBOX/1.eml")
        (above, name), work = await p.place(path), await p.inode("Work")
        await p.stat(path)
        await made_again(m)
        with raises(errno.ENOENT, errno.ESTALE):
            await p.rw.rename(above, name, work, b"back", 0, p.pid)
        await is_as_it_was(m)
        assert await p.exists(path)
