"""Bodies of ``dovecot.index.log`` records, for a writer (format: mail-index-log section 3).

Each function returns the payload of one record, padded with zero bytes to a multiple of 4;
:func:`dboxfs.index.log.encode_record` puts the record header in front.  All integers are little-endian.
``ValueError`` for values that no reader would accept: uid 0, ranges that are not ascending, fields that
overflow.  This module does not know the state of an index.  The caller makes sure that uids exist, that an
APPEND comes before the updates of its uids, and that an EXT_INTRO comes before EXT_* records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

UID_MAX = 0xFFFFFFFF
EXT_BY_NAME = 0xFFFFFFFF
INTRO_NO_SHRINK = 0x01

KEYWORD_ADD = 0
KEYWORD_REMOVE = 1

_PAIR = struct.Struct("<II")
_APPEND = struct.Struct("<IB3x")
_FLAGS = struct.Struct("<IIBBBx")
_INTRO = struct.Struct("<IIIHHHH")


def pad4(data: bytes) -> bytes:
    """``data`` with zero bytes up to a multiple of 4."""
    return data + bytes(-len(data) % 4)


def _ranges(ranges: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Check that uid ranges are not empty, ascending, and do not overlap (readers insist)."""
    last = 0
    for uid1, uid2 in ranges:
        if not last < uid1 <= uid2 <= UID_MAX:
            raise ValueError(f"uid ranges must be ascending without overlap, from 1: {uid1}..{uid2}")
        last = uid2
    if not ranges:
        raise ValueError("no uid range")
    return ranges


def append(messages: Iterable[tuple[int, int]]) -> bytes:
    """APPEND: (uid, flags) of each new message, uids ascending."""
    last, parts = 0, []
    for uid, flags in messages:
        if not last < uid < UID_MAX:
            raise ValueError(f"appended uids must be ascending: {uid}")
        last = uid
        parts.append(_APPEND.pack(uid, flags))
    if not parts:
        raise ValueError("no message to append")
    return b"".join(parts)


def flag_update(ranges: Sequence[tuple[int, int]], add: int, remove: int, modseq_inc: int = 0) -> bytes:
    """FLAG_UPDATE: flags = flags & ~remove | add for each uid in the (inclusive) ranges."""
    return b"".join(_FLAGS.pack(a, b, add, remove, modseq_inc) for a, b in _ranges(ranges))


def keyword_update(name: str, ranges: Sequence[tuple[int, int]], modify: int = KEYWORD_ADD) -> bytes:
    """KEYWORD_UPDATE: add (0) or remove (1) one keyword."""
    raw = name.encode("utf-8", "surrogateescape")
    if not raw or b"\0" in raw or modify not in (KEYWORD_ADD, KEYWORD_REMOVE):
        raise ValueError(f"no valid keyword change: {name!r}, modify {modify}")
    head = pad4(struct.pack("<BxH", modify, len(raw)) + raw)
    return head + b"".join(_PAIR.pack(a, b) for a, b in _ranges(ranges))


def keyword_reset(ranges: Sequence[tuple[int, int]]) -> bytes:
    """KEYWORD_RESET: remove all keywords of the uids."""
    return b"".join(_PAIR.pack(a, b) for a, b in _ranges(ranges))


def expunge(ranges: Sequence[tuple[int, int]]) -> bytes:
    """EXPUNGE, the old form.  Every reader knows it; new writers use :func:`expunge_guid`."""
    return b"".join(_PAIR.pack(a, b) for a, b in _ranges(ranges))


def expunge_guid(messages: Iterable[tuple[int, bytes]]) -> bytes:
    """EXPUNGE_GUID: (uid, 16 byte guid); 16 zero bytes mean that the guid is not checked."""
    parts = []
    for uid, guid in messages:
        if uid == 0 or len(guid) != 16:
            raise ValueError(f"no valid expunge: uid {uid}, guid of {len(guid)} bytes")
        parts.append(struct.pack("<I", uid) + guid)
    if not parts:
        raise ValueError("no message to expunge")
    return b"".join(parts)


def header_update(offset: int, data: bytes) -> bytes:
    """HEADER_UPDATE: bytes of the base header from ``offset`` on (bytes)."""
    return pad4(struct.pack("<HH", offset, len(data)) + data)


def tail_update(record_offset: int) -> bytes:
    """HEADER_UPDATE of log_file_tail_offset for a record that will start at file offset ``record_offset``.

    The value is the offset just after this very record (16 bytes); write the record EXTERNAL.
    """
    return header_update(64, struct.pack("<I", record_offset + 16))


def ext_intro(
    name_or_id: str | int,
    *,
    reset_id: int = 0,
    hdr_size: int = 0,
    record_size: int = 0,
    record_align: int = 0,
    no_shrink: bool = True,
) -> bytes:
    """EXT_INTRO: select (by name: create if missing) the extension of the following EXT_* records."""
    by_name = isinstance(name_or_id, str)
    name = name_or_id.encode("ascii") if isinstance(name_or_id, str) else b""
    ext_id = EXT_BY_NAME if isinstance(name_or_id, str) else name_or_id
    if by_name and (not name or name == b"keywords"):
        raise ValueError(f"an extension can't be introduced as {name_or_id!r}")
    flags = INTRO_NO_SHRINK if no_shrink else 0
    fixed = _INTRO.pack(ext_id, reset_id, hdr_size, record_size, record_align, flags, len(name))
    return pad4(fixed + name)


def ext_reset(new_reset_id: int, preserve: bool = False) -> bytes:
    """EXT_RESET: new generation of the selected extension; its data becomes zero unless ``preserve``."""
    return struct.pack("<IB3x", new_reset_id, preserve)


def ext_hdr_update(offset: int, data: bytes) -> bytes:
    """EXT_HDR_UPDATE: bytes of the selected extension's header data."""
    return pad4(struct.pack("<HH", offset, len(data)) + data)


def ext_hdr_update32(offset: int, data: bytes) -> bytes:
    """EXT_HDR_UPDATE32: the same for offsets and sizes of 64 KiB and more."""
    return pad4(struct.pack("<II", offset, len(data)) + data)


def ext_rec_update(records: Iterable[tuple[int, bytes]]) -> bytes:
    """EXT_REC_UPDATE: (uid, data); each data has the record_size of the last intro."""
    parts = [pad4(struct.pack("<I", uid) + data) for uid, data in records]
    if not parts or len({len(p) for p in parts}) != 1:
        raise ValueError("records of one EXT_REC_UPDATE need one common size")
    return b"".join(parts)


def ext_atomic_inc(diffs: Iterable[tuple[int, int]]) -> bytes:
    """EXT_ATOMIC_INC: (uid, signed difference) for the selected extension's number."""
    parts = [struct.pack("<Ii", uid, diff) for uid, diff in diffs]
    if not parts:
        raise ValueError("no message to change")
    return b"".join(parts)


def modseq_update(modseqs: Iterable[tuple[int, int]]) -> bytes:
    """MODSEQ_UPDATE: (uid, modseq) raises a message's modseq; uid 0 raises the highest only."""
    parts = [struct.pack("<III", uid, value & 0xFFFFFFFF, value >> 32) for uid, value in modseqs]
    if not parts:
        raise ValueError("no modseq to raise")
    return b"".join(parts)


def index_deleted() -> bytes:
    """INDEX_DELETED (and INDEX_UNDELETED): 4 zero bytes."""
    return bytes(4)
