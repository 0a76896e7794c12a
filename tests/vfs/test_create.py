"""Files that are created, written and closed: SEMANTICS.md, Writing."""

from __future__ import annotations

import errno
import os
import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dboxfs.vfs.attrs import NS
from dboxfs.vfs.close_policy import HOLDER_SECONDS
from dboxfs.vfs.content import EACH
from dboxfs.vfs.drafts import GHOSTS
from dboxfs.vfs.node import DRAFTS
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, raises


async def test_a_file_is_a_message_when_it_is_closed(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    assert await m.stored() == [(1, ONE)]
    await file.close()
    assert await m.stored() == [(1, ONE), (2, TWO)]
    assert await p.texts() == {"1.eml": ONE, "note": TWO}


async def test_nobody_else_sees_a_file_before_it_is_closed(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    assert await p.exists("INBOX/note"), "its writer does"
    assert (await p.stat("INBOX/note")).inode & DRAFTS
    assert not await q.exists("INBOX/note")
    assert await q.names() == await p.names() == ["1.eml"], "a listing shows messages alone"
    await file.close()
    assert await q.exists("INBOX/note")


async def test_the_size_of_a_file_being_written_is_what_was_written(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    for n in range(1, 4):
        await file.write(b"12345")
        assert (await file.stat()).size == 5 * n
    await file.close()


async def test_what_was_written_can_be_read_before_the_close(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/note", os.O_RDWR | os.O_CREAT)
    await file.write(TWO)
    assert (await file.read(7, 0), await file.read(100, 9)) == (TWO[:7], TWO[9:])
    await file.close()


@pytest.mark.parametrize("size", [EACH - 1, EACH, EACH + 1, 3 * EACH + 17])
async def test_a_file_of_any_size_is_saved_whole(m: Mounted, p: Program, size: int) -> None:
    data = b"Subject: x\n\n" + os.urandom(size - 12).replace(b"\0", b"1")
    file = await p.create("INBOX/big")
    for at in range(0, size, 100_000):
        await file.write(data[at : at + 100_000])
    assert await file.read(size, 0) == data
    await file.close()
    assert await p.read("INBOX/big") == data


async def test_the_inode_a_file_was_created_with_stays_usable(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await file.close()
    assert file.inode & DRAFTS
    assert (await file.stat()).size == len(TWO)
    opened = await m.vfs.open(file.inode, os.O_RDONLY, p.pid)
    assert await opened.file.read(100, 0) == TWO
    await opened.file.release()


async def test_a_date_given_before_the_commit_is_the_received_date(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await file.set_received(JULY)
    await file.close()
    assert (await p.stat("INBOX/note")).modified_ns == JULY * 10**9


async def test_a_message_without_a_date_was_received_when_it_was_committed(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    monkeypatch.setattr(time, "time", lambda: JULY + 0.75)
    await file.close()
    assert (await p.stat("INBOX/note")).modified_ns == JULY * NS


# -- O_EXCL, O_TRUNC, and names that are taken -----------------------------------------------------


async def test_o_excl_refuses_a_name_that_is_there(m: Mounted, p: Program) -> None:
    inbox = await p.inode("INBOX")
    with raises(errno.EEXIST):
        await p.rw.create(inbox, b"1.eml", os.O_WRONLY | os.O_EXCL, p.pid)
    assert await m.stored() == [(1, ONE)]


async def test_o_excl_refuses_a_file_that_is_being_written(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    with raises(errno.EEXIST):
        await q.create("INBOX/note", os.O_EXCL)
    await file.close()


async def test_two_who_create_one_file_make_one_message(m: Mounted, p: Program, q: Program) -> None:
    one, two = await p.create("INBOX/note"), await q.create("INBOX/note")
    await one.write(ONE)
    await two.write(TWO)
    await one.close()
    assert await p.read("INBOX/note") == ONE
    await two.close()
    assert await p.texts() == {"1.eml": ONE, "note": TWO}, "the last one to close wins"


@pytest.mark.parametrize("name", [b"INBOX", b"Work"])
async def test_a_directory_is_no_file(m: Mounted, p: Program, name: bytes) -> None:
    with raises(errno.EISDIR, errno.EPERM):
        await p.rw.create(1, name, os.O_WRONLY, p.pid)


async def test_there_are_no_files_where_there_is_no_mailbox(m: Mounted, p: Program) -> None:
    with raises(errno.EPERM):
        await p.create("note")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("x" * 255, 0),
        ("x" * 256, errno.ENAMETOOLONG),
        ("two\nlines", 0),
        ("ümlaut", 0),
        ("a b", 0),
    ],
)
async def test_a_name_is_one_that_can_be_kept(m: Mounted, p: Program, name: str, number: int) -> None:
    if number:
        with raises(number):
            await p.create(f"INBOX/{name}")
        return
    await p.write(f"INBOX/{name}", TWO)
    async with m.again() as again:
        assert await again.program().read(f"INBOX/{name}") == TWO


@pytest.mark.parametrize("name", ["17.eml", "uid-1.eml", "0001.eml", "1.eml.bak", "%41", "note.txt"])
async def test_a_name_that_looks_like_a_number_is_a_name(m: Mounted, p: Program, name: str) -> None:
    await p.write(f"INBOX/{name}", TWO)
    assert await p.texts() == {"1.eml": ONE, name: TWO}


# -- ghosts ----------------------------------------------------------------------------------------


async def test_a_file_closed_without_a_byte_is_no_message(m: Mounted, p: Program, q: Program) -> None:
    await (await p.create("INBOX/new")).close()
    assert (await p.names(), await q.names()) == (["1.eml"], ["1.eml"])
    assert await p.exists("INBOX/new")
    assert not await q.exists("INBOX/new")
    assert await m.stored() == [(1, ONE)]


async def test_after_a_minute_nobody_finds_it(m: Mounted, p: Program, autojump_clock: MockClock) -> None:
    await (await p.create("INBOX/new")).close()
    await trio.sleep(HOLDER_SECONDS - 1)
    assert await p.exists("INBOX/new")
    await trio.sleep(2)
    assert not await p.exists("INBOX/new")


async def test_its_maker_may_open_write_and_close_it(
    m: Mounted, p: Program, autojump_clock: MockClock
) -> None:
    await (await p.create("INBOX/new", os.O_EXCL)).close()
    file = await p.open("INBOX/new", os.O_WRONLY)
    await file.write(TWO)
    await file.close()
    assert await p.texts() == {"1.eml": ONE, "new": TWO}
    await trio.sleep(2 * HOLDER_SECONDS)
    assert await p.texts() == {"1.eml": ONE, "new": TWO}


async def test_its_maker_may_rename_it(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/new")).close()
    await p.rename("INBOX/new", "INBOX/newer")
    assert (await p.exists("INBOX/new"), await p.exists("INBOX/newer")) == (False, True)
    assert await m.stored() == [(1, ONE)]


async def test_its_maker_may_remove_it(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/new")).close()
    await p.unlink("INBOX/new")
    assert not await p.exists("INBOX/new")


async def test_its_maker_may_link_it(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/new")).close()
    await p.link("INBOX/new", "INBOX/lock")
    assert (await p.exists("INBOX/new"), await p.exists("INBOX/lock")) == (True, True)
    assert await p.names() == ["1.eml"]


async def test_another_process_takes_its_name(m: Mounted, p: Program, q: Program) -> None:
    await (await p.create("INBOX/new")).close()
    await q.write("INBOX/new", TWO)
    assert await p.texts() == {"1.eml": ONE, "new": TWO}


async def test_an_empty_file_renamed_over_a_message_leaves_that_as_it_was(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/new")).close()
    await p.rename("INBOX/new", "INBOX/1.eml")
    assert await p.texts() == {"1.eml": ONE}
    assert not await p.exists("INBOX/new")


async def test_empty_files_do_not_gather(m: Mounted, p: Program) -> None:
    for n in range(GHOSTS + 10):
        await (await p.create(f"INBOX/n{n}")).close()
    assert [await p.exists(f"INBOX/n{n}") for n in (0, 9, 10, GHOSTS + 9)] == [False, False, True, True]


# -- names that begin with a dot -------------------------------------------------------------------


async def test_a_temporary_is_no_message_and_not_listed(m: Mounted, p: Program, q: Program) -> None:
    await p.write("INBOX/.tmp", TWO)
    assert (await p.names(), await m.stored()) == (["1.eml"], [(1, ONE)])
    assert await q.read("INBOX/.tmp") == TWO, "anybody may read it"


async def test_a_rename_that_takes_the_dot_away_commits(m: Mounted, p: Program) -> None:
    await p.write("INBOX/.note.x7", TWO, received=JULY)
    await p.rename("INBOX/.note.x7", "INBOX/note")
    assert await p.texts() == {"1.eml": ONE, "note": TWO}
    assert (await p.stat("INBOX/note")).modified_ns == JULY * 10**9
    assert not await p.exists("INBOX/.note.x7")


async def test_a_temporary_may_be_written_anywhere_while_it_is_small(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/.swp")
    await file.write(b"0123456789")
    await file.write(b"ab", at=3)
    await file.write(b"z", at=15)
    assert await file.read() == b"012ab56789\0\0\0\0\0z"
    await file.close()


async def test_a_removed_temporary_can_be_used_by_those_who_have_it_open(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/.tmp", os.O_RDWR | os.O_CREAT)
    await file.write(b"0123")
    await p.unlink("INBOX/.tmp")
    assert not await p.exists("INBOX/.tmp")
    await file.write(b"ab", at=1)
    assert await file.read() == b"0ab3"
    await file.close()
    assert await m.stored() == [(1, ONE)]


async def test_a_temporary_is_gone_with_the_mount(m: Mounted, p: Program) -> None:
    await p.write("INBOX/.tmp", TWO)
    await m.vfs.finish()
    async with m.again() as again:
        assert not await again.program().exists("INBOX/.tmp")
    assert [path for path in m.files() if ".temp" in path] == []


async def test_a_temporary_is_opened_again_by_anybody(m: Mounted, p: Program, q: Program) -> None:
    await p.write("INBOX/.tmp", b"one ")
    file = await q.open("INBOX/.tmp", os.O_WRONLY | os.O_APPEND)
    await file.write(b"two")
    await file.close()
    assert await p.read("INBOX/.tmp") == b"one two"


async def test_an_empty_temporary_stays(m: Mounted, p: Program, autojump_clock: MockClock) -> None:
    await (await p.create("INBOX/.lock")).close()
    await trio.sleep(2 * HOLDER_SECONDS)
    assert await p.exists("INBOX/.lock")
    with raises(errno.EEXIST):
        await p.create("INBOX/.lock", os.O_EXCL)


async def test_o_trunc_empties_a_temporary(m: Mounted, p: Program) -> None:
    await p.write("INBOX/.tmp", TWO)
    file = await p.create("INBOX/.tmp", os.O_TRUNC)
    assert (await file.stat()).size == 0
    await file.close()


# -- fsync -----------------------------------------------------------------------------------------


async def test_fsync_does_not_commit(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await file.fsync()
    assert await m.stored() == [(1, ONE)]
    assert any(TWO in m.file(path) for path in m.files() if ".temp" in path), "the bytes are in a file"
    await file.close()
    assert await q.read("INBOX/note") == TWO


async def test_no_temporary_file_stays_behind_a_commit(m: Mounted, p: Program) -> None:
    for n in range(3):
        file = await p.create(f"INBOX/n{n}")
        await file.write(b"x" * (2 * EACH))
        await file.fsync()
        await file.close()
    await wait_all_tasks_blocked()  # it is removed behind the answer
    assert [path for path in m.files() if ".temp" in path] == []
