"""Operations whose answers the event loop waits for: at once where the disk answers, never for long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from dboxfs.fsapi import (
    Fault,
    FaultsDriver,
    FileSystem,
    MemoryDriver,
    Peek,
    PeekResult,
    Permissions,
    ThreadsDriver,
    UringDriver,
)
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.drivers import lane as lanes
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.lane import Lane
from dboxfs.fsapi.ops import Append, Close, Create, Job, Stat

DRIVERS = [ThreadsDriver, UringDriver, lambda: FaultsDriver(ThreadsDriver())]


def appending(fd: int, data: bytes) -> Callable[[], Steps[int]]:
    def program() -> Steps[int]:
        answer = yield Append(fd, (data,))
        return int(answer.written)

    return program


@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_driver_runs_a_program_soon(driver: Callable[[], Driver], tmp_path: Path) -> None:
    async with FileSystem(driver()) as fs:
        opened = await fs.run(Create(f"{tmp_path}/log", Permissions()))
        for _ in range(100):
            assert await fs.run_chain_soon(appending(opened.fd, b"abc")) == 3
        with pytest.raises(FileNotFoundError):
            await fs.run_chain_soon(missing)
        await fs.run(Close(opened.fd))
        assert not fs.engine.in_flight
    assert (tmp_path / "log").read_bytes() == b"abc" * 100


def missing() -> Steps[None]:
    yield Stat("/there/is/nothing")


async def test_files_in_memory_have_no_lane() -> None:
    async with FileSystem(MemoryDriver()) as fs:
        with pytest.raises(FileNotFoundError):
            await fs.run_chain_soon(missing)


async def test_a_fault_can_be_put_at_every_step_of_it(tmp_path: Path) -> None:
    async with FileSystem(FaultsDriver(ThreadsDriver(), [Fault("append", 2, error=28)])) as fs:
        opened = await fs.run(Create(f"{tmp_path}/log", Permissions()))
        assert await fs.run_chain_soon(appending(opened.fd, b"abc")) == 3
        with pytest.raises(OSError, match="space"):
            await fs.run_chain_soon(appending(opened.fd, b"abc"))
        await fs.run(Close(opened.fd))


async def test_the_loop_waits_a_moment_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "REST", 3600.0)
    stalled = threading.Event()

    def program() -> Steps[str]:
        stalled.wait(60)
        yield Stat(os.curdir)
        return os.curdir

    answers: list[str] = []
    async with FileSystem(ThreadsDriver(2)) as fs, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await fs.run_chain_soon(program))

        nursery.start_soon(ask)
        while not fs.engine.in_flight:
            await trio.lowlevel.checkpoint()
        assert not answers  # the loop goes on
        with pytest.raises(FileNotFoundError):
            await fs.run_chain_soon(missing)  # by another worker
        assert not answers
        stalled.set()
    assert answers == [os.curdir]
    assert fs.stats()["driver_in_flight"] == 0


def test_a_lane_that_goes_on_being_slow_is_waited_for_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.0)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    go, posted = threading.Semaphore(0), threading.Semaphore(0)
    lane = Lane(lambda _: go.acquire(), lambda _: posted.release())
    rests = []
    for _ in range(6):
        assert not lane.run(Job(Stat(os.curdir), lambda _: None))
        go.release()
        assert posted.acquire(timeout=10)
        begin = clock[0]
        while not lane.free:
            clock[0] += 0.001
        rests.append(round(clock[0] - begin, 2))
    lane.close()
    assert rests == [0.01, 0.02, 0.04, 0.08, lanes.REST, lanes.REST]
    monkeypatch.setattr(lanes, "PATIENCE", 10.0)
    lane = Lane(lambda _: None, lambda _: None)
    assert lane.run(Job(Stat(os.curdir), lambda _: None))
    assert lane.free
    lane.close()


@pytest.mark.parametrize("driver", [*DRIVERS, MemoryDriver])
async def test_a_file_is_peeked_at_soon_as_it_is_else(driver: Callable[[], Driver], tmp_path: Path) -> None:
    async with FileSystem(driver()) as fs:
        path = "/log" if isinstance(fs.driver, MemoryDriver) else f"{tmp_path}/log"
        opened = await fs.run(Create(path, Permissions()))
        await fs.run(Append(opened.fd, (b"0123456789",)))
        request = Peek(path, ((0, 4), (6, None)))
        for _ in range(50):
            (known,) = await fs.peek([request])
            assert await fs.peek_soon(request) == known
        missing = await fs.peek_soon(Peek(path + "-2", ()))
        assert isinstance(missing, FileNotFoundError)
        await fs.run(Close(opened.fd))
        assert not fs.engine.in_flight


async def test_a_peek_that_is_soon_over_wakes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 10.0)
    (tmp_path / "log").write_bytes(b"0123")
    async with FileSystem(ThreadsDriver()) as fs:
        before = fs.driver.stats()["wakeups"]
        for _ in range(20):
            answer = await fs.peek_soon(Peek(f"{tmp_path}/log", ((0, None),)))
            assert isinstance(answer, PeekResult)
            assert answer.chunks == (b"0123",)
        assert fs.driver.stats()["wakeups"] == before


async def test_a_peek_that_takes_long_is_waited_for_and_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.0)
    (tmp_path / "log").write_bytes(b"0123")
    async with FileSystem(ThreadsDriver()) as fs:
        request = Peek(f"{tmp_path}/log", ((0, None),))
        assert isinstance(await fs.peek_soon(request), PeekResult)
        with trio.CancelScope() as scope:
            scope.cancel()
            await fs.peek_soon(request)
        assert scope.cancelled_caught
