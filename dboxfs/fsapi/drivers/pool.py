"""Worker threads of a driver: a queue in, one wake-up of the loop for all completions out.

Operations wait in two deques, asked-for ones before background ones (readahead); the :class:`SimpleQueue`
holds one token for each operation that may begin, and workers block on it in C.  Background operations may
occupy all workers but one in eight, so that readahead on a storage that hangs leaves some workers for
operations that a task waits for.  Threads are started as they are needed, up to ``workers``, and are daemon
threads: a call that never returns delays neither the other workers nor the end of the process.

Concurrency: the deques and ``_background_busy`` are guarded by ``_lock``, held for a few instructions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import trio

from dboxfs.fsapi.drivers.base import Completions
from dboxfs.fsapi.ops import Job, Op

R = TypeVar("R")

_JOIN_SECONDS = 0.05

Execute = Callable[[Op[Any]], Any]


class WorkerPool:
    """Runs operations with *execute* on up to *workers* threads.

    :param dispose: closes the file that an operation has opened whose caller is gone (any thread).
    """

    def __init__(self, execute: Execute, dispose: Callable[[Job[Any]], None], workers: int) -> None:
        if workers < 1:
            raise ValueError("at least one worker is needed")
        self.completions = Completions(dispose)
        self.submitted = 0
        self._execute = execute
        self._workers = workers
        self._background_most = max(1, workers - max(1, workers // 8))
        self._background_busy = 0
        self._lock = threading.Lock()
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._asked: deque[Job[Any]] = deque()
        self._background: deque[Job[Any]] = deque()
        self._threads: list[threading.Thread] = []

    def start(self, nursery: trio.Nursery) -> None:
        """Remember the loop.  No thread is started before there is work."""
        self.completions.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Queue an operation for the next free worker."""
        job = Job(op, done)
        (self._background if background else self._asked).append(job)
        self.submitted += 1
        in_flight = self.submitted - self.completions.completed
        if in_flight > len(self._threads) < self._workers:
            self._start_thread()
        self._tokens.put(True)
        return job

    def stats(self) -> dict[str, int | float]:
        """jobs, wakeups, queue (waiting operations), in_flight (waiting or running), workers (threads)."""
        return {
            "jobs": self.submitted,
            "wakeups": self.completions.wakeups,
            "queue": len(self._asked) + len(self._background),
            "in_flight": self.submitted - self.completions.completed,
            "workers": len(self._threads),
        }

    def close(self) -> None:
        """Stop the threads, but don't wait for one that hangs; the file that it opens is disposed of."""
        self.completions.close()
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
            job.run(self._execute)
            self.completions.post(job)
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
        """Give a token back for a background operation that had to wait."""
        with self._lock:
            self._background_busy -= 1
            waiting = bool(self._background)
        if waiting:
            self._tokens.put(True)
