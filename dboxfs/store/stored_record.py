"""One message record in a dbox file: the position of its body, and its metadata.

Only the two ends of a record are read: :data:`HEAD` bytes from the message header on (the header and enough
of the body to recognise compression), and the last :data:`TAIL` bytes, in which the metadata normally fit.
Size and dates don't need the body in between.  That holds for both formats; format 2 has the length of the
body before it, format 3 behind it.

:func:`parse_record` is pure: it gets the bytes and their offsets, and returns a :class:`Record`, or
:class:`NeedRange` if the metadata are longer than the tail.
"""

from __future__ import annotations

from msgspec import Struct

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE_3,
    METADATA_MAGIC,
    Compression,
    FileHeader,
    Metadata,
    NeedMore,
    check_message_header,
    detect,
    is_doubtful,
    is_encrypted,
    parse_file_header,
    parse_last_trailer,
    parse_message_header,
    parse_metadata,
)
from dboxfs.errors import FormatError
from dboxfs.store.attrs import CODED, DAMAGED, HAS_ATTACHMENTS, KNOWN, Facts

HEAD = 96
"""Bytes to read from the start of an sdbox file: header line (16), message header (30), magic (15); format 3:
header line (50) and message header (19)."""

RECORD_HEAD = 45
"""Bytes to read from a message header on: 30 and the 15 of the longest compression magic; format 3: 19."""

TAIL = 512
"""Bytes to read from the end of a record; the metadata that Dovecot writes is about 100 bytes long."""

MAX_METADATA = 1 << 20
"""Longest metadata block that is read (bytes).  An ``X`` line takes about 100 bytes an attachment."""

FILE_HEAD = 64
"""Bytes to read from the start of an ``m.N``: its header line has 16, in format 3 50."""

LOST_HEADER = FileHeader(3, MESSAGE_HEADER_SIZE_3, None, 0)
"""For an ``m.N`` whose header line is damaged: records of format 3 can be read without it."""


class Record(Struct, frozen=True):
    """The place of one message.  Offsets and sizes in bytes; ``size``: of the plain message.

    ``encrypted``: its stored bytes are ciphertext.  ``doubtful``: only reading the body shows whether it is
    compressed or encrypted (:func:`dboxfs.store.body.settled`); the size is sure.  ``as_it_is``: in format 2,
    it begins like a compressed or encrypted message, but is plain.  ``crc``: CRC-32 of the stored body; None:
    unknown (format 2).
    """

    offset: int
    body_offset: int
    stored_size: int
    size: int
    compression: Compression | None
    metadata: Metadata
    end: int
    encrypted: bool = False
    doubtful: bool = False
    as_it_is: bool = False
    crc: int | None = None

    def facts(self, saved: int) -> Facts:
        """The facts for a listing; *saved* in seconds since the epoch."""
        state = KNOWN
        if self.compression is not None or self.encrypted:
            state |= CODED
        if self.metadata.ext_refs is not None:
            state |= HAS_ATTACHMENTS
        return Facts(state, self.size, self.metadata.received, saved, self._virtual_size())

    def _virtual_size(self) -> int:
        """That of the metadata; 0: they have none, or one that this message can't have."""
        try:
            virtual = self.metadata.virtual_size or 0
        except FormatError:
            return 0
        return virtual if self.size <= virtual <= 2 * self.size else 0


class NeedRange(Struct, frozen=True):
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
    header: FileHeader,
    whole: bool,
) -> Record | NeedRange:
    """Parse the record at *offset*.

    :param head: bytes from *offset* on, at least :data:`RECORD_HEAD` of them if the file has them.
    :param tail: bytes of the file from *tail_offset* to *end* or beyond.
    :param end: where the record must end: the end of the file (sdbox), or the end by the map.
    :param header: the file's header line.
    :param whole: the record must end exactly at *end* (mdbox, format 3), not before it.
    :raises FormatError: damage, with its offset in the file.
    """
    if header.version == 3:
        return _parse_record3(head, tail[: max(0, end - tail_offset)], offset, end)
    header_size = header.message_header_size
    message = parse_message_header(head[:header_size], header_size, base=offset)
    if isinstance(message, NeedMore):
        raise FormatError(offset + len(head), "the file ends inside a message header")
    body_offset = offset + header_size
    metadata_offset = body_offset + message.body_size
    if metadata_offset + len(METADATA_MAGIC) > end:
        raise FormatError(
            offset, f"message of {message.body_size} bytes reaches beyond its record, which ends at {end}"
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
    first = head[header_size : min(header_size + message.body_size, len(head))]
    compression, encrypted = detect(first), is_encrypted(first)
    coded = compression is not None or encrypted
    size = _plain_size(message.body_size, metadata, coded=coded)
    return Record(
        offset, body_offset, message.body_size, size, compression, metadata, metadata_offset + metadata.size,
        encrypted, coded and is_doubtful(metadata),
    )  # fmt: skip


def _parse_record3(head: memoryview, tail: memoryview, offset: int, end: int) -> Record | NeedRange:
    found = parse_last_trailer(tail, end=end)
    if isinstance(found, NeedMore):
        start = max(offset, end - max(found.size, TAIL))
        if end - start <= len(tail):
            raise FormatError(offset, f"the {end - offset} bytes of the record are less than its trailer has")
        return NeedRange(start, end)
    if found.record_offset != offset:
        raise FormatError(found.offset, f"the trailer is of a record at {found.record_offset}, not {offset}")
    check_message_header(head, found)
    first = head[MESSAGE_HEADER_SIZE_3 : min(MESSAGE_HEADER_SIZE_3 + found.body_size, len(head))]
    encrypted = found.compression is None and is_encrypted(first) and not is_doubtful(found.metadata)
    coded = found.compression is not None or encrypted
    size = _plain_size(found.body_size, found.metadata, coded=coded)
    return Record(
        offset,
        found.body_offset,
        found.body_size,
        size,
        found.compression,
        found.metadata,
        found.end,
        encrypted,
        crc=found.crc,
    )


def _plain_size(stored: int, metadata: Metadata, *, coded: bool) -> int:
    """Size of the plain message (bytes).  *coded*: the message is stored compressed or encrypted."""
    if not coded and metadata.ext_refs is None:
        return stored
    plain = metadata.physical_size
    return stored if plain is None else plain


def file_header(head: bytes | memoryview) -> FileHeader:
    """The header line of a file that begins with *head*.

    :raises FormatError: it is damaged or incomplete.
    """
    header = parse_file_header(head)
    if isinstance(header, NeedMore):
        raise FormatError(len(head), "the file ends inside its header line")
    return header


def damaged_facts(
    head: memoryview, tail: memoryview, offset: int, end: int, header: FileHeader, saved: int
) -> Facts:
    """The facts of a damaged message: the size in its record if that is possible, else 0."""
    size = 0
    header_size = header.message_header_size
    try:
        if header.version == 3:
            trailer = parse_last_trailer(tail, end=end)
            size = 0 if isinstance(trailer, NeedMore) else trailer.body_size
        else:
            message = parse_message_header(head[:header_size], header_size, base=offset)
            if not isinstance(message, NeedMore) and offset + header_size + message.body_size <= end:
                size = message.body_size
    except FormatError:
        pass  # the damage is already known; only the guess of the size is lost
    return Facts(DAMAGED, size, 0, saved)
