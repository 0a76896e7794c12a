"""A store, or a mailbox, that is not where it was for a while: nothing is forgotten, nothing stays behind."""

from __future__ import annotations

import copy
import errno
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
import trio

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.ops import Job, Op
from dboxfs.store import Kind
from dboxfs.store.write import WriteOptions
from tests.vfs.inside import ONE, ROOT_DIRECTORY, TWO, Mounted, Program, make_store, mounted, raises

ABOVE, NAME = os.path.split(ROOT_DIRECTORY)


class Leaving(MemoryDriver):
    """The store's root is renamed before the operation number ``leaves_at``, as if it had been unmounted."""

    leaves_at = 0
    operations = 0
    is_away = False

    def submit(self, op: Op[Any], done: Callable[[Job[Any]], None], *, background: bool = False) -> Job[Any]:
        self.operations += 1
        if self.operations == self.leaves_at:
            entries = self.tree.find(ABOVE).entries
            entries["away"] = entries.pop(NAME)
            self.is_away = True
        return super().submit(op, done, background=background)

    def leave_at(self, nth: int) -> None:
        """Count from now on."""
        self.operations, self.leaves_at = 0, nth

    def come_back(self) -> None:
        if self.is_away:
            entries = self.tree.find(ABOVE).entries
            entries[NAME] = entries.pop("away")
            self.is_away = False


async def made(kind: Kind) -> MemoryDriver:
    memory = MemoryDriver()
    memory.make_dirs(ABOVE)
    await make_store(memory, kind)
    return memory


def copied(memory: MemoryDriver) -> Leaving:
    return Leaving(tree=copy.deepcopy(memory.tree))


@pytest.mark.expected_log(".")
@pytest.mark.parametrize("name", ["1.eml", "new"], ids=["over", "new"])
async def test_a_temporary_can_be_removed_when_its_rename_failed_because_the_store_went_away(
    kind: Kind, name: str, autojump_clock: object
) -> None:
    """The tree is read again meanwhile, as inotify has a mount do: a part of that finds the store."""
    memory, points = await made(kind), 0
    for nth in range(5, 17):
        driver = copied(memory)
        async with mounted(kind, driver=driver) as m:
            p = m.program()
            await p.write("INBOX/.note", TWO)
            parent, _ = await p.place("INBOX/.note")
            driver.leave_at(nth)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(m.store.refresh_tree)
                try:
                    await p.rw.rename(parent, b".note", parent, name.encode(), 0, p.pid)
                except (OSError, DboxfsError):
                    points += 1
                    await p.rw.unlink(parent, b".note", p.pid)
            driver.come_back()
            await m.store.refresh_tree()
            await m.follow()
            assert not await p.exists("INBOX/.note"), f"away before operation {nth}"
            assert sorted(await p.texts()) in (["1.eml"], ["1.eml", name]), f"away before operation {nth}"
    assert points >= 5


@pytest.mark.expected_log(".")
async def test_a_store_that_goes_away_while_its_tree_is_read_keeps_its_mailboxes(kind: Kind) -> None:
    memory = await made(kind)
    for nth in range(1, 12):
        driver = copied(memory)
        async with mounted(kind, driver=driver) as m:
            before = {name: folder.mailbox for name, folder in m.store.folders.items()}
            driver.leave_at(nth)
            await m.store.refresh_tree()
            assert {name: folder.mailbox for name, folder in m.store.folders.items()} == before, nth
            was_away, driver.leaves_at = driver.is_away, 0
            driver.come_back()
            await m.store.refresh_tree()
            assert m.store.root.error is None
            if not was_away:
                break
    else:
        pytest.fail("the store was away at every operation")


@pytest.mark.expected_log(".")
async def test_messages_keep_their_names_when_the_store_goes_away_while_one_is_replaced(
    kind: Kind, autojump_clock: object
) -> None:
    """What was listed before the mount has read anything again is there, and is what is listed afterwards."""
    memory, points = copied(await made(kind)), 0
    async with mounted(kind, driver=memory, options=WriteOptions()) as m:
        await m.program().write("INBOX/note", TWO)
    for nth in itertools.count(1):
        driver = copied(memory)
        async with mounted(kind, driver=driver, options=WriteOptions()) as m:
            p = m.program()
            driver.leave_at(nth)
            failed = False
            try:
                await p.append("INBOX/note", TWO)
            except (OSError, DboxfsError):
                failed = True
            if not driver.is_away:
                break
            driver.come_back()
            points += failed
            await m.store.refresh_tree()
            listed = await p.names()
            await m.follow()
            where = f"away before operation {nth}"
            assert listed == await p.names() == ["1.eml", "note"], where
            assert await p.read("INBOX/note") in [TWO + TWO, *([TWO] if failed else [])], where
    assert points >= 5


@pytest.mark.expected_log("can't be read")
async def test_messages_keep_their_names_while_the_file_of_names_cannot_be_read(
    m: Mounted, p: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and the file is read as soon as it can be."""
    await p.write("INBOX/note", TWO)
    async with m.again() as other:
        await other.program().rename("INBOX/note", "INBOX/letter")
    box, reader = m.folder().mailbox, m.name_reader
    assert box is not None
    path = reader.path(box)
    await m.fs.rename(path, path + ".away")
    await m.fs.mkdir(path)
    reader.is_behind(box)
    for _ in range(3):
        assert await p.names() == ["1.eml", "note"]
        assert await p.read("INBOX/note") == TWO
    said = [record.getMessage() for record in caplog.records]
    assert said == ["INBOX: the names that were written can't be read: Is a directory"]
    await m.fs.rmdir(path)
    await m.fs.rename(path + ".away", path)
    assert await p.names() == ["1.eml", "letter"]


@pytest.mark.parametrize("way", ["create", "mknod", "unlink", "rename", "link", "mkdir", "rmdir"])
async def test_whoever_works_in_a_directory_goes_on_while_its_mailbox_is_neither_here_nor_there(
    m: Mounted, p: Program, way: str, autojump_clock: object
) -> None:
    """The mount has looked between the two steps of a rename by another program."""
    await p.write("Work/note", TWO)
    await p.mkdir("Work/Sub")
    work, inbox = await p.inode("Work"), await p.inode("INBOX")
    one = await p.inode("INBOX/1.eml")
    root = m.location.root
    await m.fs.rename(f"{root}/mailboxes/Work", f"{root}/elsewhere")
    await m.store.refresh_tree()
    assert "Work" not in m.store.folders
    await m.fs.rename(f"{root}/elsewhere", f"{root}/mailboxes/Job")
    rw = p.rw
    match way:
        case "create":
            opened, _ = await rw.create(work, b"more", os.O_WRONLY, p.pid)
            await opened.file.write(ONE, 0)
            await opened.file.flush()
            await opened.file.release()
            assert await p.read("Job/more") == ONE
        case "mknod":
            assert (await rw.mknod(work, b"more", p.pid)).inode
        case "unlink":
            await rw.unlink(work, b"note", p.pid)
            assert await p.names("Job") == ["Sub"]
        case "rename":
            await rw.rename(inbox, b"1.eml", work, b"more", 0, p.pid)
            assert await p.read("Job/more") == ONE
        case "link":
            await rw.link(one, work, b"more", p.pid)
            assert await p.read("Job/more") == ONE
        case "mkdir":
            await rw.mkdir(work, b"Deep")
            assert "Job/Deep" in m.store.folders
        case _:
            await rw.rmdir(work, b"Sub")
            assert "Job/Sub" not in m.store.folders


@pytest.mark.expected_log(".")
async def test_a_store_that_is_away_is_an_error_and_not_an_absence_of_mail(kind: Kind) -> None:
    driver = copied(await made(kind))
    async with mounted(kind, driver=driver) as m:
        p = m.program()
        driver.leave_at(1)
        await m.store.refresh_tree()
        for path in ("INBOX", "New"):
            with raises(errno.EIO):
                await p.stat(path)
        with raises(errno.EIO):
            await p.names("")
        driver.come_back()
        await m.store.refresh_tree()
        assert await p.texts() == {"1.eml": ONE}
