"""A lock that costs nothing if it is free.

``trio.Lock`` lets other tasks run whenever it is taken, so that a task which takes it in a loop does not
block the event loop.  That takes a round of the event loop, some 60 µs, and a save takes eight locks.
:class:`Lock` lets others run only if it has to wait; its callers wait for a disk while they hold it.  First
come, first served, as with ``trio.Lock``: if the lock is free, no other task waits for it.
"""

from __future__ import annotations

from types import TracebackType

import trio


class Lock:
    """``async with Lock()``.  It is a checkpoint only if another task holds the lock."""

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
        """Whether the current task holds the lock."""
        return self._lock.statistics().owner is trio.lowlevel.current_task()

    def locked(self) -> bool:
        """Whether any task holds the lock."""
        return self._lock.locked()

    def acquire_nowait(self) -> None:
        """Take the lock.

        :raises trio.WouldBlock: another task holds it.
        """
        self._lock.acquire_nowait()

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()
