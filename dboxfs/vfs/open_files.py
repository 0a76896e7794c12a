"""The inodes that are open for reading or for writing.

An open message keeps the attributes that it was opened with, also after an expunge: size and dates, and of
the extended ones uid, flags and keywords.

Concurrency: no method awaits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol

from msgspec import Struct

from dboxfs.store import Facts, Mailbox


class OpenFile(Protocol):
    """A file that the kernel has opened: the target of a file handle, until :meth:`release`."""

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* only at the end."""

    async def write(self, data: bytes, offset: int) -> int:
        """Write bytes at *offset*; gives their number."""

    async def flush(self) -> None:
        """One descriptor of the file was closed."""

    async def fsync(self) -> None:
        """Return when the bytes are on disk."""

    async def release(self) -> None:
        """The last descriptor of this open was closed."""


class AtOpen(Struct, frozen=True):
    """The index data of a message at the time of its open.  ``flags``: bits."""

    uid: int
    flags: int
    keywords: tuple[str, ...]

    @classmethod
    def of(cls, box: Mailbox, uid: int) -> AtOpen | None:
        """The index data of a message now; None: it is gone."""
        state = box.state
        row = state.row_of(uid) if state is not None else -1
        if state is None or row < 0:
            return None
        return cls(uid, int(state.flags[row]), state.keywords(row))


class OpenedMessage(Protocol):
    """A message that is open for reading."""

    @property
    def facts(self) -> Facts:
        """Its size and dates."""

    @property
    def marks(self) -> AtOpen | None:
        """Its uid, flags and keywords; None: it was gone already when it was opened."""


class OpenFiles:
    """Counts open files.

    :ivar written: how often each inode is open for writing.
    """

    def __init__(self) -> None:
        self.written: Counter[int] = Counter()
        self._read: dict[int, list[OpenedMessage]] = {}

    def __contains__(self, inode: int) -> bool:
        """Whether a READ of *inode* may be on its way."""
        return inode in self._read or inode in self.written

    @property
    def being_read(self) -> Collection[int]:
        """The inodes of messages that are open for reading."""
        return self._read

    def facts(self, inode: int) -> Facts | None:
        """The size and dates that *inode* was opened with last; None: no process reads it."""
        held = self._read.get(inode)
        return held[-1].facts if held else None

    def kept(self, inode: int) -> tuple[AtOpen, Facts] | None:
        """The data that *inode* was opened with last; None: no process reads it, or it was gone already."""
        held = self._read.get(inode)
        marks = held[-1].marks if held else None
        return (marks, held[-1].facts) if held and marks is not None else None

    def begin_reading(self, inode: int, file: OpenedMessage) -> None:
        """A message was opened."""
        self._read.setdefault(inode, []).append(file)

    def end_reading(self, inode: int, file: OpenedMessage) -> None:
        """The last descriptor of that open was closed."""
        held = self._read[inode]
        held.remove(file)
        if not held:
            del self._read[inode]

    def begin_writing(self, inode: int) -> None:
        """A file was opened for writing."""
        self.written[inode] += 1

    def end_writing(self, inode: int) -> None:
        """The last descriptor of that open was closed."""
        self.written[inode] -= 1
        if not self.written[inode]:
            del self.written[inode]
