"""One open file: the driver's number of it, its reader and its writer, the tasks that wait, and its end.

::

    on the way --> open ----> closed --> given back
             \\---> failed --> closed --> given back

Closing and giving back are two steps: the kernel must not reuse a descriptor number while an operation on it
still runs.  So the file is given back to the driver when it is closed *and* its last operation has ended.

A caller sees it as a :class:`~dboxfs.fsapi.handle.Handle`.  Everything runs on the loop's thread, so nothing
here is locked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.engine import Engine
from dboxfs.fsapi.ops import Job, OpenedFile, fresh, os_error
from dboxfs.fsapi.reader import FileReader
from dboxfs.fsapi.types import CreateMode
from dboxfs.fsapi.writer import Writer

Callback = Callable[[Any], None]


class HandleFile:
    """The file of one handle.

    :param path: its name; of a new file, its final name.
    :ivar fd: the driver's number of the file; -1: not open yet, failed, or given back.
    :ivar error: why the open failed.
    :ivar closed: the handle was closed.
    :ivar released: the file was given back.
    :ivar reader: reads from the kernel's cache, and fetches the rest.
    :ivar writer: None: the file is only read.
    :ivar on_input: the callback, and its argument, for a read that said EAGAIN and is worth another try.
    :ivar on_output: the same for a write or a commit.
    """

    __slots__ = (
        "_engine", "_lot", "_opening", "_releasing", "_stat", "_wanted", "closed", "error", "fd", "on_input",
        "on_output", "path", "reader", "released", "writer",
    )  # fmt: skip

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self._lot: trio.lowlevel.ParkingLot | None = None
        self._opening = False
        self._releasing = False
        self._stat: os.stat_result | None = None
        self._wanted: tuple[int, int] | None = None
        self.path = path
        self.fd = -1
        self.error: OSError | None = None
        self.closed = False
        self.released = False
        self.on_input: tuple[Callback, Any] | None = None
        self.on_output: tuple[Callback, Any] | None = None
        self.reader = FileReader(engine, self.call_input, self._release)
        self.writer: Writer | None = None

    def write_with(self, temporary: str | None, mode: CreateMode) -> None:
        """Make the file writable.

        :param temporary: the name of a new file until its commit; None: append to an existing file.
        """
        self.writer = Writer(self._engine, self.path, temporary, mode, self.progress, self._release)
        self.reader.written_by(self.writer)

    def check(self) -> None:
        """
        :raises OSError: EBADF: closed; the error of the open.
        """
        if self.closed:
            raise os_error(errno.EBADF, self.path)
        if self.error is not None:
            raise fresh(self.error)

    def stat(self) -> os.stat_result:
        """Attributes of the file now, or, if asking for them could wait, at the time of the open.

        :raises BlockingIOError: the open is still on its way.
        :raises OSError: the open failed; EBADF: closed.
        """
        self.check()
        if self.fd < 0:
            raise BlockingIOError(errno.EAGAIN, "not open yet", self.path)
        now = self._engine.driver.stat_nowait(self.fd) or self._stat
        assert now is not None, "a driver that opens without a stat must answer stat_nowait"
        return now

    def willneed(self, offset: int, size: int) -> None:
        """Bring a range into memory, as soon as the file is open."""
        if self.fd >= 0:
            self.reader.prefetch(offset, size)
        else:
            self._wanted = (offset, size)

    # -- the open ----------------------------------------------------------------------------------------

    def begin_open(self) -> None:
        """A worker is opening the file."""
        self._opening = True

    def open_inline(self, fd: int) -> None:
        """The file is open for reading already, without a hop."""
        self.fd = fd
        self.reader.opened(fd, None)

    def open_failed(self, error: OSError) -> None:
        """The open has failed."""
        self.error = error
        if self.writer is not None:
            self.writer.open_failed()

    def open_done(self, job: Job[OpenedFile]) -> None:
        """A worker has opened the file, or failed to."""
        self._opening = False
        if isinstance(job.error, OSError):
            self.open_failed(job.error)
        else:
            self._set_open(job.value())
        if self.closed:
            self._release()
            return
        self.progress()
        self.call_input()

    def _set_open(self, opened: OpenedFile) -> None:
        self.fd, self._stat = opened.fd, opened.stat
        self.reader.opened(opened.fd, opened.stat)
        if self.writer is not None:
            self._engine.locks.extend(self, (opened.stat.st_dev, opened.stat.st_ino))
            self.writer.opened(opened.fd, opened.stat.st_size)
        if self._wanted is not None:
            self.reader.prefetch(*self._wanted)

    # -- waiting tasks -----------------------------------------------------------------------------------

    async def park(self) -> None:
        """Wait until an open, a write or a commit has ended, or the file is closed."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def _wake(self) -> None:
        if self._lot is not None:
            self._lot.unpark_all()

    def progress(self) -> None:
        """Wake every task that waits, and call the output callback."""
        self._wake()
        if self.on_output is not None:
            callback, context = self.on_output
            callback(context)

    def call_input(self) -> None:
        """Call the input callback."""
        if self.on_input is not None:
            callback, context = self.on_input
            callback(context)

    # -- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make every further use fail, wake the waiting tasks, and drop uncommitted bytes."""
        if self.closed:
            return
        self.closed = True
        self.on_input = self.on_output = None
        self._engine.handles.discard(self)
        self.reader.close()
        self._wake()
        if self.writer is not None:
            self.writer.close()
        self._release()

    def _release(self) -> None:
        """Give the file back if it is closed and no operation uses it any more."""
        if not self.closed or self._releasing or self._opening or self.reader.in_flight:
            return
        if self.writer is not None and not self.writer.finished:
            return
        self._releasing = True
        self._engine.locks.release(self)
        fd, self.fd = self.fd, -1
        if fd < 0 or (self.writer is None and self._engine.driver.close_nowait(fd)):
            self._set_released()
        else:
            self._engine.submit(ops.Close(fd), self._close_done)

    def _close_done(self, job: Job[None]) -> None:
        if job.error is not None:
            self._engine.counters.lost_errors += 1
        self._set_released()

    def _set_released(self) -> None:
        self.released = True
        self._wake()
