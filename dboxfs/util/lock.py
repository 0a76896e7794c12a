"""A lock that costs nothing where it is free.

``trio.Lock`` gives other tasks a turn whenever it is taken, so that a task which takes it in a loop does not
keep the event loop.  A turn is a round of the event loop, some 60 µs, and a save takes eight locks.
:class:`Lock` gives a turn only where it has to wait; its callers wait for a disk while they hold it.

First come, first served, as with ``trio.Lock``: a task that finds it free has passed nobody.
"""

from __future__ import annotations

from types import TracebackType

import trio


class Lock:
    """``async with Lock()``.  A checkpoint only if another task holds it."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    @property
    def is_mine(self) -> bool:
        """Whether the task that asks holds it."""
        return self._lock.statistics().owner is trio.lowlevel.current_task()

    def locked(self) -> bool:
        """Whether a task holds it."""
        return self._lock.locked()

    def acquire_nowait(self) -> None:
        """Take it.

        :raises trio.WouldBlock: another task holds it.
        """
        self._lock.acquire_nowait()

    def release(self) -> None:
        """Give it back."""
        self._lock.release()
