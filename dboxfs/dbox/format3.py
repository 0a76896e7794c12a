"""dbox file format 3: written by appending only, and split into messages without an index.

The format page is ``FORMAT3.md`` beside this file: grammar, invariants, reasons.  In short::

    file            = "3 M13 C" hex " K" 32hex LF *record          ; K: the file key
    record          = message-header body trailer
    message-header  = %x01 %x02 separator LF                       ; 19 bytes
    trailer         = %x01 %x03 separator 16hex LF *metadata-line  ; 16hex: stored size of the body
                      [C line] D line, K line, H line, L line LF

The trailer has all facts of a record: its own place gives the record's place, and its tag H is valid only
there.  This module has :func:`parse_trailer` for a given beginning, :func:`parse_last_trailer` for a given
end, :func:`check_message_header`, the encoders, and :class:`RecordWriter`, which makes a record of unknown
size.  :mod:`dboxfs.dbox.forward` reads bodies as a stream; :mod:`dboxfs.dbox.recovery` finds records without
map or index.

Invariants as in :mod:`dboxfs.dbox.format2`: pure, :class:`~dboxfs.dbox.format2.NeedMore` for too little
input, :class:`~dboxfs.errors.FormatError` for invalid input.  Every value has only one spelling.
"""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from dboxfs.dbox.compression import Compression
from dboxfs.dbox.format2 import MAX_SIZE, MESSAGE_HEADER_SIZE_3, Buffer, FileHeader, NeedMore
from dboxfs.dbox.metadata import MAX_LINES, Metadata
from dboxfs.errors import FormatError

KEY_SIZE: Final = 16
"""Bytes of a file key."""

SEPARATOR_SIZE: Final = 16
"""Bytes of a record's separator."""

TRAILER_HEAD_SIZE: Final = 35
"""Bytes of a trailer before its metadata lines: magic, separator, size, LF."""

MAX_TRAILER: Final = 1 << 20
"""Longest trailer (bytes).  Without an ``X`` line it has about 230."""

LAST_LINE_SIZE: Final = 11
"""Bytes at the end of a record with the size of its trailer: the L line and the terminator."""

OWN_KEYS: Final = frozenset((b"C", b"D", b"K", b"H", b"L"))
"""Keys of the trailer's own lines, which metadata can't have."""

_MESSAGE_MAGIC: Final = b"\x01\x02"
_TRAILER_MAGIC: Final = b"\x01\x03"
_HEAD: Final = re.compile(rb"\x01\x03([\0-\xff]{16})([0-7][0-9a-f]{15})\n")
_END: Final = re.compile(rb"D([0-9a-f]{8})\nK([0-9a-f]{32})\nH([0-9a-f]{32})\nL([0-9a-f]{8})\n\n")
_END_SIZE: Final = 10 + 34 + 34 + 10 + 1
_TAG_AND_REST: Final = 34 + 10 + 1
_LAST_LINE: Final = re.compile(rb"L([0-9a-f]{8})\n\n")
_WINDOW: Final = 1024


class Trailer(Struct, frozen=True):
    """The trailer behind a body, which describes the whole record.

    ``offset``: of the trailer in its file.  ``size``: of the trailer (bytes).  ``body_size``: stored bytes of
    the body.  ``metadata``: the metadata lines, as in format 2; its ``size`` is the trailer's.
    ``compression``: of the stored body; None: it is plain, with any first bytes.  ``crc``: CRC-32 of the
    stored body.  ``key``: the file key (16 bytes) in the trailer, which its tag was made with.
    """

    offset: int
    size: int
    separator: bytes
    body_size: int
    metadata: Metadata
    compression: Compression | None
    crc: int
    key: bytes

    @property
    def record_offset(self) -> int:
        """The offset of the record in the file, with its message header."""
        return self.offset - self.body_size - MESSAGE_HEADER_SIZE_3

    @property
    def body_offset(self) -> int:
        """The offset of the body in the file."""
        return self.offset - self.body_size

    @property
    def end(self) -> int:
        """The end of the record in the file."""
        return self.offset + self.size

    @property
    def record_size(self) -> int:
        """Bytes of the whole record: the size in the mdbox map."""
        return self.end - self.record_offset


# -- reading ------------------------------------------------------------------------------------------------


def parse_trailer(data: Buffer, *, base: int) -> Trailer | NeedMore:
    """Parse the trailer that begins at the start of ``data``.

    :param base: offset of ``data`` in the file.  The tag is valid only for this offset.
    :raises FormatError: no trailer, or one that is damaged or belongs to another place.
    """
    if isinstance(data, memoryview):
        return _parse_view(data, base)
    match = _HEAD.match(data)
    if match is None:
        return _check_head(bytes(data[:TRAILER_HEAD_SIZE]), base)
    end = data.find(b"\n\n", TRAILER_HEAD_SIZE - 1, MAX_TRAILER)
    if end < 0:
        if len(data) >= MAX_TRAILER:
            raise FormatError(base, f"trailer is longer than {MAX_TRAILER} bytes")
        return NeedMore(len(data) + 1)
    return _parse_whole(bytes(data[: end + 2]), match[1], int(match[2], 16), base)


def _parse_view(view: memoryview, base: int) -> Trailer | NeedMore:
    """A memoryview can't be searched, so the trailer is copied in a growing window."""
    window = _WINDOW
    while True:
        result = parse_trailer(bytes(view[:window]), base=base)
        if isinstance(result, Trailer) or window >= len(view):
            return result
        window *= 4


def _check_head(head: bytes, base: int) -> NeedMore:
    if not _TRAILER_MAGIC.startswith(head[:2]):
        raise FormatError(base, f"no trailer: found {head[:2].hex(' ')}, expected 01 03")
    if len(head) == TRAILER_HEAD_SIZE:
        raise FormatError(base + 18, f"the size in the trailer is not 16 hexadecimal digits: {head[18:]!r}")
    return NeedMore(TRAILER_HEAD_SIZE)


def _parse_whole(trailer: bytes, separator: bytes, body_size: int, base: int) -> Trailer:
    size = len(trailer)
    end = _END.fullmatch(trailer, max(size - _END_SIZE, TRAILER_HEAD_SIZE))
    if end is None:
        raise FormatError(base, f"trailer of {size} bytes does not end with its D, K, H and L lines")
    crc, key, tag, length = (bytes.fromhex(part.decode("ascii")) for part in end.groups())
    if int.from_bytes(length) != size:
        raise FormatError(base + size - LAST_LINE_SIZE, f"trailer has {size} bytes, its L line is {end[4]!r}")
    offset = base - body_size - MESSAGE_HEADER_SIZE_3
    if offset < 0:
        raise FormatError(base, f"no room for the {body_size} bytes of the body before its trailer")
    if not hmac.compare_digest(tag, _tag(key, offset, trailer[: size - _TAG_AND_REST])):
        raise FormatError(base, "the tag of the trailer is wrong: it is damaged, or of another file or place")
    lines = trailer[TRAILER_HEAD_SIZE : size - _END_SIZE].split(b"\n", MAX_LINES)
    if lines.pop():
        raise FormatError(base, f"trailer has more than {MAX_LINES} lines")
    compression = _compression(lines.pop()[1:], base) if lines and lines[-1][:1] == b"C" else None
    items = tuple([(line[:1], line[1:]) for line in lines])
    if any(item[0] in OWN_KEYS for item in items):
        raise FormatError(base, "a C, D, K, H or L line stands among the metadata")
    metadata = Metadata(items, size, base, TRAILER_HEAD_SIZE)
    return Trailer(base, size, separator, body_size, metadata, compression, int.from_bytes(crc), key)


def _compression(name: bytes, base: int) -> Compression:
    try:
        return Compression(name.decode("ascii", "replace"))
    except ValueError:
        raise FormatError(base, f"unknown compression {name[:32]!r}") from None


def parse_last_trailer(tail: Buffer, *, end: int) -> Trailer | NeedMore:
    """Parse the trailer that ends with ``tail``.

    :param tail: the bytes of the file before ``end`` (an offset), 512 of them if there are so many.
    :return: the trailer, or the number of bytes before ``end`` that are needed (at most :data:`MAX_TRAILER`).
    :raises FormatError: no trailer ends there.
    """
    last = bytes(tail[-LAST_LINE_SIZE:])
    match = _LAST_LINE.fullmatch(last)
    if match is None:
        if len(last) < min(LAST_LINE_SIZE, end):
            return NeedMore(LAST_LINE_SIZE)
        raise FormatError(max(0, end - LAST_LINE_SIZE), f"no trailer ends here: found {last!r}")
    size = int(match[1], 16)
    if not TRAILER_HEAD_SIZE + _END_SIZE <= size <= min(MAX_TRAILER, end):
        raise FormatError(end - LAST_LINE_SIZE, f"a trailer can't have {size} bytes")
    if size > len(tail):
        return NeedMore(size)
    found = parse_trailer(bytes(tail[len(tail) - size :]), base=end - size)
    if isinstance(found, NeedMore) or found.size != size:
        raise FormatError(end - size, f"trailer does not end after the {size} bytes of its L line")
    return found


def check_message_header(head: Buffer, trailer: Trailer) -> None:
    """Check that ``head``, the bytes at ``trailer.record_offset``, begins with the header of that record.

    :raises FormatError: it doesn't.
    """
    expected = encode_message_header3(trailer.separator)
    found = bytes(head[:MESSAGE_HEADER_SIZE_3])
    if found != expected:
        reason = f"found {found.hex(' ')}, expected {expected.hex(' ')}"
        raise FormatError(trailer.record_offset, f"the message header does not fit its trailer: {reason}")


def separator_of(head: Buffer, *, base: int = 0) -> bytes | NeedMore:
    """The separator in the message header at the start of ``head``.

    :param base: offset of ``head`` in the file, for errors.
    :raises FormatError: no message header of format 3.
    """
    header = bytes(head[:MESSAGE_HEADER_SIZE_3])
    if not _MESSAGE_MAGIC.startswith(header[:2]):
        raise FormatError(base, f"no message header: found {header[:2].hex(' ')}, expected 01 02")
    if len(header) < MESSAGE_HEADER_SIZE_3:
        return NeedMore(MESSAGE_HEADER_SIZE_3)
    if header[-1] != 0x0A:
        raise FormatError(base + len(header) - 1, f"message header ends with {header[-1:]!r}, expected LF")
    return header[2:-1]


def begins_trailer(data: Buffer, separator: bytes, body_size: int) -> bool:
    """Whether ``data`` begins like the trailer of a body of this size: a quick check without the tag."""
    return bytes(data[:TRAILER_HEAD_SIZE]) == _trailer_head(separator, body_size)


def unreadable_header(trailer: Trailer) -> FileHeader:
    """A file header for a file whose own is damaged, from one of its trailers."""
    return FileHeader(3, MESSAGE_HEADER_SIZE_3, None, 0, trailer.key)


# -- writing ------------------------------------------------------------------------------------------------


def encode_file_header3(created: int, key: bytes) -> bytes:
    """The header line of a new file.

    :param created: seconds since the epoch.
    :param key: 16 random bytes, for this file alone.
    :raises ValueError: a time before the epoch or not below 2**60, a key that does not have 16 bytes.
    """
    if not 0 <= created < 1 << 60:
        raise ValueError(f"creation time out of range: {created}")
    return b"3 M13 C%x K%s\n" % (created, _hex(key, KEY_SIZE))


def encode_message_header3(separator: bytes) -> bytes:
    """The 19 bytes before a body.

    :param separator: 16 random bytes, for this record alone.
    :raises ValueError: it does not have 16 bytes.
    """
    if len(separator) != SEPARATOR_SIZE:
        raise ValueError(f"a separator has {SEPARATOR_SIZE} bytes, this one {len(separator)}")
    return b"\x01\x02%s\n" % separator


def encode_trailer(
    items: Iterable[tuple[bytes, bytes]],
    *,
    separator: bytes,
    body_size: int,
    crc: int,
    key: bytes,
    offset: int,
    compression: Compression | None = None,
) -> bytes:
    """The trailer behind a body.  Its size does not depend on ``offset``, ``key`` and ``crc``.

    :param items: metadata lines (key, value).
    :param body_size: stored bytes of the body.
    :param crc: CRC-32 of the stored body.
    :param offset: of the record, with its message header, in the file with this ``key``.
    :raises ValueError: a bad metadata key (one byte, not LF, NUL, space, C, D, K, H or L), an LF in a value,
        a number out of range, a trailer above :data:`MAX_TRAILER`.
    """
    if not (0 <= body_size <= MAX_SIZE and 0 <= offset <= MAX_SIZE and 0 <= crc < 1 << 32):
        raise ValueError(f"out of range: size {body_size}, offset {offset} or CRC {crc}")
    encode_message_header3(separator)
    parts = [_trailer_head(separator, body_size)]
    for number, (name, value) in enumerate(items, 2):
        if len(name) != 1 or name in b"\n\0 " or name in OWN_KEYS or name + value == b"\r":
            raise ValueError(f"bad metadata key: {name!r}")
        if b"\n" in value or number > MAX_LINES:
            raise ValueError(f"line feed in the value of metadata {name!r}, or too many lines")
        parts += (name, value, b"\n")
    if compression is not None:
        parts.append(b"C%s\n" % compression.value.encode("ascii"))
    parts.append(b"D%08x\nK%s\n" % (crc, _hex(key, KEY_SIZE)))
    covered = b"".join(parts)
    size = len(covered) + _TAG_AND_REST
    if size > MAX_TRAILER:
        raise ValueError(f"a trailer of {size} bytes; {MAX_TRAILER} are possible")
    tag = _tag(key, offset, covered).hex().encode("ascii")
    return b"%sH%s\nL%08x\n\n" % (covered, tag, size)


def trailer_size(items: Iterable[tuple[bytes, bytes]]) -> int:
    """Size of the trailer that :func:`encode_trailer` makes of these metadata lines for a plain body
    (bytes).
    """
    return TRAILER_HEAD_SIZE + sum(len(key) + len(value) + 1 for key, value in items) + _END_SIZE


def move_trailer(trailer: Trailer, key: bytes, offset: int) -> bytes:
    """The trailer of the same record at another ``offset``, in a file with another ``key``; equally long."""
    return encode_trailer(
        trailer.metadata.items,
        separator=trailer.separator,
        body_size=trailer.body_size,
        crc=trailer.crc,
        key=key,
        offset=offset,
        compression=trailer.compression,
    )


class RecordWriter:
    """Makes one record: the caller writes ``header``, each piece after :meth:`feed`, then :meth:`trailer`.

    :param key: of the file.
    :param offset: of the record in the file.
    :param separator: 16 random bytes.
    :ivar size: bytes of the body so far.
    """

    def __init__(self, key: bytes, offset: int, separator: bytes) -> None:
        self.header = encode_message_header3(separator)
        self.size = 0
        self._key = key
        self._offset = offset
        self._separator = separator
        self._crc = 0

    def feed(self, piece: Buffer) -> None:
        """Take the next piece of the stored body."""
        self.size += len(piece)
        self._crc = zlib.crc32(piece, self._crc)

    def trailer(
        self,
        items: Iterable[tuple[bytes, bytes]],
        compression: Compression | None = None,
        *,
        crc: int | None = None,
    ) -> bytes:
        """The trailer behind the body that was fed.

        :param crc: of a copied body: the CRC-32 in its old trailer, right or wrong.
        :raises ValueError: see :func:`encode_trailer`.
        """
        return encode_trailer(
            items,
            separator=self._separator,
            body_size=self.size,
            crc=self._crc if crc is None else crc,
            key=self._key,
            offset=self._offset,
            compression=compression,
        )


def _trailer_head(separator: bytes, body_size: int) -> bytes:
    return b"\x01\x03%s%016x\n" % (separator, body_size)


def _tag(key: bytes, offset: int, covered: bytes) -> bytes:
    return blake2b(offset.to_bytes(8, "little") + covered, digest_size=16, key=key).digest()


def _hex(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"a key has {size} bytes, this one {len(data)}")
    return data.hex().encode("ascii")
