"""The ``threads`` driver: worker threads, a queue in, one wake-up of the loop for all completions out.

Operations wait in two deques, asked-for ones before background ones (readahead); the :class:`SimpleQueue`
holds one token for each operation that may begin, and workers block on it in C.  Background operations occupy
all workers but one in eight, so that readahead on a storage that hangs leaves some for those who
wait.  Threads are started as they are needed, up to ``workers``, and are daemon threads: a system call that
never returns holds up neither the other workers nor the end of the process.

Concurrency: the deques and ``_background_busy`` are guarded by ``_lock``, held for a few instructions.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import trio

from dboxfs.fsapi.drivers import posix
from dboxfs.fsapi.drivers.base import Completions
from dboxfs.fsapi.drivers.lane import Lane
from dboxfs.fsapi.drivers.nowait import NowaitCalls
from dboxfs.fsapi.ops import Job, Op
from dboxfs.fsapi.types import Capabilities

R = TypeVar("R")

_JOIN_SECONDS = 0.05


class ThreadsDriver:
    """Files of the operating system, operated on by ``workers`` threads."""

    def __init__(self, workers: int = 10) -> None:
        if workers < 1:
            raise ValueError("at least one worker is needed")
        self.capabilities = Capabilities(chains=True, owners=True)
        self.depth = workers
        self.kernel_cached = True
        self._background_most = max(1, workers - max(1, workers // 8))
        self._background_busy = 0
        self._lock = threading.Lock()
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._asked: deque[Job[Any]] = deque()
        self._background: deque[Job[Any]] = deque()
        self._completions = Completions(posix.dispose)
        self._lane = Lane(posix.execute, self._completions.post)
        self._threads: list[threading.Thread] = []
        self._submitted = 0
        self._calls = NowaitCalls()
        self.open_nowait = self._calls.open
        self.read_nowait = self._calls.read

    async def start(self, nursery: trio.Nursery) -> None:
        """Remember the loop.  No thread is started before there is work."""
        self._completions.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Queue an operation for the next free worker."""
        job = Job(op, done)
        (self._background if background else self._asked).append(job)
        self._submitted += 1
        in_flight = self._submitted - self._completions.completed
        if in_flight > len(self._threads) < self.depth:
            self._start_thread()
        self._tokens.put(True)
        return job

    def run_soon(self, op: Op[R], done: Callable[[Job[R]], None]) -> bool:
        """Run an operation that takes microseconds and wait for it, a millisecond at most (``lane``).

        ``done`` is called before this returns, or later as by :meth:`submit`.  False: not now; it was not
        begun.
        """
        if not self._lane.free:
            return False
        self._submitted += 1
        job = Job(op, done)
        if self._lane.run(job):
            self._completions.completed += 1
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
        return {
            "jobs": self._submitted,
            "wakeups": self._completions.wakeups,
            "queue": len(self._asked) + len(self._background),
            "in_flight": self._submitted - self._completions.completed,
            "workers": len(self._threads),
        }

    async def aclose(self) -> None:
        """Stop the threads.  One that hangs is left behind, and closes what it opened when it comes back."""
        self._completions.close()
        self._lane.close()
        with self._lock:
            self._asked.clear()
            self._background.clear()
        for _ in self._threads:
            self._tokens.put(False)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def _start_thread(self) -> None:
        name = f"dboxfs-io-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while self._tokens.get():
            job, background = self._next()
            if job is None:
                continue
            job.run(posix.execute)
            self._completions.post(job)
            del job
            if background:
                self._background_ended()

    def _next(self) -> tuple[Job[Any] | None, bool]:
        """The job of one token; None if it has to wait for a background one to end (or there is none)."""
        with self._lock:
            if self._asked:
                return self._asked.popleft(), False
            if self._background and self._background_busy < self._background_most:
                self._background_busy += 1
                return self._background.popleft(), True
        return None, False

    def _background_ended(self) -> None:
        """What had to wait for it gets its token back."""
        with self._lock:
            self._background_busy -= 1
            waiting = bool(self._background)
        if waiting:
            self._tokens.put(True)
