"""The uring driver: memory that outlives its users, what hangs, what is left over, what is done without it.

Where there is no io_uring, or it is forbidden, the tests of the rings fail: they can't be seen at work there.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dboxfs.fsapi import (
    Driver,
    FileSystem,
    OpenMode,
    Peek,
    PeekResult,
    ThreadsDriver,
    UringDriver,
    choose_driver,
    ops,
)
from dboxfs.fsapi.drivers import posix, uring_steps
from dboxfs.fsapi.drivers import uring_abi as abi
from dboxfs.fsapi.drivers.uring import ENTRIES
from dboxfs.fsapi.drivers.uring_abi import Ring, address_of, new_bytes


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- the rings and their memory -----------------------------------------------------------------------------


class Owner:
    """Owns a buffer that the kernel writes to."""

    def __init__(self, size: int) -> None:
        self.data = new_bytes(size)


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = descriptors()
    ring = Ring(8, 2)
    yield ring
    ring.close()
    assert descriptors() == before


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def reap(ring: Ring) -> list[tuple[int, int]]:
    """Wait for what the eventfd tells of."""
    ready, _, _ = select.select([ring.eventfd], [], [], 5)
    assert ready, "the eventfd tells of nothing"
    os.eventfd_read(ring.eventfd)
    return ring.enter()


def read_into(ring: Ring, tag: int, owner: Owner, fd: int) -> None:
    ring.push(tag, owner, abi.READ, fd, address_of(owner.data), len(owner.data))


def test_a_buffer_lives_until_the_kernel_has_filled_it_and_no_longer(
    ring: Ring, pipe: tuple[int, int]
) -> None:
    owner = Owner(50_000)
    seen = weakref.ref(owner)
    read_into(ring, 1, owner, pipe[0])
    assert ring.enter() == []
    del owner
    gc.collect()
    others = [bytearray(50_000) for _ in range(50)]  # takes the memory, if it is free
    assert ring.in_flight == 1
    alive = seen()
    assert alive is not None, "the kernel has the address of freed memory"
    os.write(pipe[1], b"x" * 50_000)
    assert reap(ring) == [(1, 50_000)]
    assert alive.data == b"x" * 50_000
    assert not any(any(other) for other in others)
    del alive
    gc.collect()
    assert seen() is None
    assert ring.in_flight == 0


def test_memory_of_what_hangs_when_the_rings_are_closed_is_never_freed(pipe: tuple[int, int]) -> None:
    ring = Ring(8, 2)
    owner = Owner(50_000)
    seen = weakref.ref(owner)
    read_into(ring, 1, owner, pipe[0])
    assert ring.enter() == []
    del owner
    ring.close()
    ring.close()
    del ring
    gc.collect()
    assert seen() is not None


def test_only_what_was_pushed_is_submitted_and_a_full_ring_says_so(ring: Ring) -> None:
    assert ring.enter() == []
    for tag in range(ring.entries):
        ring.push(tag, None, abi.CLOSE, -1)
    assert ring.room == 0
    with pytest.raises(OSError, match="room") as caught:
        ring.push(99, None, abi.CLOSE, -1)
    assert caught.value.errno == errno.EBUSY
    assert sorted(ring.enter()) == [(tag, -errno.EBADF) for tag in range(ring.entries)]
    assert ring.room == ring.entries


def test_the_rings_go_round(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with open(tmp_path / "a", "rb") as file:
        for tag in range(1000):
            owner = Owner(3)
            ring.push(tag, owner, abi.READ, file.fileno(), address_of(owner.data), 3, tag % 8)
            ended = ring.enter() or reap(ring)
            assert ended == [(tag, 3)]
            assert owner.data == b"0123456789"[tag % 8 : tag % 8 + 3]


def test_a_kernel_that_is_short_is_asked_again(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    enter = ring._enter
    for code in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
        ring.push(1, None, abi.CLOSE, -1)
        monkeypatch.setattr("ctypes.get_errno", lambda code=code: code)
        monkeypatch.setattr(ring, "_enter", lambda *arguments: -1)
        assert ring.enter() == []
        assert ring.room == ring.entries - 1
        monkeypatch.setattr(ring, "_enter", enter)
        assert ring.enter() == [(1, -errno.EBADF)]
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EBADR)
    monkeypatch.setattr(ring, "_enter", lambda *arguments: -1)
    with pytest.raises(OSError, match="request"):
        ring.enter()


# -- choosing -----------------------------------------------------------------------------------------------


def refuse(code: int) -> Callable[[int, int], Ring]:
    def make_ring(entries: int, workers: int) -> Ring:
        raise OSError(code, os.strerror(code))

    return make_ring


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_without_io_uring_there_are_threads_and_one_log_line(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver = choose_driver("uring", 3, make_ring=refuse(code))
    assert isinstance(driver, ThreadsDriver)
    assert driver.depth == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert os.strerror(code) in caplog.text


def test_uring_is_taken_only_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    assert isinstance(choose_driver("auto"), ThreadsDriver)
    assert isinstance(choose_driver("threads"), ThreadsDriver)
    driver = choose_driver("uring", 100)
    assert isinstance(driver, UringDriver)
    assert driver.depth == 100
    assert choose_driver("uring", 3).depth == 64
    assert descriptors() == before
    assert not caplog.records
    with pytest.raises(ValueError, match="none of auto, threads, uring"):
        choose_driver("fast")


async def test_a_driver_that_gets_no_rings_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dboxfs.fsapi.drivers.uring.Ring", refuse(errno.ENOMEM))
    (tmp_path / "a").write_bytes(b"x")
    async with FileSystem(UringDriver(2)) as fs, fs.open(str(tmp_path / "a"), OpenMode.APPEND) as handle:
        assert await handle.read(1, 0) == b"x"
        assert fs.stats()["driver_ring_jobs"] == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


FORBIDDEN = """
import ctypes, logging, struct, sys
from dboxfs.fsapi import choose_driver
libc = ctypes.CDLL(None, use_errno=True)
# struct sock_filter: load the number of the system call; io_uring_setup (425): EPERM; all others: allow
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
logging.basicConfig(stream=sys.stdout, format="%(message)s")
print(type(choose_driver("uring")).__name__)
"""


def run_python(text: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", text],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        timeout=60,
    ).stdout


def test_where_a_filter_forbids_io_uring_there_are_threads() -> None:
    assert run_python(FORBIDDEN).splitlines() == [
        "io_uring can't be used (Operation not permitted); going on with threads",
        "ThreadsDriver",
    ]


# -- the driver ---------------------------------------------------------------------------------------------


CLOSING = """
import gc, os, sys, trio
from dboxfs.fsapi import FileSystem, UringDriver, engine, ops
engine.CLOSE_SECONDS = 0.001

async def main(kept):
    async with FileSystem(UringDriver(2)) as fs:
        ends = os.pipe()
        for _ in range(20):
            with trio.move_on_after(0):
                await fs._run(ops.Read(ends[0], 30_000, 0))
            fs.engine.submit(ops.Read(ends[0], 30_000, 0), kept.append)
        await trio.sleep(0.001)

for round in range(10):
    kept = []
    trio.run(main, kept)
    gc.collect()
    others = [bytearray(30_000) for _ in range(100)]
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("pipe:") and int(name) > 2:
                os.set_blocking(int(name), False)
                os.write(int(name), b"x" * 60_000)
        except OSError:
            continue
    assert not kept
    assert not any(any(other) for other in others)
print("whole")
"""


def test_a_driver_that_is_closed_with_reads_in_flight_spoils_no_memory() -> None:
    assert run_python(CLOSING, PYTHONMALLOC="debug") == "whole\n"


async def test_a_cancelled_reader_takes_no_memory_from_the_kernel(pipe: tuple[int, int]) -> None:
    async with FileSystem(UringDriver(2)) as fs:
        with trio.move_on_after(0.01) as scope:
            await fs._run(ops.Read(pipe[0], 4096, 0))
        assert scope.cancelled_caught
        assert fs.stats()["in_flight"] == 1
        gc.collect()
        others = [bytearray(4096) for _ in range(500)]
        os.write(pipe[1], b"x" * 4096)
        with trio.fail_after(5):
            while fs.stats()["in_flight"]:
                await trio.sleep(0.001)
        assert not any(any(other) for other in others)


async def test_what_was_submitted_together_enters_the_kernel_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    async with FileSystem(UringDriver(2, depth=2 * ENTRIES)) as fs, fs.open(str(tmp_path / "a")) as handle:
        await handle.wait_open()
        await wait_all_tasks_blocked()
        before = fs.stats()["driver_wakeups"]
        jobs: list[ops.Job[bytes]] = []
        for _ in range(400):  # more than the ring takes at once
            fs.engine.submit(ops.Read(await handle.settle(), 100, 0), jobs.append)
        assert not jobs, "nothing is answered from inside submit"
        with trio.fail_after(5):
            while len(jobs) < 400:
                await trio.lowlevel.checkpoint()
        assert [job.value() for job in jobs] == [bytes(100)] * 400
        assert fs.stats()["driver_wakeups"] - before <= 10


async def test_no_descriptor_and_no_thread_is_left(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_bytes(bytes(10_000))
    before, threads = descriptors(), threading.active_count()
    async with FileSystem(UringDriver(4)) as fs:
        handles = [fs.open(str(tmp_path / str(number)), willneed=1000) for number in range(60)]
        handles += [fs.open(str(tmp_path / str(number)), OpenMode.APPEND) for number in range(60)]
        handles += [fs.create(str(tmp_path / f"n{number}")) for number in range(20)]
        for number, handle in enumerate(handles):
            if number % 3:
                handle.close()
        await fs.peek([Peek(str(tmp_path / str(number)), ((0, 1),)) for number in range(60)])
    assert descriptors() == before
    assert threading.active_count() == threads
    assert not list(tmp_path.glob(".temp.*"))
    assert not list(tmp_path.glob("n*"))


async def test_what_is_opened_while_the_driver_closes_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = descriptors()
    for turns in range(4):
        driver = UringDriver(2)
        async with trio.open_nursery() as nursery:
            await driver.start(nursery)
            for _ in range(100):
                driver.submit(ops.Open(str(tmp_path / "a")), lambda job: os.close(job.value().fd))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await driver.aclose()
    assert descriptors() == before


async def test_large_and_empty_files_are_read_whole(tmp_path: Path) -> None:
    body = os.urandom(5_000_000)
    (tmp_path / "large").write_bytes(body)
    (tmp_path / "empty").write_bytes(b"")
    async with FileSystem(UringDriver(2)) as fs:
        with open(tmp_path / "large", "rb") as file:
            assert await fs._run(ops.Read(file.fileno(), 10_000_000, 1)) == body[1:]
        large, empty = await fs.peek(
            [Peek(str(tmp_path / name), ((0, None),), limit=1 << 30) for name in ("large", "empty")]
        )
        assert isinstance(large, PeekResult)
        assert large.chunks == (body,)
        assert isinstance(empty, PeekResult)
        assert empty.chunks == (b"",)


async def test_a_fifo_in_the_store_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with trio.fail_after(5):
        async with FileSystem(UringDriver(1)) as fs:
            for mode in OpenMode:
                async with fs.open(str(tmp_path / "fifo"), mode) as handle:
                    with pytest.raises(OSError, match="seek"):
                        await handle.wait_open()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
async def test_a_name_that_is_taken_is_never_overwritten_without_renameat2(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = uring_steps.STEPS[ops.Publish]

    def refused(op: Any) -> uring_steps.Steps:
        steps = original(op)
        next(steps)
        try:
            steps.send(-code)
        finally:
            steps.close()
        yield ()

    def missing(source: str, target: str) -> None:
        raise OSError(code, "no renameat2")

    publish: type[ops.Op[Any]] = ops.Publish
    monkeypatch.setitem(uring_steps.STEPS, publish, refused)
    monkeypatch.setattr(posix, "_rename_noreplace", missing)
    (tmp_path / "a").write_bytes(b"old")
    async with FileSystem(UringDriver(2)) as fs, fs.create(str(tmp_path / "a")) as handle:
        handle.write(b"new")
        with pytest.raises(FileExistsError):
            await handle.commit_async()
        await handle.commit_async(str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not list(tmp_path.glob(".temp.*"))


# -- what hangs, on both real drivers -----------------------------------------------------------------------


class Hanging:
    """Makes operations of one kind on one file hang until a byte is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type[ops.Op[Any]], name: str) -> None:
        self._ends = os.pipe()
        self._begun = list[str]()
        self._patch_threads(monkeypatch, kind, name)
        self._patch_uring(monkeypatch, kind, name)

    def _fits(self, op: Any, name: str) -> bool:
        fd = getattr(op, "fd", None)
        path = (
            os.readlink(f"/proc/self/fd/{fd}") if fd is not None else getattr(op, "source", None) or op.path
        )
        fits = name in path
        if fits:
            self._begun.append(path)  # by several threads at a time
        return fits

    @property
    def begun(self) -> int:
        """How many have begun."""
        return len(self._begun)

    def _patch_threads(self, monkeypatch: pytest.MonkeyPatch, kind: type[ops.Op[Any]], name: str) -> None:
        original = posix._CALLS[kind]

        def call(op: Any) -> Any:
            if self._fits(op, name):
                os.read(self._ends[0], 1)
            return original(op)

        monkeypatch.setitem(posix._CALLS, kind, call)

    def _patch_uring(self, monkeypatch: pytest.MonkeyPatch, kind: type[ops.Op[Any]], name: str) -> None:
        original = uring_steps.STEPS[kind]

        def steps(op: Any) -> uring_steps.Steps:
            if self._fits(op, name):
                byte = new_bytes(1)
                yield byte, abi.READ, self._ends[0], address_of(byte), 1
            return (yield from original(op))

        monkeypatch.setitem(uring_steps.STEPS, kind, steps)

    def release(self) -> None:
        os.write(self._ends[1], bytes(1000))

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


def only_by_workers(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Nothing is answered from the kernel's cache."""
    monkeypatch.setattr(driver, "open_nowait", lambda path, nofollow=False: None)
    monkeypatch.setattr(driver, "read_nowait", lambda fd, size, offset: None)
    return driver


REAL = pytest.mark.parametrize("make", [ThreadsDriver, UringDriver])


@REAL
@pytest.mark.parametrize("kind", [ops.Read, ops.Open, ops.Sync, ops.Rename], ids=lambda kind: kind.kind)
async def test_one_hanging_operation_holds_up_none_of_499_readers(
    make: Callable[[int], Driver],
    kind: type[ops.Op[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [str(number) for number in range(499)] + ["hangs"]:
        (tmp_path / name).write_bytes(name.encode())
    hanging = Hanging(monkeypatch, kind, "hangs" if kind is not ops.Sync else ".temp.")
    ended: list[str] = []

    async def reader(name: str) -> None:
        async with fs.open(str(tmp_path / name)) as handle:
            assert await handle.read(10, 0) == name.encode()
        ended.append(name)

    async def hang() -> None:
        if kind is ops.Sync:
            async with fs.create(str(tmp_path / "new")) as handle:
                handle.write(b"x")
                await handle.commit_async()
            ended.append("hangs")
        elif kind is ops.Rename:
            await fs.rename(str(tmp_path / "hangs"), str(tmp_path / "renamed"))
            ended.append("hangs")
        else:
            await reader("hangs")

    async with FileSystem(only_by_workers(make(10), monkeypatch)) as fs, trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        with trio.move_on_after(10) as scope:
            while not hanging.begun:
                await trio.sleep(0.001)
            for number in range(499):
                nursery.start_soon(reader, str(number))
            while len(ended) < 499:
                await trio.sleep(0.001)
        first = ended[:]
        hanging.release()
    hanging.close()
    assert not scope.cancelled_caught
    assert "hangs" not in first
    assert ended[499:] == ["hangs"]


@REAL
async def test_hanging_readahead_leaves_places_for_those_who_wait(
    make: Callable[[int], Driver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs").write_bytes(bytes(100_000))
    (tmp_path / "a").write_bytes(b"x")
    hanging = Hanging(monkeypatch, ops.Advise, "hangs")
    driver = only_by_workers(make(4), monkeypatch)
    async with FileSystem(driver) as fs:
        handle = fs.open(str(tmp_path / "hangs"))
        await handle.wait_open()
        for _ in range(100):
            handle.willneed(0, 1000)
        with trio.move_on_after(5) as scope:
            while hanging.begun < driver.depth * 3 // 4:
                await trio.sleep(0)
            for _ in range(20):
                other = fs.open(str(tmp_path / "a"))
                assert await other.read(1, 0) == b"x"
                other.close()
        begun = hanging.begun
        hanging.release()
        await handle.aclose()
    hanging.close()
    assert not scope.cancelled_caught
    assert begun == driver.depth * 3 // 4


@REAL
async def test_closing_waits_for_nothing_that_hangs(
    make: Callable[[int], Driver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs").write_bytes(b"x")
    monkeypatch.setattr("dboxfs.fsapi.engine.CLOSE_SECONDS", 0.01)
    before, threads = descriptors(), threading.active_count()
    hanging = Hanging(monkeypatch, ops.Open, "hangs")
    with trio.fail_after(5):
        async with FileSystem(only_by_workers(make(2), monkeypatch)) as fs:
            fs.open(str(tmp_path / "hangs"))
            while not hanging.begun:
                await trio.sleep(0.001)
    hanging.release()
    with trio.fail_after(5):
        while threading.active_count() > threads:
            await trio.sleep(0.001)
    hanging.close()
    assert descriptors() == before
