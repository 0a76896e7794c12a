"""Message headers and trailers of format 3 that belong together, in bytes without a valid trailer.

A record's header and its trailer have the same 16 random bytes, so one pass finds all pairs.  A header
belongs to the first trailer behind it with the same separator.

Memory: 16 bytes for each header, 250 for each pair; at most :data:`MOST_HEADERS` of both.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE_3
from dboxfs.store.salvage.window import Window

MOST_HEADERS: Final = 1 << 18
"""Headers that are remembered at most; later ones are ignored."""

RECORD_START_3: Final = re.compile(rb"\x01\x02([\0-\xff]{16})\n")
"""A message header.  Group 1: the separator."""

_PIECE: Final = 1 << 20
_SEPARATOR: Final = 16
_TRAILER_SIZE: Final = 2 + _SEPARATOR


class Pairs:
    """The pairs of a stretch of a file.

    :param trailers: by header: the offset of each.
    """

    def __init__(self, trailers: dict[int, int] | None = None) -> None:
        self._trailers = trailers or {}
        self._heads = sorted(self._trailers)

    def trailer(self, head: int) -> int:
        """The offset of the trailer of the header at *head*; -1: it has none."""
        return self._trailers.get(head, -1)

    def behind(self, start: int) -> Iterator[int]:
        """The headers at *start* or behind that have a trailer, in order."""
        for number in range(bisect_left(self._heads, start), len(self._heads)):
            yield self._heads[number]


async def find_pairs(window: Window, start: int, end: int) -> Pairs:
    """All pairs between *start* and *end*.

    :raises OSError: the file can't be read.
    """
    heads: dict[bytes, list[int]] = {}
    count, at = 0, start
    async for base, data, size in _pieces(window, start, end):
        for found in RECORD_START_3.finditer(data):
            if found.start() < size and count < MOST_HEADERS:
                heads.setdefault(found[1], []).append(base + found.start())
                count += 1
    trailers: dict[int, int] = {}
    if not heads:
        return Pairs()
    wanted = np.sort(_hashes(np.frombuffer(b"".join(heads), np.uint8).reshape(-1, _SEPARATOR)))
    async for base, data, size in _pieces(window, start, end):
        for at in _trailers(data, size, wanted):
            waiting = heads.get(data[at + 2 : at + _TRAILER_SIZE], [])
            before = bisect_left(waiting, base + at - MESSAGE_HEADER_SIZE_3 + 1)
            trailers.update(dict.fromkeys(waiting[:before], base + at))
            del waiting[:before]
    return Pairs(trailers)


async def _pieces(window: Window, start: int, end: int) -> AsyncIterator[tuple[int, bytes, int]]:
    """The stretch in pieces that overlap: offset, bytes, and the number of bytes that the next piece does not
    have.
    """
    while start < end:
        data = await window.read(start, min(_PIECE + MESSAGE_HEADER_SIZE_3, end - start))
        size = min(_PIECE, len(data))
        if not size:
            return
        yield start, data, size
        start += size


def _trailers(data: bytes, size: int, wanted: npt.NDArray[np.uint64]) -> list[int]:
    """Possible beginnings in *data* of trailers whose separator has one of the *wanted* hashes (sorted)."""
    text = np.frombuffer(data, np.uint8)
    if len(text) < _TRAILER_SIZE:
        return []
    at = np.flatnonzero(
        (text[: len(text) - _TRAILER_SIZE + 1] == 1) & (text[1 : len(text) - _TRAILER_SIZE + 2] == 3)
    )
    at = at[at < size]
    hashes = _hashes(np.lib.stride_tricks.sliding_window_view(text, _SEPARATOR)[at + 2])
    found = np.append(wanted, 0)[np.searchsorted(wanted, hashes)] == hashes
    return [int(one) for one in at[found]]


def _hashes(separators: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """A hash of each separator (rows of 16 bytes)."""
    halves = np.ascontiguousarray(separators).view(np.uint64)
    return halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) + halves[:, 1]
