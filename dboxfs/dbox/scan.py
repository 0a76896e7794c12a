"""Parse the records in the bytes of a dbox file, one after the other.

A record is message header, body, metadata block (grammar in :mod:`dboxfs.dbox.format2`); the next one starts
where the terminator of its metadata ended.  There is no count and no trailer: the file ends with its last
record.  Only a record's own size leads to the next one, so behind a damaged record :func:`find_record`, or
the offsets of the map (mdbox), find the rest of a file.

Offsets.  ``data`` is a window of a file, ``base`` the file offset of ``data[0]``.  ``offset`` arguments
and :class:`~dboxfs.dbox.format2.NeedMore` count from ``data[0]``; the offsets in records and errors are
offsets in the file.

Source: dbox-files section 1.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from dboxfs.dbox.format2 import Buffer, FileHeader, MessageHeader, NeedMore, parse_message_header
from dboxfs.dbox.metadata import Metadata, parse_metadata
from dboxfs.errors import FormatError

MAX_FOUND_METADATA: Final = 16384
"""Longest metadata block of a record that :func:`find_record` accepts (bytes)."""

_RECORD_START: Final = re.compile(rb"\x01\x02N[\0-\xff]{10}[0-7][0-9a-fA-F]{15}")


class ScannedRecord(Struct, frozen=True):
    """The place of one message in its file, and its metadata.

    ``offset``, ``body_offset``, ``metadata_offset``: offsets in the file.  ``size``: bytes of the whole
    record (as in the mdbox map); the next one starts at ``offset + size``.
    """

    offset: int
    header: MessageHeader
    body_offset: int
    metadata_offset: int
    metadata: Metadata
    size: int


def next_record(
    data: Buffer, offset: int, header: FileHeader, *, base: int = 0, limit: int | None = None
) -> ScannedRecord | NeedMore:
    """Parse the record at ``data[offset:]``.  The body is skipped.

    :param header: the header line of the file, for the size of message headers.
    :param base: offset of ``data[0]`` in the file.
    :param limit: bytes that the metadata block may have; None: any.
    :return: the record, or the number of bytes that ``data`` must have.  ``NeedMore(offset + …)`` at the
        exact end of a file only means that there is no further record; compare ``offset`` with the file's
        size first.
    :raises FormatError: damage, with its offset in the file.
    """
    view = memoryview(data)
    message = parse_message_header(view[offset:], header.message_header_size, base=base + offset)
    if isinstance(message, NeedMore):
        return NeedMore(offset + message.size)
    body_offset = offset + header.message_header_size
    metadata_offset = body_offset + message.body_size
    if metadata_offset >= len(view):
        return NeedMore(metadata_offset + 1)
    metadata = parse_metadata(view[metadata_offset:], base=base + metadata_offset, limit=limit)
    if isinstance(metadata, NeedMore):
        return NeedMore(metadata_offset + metadata.size)
    size = metadata_offset + metadata.size - offset
    return ScannedRecord(base + offset, message, base + body_offset, base + metadata_offset, metadata, size)


def find_record(
    data: bytes | bytearray, offset: int, header: FileHeader, *, base: int = 0
) -> ScannedRecord | None:
    """The first complete record that starts at or behind ``data[offset]``, or None.

    For continuing behind damage.  A record inside a body (a dbox file as an attachment) looks like any other,
    so the result is a guess: the caller must not serve it without other evidence.  Metadata blocks above
    :data:`MAX_FOUND_METADATA` bytes are not found, which bounds the time by the size of ``data``.
    """
    while (start := _RECORD_START.search(data, offset)) is not None:
        try:
            found = next_record(data, start.start(), header, base=base, limit=MAX_FOUND_METADATA)
        except FormatError:
            found = None  # only looked like a record
        if isinstance(found, ScannedRecord):
            return found
        offset = start.start() + 1
    return None
