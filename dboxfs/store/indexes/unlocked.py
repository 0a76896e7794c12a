"""What a reader has taken from a log without the log's lock, and how a writer proves it under the lock.

A reader replays whatever whole transactions it finds.  A write that fails in its middle is cut back by its
writer, and a reader may have replayed a whole transaction of it by then.  A writer chooses uids by the state,
so it may go on with a reader's state only if every byte that was replayed without the lock is in the log
still.  Those bytes are known by where they begin, how many they are, and their CRC-32.

Bytes in front of a snapshot's head, and those of a log that has become ``.log.2``, are never taken back:
both are written under the lock.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unlocked:
    """Bytes of a log that were replayed without its lock: *size* bytes from file offset *offset* on."""

    offset: int
    size: int = 0
    crc: int = 0

    @property
    def end(self) -> int:
        """The file offset behind the last of them."""
        return self.offset + self.size

    def more(self, data: bytes) -> Unlocked:
        """The same, with *data* behind them."""
        return Unlocked(self.offset, self.size + len(data), zlib.crc32(data, self.crc))

    def are_in(self, data: bytes) -> bool:
        """Whether *data*, what the log has from ``offset`` on, begins with them."""
        return len(data) >= self.size and zlib.crc32(data[: self.size]) == self.crc
