"""What is written is durable when fsync says so, and before that costs nothing but memory."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, Permissions, ThreadsDriver
from dboxfs.fsapi.ops import Job, Op, Sync
from dboxfs.store import Folder
from dboxfs.store.write import Spool
from dboxfs.vfs.content import EACH, Budget
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.draft_stages import Standing

R = TypeVar("R")


class Recorder(FaultsDriver):
    """Writes down the kinds of operations."""

    def __init__(self, *plan: Fault) -> None:
        super().__init__(ThreadsDriver(1), plan, depth=1)
        self.kinds: list[str] = []
        self.durable: list[bool] = []

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        self.kinds.append(op.kind)
        if isinstance(op, Sync):
            self.durable.append(op.durable)
        return super().submit(op, done, background=background)


@asynccontextmanager
async def drafting(
    directory: Path, name: bytes, *plan: Fault, sync: bool = True
) -> AsyncIterator[tuple[Draft, Recorder]]:
    driver = Recorder(*plan)
    async with FileSystem(driver, sync=sync) as fs:
        folder = Folder("x", "x", None, None)
        draft = Draft(
            1 << 63,
            Standing.of(folder, name),
            lambda _: Spool(fs, str(directory), Permissions(), ready=False),
            Budget(),
        )
        yield draft, driver
        draft.close()
    assert list(directory.iterdir()) == [], "left over"


def on_disk(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.iterdir()]


@pytest.mark.parametrize("name", [b"plain", b".temporary"])
async def test_sync_makes_what_is_in_memory_durable(tmp_path: Path, name: bytes) -> None:
    async with drafting(tmp_path, name) as (draft, driver):
        await draft.write(b"one ", 0)
        await draft.settle()
        assert driver.kinds == []
        await draft.sync()
        assert on_disk(tmp_path) == [b"one "]
        assert driver.kinds[-2:] == ["append", "sync"]
        count = len(driver.kinds)
        await draft.sync()
        assert len(driver.kinds) == count, "nothing has changed since"
        await draft.write(b"two", 4)
        await draft.sync()
        assert driver.kinds[-1] == "sync"
        assert (on_disk(tmp_path), await draft.read(100, 0)) == ([b"one two"], b"one two")


async def test_a_temporary_stays_writable_anywhere_after_a_sync(tmp_path: Path) -> None:
    async with drafting(tmp_path, b".swp") as (draft, _):
        await draft.write(b"0123456789", 0)
        await draft.sync()
        await draft.write(b"ab", 3)
        await draft.sync()
        assert on_disk(tmp_path) == [b"012ab56789"]
        await draft.write(b"x" * EACH, 10)
        await draft.sync()
        assert on_disk(tmp_path) == [b"012ab56789" + b"x" * EACH]


async def test_fsync_never_syncs_nothing(tmp_path: Path) -> None:
    async with drafting(tmp_path, b"plain", sync=False) as (draft, driver):
        await draft.write(b"one", 0)
        await draft.sync()
        assert on_disk(tmp_path) == [b"one"]
        assert driver.durable == [False]


@pytest.mark.parametrize("kind", ["create", "append", "sync"])
async def test_a_sync_that_fails_is_reported_and_nothing_is_ever_committed(tmp_path: Path, kind: str) -> None:
    async with drafting(tmp_path, b"plain", Fault(kind, 1, error=errno.ENOSPC)) as (draft, _):
        await draft.write(b"one", 0)
        with pytest.raises(OSError) as error:  # noqa: PT011 - the errno is looked at
            await draft.sync()
        assert (error.value.errno, draft.failed) == (errno.ENOSPC, errno.ENOSPC)
        with pytest.RaisesExc(Exception):
            draft.source()


async def test_beginning_again_after_a_sync(tmp_path: Path) -> None:
    async with drafting(tmp_path, b"plain") as (draft, _):
        await draft.write(b"long" * EACH, 0)
        await draft.sync()
        draft.truncate(0)
        await draft.write(b"short" * EACH, 0)
        await draft.sync()
        assert on_disk(tmp_path) == [b"short" * EACH]
