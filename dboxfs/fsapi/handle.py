"""A handle: one open file, used like a nonblocking socket.

A call answers from what is in memory or raises :class:`BlockingIOError` (EAGAIN), and then what it needs is
on its way; the input or output callback, or one of the awaitables, tells when to ask again.  The error of the
open comes out of the first use, and of every later one.  A read error comes out of the read that met it; the
next read tries again.

How a read is answered, in this order:

1. bytes that a worker brought for an earlier EAGAIN (``_arrived``, consumed by the read that takes them);
2. the driver's ``read_nowait``: the kernel's page cache, on the loop's own thread, without a hop;
3. a worker's read: EAGAIN now, a :class:`_Fetch` in flight that several readers may wait for.

Concurrency: everything runs on the loop's thread, so nothing here is locked.  The file is given back to the
driver when the handle is closed *and* no operation uses it any more: a descriptor number is never reused
under a running read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import Job, Opened, fresh, os_error
from dboxfs.fsapi.types import OpenMode

if TYPE_CHECKING:
    from dboxfs.fsapi.filesystem import FileSystem

Callback = Callable[[Any], None]

_FETCH_LIMIT = 1 << 20
_ARRIVED_LIMIT = 64


class _Fetch:
    """A range that a worker reads, and who waits for it."""

    __slots__ = ("data", "error", "keep", "lot", "offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self.keep = False
        self.data: bytes | None = None
        self.error: OSError | None = None
        self.lot: trio.lowlevel.ParkingLot | None = None

    def covers(self, offset: int) -> bool:
        return self.offset <= offset < self.offset + self.size

    def slice(self, size: int, offset: int) -> bytes | None:
        """The bytes at ``offset``, b"" at the end of the file, None where this fetch knows nothing."""
        data = self.data
        if data is None or not self.covers(offset):
            return None
        start = offset - self.offset
        if start == 0 and size >= len(data):
            return data
        return data[start : start + size]

    async def wait(self) -> None:
        if self.lot is None:
            self.lot = trio.lowlevel.ParkingLot()
        await self.lot.park()

    def wake(self) -> None:
        if self.lot is not None:
            self.lot.unpark_all()


class Handle:
    """An open file; made by :meth:`FileSystem.open` and :meth:`FileSystem.create`, never directly."""

    def __init__(self, fs: FileSystem, path: str, mode: OpenMode) -> None:
        self.path = path
        self.mode = mode
        self._fs = fs
        self._driver = fs.driver
        self._fd = -1
        self._nowait: Callable[[int, int, int], bytes | None] | None = None
        self._stat: os.stat_result | None = None
        self._error: OSError | None = None
        self._closed = False
        self._in_flight = 0
        self._fetches: list[_Fetch] = []
        self._arrived: list[_Fetch] = []
        self._open_lot: trio.lowlevel.ParkingLot | None = None
        self._input_callback: Callback | None = None
        self._input_context: Any = None

    # -- state -------------------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """The open has succeeded, and the handle is not closed."""
        return self._fd >= 0 and not self._closed

    @property
    def closed(self) -> bool:
        """:meth:`close` has been called."""
        return self._closed

    @property
    def error(self) -> OSError | None:
        """What every use of this handle raises (the open failed), or None."""
        return self._error

    def set_input_callback(self, callback: Callback | None, context: Any = None) -> None:
        """Have ``callback(context)`` called whenever a read that said EAGAIN is worth another try.

        It is called on the loop's thread, never from inside a call of the handle, once for the open and
        once for each range that arrives.  It must not raise: an exception ends the nursery of the file
        system.  None takes the callback away.
        """
        self._input_callback = callback
        self._input_context = context

    def stat(self) -> os.stat_result:
        """Attributes of the file as they are now, or, where asking could wait, as they were at the open.

        :raises BlockingIOError: the open is still on its way.
        :raises OSError: the open failed; EBADF: closed.
        """
        self._check()
        if self._fd < 0:
            raise BlockingIOError(errno.EAGAIN, "not open yet", self.path)
        now = self._driver.stat_nowait(self._fd)
        if now is None:
            assert self._stat is not None
            return self._stat
        return now

    # -- reading -----------------------------------------------------------------------------------------

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset`` that are in memory already; b"" at the end of the file.

        Fewer than ``size`` bytes mean nothing but that: ask again behind them.

        :raises BlockingIOError: nothing is in memory; it is on its way, and the input callback will tell.
        :raises OSError: the open or this read failed; EBADF: closed.
        """
        nowait = self._nowait
        if nowait is not None and not self._arrived:
            try:
                data = nowait(self._fd, size, offset)
            except OSError as error:
                self._nowait_failed(error)
                data = None
            if data is not None:
                self._fs.inline_reads += 1
                return data
        data = self._from_arrived(size, offset)
        if data is None:
            if self._fd >= 0:
                self._fetch(size, offset).keep = True
            raise BlockingIOError(errno.EAGAIN, "not in memory yet", self.path)
        return data

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly ``size`` bytes at ``offset``; fewer only at the end of the file.

        A checkpoint only if it has to wait.  Cancelled: nothing is consumed, and what was asked for may
        still be brought into memory.

        :raises OSError: the open or the read failed; EBADF: closed (also while waiting).
        """
        data = await self._read_some(size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        missing = size - len(data)
        while missing > 0:
            offset += len(data)
            data = await self._read_some(missing, offset)
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    async def readable(self, offset: int, size: int = 1) -> None:
        """Wait until :meth:`pread` at ``offset`` answers: with bytes, with b"" at the end, or with an error.

        ``size``: how many bytes to bring, at least one.  As with a socket, another reader of this handle may
        be quicker, so ask in a loop.  A checkpoint.  Cancelled: nothing is lost; the bytes stay for a pread.

        :raises OSError: EBADF: closed (also while waiting).
        """
        await trio.lowlevel.checkpoint()
        while not self._closed and self._error is None:
            if self._fd < 0:
                await self._park_open()
                continue
            if any(fetch.covers(offset) for fetch in self._arrived) or self._cached(offset):
                return
            fetch = self._fetch(max(1, size), offset)
            fetch.keep = True
            await fetch.wait()
        if self._closed:
            raise os_error(errno.EBADF, self.path)

    async def wait_open(self) -> os.stat_result:
        """Wait for the open and give the file's attributes (see :meth:`stat`).

        A checkpoint only if it has to wait.  Cancelled: the open goes on.

        :raises OSError: the open failed; EBADF: closed (also while waiting).
        """
        while self._fd < 0:
            self._check()
            await self._park_open()
        return self.stat()

    def willneed(self, offset: int, size: int) -> None:
        """A hint: this range will be read soon.  It never fails and never waits."""
        if self._closed or self._error is not None or size <= 0 or self._fd < 0:
            return
        if self._driver.kernel_cached:
            self._in_flight += 1
            self._fs.submit(ops.Advise(self._fd, size, offset), self._advised, background=True)

    # -- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the file back; whoever waits on this handle gets EBADF.

        Never fails and never waits; calling it again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._nowait = None
        self._arrived.clear()
        self._input_callback = None
        self._fs.forget(self)
        for fetch in self._fetches:
            fetch.wake()
        self._wake_open()
        self._release()

    async def aclose(self) -> None:
        """:meth:`close`, and wait until it has happened.

        A checkpoint.  Cancelled: the handle is closed all the same, in the background.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Handle:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- called by the file system -----------------------------------------------------------------------

    def set_open(self, fd: int, status: os.stat_result | None) -> None:
        """The open has succeeded (inline: ``status`` None)."""
        self._fd = fd
        self._stat = status
        if self._driver.kernel_cached:
            self._nowait = self._driver.read_nowait

    def open_failed(self, error: OSError) -> None:
        """The open has failed."""
        self._error = error

    def open_job_done(self, job: Job[Opened]) -> None:
        """A worker has opened the file, or failed to."""
        self._in_flight -= 1
        if isinstance(job.error, OSError):
            self.open_failed(job.error)
        else:
            opened = job.value()
            self.set_open(opened.fd, opened.stat)
        if self._closed:
            self._nowait = None
            self._release()
            return
        self._wake_open()
        self._call_input()

    def open_submitted(self) -> None:
        """A worker is opening the file."""
        self._in_flight += 1

    # -- inside ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise os_error(errno.EBADF, self.path)
        if self._error is not None:
            raise fresh(self._error)

    def _nowait_failed(self, error: OSError) -> None:
        """This file can't be read from the kernel's cache without waiting: leave it to the workers."""
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise error
        self._nowait = None

    def _cached(self, offset: int) -> bool:
        if self._nowait is None:
            return False
        try:
            return self._nowait(self._fd, 1, offset) is not None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                return True  # pread will raise it
            self._nowait = None
            return False

    def _from_arrived(self, size: int, offset: int) -> bytes | None:
        """Bytes that were brought for an earlier EAGAIN; forgotten once they are read to their end."""
        self._check()
        if size < 0 or offset < 0:
            raise os_error(errno.EINVAL, self.path)
        for index, fetch in enumerate(self._arrived):
            if not fetch.covers(offset):
                continue
            if fetch.error is not None:
                del self._arrived[index]
                raise fresh(fetch.error)
            data = fetch.slice(size, offset)
            if data is not None:
                if fetch.data is None or offset + len(data) >= fetch.offset + len(fetch.data):
                    del self._arrived[index]
                return data
        return b"" if size == 0 and self._fd >= 0 else None

    async def _read_some(self, size: int, offset: int) -> bytes:
        while True:
            nowait = self._nowait
            if nowait is not None:
                try:
                    data = nowait(self._fd, size, offset)
                except OSError as error:
                    self._nowait_failed(error)
                    data = None
                if data is not None:
                    self._fs.inline_reads += 1
                    return data
            data = self._from_arrived(size, offset)
            if data is not None:
                return data
            if self._fd < 0:
                await self._park_open()
                continue
            fetch = self._fetch(size, offset)
            await fetch.wait()
            self._check()
            if fetch.error is not None:
                raise fresh(fetch.error)
            data = fetch.slice(size, offset)
            if data is not None:
                return data

    def _fetch(self, size: int, offset: int) -> _Fetch:
        """The fetch in flight that brings ``offset``, started if there is none."""
        for fetch in self._fetches:
            if fetch.covers(offset):
                return fetch
        fetch = _Fetch(offset, min(max(1, size), _FETCH_LIMIT))
        self._fetches.append(fetch)
        self._in_flight += 1
        self._fs.driver_reads += 1

        def done(job: Job[bytes]) -> None:
            self._fetched(fetch, job)

        self._fs.submit(ops.Read(self._fd, fetch.size, offset), done)
        return fetch

    def _fetched(self, fetch: _Fetch, job: Job[bytes]) -> None:
        self._in_flight -= 1
        self._fetches.remove(fetch)
        if isinstance(job.error, OSError):
            fetch.error = job.error
        else:
            fetch.data = job.value()
            self._fs.driver_bytes += len(fetch.data)
        if self._closed:
            self._release()
            return
        if fetch.keep:
            self._arrived.append(fetch)
            if len(self._arrived) > _ARRIVED_LIMIT:
                del self._arrived[0]
        fetch.wake()
        if fetch.keep:
            self._call_input()

    def _advised(self, job: Job[None]) -> None:
        self._in_flight -= 1
        if self._closed:
            self._release()

    def _release(self) -> None:
        """Give the descriptor back if nothing uses it any more."""
        if self._fd < 0 or self._in_flight:
            return
        fd, self._fd = self._fd, -1
        if not self._driver.close_nowait(fd):
            self._fs.submit(ops.Close(fd), _ignore)

    async def _park_open(self) -> None:
        if self._open_lot is None:
            self._open_lot = trio.lowlevel.ParkingLot()
        await self._open_lot.park()

    def _wake_open(self) -> None:
        if self._open_lot is not None:
            self._open_lot.unpark_all()

    def _call_input(self) -> None:
        if self._input_callback is not None:
            self._input_callback(self._input_context)


def _ignore(job: Job[None]) -> None:
    """A read-only file whose close fails has lost nothing."""
