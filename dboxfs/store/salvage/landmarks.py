"""Landmarks: possible ends of format 2 records in a stretch of a file, found in one pass.

Behind a damaged record a scan asks again and again for the next metadata block, for the block that confirms a
text with a given beginning, and for the next whole record.  A :class:`Landmarks` answers each question
without reading the bytes again, for any number of places that look like a block or a record.

``V``, the size with CRLF line ends, confirms a text.  Let ``bare(x)`` be the number of LF before ``x`` that
have no CR before them.  A text from ``s`` to a block at ``t`` then has ``t - s + bare(t) - bare(s)`` bytes
with CRLF line ends.  So the blocks that confirm a text from ``s`` are those with ``t + bare(t) - V`` equal to
``s + bare(s)``: one search in a sorted array.  ``bare`` counts from the beginning of the stretch; only its
differences are used.

All landmarks are hints: the caller reads the block and compares all its values.

Memory: 40 bytes for each block, 17 for each record, at most :data:`MOST_LANDMARKS` of both together;
8 for 4 KiB of the file.  Arrays: int64, one entry a block or record, ascending by offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.dbox import MESSAGE_HEADER_SIZE, PREFIX_SIZE, detect, is_encrypted
from dboxfs.store.salvage.trailer import RECORD_START
from dboxfs.store.salvage.window import Window

MOST_LANDMARKS: Final = 1 << 20
"""Blocks and records that are remembered at most; a stretch with more of them ends early."""

GRAIN: Final = 4 << 10
"""``bare`` is stored once for so many bytes."""

NOT_CONFIRMED: Final = -1
NOT_COUNTED: Final = -2

_PIECE: Final = 1 << 20
_OVERLAP: Final = 16 << 10  # bytes in which the first lines of a block, V among them, are searched
_LF, _CR, _UNKNOWN = 0x0A, 0x0D, -1
_MOST_DIGITS: Final = 12

_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]

_DIGITS: Final = np.full(256, 16, np.int64)
for _number, _digit in enumerate("0123456789abcdef"):
    _DIGITS[ord(_digit)] = _DIGITS[ord(_digit.upper())] = _number


@dataclass(slots=True, eq=False)
class Landmarks:
    """The landmarks from ``base`` to ``end``.

    :ivar blocks: offsets where metadata blocks seem to begin.
    :ivar virtual: the V of each; -1: none, or unreadable.
    :ivar sums: ``t + bare(t)`` of each.
    :ivar records: offsets of message headers whose size leads to a block that may confirm their text.
    :ivar texts: size of each text with CRLF line ends, if V confirms it; :data:`NOT_CONFIRMED`: V does not
        apply; :data:`NOT_COUNTED`: the text begins like a coded one, or ends behind the stretch.
    :ivar alive: uint8; 0: the record was examined, and is none.
    """

    base: int
    end: int
    blocks: _Ints
    virtual: _Ints
    sums: _Ints
    records: _Ints
    texts: _Ints
    _grains: _Ints
    alive: npt.NDArray[np.uint8] = field(init=False)
    _order: _Ints = field(init=False)
    _keys: _Ints = field(init=False)

    def __post_init__(self) -> None:
        self.alive = np.ones(len(self.records), np.uint8)
        known = np.flatnonzero(self.virtual >= 0)
        keys = self.sums[known] - self.virtual[known]
        order = np.argsort(keys, kind="stable")
        self._order, self._keys = known[order], keys[order]

    async def key(self, window: Window, start: int) -> int:
        """``start + bare(start)``, for a text that begins at *start*."""
        at = (start - self.base) // GRAIN
        first = self.base + at * GRAIN
        data = await window.read(max(first - 1, 0), start - max(first - 1, 0) + 1)
        if not first:
            data = b"\0" + data
        bare = int(self._grains[at]) + data.count(b"\n", 1, -1) - data.count(b"\r\n", 0, -1)
        return start + bare - (data[-2:] == b"\r\n")

    def confirming(self, key: int, start: int, end: int, most: int) -> list[int]:
        """Numbers of the blocks that may confirm a text with this *key*, in order.

        :param start: beginning of the text; *end*: blocks at *end* or behind are left out.
        :param most: largest number of results.
        """
        low, high = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, "right")
        found = self._order[low:high]
        places = self.blocks[found]
        return [int(one) for one in found[(places >= start) & (places < end)][:most]]

    def blocks_between(self, start: int, end: int) -> tuple[int, int]:
        """Numbers of the first block at *start* or behind, and of the first at *end* or behind."""
        return int(self.blocks.searchsorted(start)), int(self.blocks.searchsorted(end))

    def next_record(self, start: int) -> int:
        """Number of the first possible record at *start* or behind; -1: there is none."""
        at = int(self.records.searchsorted(start))
        if at < len(self.records) and not self.alive[at]:
            at += int(np.argmax(self.alive[at:])) or len(self.records)
        return at if at < len(self.records) else -1

    def goes_on(self, number: int) -> bool:
        """Whether there is a possible record *number*."""
        return number < len(self.records) and bool(self.alive[number])


async def find_landmarks(window: Window, start: int, end: int) -> Landmarks:
    """The landmarks of the file from *start* to *end*, or up to a place where there are too many.

    :raises OSError: the file can't be read.
    """
    pieces: list[_Piece] = []
    at, bare, count = start, 0, 0
    before = (await window.read(start - 1, 1))[0] if start else 0
    while at < end and count < MOST_LANDMARKS:
        data = await window.handle.read(min(_PIECE + _OVERLAP, window.size - at), at)
        window.bytes_read += len(data)
        size = min(_PIECE, end - at, len(data))
        if not size:
            break
        piece = _look(data, size, at, bare, before)
        pieces.append(piece)
        at, bare, before = at + size, piece.bare, data[size - 1]
        count += len(piece.blocks) + len(piece.heads)
    empty = np.zeros(0, np.int64)
    columns = [
        np.concatenate([empty, *(getattr(piece, name) for piece in pieces)])
        for name in ("blocks", "virtual", "sums", "any_text", "heads", "ends", "keys", "packed", "grains")
    ]
    blocks, virtual, sums, any_text, heads, ends, keys, packed, grains = columns
    of = np.searchsorted(blocks, ends)
    behind = (ends >= at) & (ends < window.size)
    leads = behind | (np.append(blocks, -1)[of] == ends)
    heads, keys, packed, of, behind = (column[leads] for column in (heads, keys, packed, of, behind))
    of[behind] = 0
    texts = (np.append(sums, 0)[of] - keys).astype(np.int64)
    confirmed = texts == np.append(virtual, _UNKNOWN)[of]
    silent = np.append(any_text, 0)[of] > 0
    texts[~confirmed] = NOT_CONFIRMED
    texts[(packed > 0) | behind] = NOT_COUNTED
    good = confirmed | silent | (texts == NOT_COUNTED)
    return Landmarks(start, at, blocks, virtual, sums, heads[good], texts[good], grains)


class _Piece(Struct, frozen=True, eq=False):
    """The landmarks of a piece.

    ``any_text``: whether a block has no V, or attachments, so that V does not apply.  ``ends``: the end of
    each record's text by its header; ``keys``: of its text; ``packed``: whether that begins like a coded one.
    ``bare``: at the end of the piece.
    """

    blocks: _Ints
    virtual: _Ints
    sums: _Ints
    any_text: _Ints
    heads: _Ints
    ends: _Ints
    keys: _Ints
    packed: _Ints
    grains: _Ints
    bare: int


def _look(data: bytes, size: int, base: int, bare: int, before: int) -> _Piece:
    """The landmarks that begin in the first *size* bytes of *data*.

    :param base: offset of *data* in the file; *bare*: at its first byte; *before*: the byte before that.
    """
    text = np.frombuffer(data, np.uint8)
    ends = text == _LF
    single = ends.copy()
    single[1:] &= text[:-1] != _CR
    single[0] &= before != _CR
    counts = np.zeros(len(text) + 1, np.int64)
    np.cumsum(single, out=counts[1:])
    counts += bare
    every = _blocks(text, ends)
    blocks = every[: np.searchsorted(every, size)]
    stops = _stops(ends, every, len(text))[: len(blocks)]
    virtual = _values(text, blocks, _lines(text, ends, b"V"), stops)
    external = _in_block(blocks, _lines(text, ends, b"X"), stops) >= 0
    heads = [(found.start(), int(found[1], 16)) for found in RECORD_START.finditer(data)]
    heads = [head for head in heads if head[0] < size and head[1] < 1 << 48]
    starts = np.array([at + MESSAGE_HEADER_SIZE for at, _ in heads], np.int64)
    packed = [_is_coded(data, at + MESSAGE_HEADER_SIZE) for at, _ in heads]
    return _Piece(
        blocks + base, virtual, blocks + base + counts[blocks], (external | (virtual < 0)).astype(np.int64),
        starts + base - MESSAGE_HEADER_SIZE, starts + base + np.array([n for _, n in heads], np.int64),
        starts + base + counts[starts], np.array(packed, np.int64), counts[:size:GRAIN], int(counts[size]),
    )  # fmt: skip


def _is_coded(data: bytes, at: int) -> bool:
    first = data[at : at + PREFIX_SIZE]
    return first[:1] in b"\x1fB\xfd(DC" and (detect(first) is not None or is_encrypted(first))


def _blocks(text: _Bytes, ends: npt.NDArray[np.bool_]) -> _Ints:
    """The offsets at which :data:`~dboxfs.store.salvage.trailer.TRAILER_START` matches."""
    if len(text) < 5:
        return np.zeros(0, np.int64)
    at: _Ints = np.flatnonzero(ends[:-4] & (text[1:-3] == 1) & (text[2:-2] == 3) & ends[3:-1])
    letters: npt.NDArray[np.bool_] = (text[at + 4] >= ord("A")) & (text[at + 4] <= ord("Z"))
    return at[letters]


def _stops(ends: npt.NDArray[np.bool_], blocks: _Ints, size: int) -> _Ints:
    """The latest end of each block: its empty line, or the next block."""
    empty = np.append(np.flatnonzero(ends[:-1] & ends[1:]), size)
    found: _Ints = np.minimum(empty[np.searchsorted(empty, blocks + 3)], np.append(blocks[1:], size))
    return found


def _lines(text: _Bytes, ends: npt.NDArray[np.bool_], key: bytes) -> _Ints:
    """The offset of the LF before each line with this *key*."""
    found: _Ints = np.flatnonzero(ends[:-1] & (text[1:] == key[0]))
    return found


def _in_block(blocks: _Ints, lines: _Ints, stops: _Ints) -> _Ints:
    """The first of *lines* in each block; -1: there is none."""
    found = np.append(lines, np.iinfo(np.int64).max)[np.searchsorted(lines, blocks + 3)]
    return np.where(found < stops, found, -1)


def _values(text: _Bytes, blocks: _Ints, lines: _Ints, stops: _Ints) -> _Ints:
    """The hexadecimal number in the first of *lines* in each block; -1: there is none."""
    places = _in_block(blocks, lines, stops)
    there = np.flatnonzero(places >= 0)
    at = places[there] + 2
    values, going = np.zeros(len(at), np.int64), np.ones(len(at), np.bool_)
    digits = np.zeros(len(at), np.int64)
    for _ in range(_MOST_DIGITS):
        digit = _DIGITS[text[np.minimum(at, len(text) - 1)]]
        going &= (digit < 16) & (at < len(text))
        values[going] = values[going] * 16 + digit[going]
        digits += going
        at += going
        if not going.any():
            break
    last = text[np.minimum(at, len(text) - 1)]
    good = (digits > 0) & ((at >= len(text)) | (last == _LF) | (last == _CR))
    result = np.full(len(blocks), _UNKNOWN, np.int64)
    result[there[good]] = values[good]
    return result
