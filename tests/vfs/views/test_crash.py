"""Writes, changes and removals in the Maildir and the MH view, stopped or failing at their file operations.

A change that was answered is there as a whole in the next mount.  Of one that was not, there is nothing, or
all of it, or (of a rename that changes name, flags and keywords) the first of its steps; no message is lost,
and none is shown in part.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Crash, Driver, Fault, FaultsDriver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from tests.vfs.inside import ONE, TWO
from tests.vfs.views.inside import InMaildir, InView, maildir, mh

pytestmark = pytest.mark.expected_log(".")

State = dict[str, bytes]
"""Path and bytes of all messages."""


class Disk:
    """The driver under a mount, for faults from now on."""

    def __init__(self) -> None:
        self.driver: FaultsDriver

    def __call__(self, driver: Driver) -> Driver:
        self.driver = FaultsDriver(driver, depth=1)
        return self.driver


async def state(w: InView) -> State:
    """As another process sees it: the one that has written an MH folder is shown what it expects."""
    found, p = {}, w.program()
    for box in ("INBOX", "Work"):
        for where in (f"{box}/cur", f"{box}/new") if isinstance(w, InMaildir) else (box,):
            for name in await p.names(where):
                found[f"{where}/{name}"] = await p.read(f"{where}/{name}")
    return found


async def by_rename(w: InView) -> None:
    await w.p.rename("INBOX/tmp/new", "INBOX/new/chosen,U=1:2,F")


async def by_link(w: InView) -> None:
    await w.p.link("INBOX/tmp/new", "INBOX/cur/chosen:2,RS")
    await w.p.unlink("INBOX/tmp/new")


async def flags(w: InView) -> None:
    await w.p.rename("INBOX/new/first", "INBOX/cur/first:2,FS")


async def move(w: InView) -> None:
    await w.p.rename("INBOX/new/first", "Work/cur/first:2,S")


async def removal(w: InView) -> None:
    await w.p.unlink("INBOX/new/first")


async def mh_save(w: InView) -> None:
    await w.p.write("INBOX/2", TWO)


async def mh_flags(w: InView) -> None:
    file = await w.p.open("INBOX/.mh_sequences", os.O_RDWR)
    await file.read()
    await file.truncate(0)
    await file.write(b"flagged: 1\n", 0)
    await file.close()


async def mh_rename(w: InView) -> None:
    await w.p.rename("INBOX/1", "INBOX/,1")


async def mh_move(w: InView) -> None:
    await w.p.rename("INBOX/1", "Work/1")


async def mh_removal(w: InView) -> None:
    await w.p.unlink("INBOX/1")


@dataclass(frozen=True)
class Change:
    """What a program does, and the states that may be left of it: before, in between, behind."""

    do: Callable[[InView], Awaitable[None]]
    left: tuple[State, ...]
    view: Callable[..., AbstractAsyncContextManager[InView]] = maildir


def mh_state(messages: State, inbox: bytes, work: bytes = b"") -> State:
    """Messages and sequences of MH folders."""
    return {"INBOX/.mh_sequences": inbox, "Work/.mh_sequences": work, **messages}


BEFORE = {"INBOX/new/first": ONE}
IN_WORK = {"Work/cur/first:2,": ONE}
CHANGES = {
    "rename": Change(by_rename, (BEFORE, BEFORE | {"INBOX/new/chosen,U=1:2,F": TWO})),
    "link": Change(by_link, (BEFORE, BEFORE | {"INBOX/cur/chosen:2,RS": TWO})),
    "flags": Change(flags, (BEFORE, {"INBOX/cur/first:2,": ONE}, {"INBOX/cur/first:2,FS": ONE})),
    # as any MOVE it may leave both
    "move": Change(move, (BEFORE, BEFORE | IN_WORK, IN_WORK, {"Work/cur/first:2,S": ONE})),
    "removal": Change(removal, (BEFORE, {})),
}


MH_BEFORE = mh_state({"INBOX/1": ONE}, b"unseen: 1\n")
CHANGES |= {
    "MH: save": Change(
        mh_save, (MH_BEFORE, mh_state({"INBOX/1": ONE, "INBOX/2": TWO}, b"unseen: 1-2\n")), mh
    ),
    "MH: flags": Change(mh_flags, (MH_BEFORE, mh_state({"INBOX/1": ONE}, b"flagged: 1\n")), mh),
    "MH: rename": Change(mh_rename, (MH_BEFORE, mh_state({"INBOX/,1": ONE}, b"")), mh),
    "MH: move": Change(
        mh_move,
        (
            MH_BEFORE,
            mh_state({"INBOX/1": ONE, "Work/1": ONE}, b"unseen: 1\n", b"unseen: 1\n"),
            mh_state({"Work/1": ONE}, b"", b"unseen: 1\n"),
        ),
        mh,
    ),
    "MH: removal": Change(mh_removal, (MH_BEFORE, mh_state({}, b"")), mh),
}


async def prepared(w: InView) -> None:
    """In Maildirs the one message has the name ``first``, and a file waits in ``tmp/``."""
    if not isinstance(w, InMaildir):
        return
    (own,) = await w.new()
    await w.p.rename(f"INBOX/new/{own}", "INBOX/new/first")
    await w.p.write("INBOX/tmp/new", TWO)


@pytest.mark.parametrize("name", list(CHANGES))
async def test_whatever_operation_a_mount_dies_at_each_message_is_whole_in_the_next(
    name: str, kind: Kind, tmp_path: Path
) -> None:
    change, number = CHANGES[name], 0
    for number in range(1, 200, 5):
        disk, answered = Disk(), False
        async with change.view(kind, directory=tmp_path, faults=disk) as w:
            await prepared(w)
            disk.driver.replan([Fault("*", number, crash=Crash.AFTER if number % 10 == 1 else Crash.BEFORE)])
            try:
                await change.do(w)
                answered = True
            except (OSError, DboxfsError):
                assert disk.driver.crashed
            if not disk.driver.crashed:
                break
            driver = MemoryDriver(tree=w.inner.tree)
        async with change.view(kind, driver=driver) as w:
            assert await state(w) in (change.left[-1:] if answered else change.left), number
    assert number > 10, "there were operations to die at"


@pytest.mark.parametrize("name", list(CHANGES))
async def test_a_full_disk_is_told_and_the_same_change_succeeds_afterwards(
    name: str, kind: Kind, tmp_path: Path
) -> None:
    change, disk = CHANGES[name], Disk()
    async with change.view(kind, directory=tmp_path, faults=disk) as w:
        await prepared(w)
        disk.driver.replan([Fault("append", error=errno.ENOSPC)])
        with pytest.raises((OSError, DboxfsError)) as caught:
            await change.do(w)
        assert isinstance(caught.value, OSError | DboxfsError)
        assert caught.value.errno == errno.ENOSPC
        disk.driver.replan([])
        assert await state(w) == change.left[0]
        if isinstance(w, InMaildir):
            assert await w.p.names("INBOX/tmp") == ["new"]
        await change.do(w)
        assert await state(w) == change.left[-1]
