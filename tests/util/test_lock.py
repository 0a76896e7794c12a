"""A lock that is free is taken without a turn of the event loop; who waits for it comes in its turn."""

from __future__ import annotations

import trio
import trio.testing

from dboxfs.util.lock import Lock


async def test_a_lock_that_is_free_is_taken_without_a_turn_for_others() -> None:
    lock = Lock()
    with trio.testing.assert_no_checkpoints():
        async with lock:
            assert lock.locked()
            assert lock.is_mine
    assert not lock.locked()


async def test_those_who_wait_for_a_lock_get_it_in_the_order_in_which_they_came() -> None:
    lock, had = Lock(), list[int]()

    async def want(number: int) -> None:
        async with lock:
            had.append(number)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        async with lock:
            for number in range(5):
                nursery.start_soon(want, number)
                await trio.testing.wait_all_tasks_blocked()
            assert had == []
        async with lock:  # behind all of them: nobody who finds it given back passes those who wait
            assert had == [0, 1, 2, 3, 4]


async def test_a_task_that_is_cancelled_while_it_waits_leaves_the_lock_to_the_others() -> None:
    lock, had = Lock(), list[str]()

    async def want(who: str, scope: trio.CancelScope) -> None:
        with scope:
            async with lock:
                had.append(who)

    async with trio.open_nursery() as nursery:
        async with lock:
            given_up = trio.CancelScope()
            nursery.start_soon(want, "given up", given_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(want, "next", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            given_up.cancel()
            await trio.testing.wait_all_tasks_blocked()
        assert not lock.is_mine
    assert had == ["next"]
    assert not lock.locked()
