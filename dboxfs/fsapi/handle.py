"""A handle: one open file, used like a nonblocking socket.

A call answers from memory or raises :class:`BlockingIOError` (EAGAIN); in the second case the handle has
begun to get the bytes or the room that the call needs, and the input or output callback, or one of the
awaitables, tells when to call again.  If the open fails, the first use and every later one raise its error.
The read that met a read error raises it; the next read tries again.  After a write error the next write or
commit raises it, and so does every later one until ``rollback``.

A read is answered from, in this order:

1. bytes that a worker brought for an earlier EAGAIN;
2. the driver's ``read_nowait``: the kernel's page cache, on the loop's own thread, without a hop;
3. a worker's read: EAGAIN now (``reader.py``).

Writing is append-only and goes through a bounded buffer (``writer.py``).  A handle that writes reads its own
bytes, committed or not.

Concurrency: everything runs on the loop's thread, so nothing here is locked.  The parts below a handle, and
the time when its file is given back to the driver: ``open_file.py``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from types import TracebackType
from typing import Any

import trio

from dboxfs.fsapi import ops, steps
from dboxfs.fsapi.engine import Engine
from dboxfs.fsapi.open_file import Callback, HandleFile
from dboxfs.fsapi.ops import fresh, os_error
from dboxfs.fsapi.writer import Writer


class Handle:
    """An open file; made by :meth:`FileSystem.open` and :meth:`FileSystem.create`, never directly."""

    def __init__(self, engine: Engine, file: HandleFile) -> None:
        self._engine = engine
        self._file = file
        self._reader = file.reader

    # -- state -------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The file's name; of a new file, its final name (:meth:`commit` may change it)."""
        return self._file.path

    @property
    def opened(self) -> bool:
        """The open has succeeded, and the handle is not closed."""
        return self._file.fd >= 0 and not self._file.closed

    @property
    def closed(self) -> bool:
        """:meth:`close` has been called."""
        return self._file.closed

    @property
    def error(self) -> OSError | None:
        """The error that every use of this handle raises because the open failed, or None."""
        return self._file.error

    @property
    def size(self) -> int:
        """Length of the file in bytes with everything written through this handle, committed or not.

        :raises BlockingIOError: the file exists already and is not open yet.
        """
        if self._file.writer is not None and (self._file.fd >= 0 or self._file.writer.temporary is not None):
            self._file.check()
            return self._file.writer.size
        return self.stat().st_size

    def set_input_callback(self, callback: Callback | None, context: Any = None) -> None:
        """Have ``callback(context)`` called whenever a read that said EAGAIN is worth another try.

        It is called on the loop's thread, never from inside a call of the handle, once for the open and
        once for each range that arrives.  It must not raise: an exception ends the nursery of the file
        system.  None removes the callback.
        """
        self._file.on_input = None if callback is None else (callback, context)

    def set_output_callback(self, callback: Callback | None, context: Any = None) -> None:
        """Have ``callback(context)`` called whenever a write or commit that said EAGAIN is worth another try.

        The rules are those of :meth:`set_input_callback`.
        """
        self._file.on_output = None if callback is None else (callback, context)

    def stat(self) -> os.stat_result:
        """Attributes of the file now, or, if asking for them could wait, at the time of the open.

        :raises BlockingIOError: the open is still on its way.
        :raises OSError: the open failed; EBADF: closed.
        """
        return self._file.stat()

    async def wait_open(self) -> os.stat_result:
        """Wait for the open and return the file's attributes (see :meth:`stat`).

        A checkpoint only if it has to wait.  Cancelled: the open goes on.

        :raises OSError: the open failed; EBADF: closed (also while waiting).
        """
        while self._file.fd < 0:
            self._file.check()
            await self._file.park()
        return self.stat()

    # -- reading -----------------------------------------------------------------------------------------

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset`` that are in memory already; b"" at the end of the file.

        Fewer than ``size`` bytes do not mean the end of the file: ask again behind them.

        :raises BlockingIOError: nothing is in memory; the bytes are on their way, and the input callback will
            tell.
        :raises OSError: the open or this read failed; EBADF: closed.
        """
        data = self._from_memory(size, offset) if self._reader.arrived else None
        if data is None:
            data = self.pread_now(size, offset)
        if data is None:
            data = self._from_memory(size, offset)
        if data is None:
            if self._file.fd >= 0:
                self._reader.fetch(size, offset, keep=True)
            raise BlockingIOError(errno.EAGAIN, "not in memory yet", self.path)
        return data

    @property
    def asks_kernel(self) -> bool:
        """Whether the kernel's cache keeps the file's bytes, and not this process."""
        return self._reader.asks_kernel

    def pread_now(self, size: int, offset: int) -> bytes | None:
        """Like :meth:`pread`, but returns None if the bytes are not in memory, and begins nothing.

        For callers that wait with :meth:`read` in this case, or do without the bytes.

        :raises OSError: the open or this read failed; EBADF: closed.
        """
        if self._reader.asks_kernel:
            return self._reader.read_now(size, offset)
        file = self._file
        return self._from_memory(size, offset) if file.fd >= 0 or file.error is not None else None

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly ``size`` bytes at ``offset``; fewer only at the end of the file.

        A checkpoint only if it has to wait.  Cancelled: nothing is consumed, and the range may still be
        brought into memory.

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
        take the bytes first, so ask in a loop.  A checkpoint.  Cancelled: nothing is lost; the bytes stay for
        a pread.

        :raises OSError: EBADF: closed (also while waiting).
        """
        await trio.lowlevel.checkpoint()
        while not self._file.closed and self._file.error is None:
            if self._file.fd < 0:
                await self._file.park()
                continue
            if self._reader.has(offset):
                return
            await self._reader.fetch(max(1, size), offset, keep=True).wait()
        if self._file.closed:
            raise os_error(errno.EBADF, self.path)

    def willneed(self, offset: int, size: int) -> None:
        """A hint: this range will be read soon.  It never fails and never waits."""
        if size > 0 and offset >= 0:
            self._file.willneed(offset, size)

    # -- writing -----------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes and return how many the buffer took, at least one unless ``data`` is empty.

        :raises BlockingIOError: the buffer is full, all handles together have too much in their buffers, or
            a commit is on its way; the output callback will tell.
        :raises OSError: the open, an earlier write or commit failed; EBADF: closed, or for reading.
        """
        return self._for_writing().write(data)

    def commit(self, filename: str | None = None) -> None:
        """Make everything written visible and durable; returns when it is.

        A new file gets its final name now: ``filename``, or the one it was created for.  Its mode decides
        whether it replaces a file of that name.  With nothing to commit it returns at once.

        :raises BlockingIOError: the commit is on its way; call again when the output callback tells.
        :raises FileExistsError: the name is taken; nothing has changed, and the caller may try another name.
        :raises OSError: writing failed, and nothing since the last commit counts: only :meth:`rollback` or
            :meth:`close` help (EBUSY: another program has written to the file); EINVAL: another name for a
            committed file; EBADF: closed, or for reading.
        """
        writer = self._for_writing()
        target = os.path.abspath(filename or writer.path)
        self._engine.locks.extend(self._file, target)
        try:
            writer.commit(filename)
        except BlockingIOError:
            raise
        except OSError:
            if target != os.path.abspath(self.path) or writer.temporary is not None:
                self._engine.locks.retract(self._file, target)
            raise
        finally:
            self._file.path = writer.path

    def rollback(self) -> None:
        """Drop every write since the last commit.  Never waits; the next use raises the error, if any.

        A commit on its way is called off, unless it has begun to give the file its name.

        :raises OSError: the open failed; EBADF: closed, or for reading.
        """
        self._reader.arrived.clear()
        self._for_writing().rollback()

    async def writable(self) -> None:
        """Wait until :meth:`write` takes a byte or raises an error.

        A checkpoint.  Cancelled: nothing happened.

        :raises OSError: EBADF: closed (also while waiting), or for reading.
        """
        await trio.lowlevel.checkpoint()
        while self._file.error is None and not self._for_writing().ready():
            await self._file.park()

    async def write_all(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``.  A checkpoint only if it has to wait.

        Cancelled: the buffer may have taken some bytes from the beginning; :meth:`rollback` drops them.

        :raises OSError: see :meth:`write`.
        """
        view = memoryview(data)
        taken = 0
        while True:
            try:
                taken += self.write(view[taken:] if taken else data)
            except BlockingIOError:
                await self._file.park()
            else:
                if taken == len(data):
                    return

    async def commit_async(self, filename: str | None = None) -> None:
        """:meth:`commit`, and wait for it.  A checkpoint only if it has to wait.

        Cancelled: the commit goes on, and happens or not; :meth:`close` calls it off if it has not begun to
        give the file its name.

        :raises OSError: see :meth:`commit`; ECANCELED: rolled back while waiting.
        """
        writer = self._for_writing()
        before = writer.rollbacks
        while True:
            try:
                return self.commit(filename)
            except BlockingIOError:
                await self._file.park()
            if writer.rollbacks != before:
                raise os_error(errno.ECANCELED, self.path)

    # -- locks -------------------------------------------------------------------------------------------

    def try_lock(self) -> bool:
        """Lock the file exclusively among the handles of this file system; False: another handle has it.

        Immediate, also before the file is open.  The lock is in memory: other programs don't see it.  It
        ends with :meth:`unlock` or :meth:`close`.

        :raises OSError: EOPNOTSUPP: the driver has no locks; EBADF: closed.
        """
        if self._file.closed:
            raise os_error(errno.EBADF, self.path)
        if not self._engine.driver.capabilities.locks:
            raise os_error(errno.EOPNOTSUPP, self.path)
        return self._engine.locks.acquire(self._file, self._lock_keys())

    def unlock(self) -> None:
        """Release the lock, if this handle has it."""
        self._engine.locks.release(self._file)

    def _lock_keys(self) -> list[Hashable]:
        new = self._file.writer is not None and self._file.writer.temporary
        keys: list[Hashable] = [os.path.abspath(new or self.path)]
        if self._file.fd >= 0:
            status = self.stat()
            keys.append((status.st_dev, status.st_ino))
        return keys

    # -- for protocols that go on where a commit doesn't fit ----------------------------------------------

    async def settle(self) -> int:
        """Bring all written bytes to the file and return the driver's number of the file.

        It makes nothing durable and gives no name.  The number is valid until the handle is closed.  A
        checkpoint only if it has to wait.

        :raises OSError: the open or a write failed; EBADF: closed.
        """
        await self.wait_open()
        writer = self._file.writer
        while writer is not None and not writer.settled:
            await self.writable()
            writer.check()
            writer.flush()
            if not writer.settled:
                await self._file.park()
        if writer is not None:
            writer.check()
        return self._file.fd

    async def sync(self) -> None:
        """Make all written bytes durable (unless the file system was made with ``sync=False``).  This is no
        commit: a new file has no name of its own yet.

        Nothing may be written through the handle meanwhile.  The sync can't be cancelled once it has begun.

        :raises OSError: a write or the sync failed, and bytes may be lost; EBADF: closed.
        """
        fd = await self.settle()
        await steps.run(self._engine, ops.Sync(fd, self.size, self._engine.limits.sync))

    def hand_over(self) -> str:
        """Leave a new file, settled and never committed, to the caller; returns its temporary name.

        The handle can still read the file.  It must not write any more, and closing it does not remove the
        file.

        :raises ValueError: the handle has no such file.
        """
        if self._file.writer is None:
            raise ValueError(f"{self.path}: no new file that could be handed over")
        return self._file.writer.hand_over()

    def directory_is(self, path: str) -> None:
        """Tell a new file that its directory was renamed, so that closing it finds it to delete it.

        Nothing happens if the file was committed, or given to the caller (:meth:`hand_over`).

        :param path: of the directory.
        """
        if self._file.writer is not None:
            self._file.writer.directory_is(path)

    # -- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file, with an implicit rollback; a new file that was not committed is deleted.

        Tasks that wait on this handle get EBADF.  Never fails and never waits (the work goes on in the
        background); calling it again does nothing.
        """
        self._file.close()

    async def aclose(self) -> None:
        """:meth:`close`, and wait until the file is closed and uncommitted bytes are gone.

        A checkpoint.  Cancelled: the handle is closed all the same, in the background.
        """
        self.close()
        await trio.lowlevel.checkpoint()
        while not self._file.released:
            await self._file.park()

    async def __aenter__(self) -> Handle:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- inside ------------------------------------------------------------------------------------------

    def _for_writing(self) -> Writer:
        self._file.check()
        if self._file.writer is None:
            raise os_error(errno.EBADF, self.path)
        return self._file.writer

    def _from_memory(self, size: int, offset: int) -> bytes | None:
        """Bytes that were fetched or are in the write buffer; None: they are in the file."""
        self._file.check()
        if size < 0 or offset < 0:
            raise os_error(errno.EINVAL, self.path)
        if size == 0 and self._file.fd >= 0:
            return b""
        return self._reader.take(size, offset)

    async def _read_some(self, size: int, offset: int) -> bytes:
        while True:
            data = self.pread_now(size, offset)
            if data is None:
                data = self._from_memory(size, offset)
            if data is not None:
                return data
            if self._file.fd < 0:
                await self._file.park()
                continue
            fetch = self._reader.fetch(size, offset, keep=False)
            await fetch.wait()
            self._file.check()
            if fetch.error is not None:
                raise fresh(fetch.error)
            data = fetch.slice(size, offset)
            if data is not None:
                return data
