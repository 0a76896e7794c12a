"""Which close commits, when others hold the file, and what becomes of a writer that is killed."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dboxfs.vfs import holders
from dboxfs.vfs.close_policy import HOLDER_SECONDS
from dboxfs.vfs.holders import Holders
from tests.vfs.inside import ONE, TWO, Mounted, Program, raises


class Held:
    """What a look into /proc finds: whether somebody holds the file, and whether its opener does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.somebody = False
        self.opener = False
        self.looks = 0

        def look(holder: Holders, inode: int, opens: object) -> bool:
            self.looks += 1
            holder.opener_holds = self.opener
            return self.somebody

        monkeypatch.setattr(Holders, "look", look)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


async def test_a_close_while_its_opener_holds_a_copy_commits_nothing(
    m: Mounted, p: Program, held: Held
) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"one ")
    held.somebody = held.opener = True
    await file.flush()
    assert await m.stored() == [(1, ONE)]
    assert any(b"one " in m.file(path) for path in m.files() if ".temp" in path), "but it is on disk"
    await file.write(b"two")
    held.somebody = held.opener = False
    await file.close()
    assert await m.stored() == [(1, ONE), (2, b"one two")]


async def test_a_close_without_new_bytes_commits_nothing(m: Mounted, p: Program, held: Held) -> None:
    file = await p.open("INBOX/1.eml", os.O_RDWR)
    for _ in range(3):
        await file.flush()
    assert (await m.stored(), held.looks) == ([(1, ONE)], 3), "it looks: the one that closes may have forked"
    await file.close()


async def test_a_file_that_only_others_hold_comes_after_a_minute(
    m: Mounted, p: Program, held: Held, autojump_clock: MockClock
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    held.somebody = True
    await file.flush()
    await trio.sleep(HOLDER_SECONDS - 1)
    assert await m.stored() == [(1, ONE)]
    await trio.sleep(2)
    assert await m.stored() == [(1, ONE), (2, TWO)]


async def test_writing_puts_that_off(m: Mounted, p: Program, held: Held, autojump_clock: MockClock) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"one ")
    held.somebody = True
    await file.flush()
    for _ in range(3):
        await trio.sleep(HOLDER_SECONDS - 1)
        await file.write(b"more ")
        assert await m.stored() == [(1, ONE)]
    await trio.sleep(HOLDER_SECONDS + 1)
    assert (await m.stored())[1:] == [(2, b"one more more more ")]
    await file.write(b"and a replacement")
    held.somebody = False
    await file.close()
    assert (await m.stored())[1:] == [(3, b"one more more more and a replacement")]


async def test_the_last_close_of_others_commits_without_waiting(m: Mounted, p: Program, held: Held) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    held.somebody = True
    await file.flush()
    held.somebody = False
    await file.close()
    assert await m.stored() == [(1, ONE), (2, TWO)]


async def test_what_no_close_has_committed_is_committed_at_the_end_of_the_open(
    m: Mounted, p: Program, held: Held
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    held.somebody = held.opener = True
    await file.flush()
    await file.file.release()
    assert await m.stored() == [(1, ONE), (2, TWO)]


async def test_what_its_opener_has_closed_is_committed_when_the_mount_ends(
    m: Mounted, p: Program, held: Held
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    held.somebody = True
    await file.flush()
    await m.vfs.finish()
    assert await m.stored() == [(1, ONE), (2, TWO)]


async def test_what_its_opener_has_not_closed_is_forgotten_when_the_mount_ends(
    m: Mounted, p: Program
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await m.vfs.finish()
    await wait_all_tasks_blocked()
    assert await m.stored() == [(1, ONE)]
    assert [path for path in m.files() if ".temp" in path] == []


@pytest.mark.parametrize("path", ["INBOX/note", "INBOX/1.eml"])
async def test_what_a_killed_writer_has_written_is_dropped(
    m: Mounted, p: Program, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await p.create(path, os.O_TRUNC)
    await file.write(b"half a mess")
    monkeypatch.setattr(holders, "killed", lambda pid: pid == p.pid)
    await file.close()
    assert await p.texts() == {"1.eml": ONE}
    assert await m.stored() == [(1, ONE)]


async def test_a_temporary_of_a_killed_writer_stays(
    m: Mounted, p: Program, q: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await p.create("INBOX/.tmp")
    await file.write(TWO)
    monkeypatch.setattr(holders, "killed", lambda pid: pid == p.pid)
    await file.close()
    assert await q.read("INBOX/.tmp") == TWO


async def test_one_of_two_opens_of_a_temporary_may_end(m: Mounted, p: Program) -> None:
    one, two = await p.create("INBOX/.tmp"), await p.create("INBOX/.tmp")
    await one.write(b"one ")
    await one.close()
    await two.write(b"two", at=4)
    await two.close()
    assert await p.read("INBOX/.tmp") == b"one two"


async def test_a_draft_that_was_opened_twice_commits_at_each_close(m: Mounted, p: Program) -> None:
    one = await p.create("INBOX/note")
    two = await p.open("INBOX/note", os.O_WRONLY)
    assert one.inode == two.inode, "its writer finds it by its name"
    await one.write(b"one ")
    await one.close()
    assert (await m.stored())[1:] == [(2, b"one ")]
    await two.write(b"two", at=4)
    await two.close()
    assert (await m.stored())[1:] == [(3, b"one two")]


async def test_an_open_that_waits_for_a_commit_gets_the_message(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    found: list[bytes] = []

    async def read() -> None:
        opened = await m.vfs.open(file.inode, os.O_RDONLY, p.pid)
        found.append(await opened.file.read(100, 0))
        await opened.file.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.close)
        nursery.start_soon(read)
    assert found == [TWO]


async def test_the_kernel_looks_a_replaced_name_up_before_close_returns(m: Mounted, p: Program) -> None:
    inbox = await p.inode("INBOX")
    await p.write("INBOX/1.eml", TWO)
    assert (inbox, b"1.eml") in m.told.looked_up_again


async def test_an_error_of_a_close_is_told_again_by_the_next(m: Mounted, p: Program, held: Held) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"\x1f\x8b\x08\x00" + b"x" * 40)
    for _ in range(2):
        with raises(errno.EINVAL):
            await file.flush()
    with raises(errno.EINVAL):
        await file.write(b"more")
    with raises(errno.EINVAL):
        await file.fsync()
    await file.file.release()
