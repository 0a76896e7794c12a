"""One at a time, and whoever asks while one waits for its turn shares it.

For work that brings something up to date: who asks needs one that *begins* after the question, and it may be
anybody's.  Of many that ask at once one works for all.

Cancellation and errors are of the one that works; those who shared its turn then take one themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class _Turn:
    __slots__ = ("over", "worked")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.worked = False


class Joined:
    """See the module."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._next: _Turn | None = None

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Returns when a *work* that began after this call has ended."""
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
