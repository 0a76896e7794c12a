"""A dbox file (``u.N``, ``m.N``) as text, for ``dboxfs dump``: like ``doveadm dump``, with offsets.

The header line, then every record with the offsets and sizes of its parts and its metadata key by key.
Of bodies it has only their place, their compression, and their first eight bytes in hex.

Damage is a line ``damage: offset …``, with offset and reason; the description then continues at the next
bytes that look like a whole record, with the number of skipped bytes.  In a file of format 3 these certainly
are records of this file, and each body is compared with its CRC.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from dboxfs.dbox.attachments import parse_ext_refs
from dboxfs.dbox.compression import PREFIX_SIZE, detect
from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE, FileHeader, NeedMore, parse_file_header
from dboxfs.dbox.metadata import Metadata
from dboxfs.dbox.recovery import FoundRecord, NoRecord, scan_file
from dboxfs.dbox.scan import ScannedRecord, find_record, next_record
from dboxfs.errors import FormatError

_SHOWN_BODY: Final = 8
_SHOWN_VALUE: Final = 200
_FIRST_SECOND: Final = -62135596800  # of the year 1, Python's first
_LAST_SECOND: Final = 253402300799  # of the year 9999
_OBSOLETE: Final = "obsolete key of version 1, ignored"


def describe(data: bytes | bytearray) -> Iterator[str]:
    """The lines of the description of a whole dbox file, without line ends.  Never raises."""
    yield f"dbox file, {len(data)} bytes"
    header, lines = _file_header(data)
    yield from lines
    if header.version == 3 or lines[0].startswith("damage"):
        regions = scan_file(data)
        if header.version == 3 or any(isinstance(region, FoundRecord) for region in regions):
            yield from _regions(data, regions)
            return
    offset = header.size
    records = damaged = 0
    while offset < len(data):
        try:
            found = next_record(data, offset, header)
        except FormatError as error:
            yield f"damage: {error}"
            record = None
        else:
            if isinstance(found, NeedMore):
                missing = found.size - len(data)
                yield f"damage: offset {offset}: record is truncated, bytes missing: at least {missing}"
            record = found if isinstance(found, ScannedRecord) else None
        if record is None:
            damaged += 1
            record = find_record(data, offset + 1, header)
            end = len(data) if record is None else record.offset
            yield f"skipped: {end - offset} bytes from offset {offset}"
            if record is None:
                break
        records += 1
        yield from _record(data, records, record)
        offset = record.offset + record.size
    yield f"end: {records} records, {damaged} damaged places"


def _file_header(data: bytes | bytearray) -> tuple[FileHeader, list[str]]:
    """The header, or the usual values if it is damaged, and the lines about it."""
    try:
        header = parse_file_header(data)
    except FormatError as error:
        reason = str(error)
    else:
        if isinstance(header, FileHeader):
            created = "no creation time" if header.created is None else f"created {_time(header.created)}"
            size = header.message_header_size
            line = f"file header: offset 0, {header.size} bytes: version {header.version}, "
            return header, [f"{line}message header size {size}, {created}"]
        reason = f"offset {len(data)}: file header line has no end"
    return FileHeader(2, MESSAGE_HEADER_SIZE, None, 0), [f"damage: {reason}"]


def _record(data: bytes | bytearray, number: int, record: ScannedRecord) -> Iterator[str]:
    header, body, metadata = record.header, record.body_offset, record.metadata
    prefix = bytes(data[body : min(body + PREFIX_SIZE, record.metadata_offset)])
    compression = detect(prefix)
    yield f"record {number}: offset {record.offset}, {record.size} bytes, to {record.offset + record.size}"
    yield f"  header: offset {record.offset}, {body - record.offset} bytes: type {header.type}"
    kind = "plain" if compression is None else f"compressed ({compression.value})"
    begins = f", begins {prefix[:_SHOWN_BODY].hex(' ')}" if prefix else ""
    yield f"  body: offset {body}, {header.body_size} bytes, {kind}{begins}"
    yield f"  metadata: offset {record.metadata_offset}, {metadata.size} bytes"
    yield from _metadata(metadata)


def _regions(data: bytes | bytearray, regions: list[FoundRecord | NoRecord]) -> Iterator[str]:
    """The records of a file of format 3, and the bytes between them."""
    records = damaged = 0
    for region in regions:
        if isinstance(region, FoundRecord):
            records += 1
            lines = list(_record3(data, records, region))
            damaged += any(line.startswith("damage") for line in lines)
            yield from lines
        else:
            damaged += 1
            yield f"damage: offset {region.offset}: {region.reason}"
            yield f"skipped: {region.end - region.offset} bytes from offset {region.offset}"
    yield f"end: {records} records, {damaged} damaged places"


def _record3(data: bytes | bytearray, number: int, found: FoundRecord) -> Iterator[str]:
    trailer = found.trailer
    body = memoryview(data)[trailer.body_offset : trailer.offset]
    prefix = bytes(body[:_SHOWN_BODY])
    yield f"record {number}: offset {found.offset}, {trailer.record_size} bytes, to {found.end}"
    if found.damage is not None:
        yield f"damage: offset {found.offset}: {found.damage}"
    yield f"  header: offset {found.offset}, {trailer.body_offset - found.offset} bytes: separator " + (
        trailer.separator.hex()
    )
    kind = "plain" if trailer.compression is None else f"compressed ({trailer.compression.value})"
    begins = f", begins {prefix.hex(' ')}" if prefix else ""
    yield f"  body: offset {trailer.body_offset}, {trailer.body_size} bytes, {kind}{begins}"
    crc = zlib.crc32(body)
    if crc != trailer.crc:
        yield f"damage: offset {trailer.body_offset}: CRC-32 of the body is {crc:08x}, not {trailer.crc:08x}"
    yield f"  trailer: offset {trailer.offset}, {trailer.size} bytes: file key {trailer.key.hex()}"
    yield from _metadata(trailer.metadata)


def _metadata(metadata: Metadata) -> Iterator[str]:
    offset = metadata.base + metadata.head
    for key, value in metadata.items:
        # a block of only this line, so that a key that occurs twice is explained both times
        line = Metadata(((key, value),), 0, offset - 4)
        yield f"    {_text(key)} {_text(value)}{_meaning(key, line)}"
        if key == b"X":
            yield from _ext_refs(value, offset + 1)
        offset += len(value) + 2


def _meaning(key: bytes, line: Metadata) -> str:
    try:
        match key:
            case b"G":
                guid = line.guid128
                return f"  (guid, in indexes {guid.hex()})" if guid else "  (guid, empty)"
            case b"R":
                return f"  (received {_time(line.received)})"
            case b"V":
                return f"  (virtual size {line.virtual_size} bytes, with CRLF)"
            case b"Z":
                return f"  (physical size {line.physical_size} bytes, plain, with LF)"
            case b"P":
                return "  (POP3 UIDL)"
            case b"O":
                return f"  (POP3 order {line.pop3_order})"
            case b"B":
                return "  (mailbox of the first save)"
            case b"X":
                return "  (external attachments)"
            case b"E" | b"F" | b"K" | b"S":
                return f"  ({_OBSOLETE})"
            case _:
                return "  (unknown key)"
    except FormatError as error:
        return f"  (damage: {error})"


def _ext_refs(value: bytes, offset: int) -> Iterator[str]:
    try:
        refs = parse_ext_refs(value.removesuffix(b"\r"), base=offset)
    except FormatError as error:
        yield f"      damage: {error}"
        return
    for ref in refs:
        kind = "as it is" if ref.line_length is None else f"base64, {ref.line_length} characters a line"
        line_ends = ", CRLF" if ref.crlf else ""
        path = _text(ref.path.encode("utf-8", "surrogateescape"))
        yield f"      attachment at {ref.start}, {ref.size} bytes, {kind}{line_ends}: {path}"


def _time(seconds: int) -> str:
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return f"{seconds}"
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}Z ({seconds})"


def _text(value: bytes) -> str:
    """The value as printable text on one line, cut if it is long."""
    text = value[:_SHOWN_VALUE].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(value) <= _SHOWN_VALUE else f"{text}… ({len(value)} bytes)"
