"""Files that other programs write too: what every driver does with the operations for them, and single steps
run to their end."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dboxfs.fsapi import FaultsDriver, FileSystem, MemoryDriver, Permissions, ThreadsDriver, ops
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.ops import CopyRange, LockKind, OpenShared, SyncAll, TryLock, Unlock

DRIVERS: dict[str, Callable[[], Driver]] = {
    "threads": ThreadsDriver,
    "memory": MemoryDriver,
    "faults": lambda: FaultsDriver(ThreadsDriver()),
}
EVERY = pytest.mark.parametrize("name", DRIVERS)


@asynccontextmanager
async def files(name: str, tmp_path: Path) -> AsyncIterator[tuple[FileSystem, str]]:
    """A file system and a directory in it."""
    driver = DRIVERS[name]()
    if isinstance(driver, MemoryDriver):
        driver.make_dirs(str(tmp_path))
    async with FileSystem(driver) as fs:
        yield fs, str(tmp_path)


async def put(fs: FileSystem, path: str, data: bytes) -> int:
    opened = await fs.run(ops.Create(path, Permissions()))
    await fs.run(ops.Append(opened.fd, (data,)))
    return opened.fd


@EVERY
@pytest.mark.parametrize("kind", list(LockKind))
async def test_a_lock_belongs_to_one_open_file(name: str, tmp_path: Path, kind: LockKind) -> None:
    async with files(name, tmp_path) as (fs, directory):
        path = f"{directory}/log"
        await fs.run(ops.Close(await put(fs, path, b"x")))
        one = (await fs.run(OpenShared(path))).fd
        two = (await fs.run(OpenShared(path))).fd
        assert await fs.run(TryLock(one, kind))
        assert await fs.run(TryLock(one, kind))
        assert not await fs.run(TryLock(two, kind))
        other = (await fs.run(OpenShared(path))).fd
        await fs.run(ops.Close(other))
        assert not await fs.run(TryLock(two, kind))
        await fs.run(ops.Close(one))
        assert await fs.run(TryLock(two, kind))
        await fs.run(ops.Close(two))


@EVERY
@pytest.mark.parametrize("kind", list(LockKind))
async def test_a_lock_can_be_given_back_and_the_file_stays_open(
    name: str, tmp_path: Path, kind: LockKind
) -> None:
    async with files(name, tmp_path) as (fs, directory):
        path = f"{directory}/log"
        one = await put(fs, path, b"x")
        two = (await fs.run(OpenShared(path))).fd
        for mine, other in ((one, two), (two, one)):
            assert await fs.run(TryLock(mine, kind))
            await fs.run(Unlock(other, kind))
            assert not await fs.run(TryLock(other, kind))
            await fs.run(Unlock(mine, kind))
            await fs.run(Unlock(mine, kind))
        await fs.run(ops.Append(one, (b"y",)))
        await fs.run(ops.Close(one))
        await fs.run(ops.Close(two))


@EVERY
async def test_a_link_or_directory_is_not_opened(name: str, tmp_path: Path) -> None:
    async with files(name, tmp_path) as (fs, directory):
        await fs.run(ops.Mkdir(f"{directory}/dir", Permissions(0o700)))
        if isinstance(fs.driver, MemoryDriver):
            fs.driver.symlink("dir", f"{directory}/link")
        else:
            os.symlink("dir", f"{directory}/link")
        for entry, code in (("link", errno.ELOOP), ("dir", errno.EISDIR), ("none", errno.ENOENT)):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
                await fs.run(OpenShared(f"{directory}/{entry}"))
            assert caught.value.errno == code


@EVERY
async def test_a_range_of_another_file_is_appended(name: str, tmp_path: Path) -> None:
    async with files(name, tmp_path) as (fs, directory):
        source = await put(fs, f"{directory}/source", bytes(range(256)) * 1000)
        target = await put(fs, f"{directory}/target", b"head")
        answer = await fs.run(CopyRange(source, 100, 200_000, target, 4))
        assert (answer.written, answer.error) == (200_000, None)
        answer = await fs.run(CopyRange(source, 255_990, 100, target, 200_004))
        assert (answer.written, answer.error) == (10, None)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            await fs.run(CopyRange(source, 0, 10, target, 4))
        assert caught.value.errno == errno.EBUSY
        await fs.run(ops.Append(target, (b"tail",)))
        expected = (bytes(range(256)) * 1000)[100:200_100] + bytes(range(246, 256))
        assert await fs.run(ops.Read(target, 1 << 20, 0)) == b"head" + expected + b"tail"
        for fd in (source, target):
            await fs.run(ops.Close(fd))


@EVERY
async def test_every_answer_of_a_batch_is_given(name: str, tmp_path: Path) -> None:
    async with files(name, tmp_path) as (fs, directory):
        await fs.run(ops.Close(await put(fs, f"{directory}/a", b"")))
        first, second = await fs.run_all([ops.Unlink(f"{directory}/b"), ops.Unlink(f"{directory}/a")])
        assert isinstance(first, FileNotFoundError)
        assert second is None
        assert await fs.run_all([]) == []


@EVERY
async def test_a_handle_is_settled_without_a_commit(name: str, tmp_path: Path) -> None:
    async with files(name, tmp_path) as (fs, directory):
        async with fs.create(f"{directory}/new") as handle:
            await handle.write_all(b"some bytes")
            fd = await handle.settle()
            assert await fs.run(ops.Read(fd, 100, 0)) == b"some bytes"
            with pytest.raises(FileNotFoundError):
                await fs.stat(f"{directory}/new")
        assert await fs.listdir(directory) == []


def _hold(path: str, ready: object, done: object) -> None:
    """Lock as other programs do, with an ordinary record lock."""
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        ready.set()  # type: ignore[attr-defined]
        done.wait(30)  # type: ignore[attr-defined]


async def test_the_lock_of_another_program_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(path), ready, done))
    process.start()
    try:
        assert ready.wait(30)
        async with FileSystem(ThreadsDriver()) as fs:
            fd = (await fs.run(OpenShared(str(path)))).fd
            assert not await fs.run(TryLock(fd, LockKind.RECORD))
            done.set()
            process.join(30)
            assert await fs.run(TryLock(fd, LockKind.RECORD))
            await fs.run(ops.Close(fd))
    finally:
        done.set()
        process.join(30)


@EVERY
async def test_a_whole_file_system_can_be_made_durable(name: str, tmp_path: Path) -> None:
    async with files(name, tmp_path) as (fs, directory):
        fd = await put(fs, f"{directory}/file", b"text")
        await fs.run(SyncAll(fd))
        await fs.run(ops.Close(fd))
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            await fs.run(SyncAll(1 << 20))
        assert caught.value.errno == errno.EBADF
