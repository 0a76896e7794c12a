"""``dovecot.index.cache``: read any cache file, and make one with saved dates only (format: mail-cache).

::

    file   = header (32 bytes), records and field headers in any order
    header = major u8=1, file offset size u8=8, minor u8, unused u8, indexid u32, file_seq u32, 3 counters,
             deleted u32, field_header_offset (offset number)
    fields = next_offset (offset number), size u32, n u32, n x last_used u32, n x size u32, n x type u8,
             n x decision u8, n x NUL terminated name
    record = prev_offset u32, size u32, fields: { number u32, [data size u32], data, pad to 4 }

Dovecot uses the file only to be faster, and changes it in place, without a lock for readers.  So this module
reports only a damaged header or field list (:class:`~dboxfs.errors.FormatError`); an invalid record ends the
walk, and its message counts as not cached.  Walks are bounded: field headers must lie ever higher, the
records of a message ever lower (a newer record is always appended) and at most :data:`MAX_RECORDS` deep.

Offsets are valid only if ``file_seq`` is the reset_id of the extension ``cache`` (mailbox.cache_offsets).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.errors import FormatError
from dboxfs.index.log import Buffer, decode_size, encode_size

CACHE_HEADER_SIZE = 32
FIELD_HEADER_SIZE = 12
MAX_FIELDS = 1 << 16
#: Longest chain of field headers that is followed.
MAX_FIELD_HEADERS = 1 << 12
#: Longest chain of records of one message that is followed.
MAX_RECORDS = 64

_HEADER = struct.Struct("<BBBxIIIIII4x")
_CACHE_RECORD = 16
_DATE_SAVE = b"date.save\0"
_DECISION_YES = 2
_BE32 = struct.Struct(">I")
_FIELDS = struct.Struct("<4xII")
_PAIR = struct.Struct("<II")
_U32 = struct.Struct("<I")

#: A number for the numeric fields, text for strings, raw bytes for everything else.
CacheValue: TypeAlias = int | str | bytes

_NUMBERS = frozenset({"size.physical", "size.virtual", "date.received", "date.save", "pop3.order"})


class FieldType(IntEnum):
    """The storage form of a field's data."""

    FIXED = 0
    VARIABLE = 1
    STRING = 2
    BITMASK = 3
    HEADER = 4


class CacheField(Struct, frozen=True):
    """One field of the file: its data ``size`` in bytes (None = stored with each value)."""

    name: str
    type: int
    size: int | None
    decision: int
    last_used: int


class CacheHeader(Struct, frozen=True):
    """Header of the file.  ``file_seq`` must equal the reset_id of the index extension ``cache``."""

    indexid: int
    file_seq: int
    continued_record_count: int
    record_count: int
    deleted_record_count: int
    field_header_offset: int
    minor_version: int


class CacheFile:
    """A cache file's bytes with its field list.  ``data`` may be a memory map; it is not copied.

    :class:`FormatError` if the header or the field list is damaged.
    """

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self.header = self._parse_header()
        self._field_headers = self._find_field_headers()
        self.fields = self._parse_fields(self._field_headers[-1]) if self._field_headers else ()

    def lookup(self, offset: int) -> dict[str, CacheValue]:
        """The cached values of a message whose newest record is at ``offset`` (0 = no record).

        size.*, date.received, date.save and pop3.order are int, fields of type string are str (bytes that
        are no UTF-8 as surrogate escapes), all others bytes.  Never raises: values that can't be read are
        left out.
        """
        found: dict[str, CacheValue] = {}
        end = len(self._view)
        for _ in range(MAX_RECORDS):
            record = self._record(offset, end)
            if record is None:
                break
            for number, data in self._record_fields(offset, record[1]):
                _merge(found, self.fields[number], data)
            end, offset = offset, record[0]
        return found

    def numbers(self, offsets: npt.NDArray[np.uint32], name: str) -> npt.NDArray[np.int64]:
        """One number of many messages, as :meth:`lookup` gives it: int64[n]; -1: there is none.

        :param offsets: where the newest record of each message is; 0: it has none.
        """
        fields = [field for field in self.fields if field.name == name]
        if not fields:
            return np.full(len(offsets), -1, np.int64)
        if len(fields) > 1 or fields[0].type != FieldType.FIXED or fields[0].size != 4:
            found = [self.lookup(offset).get(name) for offset in offsets.tolist()]
            return np.array([one if isinstance(one, int) else -1 for one in found], np.int64)
        return self._fixed_numbers(offsets, self.fields.index(fields[0]))

    def _fixed_numbers(self, offsets: npt.NDArray[np.uint32], wanted: int) -> npt.NDArray[np.int64]:
        """The same for the field *wanted*, of four bytes: a step of all walks at a time."""
        words = np.frombuffer(self._view[: len(self._view) & ~3], "<u4")
        widths = np.array([_width(field) for field in self.fields], np.int64)
        numbers = np.full(len(offsets), -1, np.int64)
        rows = np.arange(len(offsets))
        at, end = offsets.astype(np.int64), np.full(len(offsets), len(self._view), np.int64)
        for _ in range(MAX_RECORDS):
            good = (at >= CACHE_HEADER_SIZE) & (at % 4 == 0) & (at + 8 <= end)
            rows, at, end = rows[good], at[good], end[good]
            size = words[at // 4 + 1].astype(np.int64)
            good = (size > 8) & (size <= end - at)
            rows, at, size = rows[good], at[good], size[good]
            if not len(rows):
                break
            _find(words, widths, wanted, numbers, rows, at + 8, at + size)
            there = numbers[rows] >= 0
            rows, at = rows[~there], at[~there]
            at, end = words[at // 4].astype(np.int64), at
        return numbers

    def walk(self) -> Iterator[tuple[int, int, int]]:
        """(offset, prev_offset, size) of the records in file order, for a dump; stops at the first invalid
        one.
        """
        offset, end = CACHE_HEADER_SIZE, len(self._view)
        while (record := self._record(offset, end)) is not None:
            if offset not in self._field_headers:
                yield offset, *record
            offset += record[1] + -record[1] % 4

    def values_at(self, offset: int) -> dict[str, CacheValue]:
        """The values of the single record at ``offset``, in the form of :meth:`lookup`."""
        found: dict[str, CacheValue] = {}
        record = self._record(offset, len(self._view))
        for number, data in self._record_fields(offset, record[1]) if record else ():
            _merge(found, self.fields[number], data)
        return found

    def _parse_header(self) -> CacheHeader:
        view = self._view
        if len(view) < CACHE_HEADER_SIZE:
            raise FormatError(0, f"cache: {len(view)} bytes, a header of {CACHE_HEADER_SIZE} expected")
        major, offset_size, minor, indexid, seq, continued, records, _, deleted = _HEADER.unpack_from(view)
        if major != 1:
            raise FormatError(0, f"cache: major version {major}, only 1 can be read")
        if offset_size != 8:
            raise FormatError(1, f"cache: file offsets of {offset_size} bytes, only 8 can be read")
        (encoded,) = _BE32.unpack_from(view, 28)
        return CacheHeader(indexid, seq, continued, records, deleted, decode_size(encoded), minor)

    def _find_field_headers(self) -> list[int]:
        """Offsets of the field headers along the chain; the last one counts."""
        offset = self.header.field_header_offset
        chain: list[int] = []
        while offset:
            last = chain[-1] if chain else 0
            if not last < offset <= len(self._view) - FIELD_HEADER_SIZE or len(chain) == MAX_FIELD_HEADERS:
                raise FormatError(last or 28, f"cache: field header at {offset} is out of place")
            chain.append(offset)
            (encoded,) = _BE32.unpack_from(self._view, offset)
            offset = decode_size(encoded)
        return chain

    def _parse_fields(self, offset: int) -> tuple[CacheField, ...]:
        size, count = _FIELDS.unpack_from(self._view, offset)
        names = FIELD_HEADER_SIZE + 10 * count
        if count > MAX_FIELDS or not names <= size <= len(self._view) - offset:
            raise FormatError(offset, f"cache: field header of {size} bytes with {count} fields")
        block = bytes(self._view[offset : offset + size])
        used = struct.unpack_from(f"<{count}I", block, FIELD_HEADER_SIZE)
        sizes = struct.unpack_from(f"<{count}I", block, FIELD_HEADER_SIZE + 4 * count)
        types = block[FIELD_HEADER_SIZE + 8 * count :]
        fields = []
        for i in range(count):
            end = block.find(b"\0", names)
            if end <= names:
                raise FormatError(offset + names, f"cache: field {i} has no name")
            name = block[names:end].decode("utf-8", "surrogateescape")
            width = None if sizes[i] == 0xFFFFFFFF else sizes[i]
            fields.append(CacheField(name, types[i], width, types[count + i], used[i]))
            names = end + 1
        return tuple(fields)

    def _record(self, offset: int, end: int) -> tuple[int, int] | None:
        """(prev_offset, size) of the record at ``offset`` that ends by ``end``, if there is one."""
        if offset < CACHE_HEADER_SIZE or offset % 4 or offset + 8 > end:
            return None
        prev_offset, size = _PAIR.unpack_from(self._view, offset)
        if not 8 < size <= end - offset:
            return None
        return prev_offset, size

    def _record_fields(self, offset: int, size: int) -> list[tuple[int, bytes]]:
        """(field number, data) of a record, up to the first invalid one."""
        found = []
        end = offset + size
        pos = offset + 8
        while pos + 4 <= end:
            (number,) = _U32.unpack_from(self._view, pos)
            if number >= len(self.fields):
                break
            pos += 4
            width = self.fields[number].size
            if self.fields[number].type in (FieldType.VARIABLE, FieldType.STRING, FieldType.HEADER):
                width = None
            if width is None:
                if pos + 4 > end:
                    break
                (width,) = _U32.unpack_from(self._view, pos)
                pos += 4
            if width > end - pos:
                break
            found.append((number, bytes(self._view[pos : pos + width])))
            pos += width + -width % 4
        return found


def _width(field: CacheField) -> int:
    """Bytes of a field's data; -1: they are stored with each value."""
    stored = field.size is None or field.type in (FieldType.VARIABLE, FieldType.STRING, FieldType.HEADER)
    return -1 if stored or field.size is None else field.size


def _find(
    words: npt.NDArray[np.uint32],
    widths: npt.NDArray[np.int64],
    wanted: int,
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.intp],
    at: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
) -> None:
    """Put the first value of the field *wanted* in each record into *numbers*.

    :param at: where the fields of the record of each of *rows* begin.  :param end: where the record ends.
    """
    while len(rows):
        there = at + 4 <= end
        rows, at, end = rows[there], at[there], end[there]
        number = words[at // 4].astype(np.int64)
        there = number < len(widths)
        rows, at, end, number = rows[there], at[there] + 4, end[there], number[there]
        width = widths[number]
        there = (width >= 0) | (at + 4 <= end)
        rows, at, end, number, width = rows[there], at[there], end[there], number[there], width[there]
        with_size = width < 0
        width[with_size] = words[at[with_size] // 4]
        at[with_size] += 4
        there = width <= end - at
        rows, at, end, number, width = rows[there], at[there], end[there], number[there], width[there]
        found = number == wanted
        numbers[rows[found]] = words[at[found] // 4]
        rows, at, end = rows[~found], (at + width + -width % 4)[~found], end[~found]


def _merge(found: dict[str, CacheValue], field: CacheField, data: bytes) -> None:
    """Take a value: the newest one wins, bitmasks are ORed."""
    if field.type == FieldType.BITMASK:
        old = found.get(field.name, b"")
        mask, size = int.from_bytes(data, "little"), len(data)
        if isinstance(old, bytes):  # that of another field with this name may be longer
            mask, size = mask | int.from_bytes(old, "little"), max(size, len(old))
        found[field.name] = mask.to_bytes(size, "little")
    elif field.name not in found:
        if field.name in _NUMBERS and field.type == FieldType.FIXED:
            found[field.name] = int.from_bytes(data, "little")
        elif field.type == FieldType.STRING:
            found[field.name] = data.decode("utf-8", "surrogateescape")
        else:
            found[field.name] = data


def encode_saved_dates(
    saved: npt.NDArray[np.uint32], *, indexid: int, file_seq: int
) -> tuple[bytes, npt.NDArray[np.uint32]]:
    """A whole cache file with the saved dates of messages, and the offset of each message's record.

    :param saved: seconds since the epoch.
    :param file_seq: also the reset_id of the index extension ``cache``; seconds since the epoch, as Dovecot
        has it.
    """
    fields = struct.pack(
        "<IIIIIBB", 0, 12 + 10 + len(_DATE_SAVE), 1, file_seq, 4, 0, _DECISION_YES
    ) + _DATE_SAVE  # fmt: skip
    start = CACHE_HEADER_SIZE + len(fields) + -len(fields) % 4
    header = struct.pack("<BBBxIIIIII", 1, 8, 1, indexid, file_seq, 0, len(saved), 0, 0)
    records = np.zeros((len(saved), 4), "<u4")
    records[:, 1] = _CACHE_RECORD
    records[:, 3] = saved
    head = (header + encode_size(CACHE_HEADER_SIZE) + fields).ljust(start, b"\0")
    offsets = (start + _CACHE_RECORD * np.arange(len(saved))).astype("<u4")
    return head + records.tobytes(), offsets
