"""The reading half of an open file: the kernel's cache, fetches by workers, and readahead.

A fetch (``fetch.py``) is a range that a worker is reading.  If a nonblocking read asked for it, it is kept
after its arrival (``arrived``) until that read comes back; if only awaiting tasks asked for it, they get it
and it is dropped.

There are two kinds of files.  Most are kept by the kernel once they were read; readahead is then a hint to
the kernel.  Files of a driver that isn't ``kernel_cached``, and files that can't be read without waiting at
all, are read in whole pages into the daemon's page cache (``pages.py``); readahead is then a fetch for which
no task waits.

End of file: a short read of a worker means "end" only if it reaches the size that the file has then.  Files
grow while they are read, so an end is believed once and never remembered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Protocol

from dboxfs.fsapi import ops
from dboxfs.fsapi.cache.pages import PAGE, PagedFile
from dboxfs.fsapi.cache.readahead import Readahead
from dboxfs.fsapi.engine import Engine
from dboxfs.fsapi.fetch import Fetch
from dboxfs.fsapi.ops import Job, fresh

_FETCH_LIMIT = 1 << 20
_PREFETCH_LIMIT = 256 << 10
_ARRIVED_LIMIT = 64
_NO_NOWAIT = (errno.EOPNOTSUPP, errno.ENOSYS)


class Unwritten(Protocol):
    """The writer of the same file, as its reader sees it.

    :ivar flushed: size of the file (bytes); the bytes behind it are in the writer's buffer.
    """

    flushed: int

    def slice(self, size: int, offset: int) -> bytes | None:
        """Bytes of the buffer; None: they are in the file."""
        ...


class FileReader:
    """Reads one open file.

    :param on_arrival: called when a fetch has arrived that a nonblocking read asked for.
    :param on_idle: called when the last operation of a closed reader has ended.
    :ivar arrived: fetches that have arrived and wait for a nonblocking read.
    :ivar readahead: the sequential detector.
    """

    def __init__(self, engine: Engine, on_arrival: Callable[[], None], on_idle: Callable[[], None]) -> None:
        self._engine = engine
        self._on_arrival = on_arrival
        self._on_idle = on_idle
        self._fd = -1
        self._status: os.stat_result | None = None
        self._on_way: list[Fetch] = []
        self._pages: PagedFile | None = None
        self._nowait: Callable[[int, int, int], bytes | None] | None = None
        self._writer: Unwritten | None = None
        self.arrived: list[Fetch] = []
        self.readahead = Readahead(engine.limits.readahead)
        self.closed = False
        self.in_flight = 0

    def written_by(self, writer: Unwritten) -> None:
        """The file is written through the same handle: reads see the bytes in the buffer of *writer*."""
        self._writer = writer

    def opened(self, fd: int, status: os.stat_result | None) -> None:
        """The file is open; *status*: its attributes at that time, if the driver gave them."""
        self._fd = fd
        self._status = status
        if self._writer is not None or self.closed:
            return
        if status is None or self._engine.driver.kernel_cached:
            self._nowait = self._engine.driver.read_nowait
        else:
            self._use_pages(status)

    def _use_pages(self, status: os.stat_result) -> None:
        """The kernel's cache can't answer for this file: keep its pages here."""
        if self._pages is None and stat.S_ISREG(status.st_mode):
            self._pages = PagedFile(self._engine.cache, status)

    @property
    def asks_kernel(self) -> bool:
        """Whether the kernel's cache is asked first (:meth:`read_now`)."""
        return self._nowait is not None

    def read_now(self, size: int, offset: int) -> bytes | None:
        """Bytes from the kernel's cache, b"" at the end of the file; None: not there, or it can't be asked.

        :raises OSError: the read failed.
        """
        nowait = self._nowait
        if nowait is None:
            return None
        try:
            data = nowait(self._fd, size, offset)
        except OSError as error:
            self._nowait_failed(error)
            return None
        if data is not None:
            self._engine.counters.inline_reads += 1
            end = offset + len(data)
            if end > self.readahead.mark:
                self.ahead(len(data), offset)
            self.readahead.position = end
        return data

    def _nowait_failed(self, error: OSError) -> None:
        """This file can't be read from the kernel's cache without waiting: leave it to the workers."""
        if error.errno not in _NO_NOWAIT:
            raise error
        self._nowait = None
        status = self._engine.driver.stat_nowait(self._fd) or self._status
        if status is not None:
            self._use_pages(status)

    def take(self, size: int, offset: int) -> bytes | None:
        """Bytes in memory, b"" at the end of the file, or None; bytes of a fetch are taken once."""
        data = self._buffered(size, offset)
        if data is None:
            data = self._flushed(size, offset)
        if data is not None:
            return data
        for index, fetch in enumerate(self.arrived):
            if not fetch.covers(offset):
                continue
            if fetch.error is not None:
                del self.arrived[index]
                raise fresh(fetch.error)
            data = fetch.slice(size, offset)
            if data is not None:
                if fetch.data is None or offset + len(data) >= fetch.offset + len(fetch.data):
                    del self.arrived[index]
                return data
        if self._pages is None or self._fd < 0:
            return None
        data = self._pages.lookup(size, offset)
        if data is None:
            return b"" if self._is_behind_the_end(offset) else None
        if offset + len(data) > self.readahead.mark:
            self.ahead(len(data), offset)
        self.readahead.position = offset + len(data)
        return data

    def has(self, offset: int) -> bool:
        """Whether a read at *offset* has an answer without waiting; an error is an answer, too."""
        if any(
            fetch.covers(offset) and (fetch.error is not None or fetch.slice(1, offset) is not None)
            for fetch in self.arrived
        ):
            return True
        try:
            if self._nowait is not None and self._nowait(self._fd, 1, offset) is not None:
                return True
        except OSError as error:
            if error.errno not in _NO_NOWAIT:
                return True  # and the read will raise it
            self._nowait_failed(error)
        if self._buffered(1, offset) is not None:
            return True
        return self._pages is not None and self.take(1, offset) is not None

    def _buffered(self, size: int, offset: int) -> bytes | None:
        """Bytes that were written through the same handle and are not in the file yet."""
        return self._writer.slice(size, offset) if self._writer is not None and self._fd >= 0 else None

    def _flushed(self, size: int, offset: int) -> bytes | None:
        """Bytes that were written through the same handle, are in the file, and in the kernel's cache."""
        if self._writer is None or self._fd < 0 or self.closed or not self._engine.driver.kernel_cached:
            return None
        try:
            size = min(size, self._writer.flushed - offset)
            return (self._engine.driver.read_nowait(self._fd, size, offset) or None) if size > 0 else None
        except OSError:
            return None  # the worker that reads it meets the error again

    def fetch(self, size: int, offset: int, *, keep: bool) -> Fetch:
        """The fetch on its way that brings ``offset``; starts one if there is none."""
        fetch = self._find(offset)
        if fetch is None:
            if self._writer is not None:  # not into bytes that are still being written
                size = min(size, self._writer.flushed - offset)
            start, end = offset, offset + max(1, size)
            if self._pages is not None:
                start = self._pages.start_of(offset)
                end += -end % PAGE
            fetch = self._start(start, min(end - start, _FETCH_LIMIT), background=False)
            self.ahead(fetch.offset + fetch.size - offset, offset)
            self.readahead.position = fetch.offset + fetch.size
        fetch.asked = offset
        fetch.keep |= keep
        return fetch

    def ahead(self, size: int, offset: int) -> None:
        """Tell the detector of a read, and bring the range that it wants."""
        wanted = self.readahead.observe(offset, size)
        if wanted is None:
            return
        if sum(wanted) >= self._size_now():
            self.readahead.end_of_file()
        self.prefetch(*wanted)

    def prefetch(self, offset: int, size: int) -> None:
        """Bring a range that no read has asked for yet, if there is room for it."""
        if self._fd < 0 or self.closed:
            return
        size = min(size, self._size_now() - offset)
        if size <= 0:
            return
        if self._pages is None:
            if not self._is_cached(offset) or not self._is_cached(offset + size - 1):
                self.in_flight += 1
                self._engine.submit(ops.Advise(self._fd, size, offset), self._advised, background=True)
            return
        most = _FETCH_LIMIT if self._engine.driver.capabilities.costly_requests else _PREFETCH_LIMIT
        for start, length in self._pages.missing(offset, size, most):
            if self._find(start) is None and self._pages.expect(length):
                self._start(start, length, background=True)

    def close(self) -> None:
        """Wake all waiting tasks, and drop the fetches that have arrived."""
        self.closed = True
        self._nowait = None
        self.arrived.clear()
        for fetch in self._on_way:
            fetch.wake()
        if self._pages is not None:
            self._pages.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _find(self, offset: int) -> Fetch | None:
        for fetch in self._on_way:
            if fetch.covers(offset):
                return fetch
        return None

    def _start(self, offset: int, size: int, *, background: bool) -> Fetch:
        fetch = Fetch(offset, size, background)
        self._on_way.append(fetch)
        self._engine.counters.driver_reads += 1

        def done(job: Job[bytes]) -> None:
            self._fetched(fetch, job)

        self.in_flight += 1
        self._engine.submit(ops.Read(self._fd, size, offset), done, background=background)
        return fetch

    def _fetched(self, fetch: Fetch, job: Job[bytes]) -> None:
        self._on_way.remove(fetch)
        if fetch.background and self._pages is not None:
            self._pages.end_expect(fetch.size)
        if isinstance(job.error, OSError):
            fetch.error = job.error
        else:
            self._arrive(fetch, job.value())
        if self._ended():
            return
        if fetch.keep:
            self.arrived.append(fetch)
            if len(self.arrived) > _ARRIVED_LIMIT:
                del self.arrived[0]
        fetch.wake()
        if fetch.keep:
            self._on_arrival()

    def _arrive(self, fetch: Fetch, data: bytes) -> None:
        fetch.data = data
        self._engine.counters.driver_bytes += len(data)
        if len(data) < fetch.size:
            fetch.eof = not data or fetch.offset + len(data) >= self._size_now()
        if self._pages is not None and not self.closed:
            self._pages.store(fetch.offset, data, fetch.asked if fetch.background else None)

    def _is_cached(self, offset: int) -> bool:
        """Whether the kernel's cache has the byte at *offset*: asking costs a hundredth of a hop."""
        try:
            return bool(self._engine.driver.read_nowait(self._fd, 1, offset))
        except OSError:
            return False  # the hint is only a hint; the reader will meet the error

    def _size_now(self) -> int:
        status = self._engine.driver.stat_nowait(self._fd) or self._status
        return 0 if status is None else status.st_size

    def _is_behind_the_end(self, offset: int) -> bool:
        """Whether *offset* is behind the end of the file; False: that can't be known without a worker."""
        now = self._engine.driver.stat_nowait(self._fd)
        return now is not None and offset >= now.st_size

    def _advised(self, job: Job[None]) -> None:
        """A hint that failed is no error."""
        self._ended()

    def _ended(self) -> bool:
        """Count one operation as ended; returns whether the reader is closed."""
        self.in_flight -= 1
        if self.closed and not self.in_flight:
            self._on_idle()
        return self.closed
