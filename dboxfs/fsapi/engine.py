"""The state that handles and whole operations share: the driver, the cache, the locks in memory, the room for
unwritten bytes, the counters.

The engine is the lowest part of the file API that has state.  ``FileSystem`` makes one; readers, writers and
handles get the engine and do not use ``FileSystem``.

Life: ``new`` -> ``running`` (:meth:`Engine.start`) -> ``closing`` -> ``closed`` (:meth:`Engine.aclose`).
Operations are accepted while it is running, and from closing handles until it is closed.

Concurrency: everything runs on the event loop's thread; a driver completes operations there.

Room: each writer may buffer ``write_buffer`` bytes, all together ``dirty_limit``.  A writer that told its
caller EAGAIN asks for room (:meth:`want_room`); when the driver has taken bytes, the engine tells every
writer that asked, once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio
from msgspec import Struct, field

from dboxfs.fsapi.cache.cache import PageCache
from dboxfs.fsapi.cache.ksm import Ksm
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.locks import LockTable
from dboxfs.fsapi.ops import Job, Op, os_error

R = TypeVar("R")

CLOSE_SECONDS = 2.0
"""Seconds that :meth:`Engine.aclose` waits for operations in flight."""


class Limits(Struct, frozen=True):
    """The limits that the caller of the file API chose.

    :param readahead: bytes read ahead of a sequential reader, at most.
    :param write_buffer: bytes that one handle takes before ``write`` says EAGAIN.
    :param dirty_limit: bytes of all handles together that are written but not yet at the driver.
    :param sync: a commit waits until data and name are durable.  False, for bulk loads: it doesn't.
    """

    readahead: int = 1 << 20
    write_buffer: int = 256 << 10
    dirty_limit: int = 16 << 20
    sync: bool = True


class Counters(Struct):
    """Counted since the start; see ``FileSystem.stats``."""

    opens: int = 0
    inline_opens: int = 0
    inline_reads: int = 0
    driver_reads: int = 0
    driver_bytes: int = 0
    creates: int = 0
    written_bytes: int = 0
    lost_errors: int = 0


class Buffered(Protocol):
    """A writer, as the engine sees it.

    :ivar dirty: bytes in its buffer.
    """

    dirty: int

    def flush(self) -> None:
        """Write the buffered bytes now."""
        ...

    def has_room(self) -> None:
        """The engine has room again, so the writer's caller may try once more."""
        ...


class Closable(Protocol):
    """An open file, as the engine sees it."""

    def close(self) -> None:
        """Close the file; never fails and never waits."""
        ...


class Engine(Struct, eq=False):
    """One driver on one event loop, and the state that all handles of a file system share."""

    driver: Driver
    cache: PageCache
    limits: Limits
    ksm: Ksm | None = None
    owns_cache: bool = True
    locks: LockTable = field(default_factory=LockTable)
    counters: Counters = field(default_factory=Counters)
    dirty: int = 0
    dirty_writers: set[Buffered] = field(default_factory=set)
    handles: set[Closable] = field(default_factory=set)
    in_flight: int = 0
    state: str = "new"
    _room_wanted: dict[Buffered, None] = field(default_factory=dict)
    _idle: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _token: trio.lowlevel.TrioToken | None = None

    # -- life --------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the driver.  A checkpoint."""
        if self.state != "new":
            raise RuntimeError("a FileSystem can be started once")
        self._token = trio.lowlevel.current_trio_token()
        await self.driver.start(nursery)
        self.state = "running"
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close every handle, wait :data:`CLOSE_SECONDS` at most for operations in flight, stop the driver.

        Not cancellable.  The engine doesn't wait for an operation that hangs longer.
        """
        if self.state != "running":
            self.state = "closed"
            return
        self.state = "closing"
        for handle in tuple(self.handles):
            handle.close()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            while self.in_flight:
                await self._idle.park()
        self.state = "closed"
        with trio.CancelScope(shield=True):
            await self.driver.aclose()
        if self.owns_cache:
            self.cache.merge(None)

    @property
    def running(self) -> bool:
        """Whether operations are accepted."""
        return self.state == "running"

    def check_running(self) -> None:
        """
        :raises OSError: EBADF: not started yet, or closed.
        """
        if self.state != "running":
            raise os_error(errno.EBADF)

    # -- operations --------------------------------------------------------------------------------------

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Hand an operation to the driver and count it as in flight until ``done`` has been called."""
        self.in_flight += 1
        return self.driver.submit(op, self._counted(done), background=background)

    @property
    def has_lane(self) -> bool:
        """Whether the driver runs programs, and has a lane for operations that take microseconds."""
        return self.driver.capabilities.chains and hasattr(self.driver, "run_soon")

    def run_soon(self, op: Op[R], done: Callable[[Job[R]], None]) -> bool:
        """Have the driver run an operation at once, if it has a lane and the lane is free.

        True: ``done`` was called, or will be called as for :meth:`submit`.  False: the operation was not
        begun.
        """
        soon = getattr(self.driver, "run_soon", None)
        if soon is None or not self.running:
            return False
        self.in_flight += 1
        if soon(op, self._counted(done)):
            return True
        self.in_flight -= 1
        return False

    def _counted(self, done: Callable[[Job[R]], None]) -> Callable[[Job[R]], None]:
        def finished(job: Job[R]) -> None:
            self.in_flight -= 1
            try:
                done(job)
            finally:
                if not self.in_flight and self.state == "closing":
                    self._idle.unpark_all()

        return finished

    # -- room for unwritten bytes ------------------------------------------------------------------------

    def want_room(self, writer: Buffered) -> None:
        """A writer has told its caller EAGAIN: make room, and tell the writer when there is some."""
        self._room_wanted[writer] = None
        full = self.dirty >= self.limits.dirty_limit
        for other in tuple(self.dirty_writers) if full else (writer,):
            other.flush()

    def dirtied(self, writer: Buffered, count: int) -> None:
        """A writer's buffer has taken ``count`` bytes."""
        self.dirty += count
        self.cache.reserve(count)
        self.dirty_writers.add(writer)

    def cleaned(self, writer: Buffered, count: int) -> None:
        """``count`` bytes of a writer's buffer were written or dropped."""
        self.dirty -= count
        self.cache.reserve(-count)
        if not writer.dirty:
            self.dirty_writers.discard(writer)
        if count and self._room_wanted and self._token is not None:
            self._token.run_sync_soon(self._tell_room, idempotent=True)

    def _tell_room(self) -> None:
        waiting, self._room_wanted = self._room_wanted, {}
        for writer in waiting:
            writer.has_room()
