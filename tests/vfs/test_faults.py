"""A disk that fails: the call that needed it says so, nothing of the change is visible, the mount goes on."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dboxfs.fsapi import Driver, Fault, FaultsDriver
from dboxfs.store import Kind
from dboxfs.store.write import Neighbour, WriteOptions
from tests.vfs.inside import ONE, TWO, Mounted, mounted, raises


class Disk:
    """The driver under a mount, for faults from now on."""

    def __init__(self) -> None:
        self.driver: FaultsDriver

    def __call__(self, driver: Driver) -> Driver:
        self.driver = FaultsDriver(driver, depth=1)
        return self.driver

    def fail(self, kind: str, number: int, nth: int | None = None) -> None:
        self.driver.replan([Fault(kind, nth, error=number)])

    def mend(self) -> None:
        self.driver.replan([])


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def m(kind: Kind, disk: Disk) -> AsyncIterator[Mounted]:
    """A mount whose disk may fail."""
    async with mounted(kind, faults=disk) as made:
        yield made


@pytest.mark.expected_log(".")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("kind_of_step", ["append", "sync"])
async def test_a_close_that_fails_leaves_nothing_visible(
    m: Mounted, disk: Disk, number: int, kind_of_step: str
) -> None:
    p = m.program()
    file = await p.create("INBOX/note")
    await file.write(TWO)
    disk.fail(kind_of_step, number)
    with raises(number):
        await file.close()
    disk.mend()
    assert await p.texts() == {"1.eml": ONE}
    assert await m.stored() == [(1, ONE)]
    await p.write("INBOX/note", TWO)
    assert await p.texts() == {"1.eml": ONE, "note": TWO}, "it works again when the disk does"


@pytest.mark.expected_log(".")
async def test_a_replacement_that_fails_leaves_the_old_message(m: Mounted, disk: Disk) -> None:
    p = m.program()
    disk.fail("sync", errno.ENOSPC)
    with raises(errno.ENOSPC):
        await p.write("INBOX/1.eml", TWO)
    disk.mend()
    assert await p.texts() == {"1.eml": ONE}
    assert await m.stored() == [(1, ONE)]


@pytest.mark.expected_log(".")
async def test_a_rename_of_a_temporary_that_fails_can_be_tried_again(m: Mounted, disk: Disk) -> None:
    p = m.program()
    await p.write("INBOX/.note", TWO)
    disk.fail("append", errno.ENOSPC)
    with raises(errno.ENOSPC):
        await p.rename("INBOX/.note", "INBOX/note")
    disk.mend()
    assert (await p.read("INBOX/.note"), await m.stored()) == (TWO, [(1, ONE)])
    await p.rename("INBOX/.note", "INBOX/note")
    assert await p.texts() == {"1.eml": ONE, "note": TWO}


@pytest.mark.expected_log(".")
@pytest.mark.parametrize("operation", ["rename", "move", "link", "mkdir", "flags"])
async def test_an_operation_that_fails_changes_nothing(m: Mounted, disk: Disk, operation: str) -> None:
    p = m.program()
    await p.write("INBOX/note", TWO)
    before = await p.texts(), await p.names("")
    doing: dict[str, Callable[[], Awaitable[object]]] = {
        "rename": lambda: p.rename("INBOX/note", "INBOX/other"),
        "move": lambda: p.rename("INBOX/note", "Work/note"),
        "link": lambda: p.link("INBOX/note", "Work/note"),
        "mkdir": lambda: p.mkdir("New"),
        "flags": lambda: p.set_xattr("INBOX/note", "flags", "\\Seen"),
    }
    await p.inode("INBOX/note")
    for kind_of_step in ("append", "sync", "mkdir"):
        disk.fail(kind_of_step, errno.ENOSPC)
        if (operation == "mkdir") == (kind_of_step == "mkdir") and not (
            operation == "flags" and kind_of_step == "sync"
        ):
            with raises(errno.ENOSPC):
                await doing[operation]()
        disk.mend()
        assert (await p.texts(), await p.names(""), await p.names("Work")) == (*before, [])
    await doing[operation]()


@pytest.mark.expected_log(".")
async def test_a_write_that_fails_is_told_and_the_file_is_given_up(m: Mounted, disk: Disk) -> None:
    p = m.program()
    file = await p.create("INBOX/big")
    await file.write(b"x" * 200_000)
    disk.fail("create", errno.ENOSPC)
    with raises(errno.ENOSPC):
        for _ in range(100):
            await file.write(b"x" * 1_000_000)
    disk.mend()
    with raises(errno.ENOSPC):
        await file.close()
    assert await p.texts() == {"1.eml": ONE}


@pytest.mark.expected_log(".")
async def test_fsync_tells_and_nothing_is_committed_then(m: Mounted, disk: Disk) -> None:
    p = m.program()
    file = await p.create("INBOX/note")
    await file.write(TWO)
    disk.fail("sync", errno.EIO)
    with raises(errno.EIO):
        await file.fsync()
    disk.mend()
    with raises(errno.EIO):
        await file.close()
    assert await m.stored() == [(1, ONE)]


@pytest.mark.expected_log("is expunged, but")
@pytest.mark.parametrize("kind_of_step", ["sync", "unlink"])
async def test_a_file_that_could_not_be_removed_is_removed_when_the_mount_ends(
    disk: Disk, kind_of_step: str
) -> None:
    """Else a rebuild by Dovecot would bring back a removed message, whose unlink was answered."""
    async with mounted(Kind.SDBOX, WriteOptions(Neighbour.DOVECOT), faults=disk) as m:
        p = m.program()
        await p.write("Work/note", ONE)
        disk.fail(kind_of_step, errno.EIO)
        await p.unlink("Work/note")
        disk.mend()
        assert await p.names("Work") == []
        await m.vfs.finish()
        assert [path for path in m.files() if "/Work/" in path and "/u." in path] == []
