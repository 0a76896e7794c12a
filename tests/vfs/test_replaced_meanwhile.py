"""A message is replaced by another mount, of which this one has not heard."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dboxfs.store import Folder
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program


async def test_a_name_whose_message_another_mount_has_just_replaced_is_gone_when_unlink_answers(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", ONE)
    async with m.again() as other:
        await other.program().write("INBOX/note", TWO)
        await p.unlink("INBOX/note")
        assert [text for _, text in await m.stored()] == [ONE]
        assert not await p.exists("INBOX/note")


async def test_a_name_whose_message_somebody_else_has_just_removed_is_gone_without_an_error(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", TWO)
    async with m.again() as other:
        await other.program().unlink("INBOX/note")
        await p.unlink("INBOX/note")
        assert [text for _, text in await m.stored()] == [ONE]


async def test_two_mounts_that_write_one_message_leave_one_though_names_come_late(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", ONE)
    late = await p.create("INBOX/note", os.O_TRUNC)
    await late.write(TWO)
    async with m.again() as other:
        await other.program().write("INBOX/note", ONE * 2)
        await m.follow()  # the index, and not the file of names
        await late.close()
        assert [text for _, text in await m.stored()] == [ONE, TWO]
        assert sorted((await p.texts()).items()) == [("1.eml", ONE), ("note", TWO)]


async def test_a_message_that_somebody_else_removes_while_it_is_written_anew_is_a_new_one_of_the_same_name(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", ONE)
    late = await p.create("INBOX/note", os.O_TRUNC)
    await late.write(TWO)
    async with m.again() as other:
        await other.program().unlink("INBOX/note")
        await m.follow()
        await late.close()
    assert await p.texts() == {"1.eml": ONE, "note": TWO}


async def test_who_looks_a_name_up_while_another_does_and_its_message_was_just_replaced_finds_the_new_one_too(
    m: Mounted, p: Program, q: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, found = m.name_reader.look, list[int]()

    async def size(program: Program) -> None:
        found.append((await program.stat("INBOX/note")).size)

    async def look_while_another_comes(folder: Folder) -> None:
        monkeypatch.setattr(m.name_reader, "look", look)
        nursery.start_soon(size, q)
        await wait_all_tasks_blocked()
        await look(folder)

    await p.write("INBOX/note", ONE)
    async with m.again() as other:
        await other.program().write("INBOX/note", TWO)
        await m.follow()  # the index, and not the file of names
        monkeypatch.setattr(m.name_reader, "look", look_while_another_comes)
        async with trio.open_nursery() as nursery:
            await size(p)
    assert found == [len(TWO)] * 2


@pytest.mark.parametrize("where", ["this mount", "another mount"])
async def test_a_message_that_is_replaced_before_each_step_of_an_open_is_opened(
    m: Mounted, p: Program, where: str
) -> None:
    """The kernel looks a name up, opens the inode, and after ESTALE does both once more."""
    await p.write("INBOX/note", ONE)
    async with m.again() as other:
        writer = m.program() if where == "this mount" else other.program()
        numbers = itertools.count()

        async def replace(way: str) -> None:
            new = b"%s%d\n" % (TWO, next(numbers))
            if way == "append":
                await writer.append("INBOX/note", b"more\n")
            elif way == "write":
                await writer.write("INBOX/note", new)
            elif way == "touch":
                await writer.set_received("INBOX/note", 1000 + next(numbers))
            else:
                await writer.write(f"{way}/other", new)
                await writer.rename(f"{way}/other", "INBOX/note")

        for way in ("append", "write", "touch", "INBOX", "Work"):
            for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
                for turn in range(2):
                    inode = await p.inode("INBOX/note")
                    await replace(way)
                    await replace(way)
                    try:
                        opened = await p.vfs.open(inode, flags, p.pid)
                    except OSError as error:
                        if error.errno != errno.ESTALE or turn:
                            raise
                    else:
                        await opened.file.release()
                        break


WAYS: dict[str, Callable[[Program], Awaitable[object]]] = {
    "append": lambda p: p.append("INBOX/note", ONE),
    "written anew": lambda p: p.write("INBOX/note", ONE),
    "another date": lambda p: p.set_received("INBOX/note", JULY),
    "renamed over": lambda p: renamed_over(p),
}
"""How the message of a name becomes another one."""


async def renamed_over(p: Program) -> None:
    await p.write("Work/other", ONE)
    await p.rename("Work/other", "INBOX/note")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("seen", [0, 1, 2], ids=["from its beginning", "before it", "behind it"])
async def test_a_listing_that_goes_on_while_a_message_is_replaced_shows_its_name_once(
    m: Mounted, p: Program, way: Callable[[Program], Awaitable[object]], times: int, seen: int
) -> None:
    await p.write("INBOX/note", TWO)
    await p.write("INBOX/last", TWO)
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    rows = list(itertools.islice(directory.messages(0), seen))
    for _ in range(times):
        await way(p)
    start = rows[-1].next if rows else 0
    if rows:
        await directory.prepare(start)
    rows += directory.messages(start)
    assert [row.name for row in rows] == [b"1.eml", b"note", b"last"]
    if seen < 2:  # not listed yet
        assert rows[1].inode == await p.inode("INBOX/note")


async def test_a_message_that_takes_two_names_while_a_listing_goes_on_is_shown_once(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", TWO)
    await p.write("INBOX/last", TWO)
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    await p.append("INBOX/note", ONE)
    await p.rename("INBOX/note", "INBOX/last")
    assert [row.name for row in directory.messages(0)] == [b"1.eml", b"last"]
