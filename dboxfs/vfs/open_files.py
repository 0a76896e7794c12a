"""Which inodes are open: the messages that are read, and what is open for writing.

An open message goes on with the attributes that it was opened with, also after an expunge: size and dates,
and of the extended ones uid, flags and keywords.

Concurrency: nothing here awaits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from dboxfs.store import Facts, Mailbox


class OpenFile(Protocol):
    """A file that the kernel has opened: what a file handle stands for, until :meth:`release`."""

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* only at the end."""

    async def write(self, data: bytes, offset: int) -> int:
        """Write bytes at *offset*; gives how many."""

    async def flush(self) -> None:
        """One descriptor of the file was closed."""

    async def fsync(self) -> None:
        """Return when the bytes are on disk."""

    async def release(self) -> None:
        """The last descriptor of the file is gone."""


@dataclass(frozen=True, slots=True)
class AtOpen:
    """What the index said of a message when it was opened.  ``flags``: bits."""

    uid: int
    flags: int
    keywords: tuple[str, ...]

    @classmethod
    def of(cls, box: Mailbox, uid: int) -> AtOpen | None:
        """Those of a message of a mailbox; None: it is gone."""
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
        """Its uid, flags and keywords; None: it was gone already."""


class OpenFiles:
    """Counts what is open.

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
        """The size and dates that *inode* was opened with last; None: nobody reads it."""
        held = self._read.get(inode)
        return held[-1].facts if held else None

    def kept(self, inode: int) -> tuple[AtOpen, Facts] | None:
        """What *inode* was opened with last; None: nobody reads it, or it was gone already."""
        held = self._read.get(inode)
        marks = held[-1].marks if held else None
        return (marks, held[-1].facts) if held and marks is not None else None

    def begin_reading(self, inode: int, file: OpenedMessage) -> None:
        """A message was opened."""
        self._read.setdefault(inode, []).append(file)

    def end_reading(self, inode: int, file: OpenedMessage) -> None:
        """It was closed for good."""
        held = self._read[inode]
        held.remove(file)
        if not held:
            del self._read[inode]

    def begin_writing(self, inode: int) -> None:
        """A file was opened for writing."""
        self.written[inode] += 1

    def end_writing(self, inode: int) -> None:
        """It was closed for good."""
        self.written[inode] -= 1
        if not self.written[inode]:
            del self.written[inode]
