"""Whom a leader waits for, on a clock of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from dboxfs.store.write.group_commit import LONGEST_WAIT, GroupCommit, Request

COMMIT = 0.01
"""Seconds that a group takes."""


class Queue:
    """A queue whose groups take :data:`COMMIT` seconds, and what was in each of them."""

    def __init__(self, *, gathers: bool = True) -> None:
        self.groups: list[set[int]] = []
        self.began: list[float] = []
        self._queue: GroupCommit[int, int] = GroupCommit(self._commit, gathers=gathers)

    async def _commit(self, group: Sequence[Request[int, int]]) -> None:
        self.groups.append({request.what for request in group})
        self.began.append(trio.current_time())
        await trio.sleep(COMMIT)
        for request in group:
            request.result = request.what

    async def save(self, number: int) -> None:
        assert await self._queue.run(Request(number)) == number

    async def writer(self, number: int, saves: int, pause: float, first: float = 0.0) -> None:
        """A program that saves one after the other, with a pause in between."""
        await trio.sleep(first)
        for _ in range(saves):
            await self.save(number)
            await trio.sleep(pause)


async def test_one_writer_waits_for_nobody(autojump_clock: MockClock) -> None:
    queue, start = Queue(), trio.current_time()
    await queue.writer(1, 10, 0.0)
    assert trio.current_time() - start == pytest.approx(10 * COMMIT)


async def test_what_is_ready_in_the_same_moment_is_one_group(autojump_clock: MockClock) -> None:
    for gathers in (True, False):
        queue = Queue(gathers=gathers)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(queue.save, number)
        assert queue.groups == [set(range(8))]


async def test_writers_that_alternate_come_into_one_group(autojump_clock: MockClock) -> None:
    """Without waiting those who come during a commit, and those who come back after it, would never meet."""
    sizes = {}
    for gathers in (True, False):
        queue = Queue(gathers=gathers)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(queue.writer, number, 20, COMMIT / 4, 0.0 if number < 4 else COMMIT / 2)
        sizes[gathers] = 8 * 20 / len(queue.groups)
    assert sizes[False] < 4.2
    assert sizes[True] > 7.5


async def test_nobody_waits_for_a_writer_that_has_ended(autojump_clock: MockClock) -> None:
    queue = Queue()
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(queue.writer, number, 3, 0.0)
    start = trio.current_time()
    await queue.writer(1, 10, 0.0)
    assert trio.current_time() - start <= 10 * COMMIT + min(COMMIT, LONGEST_WAIT) + 0.001


async def test_a_wait_in_vain_is_not_tried_again_and_again(autojump_clock: MockClock) -> None:
    """Two writers of which each comes back a little too late for the other one."""
    queue, start = Queue(), trio.current_time()
    saves = 60
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(queue.writer, number, saves, COMMIT * 1.5, number * COMMIT / 2)
    alone = saves * (COMMIT + COMMIT * 1.5)
    assert trio.current_time() - start < 1.25 * alone


async def test_a_leader_that_is_cancelled_while_it_waits_leads_nobody(autojump_clock: MockClock) -> None:
    queue = Queue()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(queue.save, number)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(COMMIT / 4) as scope:
            nursery.start_soon(queue.writer, 2, 1, 0.0, COMMIT / 8)
            await queue.save(1)
        assert scope.cancelled_caught
    assert queue.groups == [{0, 1, 2}, {2}]
