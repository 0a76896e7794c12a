"""A map of a file that is written at any offset: where its bytes lie in a temporary that only grows.

A write at any offset is appended to the temporary.  The map says which bytes of the file are where::

    file      0         100        300            900      1000
              | base    | temporary|   hole       | temporary|
              | 0..100  | 500..700 |   zeros      | 0..100   |

*Base* is the message that was opened (empty for a new file), a *hole* is a range that was never written:
zeros.  An extent is (start, end, source, at): the bytes from ``start`` to ``end`` of the file lie from ``at``
on in its source.  Extents are in the order of the file and don't overlap; two that continue each other both
in the file and in the source are joined.  Holes have no extent.

Memory: four numbers an extent, no bytes of the file.  A change that would need more than
:data:`MOST_EXTENTS` extents, or more than :data:`MOST_HOLES` bytes of zeros, is refused with EFBIG
and changes nothing.

It reads and writes no files.  Not for two tasks at once.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum

from msgspec import Struct

from dboxfs.vfs.errors import Refused

MOST_EXTENTS = 1 << 16
"""Extents of one file, at most."""

MOST_HOLES = 1 << 30
"""Bytes in the holes of one file, at most: the message is saved with these zeros and has to fit the disk."""


class From(Enum):
    """Where bytes come from."""

    BASE = "base"
    TEMPORARY = "temporary"
    HOLE = "hole"


class Piece(Struct, frozen=True):
    """*size* bytes that follow each other in the file and, from *at* on, in their source (bytes)."""

    source: From
    at: int
    size: int


class _Extent(Struct, frozen=True):
    start: int
    end: int
    source: From
    at: int

    def cut(self, start: int, end: int) -> _Extent:
        """The part from *start* to *end*."""
        return _Extent(start, end, self.source, self.at + start - self.start)

    def joins(self, other: _Extent) -> bool:
        """Whether *other* continues this one in the file and in their source."""
        return (
            self.end == other.start
            and self.source is other.source
            and self.at + self.end - self.start == other.at
        )


class Extents:
    """Where the bytes of one file come from: extents in the order of its offsets.

    :param base: bytes of the message that the file was opened on.
    :ivar size: bytes of the file.
    """

    __slots__ = ("_covered", "_extents", "_most", "_most_holes", "size")

    def __init__(self, base: int = 0, *, most: int = MOST_EXTENTS, most_holes: int = MOST_HOLES) -> None:
        self.size = base
        self._extents = [_Extent(0, base, From.BASE, 0)] if base else []
        self._covered = base
        self._most = most
        self._most_holes = most_holes

    @classmethod
    def of(cls, numbers: tuple[int, ...]) -> Extents:
        """Extents in a temporary as :meth:`numbers` has written them down."""
        found = cls()
        found.size = numbers[0]
        for at in range(1, len(numbers), 3):
            start, end, place = numbers[at : at + 3]
            found._extents.append(_Extent(start, end, From.TEMPORARY, place))
        found._covered = _bytes(found._extents)
        return found

    def numbers(self) -> tuple[int, ...]:
        """The size, then start, end and place in the temporary of each extent.

        :raises ValueError: there is a base.
        """
        if any(extent.source is not From.TEMPORARY for extent in self._extents):
            raise ValueError("extents of a base")
        return (self.size, *(n for extent in self._extents for n in (extent.start, extent.end, extent.at)))

    def __len__(self) -> int:
        """How many extents there are."""
        return len(self._extents)

    @property
    def holes(self) -> int:
        """Bytes that were never written."""
        return self.size - self._covered

    # -- changing ------------------------------------------------------------------------------

    def write(self, offset: int, size: int, at: int) -> None:
        """Note that the *size* bytes written at *offset* lie from *at* on in the temporary.

        :raises Refused: EFBIG: too many extents, or too long a hole; nothing has changed.
        """
        if size <= 0:
            return
        last = self._extents[-1] if self._extents else None
        new = _Extent(offset, offset + size, From.TEMPORARY, at)
        if last is not None and offset == self.size == last.end and last.joins(new):  # the usual case
            self._extents[-1] = _Extent(last.start, new.end, last.source, last.at)
            self.size, self._covered = new.end, self._covered + size
            return
        first, end, kept = self._around(new.start, new.end)
        middle = [*kept[:1], new, *kept[1:]] if self._has_before(kept, new) else [new, *kept]
        self._replace(first, end, middle, max(self.size, new.end))

    def truncate(self, size: int) -> None:
        """Make the file *size* bytes long: shorten it, or put a hole behind it.

        :raises Refused: EFBIG: too many extents, or too long a hole; nothing has changed.
        """
        if size >= self.size:
            self._check(len(self._extents), self.holes + size - self.size)
            self.size = size
            return
        first = self._at(size)
        gone = self._extents[first:]
        cut = [extent.cut(extent.start, size) for extent in gone[:1] if extent.start < size]
        self._covered += _bytes(cut) - _bytes(gone)
        self._extents[first:] = cut
        self.size = size

    def _around(self, start: int, end: int) -> tuple[int, int, list[_Extent]]:
        """The extents that touch *start* to *end* (as a slice), and their parts outside of that range."""
        first = self._at(start)
        if first and self._extents[first - 1].end == start:
            first -= 1  # the new extent may continue it
        last = first
        kept = []
        while last < len(self._extents) and self._extents[last].start <= end:
            extent = self._extents[last]
            if extent.start < start:
                kept.append(extent.cut(extent.start, min(extent.end, start)))
            if extent.end > end:
                kept.append(extent.cut(max(extent.start, end), extent.end))
            last += 1
        return first, last, kept

    @staticmethod
    def _has_before(kept: list[_Extent], new: _Extent) -> bool:
        return bool(kept) and kept[0].start < new.start

    def _replace(self, first: int, end: int, middle: list[_Extent], size: int) -> None:
        joined: list[_Extent] = []
        for extent in middle:
            if joined and joined[-1].joins(extent):
                joined[-1] = _Extent(joined[-1].start, extent.end, extent.source, joined[-1].at)
            else:
                joined.append(extent)
        before = self._extents[first:end]
        covered = _bytes(joined) - _bytes(before)
        self._check(len(self._extents) - len(before) + len(joined), self.holes + size - self.size - covered)
        self._extents[first:end] = joined
        self._covered += covered
        self.size = size

    def _check(self, count: int, holes: int) -> None:
        if count > max(self._most, len(self._extents)) or holes > max(self._most_holes, self.holes):
            raise Refused(errno.EFBIG)

    def _at(self, offset: int) -> int:
        """Index of the first extent that ends behind *offset*."""
        found = bisect_right(self._extents, offset, key=lambda extent: extent.start)
        return found - 1 if found and self._extents[found - 1].end > offset else found

    # -- reading -------------------------------------------------------------------------------

    def pieces(self, offset: int = 0, size: int | None = None) -> Iterator[Piece]:
        """The pieces of *size* bytes from *offset* on (None: all to the end), in order."""
        end = self.size if size is None else min(self.size, offset + size)
        at = self._at(offset)
        while offset < end:
            extent = self._extents[at] if at < len(self._extents) else None
            if extent is None or extent.start > offset:
                stop = end if extent is None else min(end, extent.start)
                yield Piece(From.HOLE, 0, stop - offset)
            else:
                stop = min(end, extent.end)
                yield Piece(extent.source, extent.at + offset - extent.start, stop - offset)
                at += 1
            offset = stop

    def place(self, offset: int, size: int) -> int | None:
        """Where the *size* bytes from *offset* on lie together in the temporary; None: they don't."""
        found = list(self.pieces(offset, size))
        if len(found) == 1 and found[0].source is From.TEMPORARY and found[0].size == size:
            return found[0].at
        return None

    def is_plain(self, temporary: int) -> bool:
        """Whether the file is exactly the *temporary* bytes of its temporary."""
        if self.size != temporary:
            return False
        return not temporary or self.place(0, temporary) == 0


def _bytes(extents: list[_Extent]) -> int:
    """How many bytes of the file *extents* cover."""
    return sum(extent.end - extent.start for extent in extents)
