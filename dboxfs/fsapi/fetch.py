"""A range of a file that a worker is reading, and the reads that wait for it.

Several tasks may wait for one fetch; each takes its bytes from it.  Everything runs on the loop's thread.
"""

from __future__ import annotations

import trio


class Fetch:
    """A range that a worker reads, and the tasks that wait for it.

    :ivar background: it was begun before a read asked for it.
    :ivar asked: the offset that a read has asked for meanwhile; -1: none.
    :ivar keep: a nonblocking read asked for it, so it is kept until that read comes back.
    """

    __slots__ = ("asked", "background", "data", "eof", "error", "keep", "lot", "offset", "size")

    def __init__(self, offset: int, size: int, background: bool) -> None:
        self.offset = offset
        self.size = size
        self.background = background
        self.asked = -1
        self.keep = False
        self.eof = False
        self.data: bytes | None = None
        self.error: OSError | None = None
        self.lot: trio.lowlevel.ParkingLot | None = None

    def covers(self, offset: int) -> bool:
        """Whether this fetch asked for the byte at ``offset``."""
        return self.offset <= offset < self.offset + self.size

    def slice(self, size: int, offset: int) -> bytes | None:
        """The bytes at ``offset``, b"" at the end of the file; None: this fetch has no answer."""
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
        """Wait until the range has arrived, or the handle is closed.  A checkpoint."""
        if self.lot is None:
            self.lot = trio.lowlevel.ParkingLot()
        await self.lot.park()

    def wake(self) -> None:
        """Wake all tasks that wait."""
        if self.lot is not None:
            self.lot.unpark_all()
