"""``dovecot.index.log``: the transaction log (format: mail-index-log).

::

    file    = header record*
    header  = major u8=1, minor u8, hdr_size u16, indexid u32, file_seq u32, prev_file_seq u32,
              prev_file_offset u32, create_stamp u32, initial_modseq u64, compat_flags u8, 7 unused
    record  = size, type u32, payload          size: whole record, multiple of 4, big-endian, 4 x 7 bits,
                                               top bit of each byte set; a missing bit = not yet written
    type    = 28 bits kind | 0x10000000 EXTERNAL (has happened; otherwise a request) | 0x20000000 SYNC
    BOUNDARY payload u32: this record and those behind it, so many bytes, are one transaction

A log is append-only and is read without a lock, while it is written.  An incomplete end (a record, or a
transaction whose BOUNDARY reaches beyond the end) counts as not there yet and is never an error; broken bytes
before it raise :class:`FormatError`.  Offsets are file offsets in bytes.

This module leaves out the effect of records on an index (``state``) and the details of their bodies
(``payload``).  Big-endian logs and major versions other than 1 are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TypeAlias

from msgspec import Struct

from dboxfs.errors import FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADER_SIZE = 40
HEADER_MIN_SIZE = 24
RECORD_HEADER_SIZE = 8
COMPAT_LITTLE_ENDIAN = 0x01

TYPE_MASK = 0x0FFFFFFF
EXTERNAL = 0x10000000
SYNC = 0x20000000
EXPUNGE_PROTECTION = 0xCD90

#: Flags that a user sees; a change of others only (0x40 backend, 0x80 dirty) does not raise the modseq.
USER_FLAGS = 0x1F

MODSEQ_MAX = (1 << 64) - 1

_HEADER = struct.Struct("<BBHIIIIIQB7x")
_RECORD = struct.Struct(">II")
_TYPE = struct.Struct("<I")
_U32 = struct.Struct("<I")
_TAIL_UPDATE = struct.pack("<HH", 64, 4)


class RecordType(IntEnum):
    """Kinds of log records, without flags and without the expunge protection bits."""

    EXPUNGE = 0x00000001
    APPEND = 0x00000002
    FLAG_UPDATE = 0x00000004
    HEADER_UPDATE = 0x00000020
    EXT_INTRO = 0x00000040
    EXT_RESET = 0x00000080
    EXT_HDR_UPDATE = 0x00000100
    EXT_REC_UPDATE = 0x00000200
    KEYWORD_UPDATE = 0x00000400
    KEYWORD_RESET = 0x00000800
    EXT_ATOMIC_INC = 0x00001000
    EXPUNGE_GUID = 0x00002000
    MODSEQ_UPDATE = 0x00008000
    EXT_HDR_UPDATE32 = 0x00010000
    INDEX_DELETED = 0x00020000
    INDEX_UNDELETED = 0x00040000
    BOUNDARY = 0x00080000
    ATTRIBUTE_UPDATE = 0x00100000


_KNOWN = {int(t): t for t in RecordType}
_EXPUNGES = {
    RecordType.EXPUNGE | EXPUNGE_PROTECTION: RecordType.EXPUNGE,
    RecordType.EXPUNGE_GUID | EXPUNGE_PROTECTION: RecordType.EXPUNGE_GUID,
}


class LogHeader(Struct, frozen=True):
    """Header of a log file (mail-index-log section 1)."""

    indexid: int
    file_seq: int
    prev_file_seq: int = 0
    prev_file_offset: int = 0
    create_stamp: int = 0
    initial_modseq: int = 1
    hdr_size: int = HEADER_SIZE
    major_version: int = 1
    minor_version: int = 3
    compat_flags: int = COMPAT_LITTLE_ENDIAN

    @property
    def marked_corrupted(self) -> bool:
        """Whether Dovecot found the log broken and set its indexid to 0."""
        return self.indexid == 0

    @property
    def hides_internal_flags(self) -> bool:
        """Whether a change of internal flags alone leaves the modseq (minor version 3 and later)."""
        return self.minor_version >= 3


class LogRecord(Struct, frozen=True):
    """One record.  ``size`` is the whole record with its 8 byte header; ``payload`` a view of the data."""

    offset: int
    size: int
    type: RecordType | int
    external: bool
    sync: bool
    payload: memoryview


def parse_log_header(data: Buffer) -> LogHeader:
    """Decode the header at the start of ``data``.  :class:`FormatError` if it is short or foreign."""
    if len(data) < HEADER_MIN_SIZE:
        raise FormatError(0, f"log header: {len(data)} bytes, at least {HEADER_MIN_SIZE} expected")
    fields = _HEADER.unpack(bytes(data[:HEADER_SIZE]).ljust(HEADER_SIZE, b"\0"))
    major, minor, hdr_size, indexid, file_seq, prev_seq, prev_offset, stamp, modseq, compat = fields
    if major != 1:
        raise FormatError(0, f"log: major version {major}, only 1 can be read")
    if minor >= 2 and len(data) > 32 and not compat & COMPAT_LITTLE_ENDIAN:
        raise FormatError(32, "log: written on a big-endian machine, which is not supported")
    if hdr_size < HEADER_MIN_SIZE:
        raise FormatError(2, f"log: hdr_size {hdr_size}, at least {HEADER_MIN_SIZE} expected")
    if len(data) < min(hdr_size, HEADER_SIZE):
        raise FormatError(len(data), f"log: header cut off, {hdr_size} bytes expected")
    if file_seq == 0:
        raise FormatError(8, "log: file_seq is 0")
    if hdr_size < 32:
        modseq = 0
    return LogHeader(
        indexid=indexid,
        file_seq=file_seq,
        prev_file_seq=prev_seq,
        prev_file_offset=prev_offset,
        create_stamp=stamp,
        initial_modseq=max(modseq, 1),
        hdr_size=hdr_size,
        major_version=major,
        minor_version=minor,
        compat_flags=compat,
    )


def encode_log_header(header: LogHeader) -> bytes:
    """The ``header.hdr_size`` bytes of a log header."""
    packed = _HEADER.pack(
        header.major_version,
        header.minor_version,
        header.hdr_size,
        header.indexid,
        header.file_seq,
        header.prev_file_seq,
        header.prev_file_offset,
        header.create_stamp,
        header.initial_modseq,
        header.compat_flags,
    )
    return packed[: header.hdr_size].ljust(header.hdr_size, b"\0")


def encode_size(size: int) -> bytes:
    """Encode a record size or a cache offset (an "offset number", mail-index-log section 2)."""
    if size % 4 or not 0 <= size < 1 << 30:
        raise ValueError(f"size {size} is no multiple of 4 below 2^30")
    value = size >> 2
    spread = value & 0x7F | (value & 0x3F80) << 1 | (value & 0x1FC000) << 2 | (value & 0xFE00000) << 3
    return (0x80808080 | spread).to_bytes(4, "big")


def decode_size(value: int) -> int:
    """Decode an offset number that was read as a big-endian u32; 0 if it is not written completely."""
    if value & 0x80808080 != 0x80808080:
        return 0
    return (value & 0x7F | (value >> 1) & 0x3F80 | (value >> 2) & 0x1FC000 | (value >> 3) & 0xFE00000) << 2


def record_kind(raw_type: int, offset: int) -> int:
    """The kind behind a type field, without flags.  :class:`FormatError` for unprotected expunges."""
    kind = raw_type & TYPE_MASK
    if kind & (RecordType.EXPUNGE | RecordType.EXPUNGE_GUID):
        expunge = _EXPUNGES.get(kind)
        if expunge is None:
            raise FormatError(offset + 4, f"expunge record of type {kind:#x} without its protection bits")
        return expunge
    return kind


#: One record's place: position in the buffer, whole size, raw type field.
Place: TypeAlias = tuple[int, int, int]


def _record_at(view: memoryview, pos: int, end: int, base: int) -> tuple[int, int]:
    """(size, raw type) of the record at ``view[pos]``; size 0 if it is incomplete."""
    if pos + RECORD_HEADER_SIZE > end:
        return 0, 0
    encoded, _ = _RECORD.unpack_from(view, pos)
    size = decode_size(encoded)
    if size == 0 or pos + size > end:
        return 0, 0
    if size <= RECORD_HEADER_SIZE:
        raise FormatError(base + pos, f"record of {size} bytes has no contents")
    return size, _TYPE.unpack_from(view, pos + 4)[0]


def iter_transactions(view: memoryview, pos: int, base: int) -> Iterator[list[Place]]:
    """The complete transactions from ``view[pos]`` on, each as the places of its records.

    A record without a BOUNDARY is a separate transaction; a BOUNDARY is the first record of its transaction.
    Stops before the first incomplete transaction.  ``base`` is the file offset of ``view[0]``, for errors.
    :class:`FormatError`: a record without contents, a BOUNDARY that does not fit its records.
    """
    end = len(view)
    while True:
        size, raw = _record_at(view, pos, end, base)
        if size == 0:
            return
        if raw & TYPE_MASK != RecordType.BOUNDARY:
            yield [(pos, size, raw)]
            pos += size
            continue
        stop = pos + int(_U32.unpack_from(view, pos + RECORD_HEADER_SIZE)[0])
        if stop < pos + size:
            raise FormatError(base + pos, f"transaction of {stop - pos} bytes is too short")
        if stop > end:
            return
        places = [(pos, size, raw)]
        pos += size
        while pos < stop:
            size, raw = _record_at(view, pos, end, base)
            if size == 0 and pos + RECORD_HEADER_SIZE <= stop:
                return
            if size == 0 or pos + size > stop:
                raise FormatError(base + pos, f"record crosses the end of its transaction at {base + stop}")
            places.append((pos, size, raw))
            pos += size
        yield places


def is_cut_short(rest: Buffer) -> bool:
    """Whether the bytes behind the last whole transaction can be an incomplete write of a writer that died.

    A write is one transaction, and its end is missing, so no other transaction follows its beginning.
    Suppose that whole records reach exactly to the end of the log.  If one of them can't be inside of a
    transaction (a BOUNDARY, a tail update), or if the first record behind the last whole transaction has no
    BOUNDARY, then a size was damaged, and the transactions behind it were acknowledged.  Not noticed: the
    damaged size of a BOUNDARY that only transactions of a single record follow.
    """
    view = memoryview(rest).cast("B")
    if not any(view[:4]):
        return True  # Dovecot writes the first size last
    alone = len(view) >= RECORD_HEADER_SIZE and decode_size(_RECORD.unpack_from(view, 0)[0]) > 0
    alone = alone and _TYPE.unpack_from(view, 4)[0] & TYPE_MASK != RecordType.BOUNDARY
    ends = {
        len(view): False
    }  # where a chain of whole records to the end begins: whether it has such a record
    for pos in range(len(view) - RECORD_HEADER_SIZE - len(view) % 4, 0, -4):
        encoded, raw = _RECORD.unpack_from(view, pos)[0], _TYPE.unpack_from(view, pos + 4)[0]
        size = decode_size(encoded)
        if size <= RECORD_HEADER_SIZE or pos + size not in ends or not _is_known(raw):
            continue
        ends[pos] = ends[pos + size] or _is_never_inside(raw, view[pos + RECORD_HEADER_SIZE : pos + size])
        if alone or ends[pos]:
            return False
    return True


def _is_known(raw: int) -> bool:
    kind = raw & TYPE_MASK
    return kind in _KNOWN or kind in _EXPUNGES


def _is_never_inside(raw: int, body: memoryview) -> bool:
    """Whether a record begins a transaction or follows one."""
    if raw & TYPE_MASK == RecordType.HEADER_UPDATE and raw & EXTERNAL:
        return bytes(body[:4]) == _TAIL_UPDATE
    return raw & TYPE_MASK == RecordType.BOUNDARY


def iter_records(data: Buffer, offset: int, *, base: int = 0) -> Iterator[LogRecord]:
    """Complete records from file offset ``offset`` on; ``data[0]`` is at file offset ``base``.

    A transaction is given whole or not at all.  Payloads are views into ``data``.
    :class:`FormatError` (file offset) for records that are broken in themselves.
    """
    if offset < base:
        raise ValueError(f"offset {offset} is before the data at {base}")
    view = memoryview(data).cast("B")
    for places in iter_transactions(view, offset - base, base):
        for pos, size, raw in places:
            kind = record_kind(raw, base + pos)
            yield LogRecord(
                offset=base + pos,
                size=size,
                type=_KNOWN.get(kind, kind),
                external=bool(raw & EXTERNAL),
                sync=bool(raw & SYNC),
                payload=view[pos + RECORD_HEADER_SIZE : pos + size],
            )


def is_internal_flag_update(body: Buffer) -> bool:
    """Whether no entry of a FLAG_UPDATE payload touches a user's flag (mail-index-log section 6)."""
    for pos in range(0, len(body) - 11, 12):
        if (body[pos + 8] | body[pos + 9]) & USER_FLAGS or body[pos + 10]:
            return False
    return True


_RAISING = frozenset(
    {
        RecordType.APPEND,
        RecordType.KEYWORD_UPDATE,
        RecordType.KEYWORD_RESET,
        RecordType.ATTRIBUTE_UPDATE,
    }
)


def next_modseq(modseq: int, kind: int, raw_type: int, body: Buffer, hides_internal_flags: bool) -> int:
    """The running modseq after one record (mail-index-log section 6)."""
    if kind in _RAISING:
        return min(modseq + 1, MODSEQ_MAX)
    if kind == RecordType.FLAG_UPDATE:
        return (
            modseq if hides_internal_flags and is_internal_flag_update(body) else min(modseq + 1, MODSEQ_MAX)
        )
    if kind in (RecordType.EXPUNGE, RecordType.EXPUNGE_GUID):
        return min(modseq + 1, MODSEQ_MAX) if raw_type & EXTERNAL else modseq
    if kind == RecordType.MODSEQ_UPDATE:
        for pos in range(0, len(body) - 11, 12):
            modseq = max(modseq, int.from_bytes(body[pos + 4 : pos + 12], "little"))
    return modseq


def count_modseq(
    header: LogHeader,
    data: Buffer,
    end_offset: int,
    *,
    base: int | None = None,
    start: tuple[int, int] | None = None,
) -> int:
    """The highest modseq at file offset ``end_offset``, counted from a place where it is known.

    The caller hands over the log's bytes from its ``header.hdr_size`` on (or from ``base``, the file
    offset of ``data[0]``), at least up to ``end_offset``.  ``start`` = (file offset, modseq there)
    shortens the walk: a snapshot's ``modseq`` header gives it, if its log_seq is this file's.
    :class:`FormatError` for a broken record before ``end_offset``.
    """
    base = header.hdr_size if base is None else base
    offset, modseq = start if start is not None else (header.hdr_size, header.initial_modseq)
    if offset > end_offset:
        raise ValueError(f"modseq at {end_offset} asked, known from {offset} on")
    for record in iter_records(memoryview(data)[: max(end_offset - base, 0)], offset, base=base):
        raw = EXTERNAL if record.external else 0
        modseq = next_modseq(modseq, record.type, raw, record.payload, header.hides_internal_flags)
    return modseq


def encode_record(kind: RecordType | int, body: bytes, external: bool = False) -> bytes:
    """One record: size, type (with the protection bits of expunges), payload of a multiple of 4 bytes."""
    if not body or len(body) % 4:
        raise ValueError(f"payload of {len(body)} bytes: a multiple of 4 and not 0 is needed")
    raw = int(kind) | (EXTERNAL if external else 0)
    if kind in (RecordType.EXPUNGE, RecordType.EXPUNGE_GUID):
        raw |= EXPUNGE_PROTECTION
    return encode_size(RECORD_HEADER_SIZE + len(body)) + _TYPE.pack(raw) + body


def encode_transaction(records: Iterable[bytes]) -> bytes:
    """Join encoded records into one transaction: with a BOUNDARY in front if there is more than one.

    A tail update is not part of it: append that behind it (mail-index-log section 3, Transactions).
    """
    parts = list(records)
    if len(parts) <= 1:
        return b"".join(parts)
    total = 12 + sum(map(len, parts))
    boundary = encode_record(RecordType.BOUNDARY, _U32.pack(total), external=True)
    return b"".join([boundary, *parts])
