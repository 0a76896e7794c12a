"""The stand-in for trio in pyfuse3's request loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from dboxfs.fuse import loop
from dboxfs.fuse.loop import _BUSY_STEP, BURST, LoopLock, LoopLowlevel


def stand_in() -> Any:
    """What pyfuse3 takes for the module trio."""
    return vars(pyfuse3)["trio"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_this_pyfuse3_looks_up_trio_where_the_stand_in_is_put() -> None:
    """Fails when a new pyfuse3 no longer fits: its loop is then slow, and this module has to be looked at."""
    assert stand_in() is trio
    installed = loop.install()
    try:
        assert installed is not None
        assert stand_in().lowlevel is installed
        assert stand_in().Lock is LoopLock
        assert stand_in().ClosedResourceError is trio.ClosedResourceError
        assert installed.current_task is trio.lowlevel.current_task
    finally:
        loop.uninstall()
    assert stand_in() is trio


def test_a_pyfuse3_that_no_longer_fits_keeps_its_own_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pyfuse3, "trio", os)
    assert loop.install() is None
    assert "its own, slower loop is used" in caplog.text
    assert stand_in() is os


async def test_what_is_readable_needs_no_scheduler_round(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    waits = LoopLowlevel(lambda: False)
    with trio.testing.assert_no_checkpoints():
        for _ in range(BURST - 1):
            await waits.wait_readable(reader)
    assert waits.polled == BURST - 1


async def test_other_tasks_get_a_turn_after_a_burst(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    waits = LoopLowlevel(lambda: False)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(BURST * 11):  # a turn more: of the last one only one of the two may come
            await waits.wait_readable(reader)
        nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_work_in_flight_gets_its_turn_sooner_and_is_never_spun_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    waits = LoopLowlevel(lambda: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.wait_readable, reader)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writer, b"x")
    assert (waits.slept, waits.spun) == (1, 0)
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(BURST + _BUSY_STEP):
            await waits.wait_readable(reader)
        nursery.cancel_scope.cancel()
    assert rounds >= 8


async def test_an_empty_descriptor_is_slept_on_and_polling_ends_when_it_finds_nothing(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    waits = LoopLowlevel(lambda: False)
    for expected in (1, 2, 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.wait_readable, reader)
            await trio.testing.wait_all_tasks_blocked(0.001)
            assert waits.slept == expected
            os.write(writer, b"x")
        os.read(reader, 1)


@pytest.mark.parametrize("wait", ["checkpoint", "wait_readable"])
async def test_a_request_that_is_taken_back_while_others_have_their_turn_is_not_read(
    pipe: tuple[int, int], wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does that when its client is killed; a read would stop the event loop until the next one."""
    reader, writer = pipe
    waits, returned, real = LoopLowlevel(lambda: False), trio.Event(), getattr(trio.lowlevel, wait)

    async def taken_back(*arguments: int) -> None:
        await real(*arguments)
        monkeypatch.undo()
        os.read(reader, 1)

    async def use() -> None:
        await waits.wait_readable(reader)
        returned.set()

    if wait == "checkpoint":
        os.write(writer, b"x")
        for _ in range(BURST - 1):
            await waits.wait_readable(reader)
    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(trio.lowlevel, wait, taken_back)
        nursery.start_soon(use)
        await trio.testing.wait_all_tasks_blocked(0.001)
        if wait == "wait_readable":
            os.write(writer, b"x")
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert not returned.is_set()
        os.write(writer, b"y")
    assert returned.is_set()


async def test_the_end_of_the_loop_ends_a_wait_that_begins_behind_it(pipe: tuple[int, int]) -> None:
    waits = LoopLowlevel(lambda: False)
    waits.notify_closing(pipe[0])
    with pytest.raises(trio.ClosedResourceError):
        await waits.wait_readable(pipe[0])


async def test_the_lock_is_exclusive_and_entered_without_yielding_when_free() -> None:
    lock = LoopLock()
    inside = 0
    with trio.testing.assert_no_checkpoints():
        async with lock:
            pass

    async def use() -> None:
        nonlocal inside
        for _ in range(50):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(use)


async def test_a_cancelled_waiter_leaves_the_lock_usable() -> None:
    lock = LoopLock()
    async with trio.open_nursery() as nursery, lock:

        async def wait() -> None:
            async with lock:
                pass

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.testing.assert_no_checkpoints():
        async with lock:
            pass
