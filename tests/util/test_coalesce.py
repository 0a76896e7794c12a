"""Many that ask for the same work at once share it; nobody is given one that began before."""

from __future__ import annotations

import pytest
import trio

from dboxfs.util.coalesce import CoalescedRuns


class Work:
    """Takes a while; writes down when it began."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.fails = 0

    async def __call__(self) -> None:
        self.began.append(trio.current_time())
        await trio.sleep(1)
        if len(self.began) == self.fails:
            raise OSError("the work failed")


async def test_who_asks_gets_one_that_begins_later_and_shares_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    work, joined = Work(), CoalescedRuns()
    ended: list[tuple[float, float]] = []

    async def ask(at: float) -> None:
        await trio.sleep_until(start + at)
        await joined.run(work)
        ended.append((at, trio.current_time() - start))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for at in (0.0, 0.1, 0.2, 0.9, 1.5):
            nursery.start_soon(ask, at)
    assert [began - start for began in work.began] == pytest.approx([0, 1, 2])
    assert [round(end, 6) for _, end in sorted(ended)] == [1, 2, 2, 2, 3]


async def test_an_error_is_its_own_and_the_others_work_themselves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    work, joined = Work(), CoalescedRuns()
    work.fails = 2
    failures = []

    async def ask(after: float) -> None:
        await trio.sleep(after)
        try:
            await joined.run(work)
        except OSError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for after in (0, 0.1, 0.2, 0.3):
            nursery.start_soon(ask, after)
    assert len(failures) == 1
    assert len(work.began) == 3


async def test_one_that_is_cancelled_leaves_its_turn_to_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    work, joined = Work(), CoalescedRuns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.run, work)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(_later, scope)
            await joined.run(work)
        assert scope.cancelled_caught
        await joined.run(work)
    assert len(work.began) == 2


async def _later(scope: trio.CancelScope) -> None:
    await trio.sleep(0.5)
    scope.cancel()
