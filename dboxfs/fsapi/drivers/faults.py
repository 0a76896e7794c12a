"""The ``faults`` driver: another driver with latency, errors, short transfers and a crash, all as planned.

Every decision depends only on the order in which operations are submitted, and every delay is a sleep on
trio's clock, so a run with a fake clock is repeatable to the byte.  The driver has ``depth`` places; an
operation takes one from its beginning (the delay) to its end, as it would take a worker thread.

Answers from memory (``open_nowait``, ``read_nowait``) are off unless ``nowait`` is set: a slow storage has
no warm kernel cache in front of it.
"""

from __future__ import annotations

import enum
import errno
import heapq
import itertools
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers.base import Completions, Driver
from dboxfs.fsapi.ops import Appended, Job, Op, OpenedFile, itself, os_error

R = TypeVar("R")


class Crash(enum.Enum):
    """When the process dies: before an operation reaches the disk, or after it and before its answer."""

    BEFORE = "before"
    AFTER = "after"


class Fault(Struct, frozen=True):
    """A fault, and the operation that it hits.

    :param kind: the operation (``open create read append sync publish sync_dir unlink`` ..., see
        :mod:`dboxfs.fsapi.ops`), several of them with blanks in between, or ``*`` for any.
    :param nth: the nth one that fits ``kind`` and ``path``, from 1; None: each.
    :param path: only operations with a path that contains this text.
    :param error: it fails with this errno and does nothing.
    :param short: a read brings at most so many bytes; an append writes so many, and then fails with
        ``error`` (without ``error``: answers that it wrote fewer).
    :param delay: seconds that it takes longer.
    :param crash: from here on no operation reaches the disk any more.
    """

    kind: str
    nth: int | None = None
    path: str | None = None
    error: int | None = None
    short: int | None = None
    delay: float = 0.0
    crash: Crash | None = None


_Planned = tuple[Job[Any], Fault | None]


class FaultsDriver:
    """Wraps ``inner``, and starts and closes it.

    :param plan: the faults; if several fit one operation, the first is taken.
    :param latency: seconds that every operation of a kind takes longer (a peek: for each of its files).
    :param depth: operations at work at once; as many as ``inner`` has if left out.
    :param nowait: pass on the answers of ``inner`` from memory.
    :param on_crash: called at the planned crash: a test may end the process here.
    :ivar crashed: the planned crash has happened: every operation but a close fails with EIO.
    :ivar counts: how many operations of each kind there were.
    """

    def __init__(
        self,
        inner: Driver,
        plan: Iterable[Fault] = (),
        *,
        latency: Mapping[str, float] | None = None,
        depth: int | None = None,
        nowait: bool = False,
        on_crash: Callable[[], None] | None = None,
    ) -> None:
        self.capabilities = replace(inner.capabilities, chains=False)
        self.depth = depth or inner.depth
        self.kernel_cached = nowait and inner.kernel_cached
        self.crashed = False
        self.counts: Counter[str] = Counter()
        self._inner = inner
        self._on_crash = on_crash
        self._plan: tuple[Fault, ...] = ()
        self._fitting: list[int] = []
        self.replan(plan)
        self._latency = dict(latency or {})
        self._nowait = nowait
        self._completions = Completions(_nothing)
        self._timer_scope = trio.CancelScope()
        self._closed_scope = trio.CancelScope()
        self._sleeping: list[tuple[float, int, _Planned]] = []
        self._numbers = itertools.count()
        self._busy = 0
        self._asked: deque[_Planned] = deque()
        self._background: deque[_Planned] = deque()
        self._injected = 0

    def replan(self, plan: Iterable[Fault]) -> None:
        """Set other faults, and count the fitting operations anew."""
        self._plan = tuple(plan)
        self._fitting = [0] * len(self._plan)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the inner driver, and the task that begins delayed operations."""
        self._completions.start(nursery)
        await self._inner.start(nursery)
        nursery.start_soon(self._wake_delayed)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Count the operation, find its fault, and queue it for a free place."""
        self.counts[itself(op).kind] += 1
        job = Job(op, done)
        (self._background if background else self._asked).append((job, self._fault(itself(op))))
        self._begin()
        return job

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """The inner driver's answer, where let through."""
        return self._inner.open_nowait(path, nofollow) if self._nowait and not self.crashed else None

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """The inner driver's answer, where let through."""
        return self._inner.read_nowait(fd, size, offset) if self._nowait and not self.crashed else None

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """The inner driver's answer."""
        return self._inner.stat_nowait(fd)

    def close_nowait(self, fd: int) -> bool:
        """The inner driver's answer, where let through."""
        return self._nowait and self._inner.close_nowait(fd)

    def stats(self) -> dict[str, int | float]:
        """The inner driver's; queue and in_flight are this driver's; injected: faults so far."""
        waiting = len(self._asked) + len(self._background)
        return {
            **self._inner.stats(),
            "queue": waiting,
            "in_flight": waiting + self._busy,
            "injected": self._injected,
        }

    async def aclose(self) -> None:
        """Drop the waiting operations, and close the inner driver."""
        self._closed_scope.cancel()
        self._completions.close()
        await self._inner.aclose()

    # -- inside ------------------------------------------------------------------------------------------

    def _fault(self, op: Op[Any]) -> Fault | None:
        found = None
        for index, fault in enumerate(self._plan):
            if fault.kind != "*" and op.kind not in fault.kind.split():
                continue
            if fault.path is not None and not any(fault.path in path for path in _paths(op)):
                continue
            self._fitting[index] += 1
            if found is None and fault.nth in (None, self._fitting[index]):
                self._injected += 1
                found = fault
        return found

    def _begin(self) -> None:
        """Put waiting operations to work while there are places."""
        while self._busy < self.depth and (self._asked or self._background):
            job, fault = planned = (self._asked or self._background).popleft()
            self._busy += 1
            op = itself(job.op)
            delay = self._latency.get(op.kind, 0.0) + (fault.delay if fault is not None else 0.0)
            if isinstance(op, ops.PeekMany):
                delay *= len(op.requests)
            if delay <= 0:
                self._execute(*planned)
                continue
            deadline = trio.current_time() + delay
            heapq.heappush(self._sleeping, (deadline, next(self._numbers), planned))
            self._timer_scope.deadline = self._sleeping[0][0]

    async def _wake_delayed(self) -> None:
        """The one task of this driver: begins delayed operations when their time has come."""
        with self._closed_scope:
            while True:
                while self._sleeping and self._sleeping[0][0] <= trio.current_time():
                    self._execute(*heapq.heappop(self._sleeping)[2])
                self._timer_scope = trio.CancelScope()
                self._timer_scope.deadline = self._sleeping[0][0] if self._sleeping else math.inf
                with self._timer_scope:
                    await trio.sleep_forever()

    def _execute(self, job: Job[Any], fault: Fault | None) -> None:
        """Let the inner driver run the operation, changed by its fault, or fail it."""
        op, inner_op = job.op, itself(job.op)
        if fault is not None and fault.crash is Crash.BEFORE:
            self._crash()
        if job.cancelled:
            self._fail(job, errno.ECANCELED)
        elif self.crashed and not isinstance(inner_op, ops.Close):
            self._fail(job, errno.EIO)
        elif fault is None:
            self._inner.submit(op, lambda inner: self._relay(job, inner))
        elif fault.crash is Crash.AFTER:
            self._inner.submit(op, lambda inner: self._crash_after(job, inner))
        elif fault.short is not None and isinstance(inner_op, ops.Read):
            short = _instead(op, replace(inner_op, size=min(inner_op.size, max(1, fault.short))))
            self._inner.submit(short, lambda inner: self._relay(job, inner))
        elif fault.short is not None and isinstance(inner_op, ops.Append):
            short_append = _instead(op, replace(inner_op, chunks=(b"".join(inner_op.chunks)[: fault.short],)))
            self._inner.submit(short_append, lambda inner: self._short(job, inner, fault.error))
        elif fault.error is not None and isinstance(inner_op, ops.Close):
            self._inner.submit(op, lambda inner: self._fail_after(job, fault.error))
        elif fault.error is not None:
            self._fail(job, fault.error)
        else:
            self._inner.submit(op, lambda inner: self._relay(job, inner))

    def _relay(self, job: Job[Any], inner: Job[Any]) -> None:
        job.result, job.error = inner.result, inner.error
        self._end(job)

    def _short(self, job: Job[Any], inner: Job[Appended], error: int | None) -> None:
        job.result, job.error = inner.result, inner.error
        if error is not None and inner.result is not None:
            job.result = Appended(inner.result.written, inner.result.error or os_error(error))
        self._end(job)

    def _crash(self) -> None:
        self.crashed = True
        if self._on_crash is not None:
            self._on_crash()

    def _crash_after(self, job: Job[Any], inner: Job[Any]) -> None:
        self._crash()
        job.error = os_error(errno.EIO)
        if isinstance(inner.result, OpenedFile):
            self._inner.submit(ops.Close(inner.result.fd), _nothing)
        self._end(job)

    def _fail_after(self, job: Job[Any], code: int | None) -> None:
        """A close that fails has closed the file all the same."""
        job.error = os_error(code or errno.EIO)
        self._end(job)

    def _fail(self, job: Job[Any], code: int) -> None:
        job.error = os_error(code)
        done = job.done

        def ended(job: Job[Any]) -> None:
            self._busy -= 1
            self._begin()
            done(job)

        job.done = ended
        self._completions.post(job)

    def _end(self, job: Job[Any]) -> None:
        self._busy -= 1
        self._begin()
        job.done(job)


def _nothing(job: Job[Any]) -> None:
    """The result is not used."""


def _instead(op: Op[Any], other: Op[Any]) -> Op[Any]:
    """*other* in the place of an operation, with the same rights."""
    return replace(op, op=other) if isinstance(op, ops.AsOwner) else other


def _paths(op: Op[Any]) -> list[str]:
    names = ("path", "source", "target", "temporary")
    found = [getattr(op, name) for name in names if hasattr(op, name)]
    if isinstance(op, ops.PeekMany):
        found.extend(request.path for request in op.requests)
    return found
