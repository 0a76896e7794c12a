"""Bytes that a reader has replayed from a log without its lock, and their proof by a writer under the lock.

A reader replays every whole transaction that it finds.  If a write fails in its middle, its writer cuts the
log back, but a reader may have replayed a whole transaction of it by then.  A writer chooses uids by the
state.  So it may continue with a reader's state only if every byte that was replayed without the lock is
still in the log.  Those bytes are identified by their offset, their number and their CRC-32.

Bytes before a snapshot's head, and those of a log that has become ``.log.2``, are never cut: both are written
under the lock.
"""

from __future__ import annotations

import zlib

from msgspec import Struct


class Unlocked(Struct, frozen=True):
    """Bytes of a log that were replayed without its lock: *size* bytes from file offset *offset* on."""

    offset: int
    size: int = 0
    crc: int = 0

    @property
    def end(self) -> int:
        """The file offset behind the last byte."""
        return self.offset + self.size

    def more(self, data: bytes) -> Unlocked:
        """These bytes with *data* behind them."""
        return Unlocked(self.offset, self.size + len(data), zlib.crc32(data, self.crc))

    def are_in(self, data: bytes) -> bool:
        """Whether *data*, the log's bytes from ``offset`` on, begins with these bytes."""
        return len(data) >= self.size and zlib.crc32(data[: self.size]) == self.crc
