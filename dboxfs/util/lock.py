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
    """``async with Lock()``.  It is a checkpoint only if another task holds the lock.

    A small object: the queue exists only while tasks wait.
    """

    __slots__ = ("__weakref__", "_owner", "_waiting")

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiting: trio.lowlevel.ParkingLot | None = None

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def is_mine(self) -> bool:
        """Whether the current task holds the lock."""
        return self._owner is trio.lowlevel.current_task()

    def locked(self) -> bool:
        """Whether any task holds the lock."""
        return self._owner is not None

    async def acquire(self) -> None:
        """Take the lock; wait while another task holds it.

        :raises RuntimeError: the current task holds it.
        """
        if self._owner is None:
            self._owner = trio.lowlevel.current_task()
            return
        if self.is_mine:
            raise RuntimeError("a task takes a lock that it holds")
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()  # release() has made this task the owner

    def acquire_nowait(self) -> None:
        """Take the lock.

        :raises trio.WouldBlock: another task holds it.
        :raises RuntimeError: the current task holds it.
        """
        if self.is_mine:
            raise RuntimeError("a task takes a lock that it holds")
        if self._owner is not None:
            raise trio.WouldBlock
        self._owner = trio.lowlevel.current_task()

    def take_for(self, task: trio.lowlevel.Task) -> None:
        """Take the lock for *task*, which releases it.

        :raises trio.WouldBlock: a task holds it.
        """
        if self._owner is not None:
            raise trio.WouldBlock
        self._owner = task

    def release(self) -> None:
        """Give the lock to the task that waits longest; without one it is free.

        :raises RuntimeError: the current task does not hold it.
        """
        if not self.is_mine:
            raise RuntimeError("a task releases a lock that it does not hold")
        woken = self._waiting.unpark() if self._waiting else []
        self._owner = woken[0] if woken else None
        if not self._waiting:
            self._waiting = None
