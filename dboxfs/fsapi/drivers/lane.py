"""A worker for operations that take microseconds, whose answers are waited for on the loop's thread.

A hop to a worker and back through the event loop costs some 80 µs; the append of a few bytes to a log takes
3.  :meth:`Lane.run` hands such an operation to a thread of its own and waits for its end there and then, on
the loop's thread, but never longer than :data:`PATIENCE`: a disk that stalls costs the loop that much, once,
and the answer comes through the loop like any other.  After that the lane doesn't wait for a while, so that a
slow disk is not waited for again and again: :data:`PAUSE` seconds after the first such answer (a busy machine
may have let the thread wait), twice as long after each that follows, :data:`REST` seconds at most.

One operation at a time.  While one goes on that was not waited for to its end, the lane is taken, and the
caller uses the driver's other workers: so a hanging operation holds up no other.

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
"""Seconds after an answer that took longer, in which it waits for none."""

REST = 0.1
"""The same where no answer came in time since the last pause."""


class _Ticket:
    """One operation in the lane.  ``over``: it has ended.  ``left``: nobody waits, it is to be posted."""

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
        """Whether nothing is in the lane, and answers are waited for again."""
        running = self._running
        return (running is None or running.over) and time.monotonic() >= self._rest_until

    def run(self, job: Job[Any]) -> bool:
        """Run *job*; only while :attr:`free`.

        True: it is over, and ``job.done`` was not called.  False: it goes on, and that will be called.
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
        """End the thread, now or when what it runs has come back."""
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
