"""Coalesced runs: calls that arrive while a run is pending share that run.

This is for work that brings something up to date: a caller needs a run that *begins* after its call, and any
caller may start it.  Runs come one after the other; one next run serves all calls that arrive during a run.

Cancellation and errors concern the caller whose work runs; the callers that shared its run then start a run
themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class _Turn:
    __slots__ = ("over", "worked")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.worked = False


class CoalescedRuns:
    """Runs of one kind of work, one at a time."""

    def __init__(self) -> None:
        self._lock = trio.Lock()  # its checkpoint lets others join before the run begins
        self._next: _Turn | None = None

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Return when a *work* that began after this call has ended."""
        while (turn := self._next) is not None:
            await turn.over.wait()
            if turn.worked:
                return
        turn = self._next = _Turn()
        try:
            async with self._lock:
                self._next = None
                await work()
                turn.worked = True
        finally:
            if self._next is turn:
                self._next = None
            turn.over.set()
