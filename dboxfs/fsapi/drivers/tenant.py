"""One tenant of a driver that many file systems share: a bounded number of operations, with its own rights.

A mount of many users has one driver with its workers.  Each user's store uses it through a
:class:`TenantDriver`, which passes on at most ``depth`` operations at a time.  The others wait in the
tenant's own queue, so a user's disk that hangs takes ``depth`` workers at most.

With *owner* each operation has the rights of that user (:class:`~dboxfs.fsapi.ops.AsOwner`), and so have the
opens on the loop's own thread.

The caller that made the driver below starts and closes it.  A closed tenant drops its waiting operations;
when an operation in flight ends, the tenant closes the file that it has opened.

Concurrency: everything runs on the event loop's thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers.acting import acting_as
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.ops import Job, Op, OpenedFile

R = TypeVar("R")

TENANT_DEPTH = 4
"""Operations of one tenant that are at the driver at a time."""

_NO_RIGHTS = (ops.Close, ops.Read)
"""Operations on an open file which nobody's rights are asked for."""


class _TenantJob(Job[R]):
    """An operation of a tenant; ``below``: its job at the driver below, once it was passed on."""

    __slots__ = ("background", "below")

    def __init__(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool) -> None:
        super().__init__(op, done)
        self.background = background
        self.below: Job[R] | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.below is not None:
            self.below.cancel()


class TenantDriver:
    """A driver for one tenant of *inner*.

    :param inner: the shared driver; it is running.
    :param owner: operations have the rights of this uid and gid, if *inner* can do that and the process is
        root's; None: the rights of the process.
    :param depth: operations at *inner* at a time, at most.
    """

    def __init__(
        self, inner: Driver, owner: tuple[int, int] | None = None, depth: int = TENANT_DEPTH
    ) -> None:
        self.capabilities = inner.capabilities
        self.depth = min(inner.depth, depth)
        self.kernel_cached = inner.kernel_cached
        self._inner = inner
        self._owner: tuple[int, int] | None = None
        if inner.capabilities.owners and os.geteuid() == 0 and owner is not None and owner[0] != 0:
            self._owner = owner
        self._waiting: deque[_TenantJob[Any]] = deque()
        self._busy = 0
        self._jobs = 0
        self._closed = False
        self._nursery: trio.Nursery | None = None
        self.read_nowait = inner.read_nowait
        self.stat_nowait = inner.stat_nowait
        self.close_nowait = inner.close_nowait
        if hasattr(inner, "run_soon"):
            self.run_soon = self._run_soon

    async def start(self, nursery: trio.Nursery) -> None:
        """Remember the nursery: the driver below is running already."""
        self._nursery = nursery

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Pass an operation on, or queue it: background ones behind all others."""
        job = _TenantJob(op, done, background=background)
        self._jobs += 1
        if self._busy < self.depth:
            self._begin(job)
        elif background:
            self._waiting.append(job)
        else:
            self._waiting.insert(sum(not waiting.background for waiting in self._waiting), job)
        return job

    def _begin(self, job: _TenantJob[Any]) -> None:
        self._busy += 1
        below = self._inner.submit(
            self._owned(job.op), lambda ended: self._end(job, ended), background=job.background
        )
        job.below = below
        if job.cancelled:
            below.cancel()

    def _end(self, job: _TenantJob[Any], ended: Job[Any]) -> None:
        self._busy -= 1
        if self._closed:
            if isinstance(ended.result, OpenedFile):
                self._inner.submit(ops.Close(ended.result.fd), _ignore)
            return
        job.result, job.error, job.below = ended.result, ended.error, None
        if self._waiting:
            self._begin(self._waiting.popleft())
        job.done(job)

    def _owned(self, op: Op[R]) -> Op[R]:
        return op if self._owner is None or isinstance(op, _NO_RIGHTS) else ops.AsOwner(op, *self._owner)

    def _run_soon(self, op: Op[R], done: Callable[[Job[R]], None]) -> bool:
        """``run_soon`` of the driver below, with the tenant's rights."""
        soon: Callable[[Op[R], Callable[[Job[R]], None]], bool] = getattr(self._inner, "run_soon")  # noqa: B009
        return soon(self._owned(op), done)

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """``open_nowait`` of the driver below, with the tenant's rights."""
        if self._owner is None:
            return self._inner.open_nowait(path, nofollow)
        with acting_as(*self._owner):
            return self._inner.open_nowait(path, nofollow)

    def stats(self) -> dict[str, int | float]:
        """jobs, queue (waiting here), in_flight (at the driver below); the rest is that driver's."""
        own = {"jobs": self._jobs, "queue": len(self._waiting), "in_flight": self._busy}
        return {**self._inner.stats(), **own}

    async def aclose(self) -> None:
        """Drop the waiting operations.  It doesn't wait for operations in flight."""
        self._closed = True
        self._waiting.clear()


def _ignore(job: Job[Any]) -> None:
    """The result of the close is not used."""
