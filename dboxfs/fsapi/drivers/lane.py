"""A worker for operations that take microseconds: the loop's thread waits for their answers.

A hop to a worker and back through the event loop costs some 80 µs; the append of a few bytes to a log takes
3.  :meth:`Lane.run` gives such an operation to a thread of its own and waits on the loop's thread until it
ends, but never longer than :data:`PATIENCE`.  If a disk stalls, the loop loses this time once, and the answer
comes through the loop like any other.  Then the lane pauses, so that the loop does not wait for a slow disk
again and again: :data:`PAUSE` seconds after the first such answer (a busy machine may have delayed the
thread), twice as long after each that follows, :data:`REST` seconds at most.

One operation at a time.  While an operation goes on after the loop has stopped waiting for it, the lane is
taken, and the caller uses the driver's other workers: so a hanging operation delays no other.

Concurrency: ``run`` is called on the loop's thread alone.  ``_lock`` guards ``_Ticket.over`` and ``.left``,
held for a few instructions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from dboxfs.fsapi.ops import Job, Op

PATIENCE = 0.001
"""Seconds that the loop waits for an answer, at most."""

PAUSE = 0.01
"""Seconds after an answer that took longer, in which the lane takes no operation."""

REST = 0.1
"""The longest such pause: it doubles while no answer comes in time."""


class _Ticket:
    """One operation in the lane.  ``over``: it has ended.  ``left``: the loop no longer waits: post it."""

    __slots__ = ("ended", "job", "left", "over")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.over = False
        self.left = False
        self.ended = threading.Lock()
        self.ended.acquire()


class Lane:
    """One worker, one operation at a time; the loop waits :data:`PATIENCE` for its answer at most.

    :param execute: carries an operation out, on any thread.
    :param post: has ``job.done(job)`` called on the loop's thread soon (any thread).
    """

    def __init__(self, execute: Callable[[Op[Any]], Any], post: Callable[[Job[Any]], None]) -> None:
        self._execute = execute
        self._post = post
        self._tickets: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running: _Ticket | None = None
        self._rest_until = 0.0
        self._pause = PAUSE

    @property
    def free(self) -> bool:
        """Whether no operation is in the lane, and the pause is over."""
        running = self._running
        return (running is None or running.over) and time.monotonic() >= self._rest_until

    def run(self, job: Job[Any]) -> bool:
        """Run *job*; only while :attr:`free`.

        True: it has ended, and ``job.done`` was not called.  False: it goes on, and ``job.done`` will be
        called.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dboxfs-io-lane", daemon=True)
            self._thread.start()
        self._running = ticket = _Ticket(job)
        self._tickets.put(ticket)
        if ticket.ended.acquire(timeout=PATIENCE):
            self._pause = PAUSE
            return True
        with self._lock:
            if ticket.over:
                return True
            ticket.left = True
        self._rest_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, REST)
        return False

    def close(self) -> None:
        """End the thread, now or when its present operation has ended."""
        self._tickets.put(None)

    def _work(self) -> None:
        while (ticket := self._tickets.get()) is not None:
            ticket.job.run(self._execute)
            with self._lock:
                ticket.over = True
                left = ticket.left
            if left:
                self._post(ticket.job)
            else:
                ticket.ended.release()
            del ticket
