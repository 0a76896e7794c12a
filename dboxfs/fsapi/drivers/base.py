"""What the file API asks of a driver, and the way back from its workers to the event loop.

A driver runs operations somewhere else than on the event loop and completes them on the loop's thread, in
batches: all completions that are ready share **one** wake-up of the loop.  A hop to a thread and back costs
some 80 µs, and 1.5 µs an operation in batches of 64, so the batching is what makes the API fast.

Contract of a driver (``dboxfs.fsapi.conformance.check_driver`` holds every driver to it):

* ``submit`` never blocks and never fails; ``done`` is called once, later, on the loop's thread;
* an operation that hangs holds up no other as long as a worker is free;
* operations on one open file may run at the same time; the caller puts them in order where it matters;
* the ``*_nowait`` calls run on the loop's thread and never wait for a disk: they answer or say "not now";
* ``aclose`` gives every resource back, and does not wait for an operation that hangs;
* a driver may have ``run_soon(op, done) -> bool`` (:mod:`dboxfs.fsapi.drivers.lane`), for operations that
  take microseconds: as ``submit``, but it may wait a millisecond for the answer; False: it was not begun.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import trio

from dboxfs.fsapi.ops import Job, Op
from dboxfs.fsapi.types import Capabilities

R = TypeVar("R")


class Driver(Protocol):
    """Runs operations somewhere else and completes them on the event loop (the contract: above).

    :ivar capabilities: what the files of this driver can do.
    :ivar depth: how many operations are worth having in flight at once.
    :ivar kernel_cached: what was read once is found by ``read_nowait`` (the kernel keeps it), so that
        prefetching means :class:`~dboxfs.fsapi.ops.Advise` and needs no memory of this process.  False: data
        that was read ahead is kept in the daemon's own page cache.
    """

    capabilities: Capabilities
    depth: int
    kernel_cached: bool

    async def start(self, nursery: trio.Nursery) -> None:
        """Called once, on the loop's thread, before anything else.  Tasks go into ``nursery``."""
        ...

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Take an operation.  ``background``: it may wait for those that are not."""
        ...

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """Open a file for reading whose path is cached; None where that would need a disk; OSError.

        ``nofollow``: ELOOP if the last component of the path is a symbolic link.
        """
        ...

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """Bytes that are in memory (may be short, b"" at the end of the file) or None; OSError.

        EOPNOTSUPP: this file can't be read like that, now or later.
        """
        ...

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """Attributes of an open file as they are now; None where asking could wait."""
        ...

    def close_nowait(self, fd: int) -> bool:
        """Close a file that was opened for reading; False: use :class:`~dboxfs.fsapi.ops.Close`."""
        ...

    def stats(self) -> dict[str, int | float]:
        """Counters and gauges: jobs, wakeups, queue depth and so on."""
        ...

    async def aclose(self) -> None:
        """Give everything back.  Operations that still hang are left to themselves."""
        ...


class Completions:
    """Brings finished jobs back to the event loop: any thread posts, one wake-up drains it all.

    Concurrency: ``_ready`` is a deque whose append and popleft are atomic.  A poster appends and then looks
    at ``_armed``; the drain clears ``_armed`` and then empties the deque.  Whatever a poster appended while
    it saw ``_armed`` set is therefore seen by the drain that is to come.
    """

    def __init__(self, dispose: Callable[[Job[Any]], None]) -> None:
        """``dispose(job)`` takes back what a job that nobody hears of any more has opened (any thread)."""
        self._dispose = dispose
        self._ready: deque[Job[Any]] = deque()
        self._armed = False
        self._closed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self.wakeups = 0
        self.completed = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Remember the loop that runs now."""
        self._token = trio.lowlevel.current_trio_token()
        self._nursery = nursery

    def post(self, job: Job[Any]) -> None:
        """Have ``job.done(job)`` called on the loop's thread soon (any thread)."""
        self._ready.append(job)
        if self._closed or self._token is None:  # looked at behind the append: close() may run meanwhile
            self._dispose_ready()
            return
        if self._armed:
            return
        self._armed = True
        try:
            self._token.run_sync_soon(self.drain, idempotent=True)
        except trio.RunFinishedError:
            self.close()

    def drain(self) -> None:
        """Call ``done`` of everything that is ready (the loop's thread)."""
        self._armed = False
        self.wakeups += 1
        ready = self._ready
        while ready:
            job = ready.popleft()
            self.completed += 1
            try:
                job.done(job)
            except Exception as error:
                if self._nursery is None:
                    raise
                self._nursery.start_soon(_raise, error)

    def close(self) -> None:
        """Nobody listens any more: dispose of what is ready and of whatever comes later."""
        self._closed = True
        self._dispose_ready()

    def _dispose_ready(self) -> None:
        while self._ready:
            try:
                job = self._ready.popleft()
            except IndexError:
                return
            self._dispose(job)


async def _raise(error: Exception) -> None:
    raise error
