"""The ``threads`` driver: worker threads (``pool``) run the operations on files of the operating system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio

from dboxfs.fsapi.drivers import posix
from dboxfs.fsapi.drivers.lane import Lane
from dboxfs.fsapi.drivers.nowait import NowaitCalls
from dboxfs.fsapi.drivers.pool import WorkerPool
from dboxfs.fsapi.ops import Job, Op
from dboxfs.fsapi.types import Capabilities

R = TypeVar("R")


class ThreadsDriver:
    """Runs the operations on files of the operating system in ``workers`` threads."""

    def __init__(self, workers: int = 10) -> None:
        self.capabilities = Capabilities(chains=True, owners=True)
        self.depth = workers
        self.kernel_cached = True
        self._pool = WorkerPool(posix.execute, posix.dispose, workers)
        self._lane = Lane(posix.execute, self._pool.completions.post)
        self._calls = NowaitCalls()
        self.open_nowait = self._calls.open
        self.read_nowait = self._calls.read

    async def start(self, nursery: trio.Nursery) -> None:
        """Remember the loop.  No thread is started before there is work."""
        self._pool.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Queue an operation for the next free worker."""
        return self._pool.submit(op, done, background=background)

    def run_soon(self, op: Op[R], done: Callable[[Job[R]], None]) -> bool:
        """Run an operation that takes microseconds and wait for it, a millisecond at most (``lane``).

        ``done`` is called before this returns, or later as by :meth:`submit`.  False: the lane is not free;
        the operation was not begun.
        """
        if not self._lane.free:
            return False
        self._pool.submitted += 1
        job = Job(op, done)
        if self._lane.run(job):
            self._pool.completions.completed += 1
            done(job)
        return True

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """fstat(2): the inode of an open file is in memory."""
        return os.fstat(fd)

    def close_nowait(self, fd: int) -> bool:
        """close(2) of a file that was only read."""
        os.close(fd)
        return True

    def stats(self) -> dict[str, int | float]:
        """jobs, wakeups, queue (waiting operations), in_flight (waiting or running), workers (threads)."""
        return self._pool.stats()

    async def aclose(self) -> None:
        """Stop the threads, but don't wait for one that hangs: it later closes the file that it opened."""
        self._pool.completions.close()
        self._lane.close()
        self._pool.close()
