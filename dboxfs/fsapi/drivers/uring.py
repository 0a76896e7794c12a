"""The ``uring`` driver: operations through rings shared with the kernel, one system call for a batch of them.

One ``io_uring_enter`` gives the kernel all operations that were submitted while the loop ran its tasks.  A
task awaits the eventfd that tells of completions, and reaps all of them together.  No thread of this process
takes part; operations that would block do so in threads of the kernel (``depth`` of them at most).  The steps
of an operation are a generator (``uring_steps``).

Operations that the ring can't do, or can't do better (listings, attributes by name, permissions, locks), go
to an inner :class:`ThreadsDriver`; so do those that the ring refuses and a thread can do in another way.

**Ownership.**  Names and buffers belong to the ring until the kernel is done with them (``uring_abi``), also
if the reader is cancelled or closed.  The driver waits 50 ms at its close for operations in flight.  An
operation that hangs longer keeps its memory for ever, and an *open* that hangs longer and succeeds in the end
keeps its descriptor until the process ends, since no code learns of it.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from dboxfs.fsapi.drivers import uring_abi as abi
from dboxfs.fsapi.drivers.threads import ThreadsDriver
from dboxfs.fsapi.drivers.uring_abi import Ring
from dboxfs.fsapi.drivers.uring_steps import STEPS, ByThread, Steps
from dboxfs.fsapi.ops import Job, Op, os_error

log = logging.getLogger(__name__)

R = TypeVar("R")

ENTRIES = 256
"""Entries that can be given to the kernel in one call."""
_CLOSE_SECONDS = 0.05
_REFUSED_SECONDS = 0.001


class _Running:
    """An operation at work."""

    __slots__ = ("background", "job", "opening", "steps")

    def __init__(self, job: Job[Any], steps: Steps, background: bool) -> None:
        self.job = job
        self.steps = steps
        self.background = background
        self.opening = False


class UringDriver:
    """Files of the operating system through io_uring.

    :param workers: threads of the inner driver.
    :param depth: operations in flight at once in the ring, and threads that the kernel may use for them.
    """

    def __init__(self, workers: int = 10, depth: int = 64) -> None:
        if depth < 1:
            raise ValueError("at least one place is needed")
        self._inner = ThreadsDriver(workers)
        self.capabilities = self._inner.capabilities
        self.depth = depth
        self.kernel_cached = True
        self.open_nowait = self._inner.open_nowait
        self.read_nowait = self._inner.read_nowait
        self.stat_nowait = self._inner.stat_nowait
        self.close_nowait = self._inner.close_nowait
        self.run_soon = self._inner.run_soon
        self._ring: Ring | None = None
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._flusher: trio.lowlevel.Task | None = None
        self._idle = False
        self._asked: deque[Job[Any]] = deque()
        self._background: deque[Job[Any]] = deque()
        self._background_most = max(1, depth * 3 // 4)
        self._background_busy = 0
        self._running: dict[int, _Running] = {}
        self._tags = 0
        self._submitted = 0
        self._completed = 0
        self._enters = 0

    async def start(self, nursery: trio.Nursery) -> None:
        """Make the rings.  If that fails, it is logged, and the inner driver runs all operations."""
        self._nursery = nursery
        await self._inner.start(nursery)
        try:
            self._ring = Ring(ENTRIES, self.depth)
        except OSError as error:
            log.warning("io_uring can't be used (%s); going on with threads", error.strerror)
            return
        nursery.start_soon(self._run, self._ring.eventfd)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Have the operation go to the kernel with all others of this turn of the loop."""
        if self._ring is None or type(op) not in STEPS:
            return self._inner.submit(op, done, background=background)
        job = Job(op, done)
        self._submitted += 1
        (self._background if background else self._asked).append(job)
        self._wake_flusher()
        return job

    def stats(self) -> dict[str, int | float]:
        """Sums of the inner driver's and the ring's; wakeups: calls of io_uring_enter and of the loop."""
        inner = self._inner.stats()
        return {
            "jobs": inner["jobs"] + self._submitted,
            "wakeups": inner["wakeups"] + self._enters,
            "queue": inner["queue"] + len(self._asked) + len(self._background),
            "in_flight": inner["in_flight"] + self._submitted - self._completed,
            "workers": inner["workers"],
            "ring_jobs": self._submitted,
        }

    async def aclose(self) -> None:
        """Wait 50 ms at most for operations in flight, and close the rings."""
        self._scope.cancel()
        self._asked.clear()
        self._background.clear()
        if self._ring is not None:
            await self._stopped.wait()
            self._drain(self._ring)
            self._ring.close()
            self._ring = None
        for running in self._running.values():
            running.steps.close()
        self._running.clear()
        self._completed = self._submitted
        await self._inner.aclose()

    # -- inside ------------------------------------------------------------------------------------------

    async def _run(self, eventfd: int) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._flush)
                    nursery.start_soon(self._listen, eventfd)
        finally:
            self._stopped.set()

    async def _flush(self) -> None:
        """Give the kernel the operations that were submitted since this task ran last."""
        self._flusher = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle = False
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._turn()
            if self._refused():
                await trio.sleep(_REFUSED_SECONDS)
                continue
            self._idle = True
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def _listen(self, eventfd: int) -> None:
        """Reap completions when the eventfd tells of some."""
        while True:
            await trio.lowlevel.wait_readable(eventfd)
            os.eventfd_read(eventfd)
            self._turn()
            if self._refused():
                self._wake_flusher()

    def _wake_flusher(self) -> None:
        if self._idle and self._flusher is not None:
            self._idle = False
            trio.lowlevel.reschedule(self._flusher)

    def _refused(self) -> bool:
        """Whether the kernel was too short of memory to take all entries, so that it must be asked again."""
        return self._ring is not None and self._ring.room < self._ring.entries

    def _turn(self) -> None:
        """Begin operations while there is room, enter the kernel, go on with ended ones; repeat as needed."""
        ring = self._ring
        assert ring is not None, "these tasks end before the ring does"
        self._begin(ring)
        while True:
            self._enters += 1
            ended = ring.enter()
            if ring.room < ring.entries and not ended:
                return  # refused
            for tag, result in ended:
                self._step(ring, self._running.pop(tag), result)
            self._begin(ring)
            if ring.room == ring.entries:
                return

    def _begin(self, ring: Ring) -> None:
        while ring.room and len(self._running) < self.depth:
            if self._asked:
                job, background = self._asked.popleft(), False
            elif self._background and self._background_busy < self._background_most:
                job, background = self._background.popleft(), True
                self._background_busy += 1
            else:
                return
            self._step(ring, _Running(job, STEPS[type(job.op)](job.op), background), None)

    def _step(self, ring: Ring, running: _Running, result: int | None) -> None:
        """Send a result to an operation, and push its next entry or end it."""
        job = running.job
        try:
            if result is None:
                if job.cancelled:
                    raise os_error(errno.ECANCELED)
                entry = next(running.steps)
            else:
                entry = running.steps.send(result)
        except StopIteration as stop:
            job.result = stop.value
        except ByThread:
            self._inner.submit(job.op, lambda inner: self._relay(running, inner))
            return
        except OSError as error:
            job.error = error
        except Exception as error:  # noqa: BLE001 - raised by value() in the task that asked
            job.error = error
        else:
            self._tags += 1
            running.opening = entry[1] == abi.OPENAT
            self._running[self._tags] = running
            ring.push(self._tags, *entry)
            return
        self._end(running)

    def _relay(self, running: _Running, inner: Job[Any]) -> None:
        running.job.result, running.job.error = inner.result, inner.error
        self._end(running)

    def _end(self, running: _Running) -> None:
        self._completed += 1
        self._background_busy -= running.background
        try:
            running.job.done(running.job)
        except Exception as error:
            if self._nursery is None:
                raise
            self._nursery.start_soon(_raise, error)

    def _drain(self, ring: Ring) -> None:
        """Wait a little for operations in flight, and close the files that they opened."""
        poll = select.poll()
        poll.register(ring.eventfd, select.POLLIN)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while ring.in_flight:
            for tag, result in ring.enter():
                running = self._running.pop(tag)
                if running.opening and result >= 0:
                    os.close(result)
                running.steps.close()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if ring.in_flight and poll.poll(left * 1000):
                os.eventfd_read(ring.eventfd)


async def _raise(error: Exception) -> None:
    raise error
