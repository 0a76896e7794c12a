"""Index files as text, like ``doveadm dump``: one line for each fact, with offsets where they help.

Each function takes a whole file's bytes and yields lines without line ends.  Damage does not stop a dump with
an exception: it gives a separate line, ``damaged at offset N: reason``, which is the last one, since later
bytes can't be trusted.  Memory stays near that of the file; lines are made one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime

from dboxfs.errors import FormatError
from dboxfs.index.base import parse_index
from dboxfs.index.cachefile import CacheFile, FieldType
from dboxfs.index.extensions import KEYWORDS, MODSEQ
from dboxfs.index.log import Buffer, LogRecord, RecordType, iter_records, parse_log_header
from dboxfs.index.mailbox import MDBOX_HEADER, SDBOX_HEADER
from dboxfs.index.state import IndexState

_FLAG_NAMES = (
    (0x01, "\\Answered"),
    (0x02, "\\Flagged"),
    (0x04, "\\Deleted"),
    (0x08, "\\Seen"),
    (0x10, "\\Draft"),
    (0x20, "0x20"),
    (0x40, "backend"),
    (0x80, "dirty"),
)

#: Fields of the base header by offset, to name the changes of a HEADER_UPDATE (mail-index section 1).
_HEADER_FIELDS = {
    20: "flags",
    24: "uid_validity",
    28: "next_uid",
    48: "first_recent_uid",
    52: "first_unseen_uid_lowwater",
    56: "first_deleted_uid_lowwater",
    64: "log_file_tail_offset",
    76: "log2_rotate_time",
    80: "last_temp_file_scan",
    84: "day_stamp",
}
_MAX_DATA = 64


def flag_names(flags: int) -> str:
    """The names of flag bits, blank between them; empty for none."""
    return " ".join(name for bit, name in _FLAG_NAMES if flags & bit)


def _time(stamp: int) -> str:
    return f"{stamp} ({datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M:%S} UTC)"


def _damage(error: FormatError) -> str:
    return f"damaged at offset {error.offset}: {error.reason}"


def describe_index(data: Buffer) -> Iterator[str]:
    """A ``dovecot.index`` (of a mailbox or the map): header, extensions, records."""
    return map(_printable, _index_lines(data))


def _index_lines(data: Buffer) -> Iterator[str]:
    try:
        state = parse_index(data)
    except FormatError as error:
        yield _damage(error)
        return
    yield from _describe_header(state)
    for ext_id, ext in enumerate(state.extensions):
        yield (
            f"extension {ext_id} {ext.name}: reset_id={ext.reset_id} hdr_size={len(ext.hdr)} "
            f"record_offset={ext.record_offset} record_size={ext.record_size} record_align={ext.record_align}"
        )
        yield from _describe_ext_header(ext.name, ext.hdr)
    yield from _describe_records(state)


def _describe_header(state: IndexState) -> Iterator[str]:
    header = state.base_header
    yield f"version: {header[0]}.{header[1]}"
    yield f"base_header_size: {len(header)}"
    yield f"record_size: {state.record_size}"
    yield f"indexid: {_time(state.indexid)}"
    yield f"flags: {state.header_flags:#x}"
    yield f"uid_validity: {_time(state.uid_validity)}"
    yield f"next_uid: {state.next_uid}"
    yield f"messages_count: {len(state)}"
    yield f"seen_messages_count: {state.seen_count}"
    yield f"deleted_messages_count: {state.deleted_count}"
    yield f"first_recent_uid: {state.first_recent_uid}"
    yield f"log_file_seq: {state.log_file_seq}"
    yield f"log_file_tail_offset: {state.tail_offset}"
    yield f"log_file_head_offset: {state.head_offset}"
    yield f"log2_rotate_time: {_time(state.log2_rotate_time)}"
    yield f"day_stamp: {_time(state.day_stamp)}"


def _describe_ext_header(name: str, hdr: bytes) -> Iterator[str]:
    if not hdr:
        return
    if name in (MDBOX_HEADER, SDBOX_HEADER) and len(hdr) >= 21:
        number, guid, flags = struct.unpack_from("<I16sB", hdr)
        label = "map_uid_validity" if name == MDBOX_HEADER else "rebuild_count"
        yield f"  {label}={number} guid={guid.hex()} flags={flags:#x}"
    elif name == MODSEQ and len(hdr) == 16:
        highest, log_seq, log_offset = struct.unpack("<QII", hdr)
        yield f"  highest_modseq={highest} log_seq={log_seq} log_offset={log_offset}"
    elif name == "map" and len(hdr) >= 8:
        highest, rebuilds = struct.unpack_from("<II", hdr)
        yield f"  highest_file_id={highest} rebuild_count={rebuilds}"
    elif name != KEYWORDS:
        yield f"  header {_hex(hdr)}"


def _describe_records(state: IndexState) -> Iterator[str]:
    for bit, name in enumerate(state.keyword_names()):
        yield f"keyword {bit}: {name}"
    columns = [(e.name, state.column(e.name)) for e in state.extensions if e.name != KEYWORDS]
    for row, (uid, flags) in enumerate(zip(state.uids.tolist(), state.flags.tolist(), strict=True)):
        parts = [f"record {row + 1}: uid={uid} flags={flags:#04x} ({flag_names(flags)})"]
        parts += [f"{name}={column[row].tobytes().hex()}" for name, column in columns if column is not None]
        if keywords := state.keywords(row):
            parts.append(f"keywords={' '.join(keywords)}")
        yield " ".join(parts)


def describe_log(data: Buffer) -> Iterator[str]:
    """A ``dovecot.index.log``: header and records, with the end of each BOUNDARY's transaction."""
    return map(_printable, _log_lines(data))


def _log_lines(data: Buffer) -> Iterator[str]:
    try:
        header = parse_log_header(data)
        yield f"version: {header.major_version}.{header.minor_version}"
        yield f"hdr_size: {header.hdr_size}"
        yield f"indexid: {_time(header.indexid)}{' (marked corrupted)' if header.marked_corrupted else ''}"
        yield f"file_seq: {header.file_seq}"
        yield f"prev_file: {header.prev_file_seq}/{header.prev_file_offset}"
        yield f"create_stamp: {_time(header.create_stamp)}"
        yield f"initial_modseq: {header.initial_modseq}"
        end = header.hdr_size
        for record in iter_records(data, header.hdr_size):
            end = record.offset + record.size
            kind = record.type.name.lower() if isinstance(record.type, RecordType) else f"{record.type:#x}"
            origin = "external" if record.external else "internal"
            sync = " sync" if record.sync else ""
            yield f"record: offset={record.offset} size={record.size} type={kind} ({origin}{sync})"
            for line in _describe_payload(record):
                yield f"  {line}"
    except FormatError as error:
        yield _damage(error)
        return
    if end < len(data):
        yield f"incomplete at offset {end}: {len(data) - end} bytes are no whole transaction (yet)"


def _printable(text: str) -> str:
    """*text* with control characters escaped, which a terminal would execute."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _hex(data: bytes | memoryview) -> str:
    shown = bytes(data[:_MAX_DATA]).hex()
    return shown if len(data) <= _MAX_DATA else f"{shown}... ({len(data)} bytes)"


def _ranges(body: memoryview) -> Iterator[str]:
    for uid1, uid2 in struct.iter_unpack("<II", body[: len(body) // 8 * 8]):
        yield f"uid={uid1}" if uid1 == uid2 else f"uids={uid1}..{uid2}"


def _describe_payload(record: LogRecord) -> Iterator[str]:
    body = record.payload
    kind = record.type
    if kind in (RecordType.EXPUNGE, RecordType.KEYWORD_RESET):
        yield from _ranges(body)
    elif kind == RecordType.KEYWORD_UPDATE and len(body) >= 4:
        modify, size = struct.unpack_from("<BxH", body)
        name = bytes(body[4 : 4 + size]).decode("utf-8", "backslashreplace")
        yield f"{'remove' if modify else 'add'} {name!r}"
        yield from _ranges(body[4 + size + -size % 4 :])
    elif kind == RecordType.EXT_INTRO:
        yield from _describe_intros(body)
    elif kind in (RecordType.HEADER_UPDATE, RecordType.EXT_HDR_UPDATE, RecordType.EXT_HDR_UPDATE32):
        yield from _describe_updates(body, kind)
    elif kind == RecordType.ATTRIBUTE_UPDATE:
        yield repr(bytes(body[:_MAX_DATA]))
    else:
        yield from _describe_entries(body, kind)


def _describe_entries(body: memoryview, kind: int) -> Iterator[str]:
    """Records whose payload is an array of one fixed struct."""
    form, text = _ENTRIES.get(kind, ("", ""))
    width = struct.calcsize("<" + form)
    if not width or len(body) < width:
        yield f"data {_hex(body)}"
        return
    for fields in struct.iter_unpack("<" + form, body[: len(body) // width * width]):
        yield text.format(*(f.hex() if isinstance(f, bytes) else f for f in fields))


_ENTRIES: dict[int, tuple[str, str]] = {
    RecordType.APPEND: ("IB3x", "uid={} flags={:#04x}"),
    RecordType.EXPUNGE_GUID: ("I16s", "uid={} guid={}"),
    RecordType.FLAG_UPDATE: ("IIBBBx", "uids={}..{} add={:#04x} remove={:#04x} modseq_inc={}"),
    RecordType.EXT_RESET: ("IB3x", "new_reset_id={} preserve={}"),
    RecordType.EXT_ATOMIC_INC: ("Ii", "uid={} diff={:+}"),
    RecordType.MODSEQ_UPDATE: ("IQ", "uid={} modseq={}"),
    RecordType.BOUNDARY: ("I", "transaction of {} bytes"),
}


def _describe_intros(body: memoryview) -> Iterator[str]:
    pos = 0
    while pos + 20 <= len(body):
        ext_id, reset_id, hdr_size, size, align, flags, name_size = struct.unpack_from("<IIIHHHH", body, pos)
        name = bytes(body[pos + 20 : pos + 20 + name_size]).decode("ascii", "backslashreplace")
        target = f"name={name!r}" if ext_id == 0xFFFFFFFF else f"ext_id={ext_id}"
        yield (
            f"{target} reset_id={reset_id} hdr_size={hdr_size} record_size={size} record_align={align} "
            f"no_shrink={flags & 1}"
        )
        pos += 20 + name_size + -name_size % 4


def _describe_updates(body: memoryview, kind: int) -> Iterator[str]:
    form = "<II" if kind == RecordType.EXT_HDR_UPDATE32 else "<HH"
    width = struct.calcsize(form)
    pos = 0
    while pos + width <= len(body):
        offset, size = struct.unpack_from(form, body, pos)
        data = body[pos + width : pos + width + size]
        name = _HEADER_FIELDS.get(offset, "") if kind == RecordType.HEADER_UPDATE else ""
        value = f"{int.from_bytes(data, 'little')}" if name and size == 4 else _hex(data)
        yield (
            f"offset={offset} size={size} {name}={value}" if name else f"offset={offset} size={size} {value}"
        )
        pos += width + size + -size % 4


def describe_cache(data: Buffer) -> Iterator[str]:
    """A ``dovecot.index.cache``: header, fields, and the records in file order with their values."""
    return map(_printable, _cache_lines(data))


def _cache_lines(data: Buffer) -> Iterator[str]:
    try:
        cache = CacheFile(data)
    except FormatError as error:
        yield _damage(error)
        return
    header = cache.header
    yield f"version: 1.{header.minor_version}"
    yield f"indexid: {_time(header.indexid)}"
    yield f"file_seq: {_time(header.file_seq)}"
    yield f"record_count: {header.record_count} (continued {header.continued_record_count})"
    yield f"deleted_record_count: {header.deleted_record_count}"
    yield f"field_header_offset: {header.field_header_offset}"
    for i, field in enumerate(cache.fields):
        known = {int(t): t.name.lower() for t in FieldType}
        size = "variable" if field.size is None else field.size
        yield (
            f"field {i} {field.name}: type={known.get(field.type, field.type)} size={size} "
            f"decision={field.decision:#x} last_used={field.last_used}"
        )
    for offset, prev_offset, size in cache.walk():
        yield f"record: offset={offset} size={size} prev_offset={prev_offset}"
        for name, value in cache.values_at(offset).items():
            shown = _hex(value) if isinstance(value, bytes) else value
            yield f"  {name}: {shown}"
