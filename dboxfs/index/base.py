"""``dovecot.index``: the snapshot of an index (format: mail-index).

::

    file      = base header (120 bytes or more), pad to 8, extension*, record*
    extension = hdr_size u32, reset_id u32, record_offset u16, record_size u16, record_align u16,
                name_size u16, name, pad to 8 from the extension's start, header data, pad to 8
    record    = uid u32, flags u8, extension data at the record_offsets; record_size bytes each

A file is never changed in place, only replaced, so it is whole or damaged; damage raises
:class:`~dboxfs.errors.FormatError` with the offset.  Values that follow from the records (the seen and
deleted counts, the low-water marks) are computed, not taken from the file.  Sizes in the file are checked
against its length before memory is allocated.

Limits: little-endian, major version 7, records below 64 KiB.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.errors import FormatError
from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import ByteArray, UidArray
from dboxfs.index.extensions import KEYWORDS, MODSEQ, Extension
from dboxfs.index.log import COMPAT_LITTLE_ENDIAN, Buffer
from dboxfs.index.state import BASE_HEADER_SIZE, FLAG_DELETED, FLAG_SEEN, IndexState

MAJOR_VERSION = 7
HEADER_CORRUPTED = 0x1
OLD_RECENT_FLAG = 0x20

_START = struct.Struct("<BBHIIB")
_EXT = struct.Struct("<IIHHHH")


def parse_index(data: Buffer) -> IndexState:
    """Decode a whole ``dovecot.index``.  The state owns copies of the parts of ``data`` that it keeps.

    Its modseqs and pending requests are complete only after
    :meth:`~dboxfs.index.state.IndexState.attach_log`.  :class:`FormatError` for a damaged or foreign file.
    """
    view = memoryview(data).cast("B")
    header, header_size, record_size = _parse_start(view)
    (count,) = struct.unpack_from("<I", header, 32)
    if count > (len(view) - header_size) // record_size:
        raise FormatError(32, f"index: {count} records of {record_size} bytes do not fit {len(view)} bytes")
    extensions = _parse_extensions(view, len(header), header_size, record_size)
    uids = _field(view, header_size, record_size, count, "<u4").astype(np.uint32, copy=False)
    flags = _field(view, header_size + 4, record_size, count, "u1")
    _check(header, uids, header_size, record_size)
    if header[1] < 2:
        flags &= np.uint8(~OLD_RECENT_FLAG & 0xFF)
    columns = [_column(view, header_size, record_size, count, ext) for ext in extensions]
    return IndexState(header, uids, flags, extensions, columns, record_size)


class LogPosition(Struct, frozen=True):
    """The position of a snapshot: it covers log *file_seq* of index *indexid* up to *head_offset* (bytes)."""

    indexid: int
    file_seq: int
    head_offset: int


def parse_log_position(data: Buffer) -> LogPosition:
    """The position from the first :data:`BASE_HEADER_SIZE` bytes; the rest of the file isn't read.

    :class:`FormatError` if they are too few, or of another version.
    """
    if len(data) < BASE_HEADER_SIZE or data[0] != MAJOR_VERSION:
        raise FormatError(0, "index: the header is cut off or of another version")
    (indexid,) = struct.unpack_from("<I", data, 16)
    file_seq, _, head = struct.unpack_from("<III", data, 60)
    return LogPosition(indexid, file_seq, head)


def _parse_start(view: memoryview) -> tuple[bytes, int, int]:
    """(base header, header_size, record_size), versions and sizes checked."""
    if len(view) < BASE_HEADER_SIZE:
        raise FormatError(0, f"index: {len(view)} bytes, a header of {BASE_HEADER_SIZE} expected")
    major, _, base_size, header_size, record_size, compat = _START.unpack_from(view)
    if major != MAJOR_VERSION:
        raise FormatError(0, f"index: major version {major}, only {MAJOR_VERSION} can be read")
    if compat != COMPAT_LITTLE_ENDIAN:
        raise FormatError(12, f"index: compat_flags {compat:#x}: big-endian or unknown, not supported")
    if not BASE_HEADER_SIZE <= base_size <= header_size <= len(view):
        raise FormatError(2, f"index: header sizes {base_size} and {header_size} in {len(view)} bytes")
    if not ext_format.MIN_RECORD_SIZE <= record_size <= ext_format.MAX_RECORD_SIZE:
        raise FormatError(8, f"index: record_size {record_size} is out of range")
    header = bytearray(view[:base_size])
    if struct.unpack_from("<I", header, 20)[0] & HEADER_CORRUPTED:
        raise FormatError(20, "index: marked as corrupted")
    first_recent, next_uid = struct.unpack_from("<I", header, 48)[0], struct.unpack_from("<I", header, 28)[0]
    struct.pack_into("<I", header, 48, min(max(first_recent, 1), max(next_uid, 1)))
    return bytes(header), header_size, record_size


def _check(header: bytes, uids: UidArray, start: int, record_size: int) -> None:
    """Check the rules of mail-index section 1 whose violation can't be repaired here."""
    uid_validity, next_uid = struct.unpack_from("<II", header, 24)
    tail, head = struct.unpack_from("<II", header, 64)
    if next_uid == 0 or (uid_validity == 0 and next_uid != 1):
        raise FormatError(28, f"index: next_uid {next_uid} with uid_validity {uid_validity}")
    if tail > head:
        raise FormatError(64, f"index: log_file_tail_offset {tail} is behind the head {head}")
    if len(uids) == 0:
        return
    disorder = np.flatnonzero(uids[1:] <= uids[:-1]) if uids[0] else np.array([-1])
    if len(disorder):
        row = int(disorder[0]) + 1
        raise FormatError(start + row * record_size, f"index: uid {int(uids[row])} is out of order")
    if uids[-1] >= next_uid:
        row = len(uids) - 1
        raise FormatError(start + row * record_size, f"index: uid {int(uids[-1])}, next_uid {next_uid}")


def _parse_extensions(view: memoryview, base_size: int, end: int, record_size: int) -> list[Extension]:
    found: list[Extension] = []
    names: set[str] = set()
    start = base_size + -base_size % 8
    while start < end:
        if start + _EXT.size > end:
            raise FormatError(start, "index: extension header is cut off")
        hdr_size, reset_id, offset, size, align, name_size = _EXT.unpack_from(view, start)
        pos = start + _EXT.size
        hdr = pos + name_size + -(_EXT.size + name_size) % 8
        next_start = hdr + hdr_size + -hdr_size % 8
        if next_start > end:
            raise FormatError(start, f"index: extension of {next_start - start} bytes is too long")
        name = ext_format.decode_name(bytes(view[pos : pos + name_size]), pos)
        ext_format.check_sizes(start, name, hdr_size, size, align)
        if name in names:
            raise FormatError(pos, f"index: extension {name} is there twice")
        if size and (offset < ext_format.BASE_RECORD_SIZE or offset + size > record_size or offset % align):
            raise FormatError(start + 8, f"index: extension {name} at {offset}+{size} of {record_size} bytes")
        names.add(name)
        if len(names) > ext_format.MAX_EXTENSIONS:
            raise FormatError(start, f"index: more than {ext_format.MAX_EXTENSIONS} extensions")
        ext = Extension(name, bytes(view[hdr : hdr + hdr_size]), reset_id, offset, size, align)
        if name == KEYWORDS:
            ext_format.parse_keywords(ext.hdr, hdr)
        found.append(ext)
        start = next_start
    _check_overlap(found, base_size)
    return found


def _check_overlap(extensions: list[Extension], offset: int) -> None:
    reached = 0
    for ext in sorted((e for e in extensions if e.record_size), key=lambda e: e.record_offset):
        if ext.record_offset < reached:
            raise FormatError(offset, f"index: record data of extension {ext.name} overlaps another's")
        reached = ext.record_offset + ext.record_size


def _field(view: memoryview, start: int, stride: int, count: int, dtype: str) -> npt.NDArray[Any]:
    """One field of all records, copied into a new array."""
    if count == 0:
        return np.zeros(0, dtype)
    return np.ndarray((count,), dtype, view, start, (stride,)).copy()


def _column(view: memoryview, start: int, stride: int, count: int, ext: Extension) -> ByteArray | None:
    if ext.record_size == 0:
        return None
    field = _field(view, start + ext.record_offset, stride, count, f"V{ext.record_size}")
    return field.view(np.uint8).reshape(count, ext.record_size)


def encode_index(state: IndexState, *, log2_rotate_time: int | None = None) -> bytes:
    """A ``dovecot.index`` that holds ``state`` up to its ``head_offset`` (mail-index section 6).

    The layout of the records is kept if the state came from a file with the same extensions, otherwise it
    is Dovecot's.  ``log_file_tail_offset`` is the real tail, so that pending requests are not lost.
    ``log2_rotate_time``: seconds since the epoch, after a rotation.
    :class:`FormatError` for a state that no file may have (a log can cause one: messages without a
    uid_validity); a written file can always be read again.
    """
    header = bytearray(state.base_header)
    parts: list[bytes] = []
    for ext in state.extensions:
        hdr = _tracked_modseq(state, ext) if ext.name == MODSEQ else ext.hdr
        fixed = _EXT.pack(
            len(hdr), ext.reset_id, ext.record_offset, ext.record_size, ext.record_align, len(ext.name)
        )
        head = fixed + ext.name.encode("ascii")
        parts += [head, bytes(-len(head) % 8), hdr, bytes(-len(hdr) % 8)]
    if parts:
        parts.insert(0, bytes(-len(header) % 8))
    extensions = b"".join(parts)
    struct.pack_into("<II", header, 4, len(header) + len(extensions), state.record_size)
    header[1] = max(header[1], 3)
    struct.pack_into("<II", header, 28, state.next_uid, len(state))
    struct.pack_into("<II", header, 40, state.seen_count, state.deleted_count)
    _lower_marks(header, state)
    struct.pack_into("<I", header, 48, min(max(state.first_recent_uid, 1), state.next_uid))
    struct.pack_into("<III", header, 60, state.log_file_seq, state.tail_offset, state.head_offset)
    if log2_rotate_time is not None:
        struct.pack_into("<I", header, 76, log2_rotate_time)
    data = bytes(header) + extensions + _encode_records(state)
    _check_readable(data, state.uids)
    return data


def _check_readable(data: bytes, uids: UidArray) -> None:
    view = memoryview(data)
    header, header_size, record_size = _parse_start(view)
    _parse_extensions(view, len(header), header_size, record_size)
    _check(header, uids, header_size, record_size)


def _lower_marks(header: bytearray, state: IndexState) -> None:
    """Lower the low-water marks that are too high; 0 is always safe."""
    for offset, bit, wanted in ((52, FLAG_SEEN, 0), (56, FLAG_DELETED, FLAG_DELETED)):
        rows = np.flatnonzero((state.flags & np.uint8(bit)) == wanted)
        first = int(state.uids[rows[0]]) if len(rows) else state.next_uid
        if struct.unpack_from("<I", header, offset)[0] > first:
            struct.pack_into("<I", header, offset, first)


def _tracked_modseq(state: IndexState, ext: Extension) -> bytes:
    """Header of ``modseq``: the highest modseq, tracked up to the head."""
    if len(ext.hdr) != 16:
        return ext.hdr
    return struct.pack("<QII", state.highest_modseq, state.log_file_seq, state.head_offset)


def _encode_records(state: IndexState) -> bytes:
    records = np.zeros((len(state), state.record_size), np.uint8)
    records[:, :4] = state.uids.astype("<u4").view(np.uint8).reshape(-1, 4)
    records[:, 4] = state.flags
    for ext in state.extensions:
        column = state.column(ext.name)
        if column is not None:
            records[:, ext.record_offset : ext.record_offset + ext.record_size] = column
    return records.tobytes()
