"""The threads driver: hanging operations, shutdown, batches, descriptors, the calls that never wait."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dboxfs.fsapi import (
    Driver,
    FileSystem,
    MemoryDriver,
    OpenMode,
    Peek,
    PeekResult,
    Permissions,
    ThreadsDriver,
    UringDriver,
    ops,
)
from dboxfs.fsapi.drivers import posix
from dboxfs.fsapi.drivers.base import Completions
from dboxfs.fsapi.drivers.nowait import NowaitCalls


class Gate:
    """Makes one kind of operation hang until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type[ops.Op[Any]]) -> None:
        self.event = threading.Event()
        original = posix._CALLS[kind]

        def call(op: Any) -> Any:
            self.event.wait()
            return original(op)

        monkeypatch.setitem(posix._CALLS, kind, call)


@pytest.fixture
def hang_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch, ops.Sync)
    yield gate
    gate.event.set()


@pytest.fixture
def hang_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch, ops.Open)
    yield gate
    gate.event.set()


@pytest.fixture
def hang_advise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch, ops.Advise)
    yield gate
    gate.event.set()


async def test_hanging_operations_hold_up_nobody_while_a_worker_is_free(
    tmp_path: Path, hang_sync: Gate
) -> None:
    async with FileSystem(ThreadsDriver(4)) as fs:
        handles = [fs.create(str(tmp_path / f"f{number}")) for number in range(3)]
        for handle in handles:
            handle.write(b"x")
            with pytest.raises(BlockingIOError):
                handle.commit()
        with trio.fail_after(5):
            for _ in range(500):
                await fs.stat(str(tmp_path))
        assert not list(tmp_path.glob("f*"))
        hang_sync.event.set()
        for handle in handles:
            await handle.commit_async()
            await handle.aclose()
    assert len(list(tmp_path.glob("f*"))) == 3


async def test_hanging_readahead_leaves_workers_for_those_who_wait(tmp_path: Path, hang_advise: Gate) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    async with FileSystem(ThreadsDriver(4)) as fs, fs.open(str(tmp_path / "a")) as handle:
        for _ in range(20):
            handle.willneed(0, 1000)
        with trio.fail_after(5):
            for _ in range(20):
                await fs.stat(str(tmp_path))
        hang_advise.event.set()


async def test_shutdown_does_not_wait_for_a_hanging_operation_and_leaks_no_descriptor(
    tmp_path: Path, hang_open: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr("dboxfs.fsapi.engine.CLOSE_SECONDS", 0.01)
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with trio.fail_after(5):
        async with FileSystem(ThreadsDriver(2)) as fs:
            fs.open(str(tmp_path / "a"), OpenMode.APPEND)
            await fs.stat(str(tmp_path))
    hang_open.event.set()
    with trio.fail_after(5):
        while threading.active_count() > threads:
            await trio.sleep(0.001)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_completions_that_are_ready_share_a_wake_up(tmp_path: Path) -> None:
    async with FileSystem(ThreadsDriver(4)) as fs:
        jobs = 0

        def done(job: ops.Job[os.stat_result]) -> None:
            nonlocal jobs
            jobs += 1

        for _ in range(400):
            fs.engine.submit(ops.Stat(str(tmp_path)), done)
        while fs.stats()["driver_queue"]:
            pass  # the loop is busy: completions pile up
        with trio.fail_after(5):
            while jobs < 400:
                await trio.lowlevel.checkpoint()
        assert fs.stats()["driver_wakeups"] <= 10


async def test_no_thread_is_started_before_there_is_work_and_none_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    async with FileSystem(ThreadsDriver(8)) as fs:
        assert threading.active_count() == before
        await fs.stat(str(tmp_path))
        assert before < threading.active_count() <= before + 8
    assert threading.active_count() == before


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_bytes(bytes(10_000))
    before = len(os.listdir("/proc/self/fd"))
    async with FileSystem(ThreadsDriver(4)) as fs:
        handles = [fs.open(str(tmp_path / str(number)), willneed=1000) for number in range(60)]
        handles += [fs.open(str(tmp_path / str(number)), OpenMode.APPEND) for number in range(60)]
        handles += [fs.create(str(tmp_path / f"n{number}")) for number in range(20)]
        for number, handle in enumerate(handles):
            if number % 3:
                handle.close()
        await fs.peek([Peek(str(tmp_path / str(number)), ((0, 1),)) for number in range(60)])
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(tmp_path.glob(".temp.*"))
    assert not list(tmp_path.glob("n*"))


async def test_hot_files_are_opened_and_read_without_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hot")
    async with FileSystem(ThreadsDriver()) as fs:
        await fs.stat(str(path))
        jobs = fs.stats()["driver_jobs"]
        handle = fs.open(str(path))
        assert handle.opened
        assert handle.pread(10, 0) == b"hot"
        assert handle.stat().st_size == 3
        handle.close()
        missing = fs.open(str(tmp_path / "missing"))
        if missing.error is None:  # the missing name was not cached
            with pytest.raises(FileNotFoundError):
                await missing.wait_open()
            missing.close()
        stats = fs.stats()
        assert stats["inline_opens"] == 1
        assert stats["inline_reads"] == 1
        assert stats["driver_jobs"] <= jobs + 1


async def test_a_fifo_in_the_store_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    async with FileSystem(ThreadsDriver(1)) as fs:
        with trio.fail_after(5):
            for mode in OpenMode:
                async with fs.open(str(tmp_path / "fifo"), mode) as handle:
                    with pytest.raises(OSError, match="seek"):
                        await handle.wait_open()


async def test_files_that_cannot_be_read_without_waiting_go_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(self: NowaitCalls, fd: int, size: int, offset: int) -> bytes | None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(NowaitCalls, "read", unsupported)
    body = os.urandom(500_000)
    (tmp_path / "a").write_bytes(body)
    async with FileSystem(ThreadsDriver(4)) as fs, fs.open(str(tmp_path / "a")) as handle:
        for offset in range(0, len(body), 4096):
            assert await handle.read(4096, offset) == body[offset : offset + 4096]
        assert await handle.read(4096, len(body)) == b""
        stats = fs.stats()
        assert stats["cache_prefetched_used"] > 3
        assert stats["driver_reads"] < 20


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_openat2_leaves_opening_to_the_workers(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = NowaitCalls()
    monkeypatch.setattr(calls, "_syscall", lambda *arguments: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: code)
    assert calls.open("/etc/passwd") is None
    monkeypatch.undo()
    calls._syscall = None
    assert calls.open("/etc/passwd") is None


def test_a_driver_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="worker"):
        ThreadsDriver(0)


async def test_a_name_that_is_taken_is_never_overwritten_without_renameat2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(source: str, target: str) -> None:
        raise OSError(errno.ENOSYS, "no renameat2")

    monkeypatch.setattr(posix, "_rename_noreplace", missing)
    (tmp_path / "a").write_bytes(b"old")
    async with FileSystem(ThreadsDriver(2)) as fs, fs.create(str(tmp_path / "a")) as handle:
        handle.write(b"new")
        with pytest.raises(FileExistsError):
            await handle.commit_async()
        await handle.commit_async(str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not list(tmp_path.glob(".temp.*"))


async def test_without_sync_nothing_is_synced(
    tmp_path: Path, hang_sync: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_sync.event.set()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(os, "fsync", synced.append)
    async with FileSystem(ThreadsDriver(2), sync=False) as fs, fs.create(str(tmp_path / "a")) as handle:
        handle.write(b"x")
        await handle.commit_async()
    assert (tmp_path / "a").read_bytes() == b"x"
    assert not synced


@pytest.mark.parametrize("kind", ["threads", "uring", "memory", "memory-nowait"])
async def test_a_symbolic_link_is_not_followed_where_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    driver: Driver = UringDriver(2) if kind == "uring" else ThreadsDriver(2)
    root = str(tmp_path)
    if kind.startswith("memory"):
        driver = memory = MemoryDriver(nowait=kind == "memory-nowait")
        memory.put(f"{root}/a", b"x")
        memory.symlink("a", f"{root}/link")
    async with FileSystem(driver) as fs:
        for _ in range(2):  # the second time the names are cached
            for mode in OpenMode:
                async with fs.open(f"{root}/link", mode, nofollow=True) as handle:
                    with pytest.raises(OSError, match="symbolic links") as caught:
                        await handle.wait_open()
                    assert caught.value.errno == errno.ELOOP
                async with fs.open(f"{root}/a", mode, nofollow=True) as handle:
                    assert await handle.read(5, 0) == b"x"
                async with fs.open(f"{root}/link", mode) as handle:
                    assert await handle.read(5, 0) == b"x"
        followed, refused = await fs.peek(
            [Peek(f"{root}/link", ((0, 1),)), Peek(f"{root}/link", ((0, 1),), nofollow=True)]
        )
        assert isinstance(followed, PeekResult)
        assert isinstance(refused, OSError)
        assert refused.errno == errno.ELOOP
        assert [entry.is_symlink for entry in await fs.listdir(root) if entry.name == "link"] == [True]
        assert await fs.readlink(f"{root}/link") == "a"
        assert (await fs.lstat(f"{root}/link")).st_ino != (await fs.stat(f"{root}/link")).st_ino


async def test_what_is_in_memory_is_read_without_beginning_anything(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    async with FileSystem(ThreadsDriver(2)) as fs, fs.open(str(tmp_path / "a")) as handle:
        await handle.wait_open()
        jobs = fs.stats()["driver_jobs"]
        assert handle.pread_now(4, 2) == b"2345"
        assert handle.pread_now(4, 10) == b""
        assert fs.stats()["driver_jobs"] == jobs
        handle.close()
        assert handle.pread_now(4, 2) is None


async def test_a_fetch_that_waits_for_its_reader_does_not_keep_others_from_the_kernels_cache(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(bytes(range(200)))
    async with FileSystem(ThreadsDriver(2)) as fs, fs.open(str(tmp_path / "a")) as handle:
        await handle.wait_open()
        handle._reader.fetch(10, 100, keep=True)
        with trio.fail_after(5):
            while not handle._reader.arrived:
                await trio.lowlevel.checkpoint()
        assert handle.pread(10, 0) == bytes(range(10))
        assert handle.pread(10, 100) == bytes(range(100, 110))
        assert fs.stats()["driver_reads"] == 1


async def test_what_a_job_has_opened_is_taken_back_when_nobody_listens_any_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    completions = Completions(posix.dispose)

    def finished(name: str) -> ops.Job[Any]:
        job: ops.Job[Any] = ops.Job(ops.Open(str(tmp_path / name)), lambda job: pytest.fail("called"))
        job.run(posix.execute)
        return job

    async with trio.open_nursery() as nursery:
        completions.start(nursery)
        completions.post(finished("a"))
        completions.close()
        completions.post(finished("a"))
        completions.post(finished("missing"))
        await trio.testing.wait_all_tasks_blocked()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.root
async def test_a_new_directory_is_its_owners_from_its_first_moment_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Dovecot that runs as the store's owner lists directories while root makes them."""
    place = Path(tempfile.mkdtemp())  # tmp_path lies where only root may go
    place.chmod(0o777)
    seen = []
    finish = posix._set_permissions

    def look(fd: int, permissions: Permissions) -> None:
        seen.append((os.stat(fd).st_uid, os.stat(fd).st_gid))
        finish(fd, permissions)

    monkeypatch.setattr(posix, "_set_permissions", look)
    async with FileSystem(ThreadsDriver(workers=1)) as fs:
        for parent in (place, place / "roots"):
            parent.mkdir(exist_ok=True)
            await fs.mkdir(str(parent / "made"), Permissions(0o700, gid=65533, uid=65532))
            status = (parent / "made").stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65532, 65533, 0o700)
        (place / "after").mkdir()
    assert seen[0] == (65532, 65533)
    assert (place / "after").stat().st_uid == 0
    shutil.rmtree(place)


async def test_an_error_of_one_file_does_not_keep_the_bytes_of_the_others_in_memory(tmp_path: Path) -> None:
    """Nor does an operation that fails keep itself: neither waits for the collector of cycles."""
    (tmp_path / "large").write_bytes(b"x" * 4096)
    wanted = [Peek(str(tmp_path / name), ((0, None),)) for name in ("large", "missing")]
    gc.collect()
    gc.disable()
    try:
        async with FileSystem(ThreadsDriver(workers=1)) as fs:
            found = await fs.peek(wanted, in_order=True)
            assert [type(one) for one in found] == [PeekResult, FileNotFoundError]
            del found
            with suppress(FileNotFoundError):
                await fs.run(ops.Stat(str(tmp_path / "missing")))
        left = [one for one in gc.get_objects() if isinstance(one, PeekResult | ops.Job)]
        assert left == []
    finally:
        gc.enable()
