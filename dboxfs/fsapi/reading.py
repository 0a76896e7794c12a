"""The reading half of a handle where the kernel's cache has no answer: fetches by workers.

A :class:`Fetch` is a range on its way.  Several readers may wait for one fetch; each takes its bytes from it.
A fetch that a nonblocking read asked for is kept when it has arrived (``arrived``) until that read comes back
for it; one that only awaiting tasks asked for is handed to them and forgotten.

End of file: a worker's read that is short says "end" only if it reaches the size that the file had when it
was opened.  Files grow while they are read, so an end is believed once and never remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import Job, fresh

if TYPE_CHECKING:
    from dboxfs.fsapi.filesystem import FileSystem

_FETCH_LIMIT = 1 << 20
_ARRIVED_LIMIT = 64


class Fetch:
    """A range that a worker reads, and who waits for it."""

    __slots__ = ("data", "eof", "error", "keep", "lot", "offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self.keep = False
        self.eof = False
        self.data: bytes | None = None
        self.error: OSError | None = None
        self.lot: trio.lowlevel.ParkingLot | None = None

    def covers(self, offset: int) -> bool:
        """Whether this fetch asked for the byte at ``offset``."""
        return self.offset <= offset < self.offset + self.size

    def slice(self, size: int, offset: int) -> bytes | None:
        """The bytes at ``offset``, b"" at the end of the file; None where this fetch knows nothing."""
        data = self.data
        if data is None or not self.covers(offset):
            return None
        start = offset - self.offset
        if start >= len(data):
            return b"" if self.eof else None
        if start == 0 and size >= len(data):
            return data
        return data[start : start + size]

    async def wait(self) -> None:
        """Wait until it has arrived, or the handle is closed."""
        if self.lot is None:
            self.lot = trio.lowlevel.ParkingLot()
        await self.lot.park()

    def wake(self) -> None:
        """Wake everybody who waits."""
        if self.lot is not None:
            self.lot.unpark_all()


class Reader:
    """The fetches of one open file.

    :param on_arrival: called when a fetch has arrived that a nonblocking read asked for.
    :param on_idle: called when the last operation of a closed reader has ended.
    """

    __slots__ = (
        "_fd",
        "_fs",
        "_known_size",
        "_on_arrival",
        "_on_idle",
        "_on_way",
        "arrived",
        "closed",
        "in_flight",
    )

    def __init__(self, fs: FileSystem, on_arrival: Callable[[], None], on_idle: Callable[[], None]) -> None:
        self._fs = fs
        self._on_arrival = on_arrival
        self._on_idle = on_idle
        self._fd = -1
        self._known_size = 0
        self._on_way: list[Fetch] = []
        self.arrived: list[Fetch] = []
        self.closed = False
        self.in_flight = 0

    def opened(self, fd: int, size: int) -> None:
        """The file is open; it was ``size`` bytes long then (0 where that is not known)."""
        self._fd = fd
        self._known_size = size

    def take(self, size: int, offset: int) -> bytes | None:
        """Bytes that were fetched for an earlier EAGAIN; a fetch is forgotten once it is read to its end."""
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
        return None

    def has(self, offset: int) -> bool:
        """Whether :meth:`take` has an answer, be it an error."""
        return any(
            fetch.covers(offset) and (fetch.error is not None or fetch.slice(1, offset) is not None)
            for fetch in self.arrived
        )

    def fetch(self, size: int, offset: int, *, keep: bool) -> Fetch:
        """The fetch on its way that brings ``offset``, started if there is none."""
        for fetch in self._on_way:
            if fetch.covers(offset):
                fetch.keep |= keep
                return fetch
        fetch = Fetch(offset, min(max(1, size), _FETCH_LIMIT))
        fetch.keep = keep
        self._on_way.append(fetch)
        self._fs.driver_reads += 1

        def done(job: Job[bytes]) -> None:
            self._fetched(fetch, job)

        self.in_flight += 1
        self._fs.submit(ops.Read(self._fd, fetch.size, offset), done)
        return fetch

    def advise(self, size: int, offset: int) -> None:
        """Have the kernel read ahead."""
        self.in_flight += 1
        self._fs.submit(ops.Advise(self._fd, size, offset), self._advised, background=True)

    def close(self) -> None:
        """Wake everybody who waits, and forget what has arrived."""
        self.closed = True
        self.arrived.clear()
        for fetch in self._on_way:
            fetch.wake()

    def _fetched(self, fetch: Fetch, job: Job[bytes]) -> None:
        self._on_way.remove(fetch)
        if isinstance(job.error, OSError):
            fetch.error = job.error
        else:
            fetch.data = job.value()
            self._fs.driver_bytes += len(fetch.data)
            fetch.eof = len(fetch.data) < fetch.size and self._reaches_end(fetch.offset + len(fetch.data))
        if self._ended():
            return
        if fetch.keep:
            self.arrived.append(fetch)
            if len(self.arrived) > _ARRIVED_LIMIT:
                del self.arrived[0]
        fetch.wake()
        if fetch.keep:
            self._on_arrival()

    def _reaches_end(self, end: int) -> bool:
        now = self._fs.driver.stat_nowait(self._fd)
        return end >= (self._known_size if now is None else now.st_size)

    def _advised(self, job: Job[None]) -> None:
        """A hint that failed is no error of anybody's."""
        self._ended()

    def _ended(self) -> bool:
        """One operation less; True if nobody listens any more."""
        self.in_flight -= 1
        if self.closed and not self.in_flight:
            self._on_idle()
        return self.closed
