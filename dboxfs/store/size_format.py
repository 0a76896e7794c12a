"""The file of a size table: facts of messages, and for each row a mark of the bytes that it was read from.

::

    file   = header, block*, end;  everything little-endian
    header = "dboxsize", version u32, cache_seq u32, generation 16 bytes, key 32 bytes
    block  = rows u32 (16384 at most), widths u8[4], columns, checksum;  uids rise through the file
    columns = mark u64, size, received, saved, virtual (u32 or i64: widths), uid u32, cached_at u32, state u8;
              each one padded to 8 bytes
    end    = a block of 0 rows
    checksum = BLAKE2b (32 bytes) of the header, the block's number u64, and the block before its checksum

It is read and written block by block: a million rows need no more memory than a thousand.

**Why a row can't be wrong.**  A row means: "the bytes with this mark have these facts".  A row is used only
if the bytes that are there *now* have the same mark.  So a row can be too old, but not wrong, and rows of
several daemons may be mixed.  A mark is a 64 bit hash of

* sdbox: inode number, size, mtime and ctime of the message's file.  A repair, a restore or a uid that is used
  again makes another file or another ctime, and no process can set a ctime back.  To get the mark each file
  is opened and stat'ed, but not read: reading is the slow part.
* mdbox: the message's GUID and map uid, which the mailbox's index has, and the size of the record, which
  the map has, all in memory.  A message that is altmoved or purged into another file keeps all three.  A row
  is written only if the message's own metadata have that GUID, so an index and a map that don't belong
  together (one was rebuilt, the other is not read yet) leave no wrong row.

The whole file counts only for the store (path, device and inode of its root), the mailbox (GUID, UIDVALIDITY)
and the ``generation`` that it was written for: the rebuild counts of mailbox and map, indexid and
uidvalidity of the map.  Every repair by Dovecot changes one of them, and then all messages are read again.
The table never has messages that are damaged, or without GUID (mdbox).

Encoders and decoders take and give bytes; this module opens no file.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.errors import FormatError
from dboxfs.store.attrs import DAMAGED, KNOWN, FactColumns, Marks, Uids

VERSION = 3

BLOCK_ROWS = 1 << 14
"""Rows of a block, at most."""

NOT_CACHED = 0xFFFFFFFF
"""``cached_at`` of a row whose saved date has to be looked up again."""

_MAGIC = b"dboxsize"
_HEADER = struct.Struct("<8sII16s32s")
_BLOCK = struct.Struct("<I4B")
_NUMBER = struct.Struct("<Q")
_CHECKSUM = 32
_MASK = (1 << 64) - 1

HEADER_BYTES = _HEADER.size
"""Length of a file's header."""

BLOCK_START_BYTES = _BLOCK.size
"""Bytes of a block that :func:`block_size` needs."""


class Key(Struct, frozen=True):
    """The key of a table.  ``root``: path of the store's root; ``guid``: the mailbox's, 16 bytes."""

    root: str
    dev: int
    ino: int
    guid: bytes
    uid_validity: int

    def digest(self) -> bytes:
        """A hash of the key, 32 bytes."""
        numbers = struct.pack("<IQQQ", VERSION, self.dev & _MASK, self.ino & _MASK, self.uid_validity)
        return hashlib.blake2b(numbers + self.guid + os.fsencode(self.root), digest_size=32).digest()


class Remembered(Struct, frozen=True):
    """The rows of a table, ascending by uid.

    ``cache_seq``: file_seq of the ``dovecot.index.cache`` that ``cached_at`` is an offset in; 0: none.
    """

    uids: Uids
    marks: Marks
    facts: FactColumns
    cached_at: Uids
    cache_seq: int = 0

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, rows: Any) -> Remembered:
        """Some rows: a slice, row numbers, or a mask."""
        return Remembered(
            self.uids[rows], self.marks[rows], self.facts[rows], self.cached_at[rows], self.cache_seq
        )


def marks_of(*columns: npt.NDArray[np.uint64]) -> Marks:
    """One mark for each row: a 64 bit hash of the columns, never 0."""
    mark = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:  # the finalizer of splitmix64, once for each column
        mark ^= column
        mark ^= mark >> np.uint64(30)
        mark *= np.uint64(0xBF58476D1CE4E5B9)
        mark ^= mark >> np.uint64(27)
        mark *= np.uint64(0x94D049BB133111EB)
        mark ^= mark >> np.uint64(31)
    mark[mark == 0] = 1
    return mark


def marks_of_files(stats: list[os.stat_result]) -> Marks:
    """The marks of sdbox files."""
    fields = [
        [one.st_ino & _MASK for one in stats],
        [one.st_size for one in stats],
        [one.st_mtime_ns & _MASK for one in stats],
        [one.st_ctime_ns & _MASK for one in stats],
    ]
    return marks_of(*(np.array(field, np.uint64) for field in fields))


def marks_of_records(
    guids: npt.NDArray[np.uint8], map_uids: npt.NDArray[Any], sizes: npt.NDArray[Any]
) -> Marks:
    """The marks of mdbox messages: guids uint8[n, 16], sizes of their records (bytes; 0: not known)."""
    halves = np.ascontiguousarray(guids).view("<u8").astype(np.uint64, copy=False)
    marks = marks_of(halves[:, 0], halves[:, 1], map_uids.astype(np.uint64), sizes.astype(np.uint64))
    marks[(sizes == 0) | ~halves.any(axis=1)] = 0
    return marks


def generation_of(*numbers: int) -> bytes:
    """16 bytes that change when one of *numbers* does."""
    packed = b"".join((number & _MASK).to_bytes(8, "little") for number in numbers)
    return hashlib.blake2b(packed, digest_size=16).digest()


def encode_header(key: bytes, generation: bytes, cache_seq: int) -> bytes:
    """The beginning of a file."""
    return _HEADER.pack(_MAGIC, VERSION, cache_seq, generation, key)


def encode_table(rows: Remembered, key: bytes, generation: bytes) -> bytes:
    """A whole file with *rows*, for the given mailbox and generation."""
    header = encode_header(key, generation, rows.cache_seq)
    starts = range(0, len(rows), BLOCK_ROWS)
    blocks = [encode_block(rows[start : start + BLOCK_ROWS], header, n) for n, start in enumerate(starts)]
    return b"".join([header, *blocks, encode_block(NO_ROWS, header, len(blocks))])


def encode_block(rows: Remembered, header: bytes, number: int) -> bytes:
    """Block *number* of the file that begins with *header*."""
    facts = rows.facts
    narrow = [_narrowest(column) for column in (facts.size, facts.received, facts.saved, facts.virtual)]
    columns = [
        rows.marks.astype("<u8"), *narrow, rows.uids.astype("<u4"), rows.cached_at.astype("<u4"),
        facts.state.astype("u1"),
    ]  # fmt: skip
    pieces = [_BLOCK.pack(len(rows), *(column.dtype.itemsize for column in narrow))]
    for column in columns:
        pieces.append(column.tobytes() + bytes(-column.nbytes % 8))
    block = b"".join(pieces)
    return block + _checksum(header, number, block)


def _checksum(header: bytes, number: int, block: bytes | memoryview) -> bytes:
    checksum = hashlib.blake2b(header + _NUMBER.pack(number), digest_size=_CHECKSUM)
    checksum.update(block)
    return checksum.digest()


def _narrowest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if column.dtype.itemsize <= 4 or not len(column):
        return column.astype("<u4")
    fits = int(column.min()) >= 0 and int(column.max()) <= 0xFFFFFFFF
    return column.astype("<u4" if fits else "<i8")


def decode_header(header: bytes, key: bytes, generation: bytes) -> int | None:
    """Its cache_seq; None: the file has another version, or is for another mailbox or generation.

    :raises FormatError: the file is no size table.
    """
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise FormatError(0, "size table: it doesn't begin like one")
    _, version, cache_seq, found_generation, found_key = _HEADER.unpack(header)
    if (version, found_key, found_generation) != (VERSION, key, generation):
        return None
    return int(cache_seq)


def block_size(start: bytes) -> int:
    """Bytes of a block, with its checksum, that begins with *start* (8 bytes or more).

    :raises FormatError: no block begins like that.
    """
    types, count = _block_types(start)
    return _BLOCK.size + sum(_padded(kind, count) for kind in types) + _CHECKSUM


def _block_types(start: bytes) -> tuple[list[str], int]:
    if len(start) < _BLOCK.size:
        raise FormatError(0, "size table: it ends too early")
    count, *widths = _BLOCK.unpack_from(start)
    if count > BLOCK_ROWS or not set(widths) <= {4, 8}:
        raise FormatError(0, f"size table: a block of {count} rows, {widths} bytes wide")
    return ["<u8", *("<i8" if width == 8 else "<u4" for width in widths), "<u4", "<u4", "u1"], count


def _padded(kind: str, count: int) -> int:
    size = np.dtype(kind).itemsize * count
    return size + -size % 8


def decode_block(block: bytes, header: bytes, number: int, cache_seq: int) -> Remembered:
    """The rows of a whole block; no rows: the end of the file.

    :raises FormatError: the block is damaged.
    """
    types, count = _block_types(block)
    view = memoryview(block)
    if len(block) != block_size(block) or _checksum(header, number, view[:-_CHECKSUM]) != view[-_CHECKSUM:]:
        raise FormatError(0, f"size table: block {number} is damaged")
    offset, columns = _BLOCK.size, []
    for kind in types:
        columns.append(np.frombuffer(view, kind, count, offset))
        offset += _padded(kind, count)
    marks, plain, received, saved, virtual, uids, cached_at, state = columns
    return Remembered(uids, marks, FactColumns(state, plain, received, saved, virtual), cached_at, cache_seq)


def merged(fresh: Remembered, old: list[Remembered], keep: Uids) -> Remembered:
    """*fresh*, and the rows of *old* that it doesn't have and whose uid is in *keep*; all ascending."""
    parts = [fresh]
    for rows in old:
        wanted = rows[np.isin(rows.uids, keep) & ~np.isin(rows.uids, fresh.uids)]
        if rows.cache_seq != fresh.cache_seq:
            cached_at = np.full(len(wanted), NOT_CACHED, np.uint32)
            wanted = Remembered(wanted.uids, wanted.marks, wanted.facts, cached_at)
        if len(wanted):
            parts.append(wanted)
    if len(parts) == 1:
        return fresh
    uids = np.concatenate([part.uids for part in parts])
    order = np.argsort(uids, kind="stable")
    return Remembered(
        uids[order],
        np.concatenate([part.marks for part in parts])[order],
        FactColumns(
            np.concatenate([part.facts.state for part in parts])[order],
            np.concatenate([part.facts.size for part in parts])[order],
            np.concatenate([part.facts.received for part in parts])[order],
            np.concatenate([part.facts.saved for part in parts])[order],
            np.concatenate([part.facts.virtual for part in parts])[order],
        ),
        np.concatenate([part.cached_at for part in parts])[order],
        fresh.cache_seq,
    )


def usable(state: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows may be in a table: known messages that are not damaged."""
    found: npt.NDArray[np.bool_] = (state & np.uint8(KNOWN | DAMAGED)) == KNOWN
    return found


NO_ROWS = Remembered(
    np.empty(0, np.uint32),
    np.empty(0, np.uint64),
    FactColumns(*(np.empty(0, np.uint32) for _ in range(5))),
    np.empty(0, np.uint32),
)
