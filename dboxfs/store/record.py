"""One message record in a dbox file, as positions: where its body lies and what its metadata says.

A record is read by its two ends: :data:`HEAD` bytes from the message header on (they hold the header and
enough of the body to recognise compression), and the last :data:`TAIL` bytes, in which the metadata
normally fits.  What stands between is the body and is not needed to know size and dates.

:func:`parse_record` is pure: it is given the bytes that were read and where they stood, and answers with a
:class:`Record`, or with :class:`NeedRange` when the metadata is longer than the tail.
"""

from __future__ import annotations

from dataclasses import dataclass

from dboxfs.dbox import (
    METADATA_MAGIC,
    Compression,
    Metadata,
    NeedMore,
    detect,
    parse_message_header,
    parse_metadata,
)
from dboxfs.errors import FormatError
from dboxfs.store.facts import COMPRESSED, DAMAGED, HAS_ATTACHMENTS, KNOWN, Facts

HEAD = 96
"""Bytes to read from the start of an sdbox file: header line (16), message header (30), magic (15)."""

RECORD_HEAD = 45
"""Bytes to read from a message header on: 30 and the 15 of the longest compression magic."""

TAIL = 512
"""Bytes to read from the end of a record; the metadata that Dovecot writes is about 100 bytes long."""

MAX_METADATA = 1 << 20
"""Longest metadata block that is read (bytes).  An ``X`` line takes about 100 bytes an attachment."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where one message lies.  Offsets and sizes in bytes; ``size`` is the plain message's."""

    offset: int
    body_offset: int
    stored_size: int
    size: int
    compression: Compression | None
    metadata: Metadata
    end: int

    def facts(self, saved: int) -> Facts:
        """What a listing needs; *saved* in seconds since the epoch."""
        state = KNOWN
        if self.compression is not None:
            state |= COMPRESSED
        if self.metadata.ext_refs is not None:
            state |= HAS_ATTACHMENTS
        return Facts(state, self.size, self.metadata.received, saved)


@dataclass(frozen=True, slots=True)
class NeedRange:
    """Read the bytes from ``offset`` to ``end`` as the new tail, and parse again."""

    offset: int
    end: int


def parse_record(
    head: memoryview,
    tail: memoryview,
    tail_offset: int,
    offset: int,
    end: int,
    *,
    header_size: int,
    whole: bool,
) -> Record | NeedRange:
    """Understand the record at *offset*.

    :param head: bytes from *offset* on, at least :data:`RECORD_HEAD` of them if the file has them.
    :param tail: bytes of the file from *tail_offset* to *end* or beyond.
    :param end: where the record must end: the end of the file (sdbox) or what the map says.
    :param header_size: the file's message header size (``M``).
    :param whole: the record must end exactly at *end* (mdbox), not somewhere before it.
    :raises FormatError: damage, with its offset in the file.
    """
    header = parse_message_header(head[:header_size], header_size, base=offset)
    if isinstance(header, NeedMore):
        raise FormatError(offset + len(head), "the file ends inside a message header")
    body_offset = offset + header_size
    metadata_offset = body_offset + header.body_size
    if metadata_offset + len(METADATA_MAGIC) > end:
        raise FormatError(
            offset, f"message of {header.body_size} bytes reaches beyond its record, which ends at {end}"
        )
    if metadata_offset < tail_offset:
        if end - metadata_offset > MAX_METADATA:
            raise FormatError(metadata_offset, f"metadata block is longer than {MAX_METADATA} bytes")
        return NeedRange(metadata_offset, end)
    metadata = parse_metadata(tail[metadata_offset - tail_offset : end - tail_offset], base=metadata_offset)
    if isinstance(metadata, NeedMore):
        raise FormatError(end, "the record ends inside its metadata")
    if whole and metadata_offset + metadata.size != end:
        raise FormatError(metadata_offset + metadata.size, f"the record ends here, the map says at {end}")
    compression = detect(head[header_size : min(header_size + header.body_size, len(head))])
    size = header.body_size
    if compression is not None or metadata.ext_refs is not None:
        plain = metadata.physical_size
        size = plain if plain is not None else size
    return Record(
        offset, body_offset, header.body_size, size, compression, metadata, metadata_offset + metadata.size
    )


def damaged_facts(head: memoryview, offset: int, end: int, header_size: int, saved: int) -> Facts:
    """The row of a damaged message: the size that its header claims where that is possible, else 0."""
    size = 0
    try:
        header = parse_message_header(head[:header_size], header_size, base=offset)
        if not isinstance(header, NeedMore) and offset + header_size + header.body_size <= end:
            size = header.body_size
    except FormatError:
        pass  # the damage is already known; only the guess of the size is lost
    return Facts(DAMAGED, size, 0, saved)
