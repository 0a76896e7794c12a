"""The thread that fills the kernel's page cache, against a kernel that waits as the real one does.

A READ holds the page of its inode from the moment at which a program asks until the daemon has answered, and
a store of that inode waits for the page. What waits for each other here would wait for ever.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from dboxfs.fuse import pusher as pusher_module
from dboxfs.fuse.pusher import PushBatch, Pusher

LONG = 5.0
"""Seconds: longer than anything here takes, unless it hangs."""


class Kernel:
    """Pages, and the order in which things happened.

    :ivar unknown: inodes that it doesn't know.
    :ivar slow: the stores of these inodes wait until the event is set.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.locks: dict[int, threading.Lock] = {}
        self.log: list[str] = []
        self.unknown: set[int] = set()
        self.slow: dict[int, threading.Event] = {}
        self.storing = threading.Event()

    def lock(self, inode: int) -> threading.Lock:
        return self.locks.setdefault(inode, threading.Lock())

    def put(self, inode: int, data: bytes | memoryview) -> bool:
        if inode in self.unknown:
            return False
        self.storing.set()
        if inode in self.slow:
            assert self.slow[inode].wait(LONG)
        assert self.lock(inode).acquire(timeout=LONG), "a store waits for a READ that nobody answers"
        self.pages[inode] = bytes(data)
        self.log.append(f"stored {inode}")
        self.lock(inode).release()
        return True

    def forget(self, inode: int) -> None:
        self.pages.pop(inode, None)
        self.log.append(f"dropped {inode}")

    async def read(self, pusher: Pusher, inode: int, opens: list[tuple[int, bytes]] | None = None) -> None:
        """A program asks for *inode*, which opens a window of *opens*."""
        assert self.lock(inode).acquire(blocking=False)
        batch = pusher.begin(inode)
        if opens is not None:
            batch = pushed(pusher, opens)
        if batch is not None:
            await batch.wait()
        self.log.append(f"answered {inode}")
        pusher.end(inode)
        self.lock(inode).release()


def items(*inodes: int) -> list[tuple[int, bytes]]:
    return [(inode, b"%d" % inode) for inode in inodes]


def pushed(pusher: Pusher, some: list[tuple[int, bytes]]) -> PushBatch:
    batch = pusher.expect([inode for inode, _ in some])
    batch.push(some)
    return batch


@asynccontextmanager
async def pushing(kernel: Kernel) -> AsyncIterator[Pusher]:
    pusher = Pusher(kernel.put, kernel.forget, trio.lowlevel.current_trio_token().run_sync_soon)
    pusher.guarded = True
    pusher.start()
    try:
        with trio.fail_after(LONG):
            yield pusher
    finally:
        pusher.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait is given up, however slow the machine: what happens is by the rules alone."""
    monkeypatch.setattr(pusher_module, "WAIT_SECONDS", LONG)


@pytest.mark.usefixtures("patient")
async def test_the_read_that_opens_a_window_is_answered_after_the_window_is_stored() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher:
        await kernel.read(pusher, 1, items(2, 3, 4))
    assert kernel.log == ["stored 2", "stored 3", "stored 4", "answered 1"]
    assert kernel.pages == dict(items(2, 3, 4))


@pytest.mark.usefixtures("patient")
async def test_a_read_of_a_queued_message_waits_for_the_batch_and_is_passed_over() -> None:
    kernel = Kernel()
    kernel.slow[2] = threading.Event()
    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        nursery.start_soon(kernel.read, pusher, 1, items(2, 3, 4))
        await trio.to_thread.run_sync(kernel.storing.wait, LONG)
        nursery.start_soon(kernel.read, pusher, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.log == []
        kernel.slow[2].set()
    assert kernel.log[:2] == ["stored 2", "stored 4"]
    assert sorted(kernel.log[2:]) == ["answered 1", "answered 3"]
    assert pusher.stats()["passed_over"] == 1


@pytest.mark.usefixtures("patient")
async def test_a_read_of_a_message_whose_bytes_are_still_read_waits_for_them_and_no_other_read_does() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        batch = pusher.expect([2, 3, 4])
        assert pusher.wanted([1, 2, 3]) == {1}
        nursery.start_soon(kernel.read, pusher, 3)
        await kernel.read(pusher, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.log == ["answered 1"]
        batch.push(items(2, 3))  # the third one could not be read
    assert kernel.log == ["answered 1", "stored 2", "answered 3"]
    assert pusher.wanted([2, 3, 4]) == {2, 3, 4}


@pytest.mark.usefixtures("patient")
async def test_a_read_of_the_message_that_is_being_stored_is_answered_at_once() -> None:
    kernel = Kernel()
    kernel.slow[2] = threading.Event()
    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        nursery.start_soon(kernel.read, pusher, 1, items(2, 3))
        await trio.to_thread.run_sync(kernel.storing.wait, LONG)
        assert kernel.lock(2).acquire(blocking=False)  # the program was faster than the store
        kernel.slow[2].set()
        assert pusher.begin(2) is None  # so the thread waits for this answer, and nothing is waited for
        kernel.log.append("answered 2")
        pusher.end(2)
        kernel.lock(2).release()
    assert kernel.log == ["answered 2", "stored 2", "stored 3", "answered 1"]


@pytest.mark.usefixtures("patient")
async def test_a_program_that_is_as_fast_as_the_thread_asks_for_one_message_more_and_not_for_each() -> None:
    kernel = Kernel()
    kernel.slow = {2: threading.Event(), 9: threading.Event()}
    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        batch = pushed(pusher, items(*range(2, 10)))
        await trio.to_thread.run_sync(kernel.storing.wait, LONG)
        assert pusher.begin(2) is None  # it has come to the message that is being stored
        pusher.end(2)
        kernel.slow[2].set()
        nursery.start_soon(kernel.read, pusher, 3)
        await trio.testing.wait_all_tasks_blocked()
        kernel.slow[9].set()
        await batch.wait()
    assert kernel.log == [*(f"stored {n}" for n in (2, 9, 8, 7, 6, 5, 4)), "answered 3"]


@pytest.mark.usefixtures("patient")
async def test_a_message_with_a_read_in_flight_is_not_pushed() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher:
        assert kernel.lock(3).acquire(blocking=False)
        assert pusher.begin(3) is None
        assert pusher.wanted([2, 3, 4]) == {2, 4}
        await pushed(pusher, items(2, 3, 4)).wait()  # it came after the window was made
        pusher.end(3)
        kernel.lock(3).release()
    assert kernel.log == ["stored 2", "stored 4"]


async def test_nothing_is_wanted_before_a_companion_stands_ready_or_after_it_has_ended() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher:
        pusher.guarded = False
        assert pusher.wanted([1, 2]) == set()
        pusher.guarded = True
        assert pusher.wanted([1, 2]) == {1, 2}


async def test_no_read_waits_longer_than_it_has_patience() -> None:
    kernel = Kernel()
    kernel.slow[2] = threading.Event()
    async with pushing(kernel) as pusher:
        await kernel.read(pusher, 1, items(2))
        assert kernel.log == ["answered 1"]
        assert pusher.stats()["given_up"] == 1
        kernel.slow[2].set()


@pytest.mark.usefixtures("patient")
async def test_two_windows_that_wait_for_each_others_messages_do_not_hang() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        nursery.start_soon(kernel.read, pusher, 1, items(2, 3, 11, 12))
        nursery.start_soon(kernel.read, pusher, 11, items(12, 13, 1, 2))
        nursery.start_soon(kernel.read, pusher, 12, items(3, 4))
    assert {"answered 1", "answered 11", "answered 12"} <= set(kernel.log)


@pytest.mark.usefixtures("patient")
async def test_what_was_read_before_pages_were_dropped_is_not_stored_after_it() -> None:
    kernel = Kernel()
    async with pushing(kernel) as pusher:
        before = pusher.expect([2])
        pusher.drop([2, 3])
        before.push(items(2))
        await before.wait()
        await pushed(pusher, [(3, b"repaired")]).wait()
    assert kernel.pages == {3: b"repaired"}
    assert kernel.log == ["dropped 2", "dropped 3", "stored 3"]


@pytest.mark.usefixtures("patient")
async def test_messages_that_the_kernel_does_not_know_yet_are_told_once_and_after_four_none_is_tried() -> (
    None
):
    kernel = Kernel()
    kernel.unknown = set(range(3, 20))
    async with pushing(kernel) as pusher:
        await kernel.read(pusher, 1, items(*range(2, 20)))
        assert pusher.stats()["unknown"] == 4
        assert [pusher.missed(inode) for inode in (1, 2, 3, 3, 7, 19)] == [
            False,
            False,
            True,
            False,
            True,
            True,
        ]
        kernel.unknown = set()
        await pushed(pusher, items(8)).wait()
        assert not pusher.missed(8)


@pytest.mark.usefixtures("patient")
async def test_a_message_that_the_kernel_does_not_know_is_counted_and_nothing_else() -> None:
    kernel = Kernel()
    kernel.unknown = {2}
    async with pushing(kernel) as pusher:
        await kernel.read(pusher, 1, items(2, 3))
    assert kernel.pages == dict(items(3))
    assert pusher.stats()["unknown"] == 1
    assert pusher.stats()["messages"] == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.expected_log("the kernel's page cache")
async def test_a_store_that_fails_lets_its_readers_go_on() -> None:
    kernel = Kernel()

    def put(inode: int, data: bytes | memoryview) -> bool:
        raise OSError("no more")

    pusher = Pusher(put, kernel.forget, trio.lowlevel.current_trio_token().run_sync_soon)
    pusher.guarded = True
    pusher.start()
    with trio.fail_after(LONG):
        await kernel.read(pusher, 1, items(2, 3))
    assert pusher.wanted([2, 3]) == {2, 3}
    pusher.stop()


@pytest.mark.usefixtures("patient")
async def test_readers_in_all_orders_are_all_answered() -> None:
    """Sixteen programs, each with a READ in flight at any time, and windows over one another."""
    kernel = Kernel()

    async def program(start: int, step: int) -> None:
        for n in range(60):
            inode = (start + n * step) % 97 + 1
            if inode in kernel.pages or kernel.lock(inode).locked():
                await trio.lowlevel.checkpoint()
                continue
            ahead = [(inode + k) % 97 + 1 for k in range(8)]
            wanted = pusher.wanted(ahead)
            opens = items(*[one for one in ahead if one in wanted]) if n % 3 else None
            await kernel.read(pusher, inode, opens)
            kernel.pages.pop((inode + 50) % 97 + 1, None)

    async with pushing(kernel) as pusher, trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(program, number * 6, 1 if number % 2 else -1)
    answered = [entry for entry in kernel.log if entry.startswith("answered")]
    assert len(answered) > 100
    assert pusher.stats()["given_up"] == 0
