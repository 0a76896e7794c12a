"""Makes pyfuse3's request loop cheap.

pyfuse3 takes a trio lock and a scheduler round for each request. Both together cost more than the request
itself (a getattr takes 43 µs, 18 without; a read of 4 KiB 54 and 12).  pyfuse3 looks both up in its module
attribute ``trio``, so a stand-in for that module can do better, without a change in pyfuse3:

* the lock doesn't yield when it is free, and the task that gives it back may take it again at once;
* a wait for a request polls the descriptor first. It goes through the scheduler only when no request is
  there, or every :data:`BURST` requests, so that other tasks get their turn;
* before it sleeps it goes on polling for some microseconds, as long as such polls find requests: a client
  that sends one request after the other causes no sleep and wake-up in between.

Adaptive: a poll that found nothing ends the polling until requests come again, so an idle mount sleeps in
epoll like any other.  While the file API has work in flight there is no polling at all: its answers come
through the scheduler.

:func:`install` puts the stand-in in place and returns its ``lowlevel``; where pyfuse3 has no module attribute
``trio`` any more, it changes nothing and logs a warning.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyfuse3
import trio

log = logging.getLogger(__name__)

BURST = 64
"""Requests in a row before other tasks get a turn."""

_BUSY_STEP = 8
_SPIN_FIRST = 10e-6
_SPIN_MOST = 50e-6


class LoopLock:
    """The part of ``trio.Lock`` that pyfuse3 needs: entered without yielding when it is free.

    Waiters are woken one at a time; one that finds the lock taken again parks again, so they have no order.
    """

    __slots__ = ("_locked", "_waiting")

    def __init__(self) -> None:
        self._locked = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._locked:
            await self._waiting.park()
        self._locked = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locked = False
        if self._waiting:
            self._waiting.unpark()


class LoopLowlevel:
    """Stands in for ``trio.lowlevel``: everything but ``wait_readable`` and ``notify_closing`` is trio's.

    :param busy: tells whether work is in flight whose answers come through the scheduler.
    :ivar polled: requests that the first poll found.  :ivar spun: those that further polling found.
    :ivar slept: waits in the scheduler.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.polled = 0
        self.spun = 0
        self.slept = 0
        self._busy = busy
        self._fd = -1
        self._poll: Callable[[int], list[tuple[int, int]]]
        self._budget = BURST
        self._may_spin = (os.cpu_count() or 1) > 1
        self._spin = 0.0
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* is readable, without a scheduler round where that is possible.

        After any await it polls again: the kernel takes a request back whose client was killed, and other
        tasks answer requests whose interruption was to be read.  A read of nothing would stop the event loop.

        :raises trio.ClosedResourceError: pyfuse3 ends its loop.
        """
        if fd != self._fd:
            self._watch(fd)
        while not self._is_closing:
            if self._poll(0):
                self.polled += 1
                self._budget -= _BUSY_STEP if self._busy() else 1
                if self._budget > 0:
                    return
                self._budget = BURST
                await trio.lowlevel.checkpoint()
            elif self._spin and not self._busy() and self._spin_for():
                return
            else:
                self._budget = BURST
                self.slept += 1
                await trio.lowlevel.wait_readable(fd)
                if self._may_spin:
                    self._spin = max(self._spin, _SPIN_FIRST)
            if self._poll(0):
                return
        raise trio.ClosedResourceError

    def notify_closing(self, fd: int) -> None:
        """End all waits, as trio's own does, and those that poll again."""
        self._is_closing = True
        trio.lowlevel.notify_closing(fd)

    def _spin_for(self) -> bool:
        poll, now = self._poll, time.perf_counter
        deadline = now() + self._spin
        while now() < deadline:
            if poll(0):
                self.spun += 1
                self._spin = min(self._spin * 2, _SPIN_MOST)
                return True
        self._spin = 0.0
        return False

    def _watch(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll, self._fd = poller.poll, fd


class LoopTrio:
    """Stands in for the module ``trio`` in pyfuse3."""

    Lock = LoopLock

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.lowlevel = LoopLowlevel(busy)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install(busy: Callable[[], bool] = lambda: False) -> LoopLowlevel | None:
    """Put the stand-in into pyfuse3; None: it doesn't fit, and pyfuse3's own loop stays."""
    if getattr(pyfuse3, "trio", None) is not trio and not isinstance(
        getattr(pyfuse3, "trio", None), LoopTrio
    ):
        log.warning(
            "pyfuse3 %s no longer looks up trio where it did; its own, slower loop is used",
            pyfuse3.__version__,
        )
        return None
    stand_in = LoopTrio(busy)
    pyfuse3.trio = stand_in  # type: ignore[attr-defined]
    return stand_in.lowlevel


def uninstall() -> None:
    """Give pyfuse3 its own loop back."""
    if hasattr(pyfuse3, "trio"):
        pyfuse3.trio = trio
