"""A message that is written while somebody reads it: the inode that is read is not the one that grows."""

from __future__ import annotations

import errno
import os

import pytest

from tests.vfs.inside import ONE, TWO, Mounted, Program, raises


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC, 0], ids=["append", "truncate", "over"])
async def test_who_writes_a_message_that_is_being_read_has_an_inode_of_its_own(
    m: Mounted, p: Program, q: Program, flags: int
) -> None:
    reader = await q.open("INBOX/1.eml")
    writer = await p.open("INBOX/1.eml", os.O_WRONLY | flags)
    assert writer.inode != reader.inode
    await writer.write(TWO, len(ONE) if flags == os.O_APPEND else 0)
    assert (await reader.stat()).size == len(ONE) == (await q.stat("INBOX/1.eml")).size
    assert (await q.stat("INBOX/1.eml")).inode == reader.inode
    assert (await writer.stat()).size == len(TWO) + (len(ONE) if flags == os.O_APPEND else 0)
    await writer.close()
    assert await reader.read() == ONE
    await reader.close()
    assert await p.texts() == {"1.eml": ONE + TWO if flags == os.O_APPEND else TWO}
    assert len(await m.stored()) == 1


async def test_what_was_written_has_its_name_when_close_returns_whoever_has_looked_it_up(
    m: Mounted, p: Program, q: Program
) -> None:
    reader = await q.open("INBOX/1.eml")
    writer = await p.open("INBOX/1.eml", os.O_WRONLY | os.O_APPEND)
    await writer.write(TWO, len(ONE))
    assert (await q.stat("INBOX/1.eml")).inode == reader.inode  # so the kernel has the name for the old one
    m.told.looked_up_again.clear()
    await writer.file.flush()
    assert m.told.looked_up_again == [(await p.inode("INBOX"), b"1.eml")]
    assert (await p.stat("INBOX/1.eml")).size == len(ONE + TWO)
    await writer.file.release()
    await reader.close()


async def test_who_can_not_look_it_up_again_opens_the_message_itself(p: Program, q: Program) -> None:
    reader = await q.open("INBOX/1.eml")
    with raises(errno.ESTALE):
        await p.rw.open(reader.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    opened = await p.rw.open(reader.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    await opened.file.write(TWO, len(ONE))
    await opened.file.flush()
    await opened.file.release()
    await reader.close()
    assert await p.texts() == {"1.eml": ONE + TWO}


async def test_who_still_has_the_inode_of_a_replaced_message_finds_what_is_to_be_written(
    p: Program, q: Program
) -> None:
    old = await q.open("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO)
    new = await q.open("INBOX/1.eml")
    assert new.inode != old.inode
    with raises(errno.ESTALE):
        await p.rw.open(old.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    writer = await p.open("INBOX/1.eml", os.O_WRONLY | os.O_APPEND)
    assert writer.inode not in (old.inode, new.inode)
    await writer.write(ONE, len(TWO))
    await writer.close()
    await old.close()
    await new.close()
    assert await p.texts() == {"1.eml": TWO + ONE}


async def test_nobody_is_refused_twice_in_a_row(p: Program, q: Program) -> None:
    first = await q.open("INBOX/1.eml")
    with raises(errno.ESTALE):
        await p.rw.open(first.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    await q.write("INBOX/1.eml", TWO)
    second = await q.open("INBOX/1.eml")
    opened = await p.rw.open(second.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    await opened.file.write(ONE, len(TWO))
    await opened.file.flush()
    await opened.file.release()
    await first.close()
    await second.close()
    assert await p.texts() == {"1.eml": TWO + ONE}


async def test_a_message_that_is_written_already_is_not_written_apart(
    m: Mounted, p: Program, q: Program
) -> None:
    """Its inode grows as it is: nobody is refused for a reader that came later."""
    first = await p.open("INBOX/1.eml", os.O_WRONLY | os.O_APPEND)
    reader = await q.open("INBOX/1.eml")
    assert reader.inode == first.inode
    second = await m.program().rw.open(first.inode, os.O_WRONLY | os.O_APPEND, m.program().pid)
    await second.file.release()
    await reader.close()
    await first.close()
    assert await p.texts() == {"1.eml": ONE}


async def test_of_a_draft_that_was_not_opened_nothing_stays(m: Mounted, p: Program, q: Program) -> None:
    before = len(m.vfs._drafts.unpacked())
    reader = await q.open("INBOX/1.eml")
    with raises(errno.ESTALE):
        await p.rw.open(reader.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    opened = await p.rw.open(reader.inode, os.O_WRONLY | os.O_APPEND, p.pid)
    await opened.file.flush()
    await opened.file.release()
    await reader.close()
    assert len(m.vfs._drafts.unpacked()) == before


async def test_drafts_that_nobody_opens_after_all_do_not_pile_up(m: Mounted, p: Program) -> None:
    reader = await m.program().open("INBOX/1.eml")
    before = len(m.vfs._drafts.unpacked())
    for _ in range(100):
        with raises(errno.ESTALE):
            await p.rw.open(reader.inode, os.O_WRONLY, m.program().pid)
    assert len(m.vfs._drafts.unpacked()) - before <= 16
    await reader.close()
    assert await p.texts() == {"1.eml": ONE}
