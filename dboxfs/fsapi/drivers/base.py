"""The contract of a driver, and the way back from its workers to the event loop.

A driver runs operations outside of the event loop and completes them on the loop's thread, in batches: all
completions that are ready share **one** wake-up of the loop.  A hop to a thread and back costs some 80 µs
alone, and 1.5 µs an operation in batches of 64, so batching makes the API fast.

Contract of a driver (:func:`dboxfs.fsapi.testing.conformance.check_driver` tests it):

* ``submit`` never blocks and never fails; ``done`` is called once, later, on the loop's thread;
* an operation that hangs delays no other one as long as a worker is free;
* operations on one open file may run at the same time; the caller orders them where it matters;
* the ``*_nowait`` calls run on the loop's thread and never wait for a disk: they answer or say "not now";
* ``aclose`` releases every resource, and does not wait for an operation that hangs;
* a driver may have ``run_soon(op, done) -> bool`` (:mod:`dboxfs.fsapi.drivers.lane`), for operations that
  take microseconds: as ``submit``, but it may wait a millisecond for the answer; False: it was not begun.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import trio

from dboxfs.fsapi.ops import Job, Op
from dboxfs.fsapi.types import Capabilities, Peek, PeekResult

R = TypeVar("R")


def no_numbers(flags: int = 0) -> os.statvfs_result:
    """statvfs(2) of what is on no file system of this machine.  *flags*: ``ST_*`` bits."""
    return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, flags, 255))


def peek_each(requests: Sequence[Peek], peek: Callable[[Peek], PeekResult]) -> list[PeekResult | OSError]:
    """The answer or the error of each request.  A path that no file can have is EINVAL, for its own request
    alone.  Errors have no traceback: its frames would keep the answers until the collector of cycles comes.
    """
    answers: list[PeekResult | OSError] = []
    for request in requests:
        try:
            answers.append(peek(request))
        except OSError as error:
            answers.append(error.with_traceback(None))
        except ValueError as error:
            answers.append(OSError(errno.EINVAL, str(error), request.path))
    return answers


class Driver(Protocol):
    """Runs operations somewhere else and completes them on the event loop (the contract: above).

    :ivar capabilities: the features of this driver's files.
    :ivar depth: number of operations in flight beyond which more bring nothing.
    :ivar kernel_cached: ``read_nowait`` finds bytes that were read once (the kernel keeps them), so
        prefetching means :class:`~dboxfs.fsapi.ops.Advise` and needs no memory of this process.  False: the
        daemon keeps readahead in its own page cache.
    """

    capabilities: Capabilities
    depth: int
    kernel_cached: bool

    async def start(self, nursery: trio.Nursery) -> None:
        """Called once, on the loop's thread, before anything else.  Tasks go into ``nursery``."""
        ...

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Take an operation.  ``background``: it may wait until no other operation is queued."""
        ...

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """Open a file for reading if its path is cached; None: that would need a disk.

        ``nofollow``: ELOOP if the last component of the path is a symbolic link.

        :raises OSError: the open failed.
        """
        ...

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """Bytes that are in memory (may be short, b"" at the end of the file); None: not now.

        :raises OSError: the read failed; EOPNOTSUPP: this file can never be read like that.
        """
        ...

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """The present attributes of an open file; None: asking for them could wait."""
        ...

    def close_nowait(self, fd: int) -> bool:
        """Close a file that was opened for reading; False: use :class:`~dboxfs.fsapi.ops.Close`."""
        ...

    def stats(self) -> dict[str, int | float]:
        """Counters and gauges: jobs, wakeups, queue depth and so on."""
        ...

    async def aclose(self) -> None:
        """Release everything.  It doesn't wait for operations that hang."""
        ...


class Completions:
    """Brings finished jobs back to the event loop: any thread posts, one wake-up drains all of them.

    Concurrency: ``_ready`` is a deque whose append and popleft are atomic.  A poster appends and then reads
    ``_armed``; the drain clears ``_armed`` and then empties the deque.  If a poster finds ``_armed`` set, the
    coming drain therefore sees the job that it appended.
    """

    def __init__(self, dispose: Callable[[Job[Any]], None]) -> None:
        """``dispose(job)`` closes the file that a job has opened whose caller is gone (any thread)."""
        self._dispose = dispose
        self._ready: deque[Job[Any]] = deque()
        self._armed = False
        self._closed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self.wakeups = 0
        self.completed = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Remember the running event loop."""
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
        """Dispose of all jobs that are ready, and of all that are posted later."""
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
