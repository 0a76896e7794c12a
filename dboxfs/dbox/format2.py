"""dbox file format 2: the file header line, the message header, the metadata magic.

The header line gives the format of a file, so :func:`parse_file_header` also parses that of format 3
(``FORMAT3.md``).  All else in this module is format 2, which Dovecot writes into ``u.N`` (sdbox, one record a
file) and ``m.N`` (mdbox, records back to back)::

    file            = file-header *record
    file-header     = version SP token *(SP token) LF          ; "2 M1e C6b00a985" LF
    version         = "1" / "2"                                ; one digit
    token           = "M" hex    ; size of every message header of this file, mandatory
                    / "C" hex    ; creation time, seconds since the epoch
                    / other      ; ignored ("A…" is a version 1 leftover)
    record          = message-header body metadata-magic *metadata-line LF
    message-header  = %x01 %x02 "N" SP 8SP SP 16hex *ignored LF ; exactly M bytes, M is 30
    body            = size bytes, size = the 16 hex digits
    metadata-magic  = LF %x01 %x03 LF

The metadata lines and the end of a record are :mod:`dboxfs.dbox.metadata`; one whole record is
:mod:`dboxfs.dbox.scan`.

Invariants.  The parsers are pure: bytes in, a value out, or :class:`NeedMore` if the input is too short, or
:class:`~dboxfs.errors.FormatError` as soon as no longer input could be valid.  A longer input never changes a
value or an error of a shorter one.  Input is ``bytes``, ``bytearray`` or ``memoryview`` (of bytes), is not
kept and not copied as a whole.

Limits.  Header lines of at most :data:`MAX_FILE_HEADER` bytes, message headers of 30 to
:data:`MAX_MESSAGE_HEADER` bytes, body sizes below 2**63.  Version 1 files are read and never written;
versions above 3 are an error.  A message header of NULs is a message that its writer did not finish.

Source: dbox-files sections 1.1 and 1.2.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from msgspec import Struct

from dboxfs.errors import FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

MESSAGE_HEADER_SIZE: Final = 30
"""Bytes of the message headers that Dovecot writes; only files with this size may be appended to."""

MESSAGE_HEADER_SIZE_3: Final = 19
"""Bytes of the message headers of format 3."""

METADATA_MAGIC: Final = b"\n\x01\x03\n"
"""The four bytes between a body and its metadata lines."""

MAX_FILE_HEADER: Final = 1024
"""Longest file header line that is read, LF included (bytes).  Dovecot's is 16."""

MAX_MESSAGE_HEADER: Final = 4096
"""Largest M value that is accepted (bytes)."""

MAX_SIZE: Final = 2**63 - 1
"""Largest body size: it fits a file offset."""

_MESSAGE_MAGIC: Final = b"\x01\x02"
_USUAL_FILE_HEADER: Final = re.compile(rb"([12]) M1[eE] C([0-9a-fA-F]{1,15})\n")
_FILE_HEADER_3: Final = re.compile(rb"3 M13 C([0-9a-f]{1,15}) K([0-9a-f]{32})\n")
_USUAL_MESSAGE_HEADER: Final = re.compile(rb"\x01\x02N[\0-\xff]{10}([0-7][0-9a-fA-F]{15})")
_HEX: Final = re.compile(rb"[0-9a-fA-F]+")
_NOT_HEX: Final = re.compile(rb"[^0-9a-fA-F]")


class NeedMore(Struct, frozen=True):
    """The input is too short.

    ``size``: bytes, counted from the start of the parser's input, that are needed at least.  If the end can
    only be found by searching (lines), this is one byte more than the input: a caller that reads a file reads
    in growing steps, not byte by byte.
    """

    size: int


class FileHeader(Struct, frozen=True):
    """The first line of a dbox file.

    ``version``: 1, 2 or 3.  ``message_header_size``: bytes of every message header of the file (M).
    ``created``: seconds since the epoch; None: the line has no C.  ``size``: bytes of the line, LF included;
    the first record starts there.  ``key``: the file key of format 3, 16 bytes; else None.
    """

    version: int
    message_header_size: int
    created: int | None
    size: int
    key: bytes | None = None


class MessageHeader(Struct, frozen=True):
    """The header before a body.  ``type``: "N".  ``body_size``: stored bytes (compressed or not)."""

    type: str
    body_size: int


def parse_file_header(data: Buffer, *, base: int = 0) -> FileHeader | NeedMore:
    """Parse the header line at the start of ``data``.

    :param base: offset of ``data`` in the file, added to the offsets of errors.
    :raises FormatError: no dbox file of version 1, 2 or 3, or a line that is too long or has invalid values.
    """
    usual = _USUAL_FILE_HEADER.match(data)
    if usual is not None:
        return FileHeader(int(usual[1]), MESSAGE_HEADER_SIZE, int(usual[2], 16), usual.end())
    third = _FILE_HEADER_3.match(data)
    if third is not None:
        key = bytes.fromhex(third[2].decode("ascii"))
        return FileHeader(3, MESSAGE_HEADER_SIZE_3, int(third[1], 16), third.end(), key)
    head = bytes(data[:MAX_FILE_HEADER])
    _check_version(head, base)
    end = head.find(b"\n")
    if end < 0:
        if len(head) == MAX_FILE_HEADER:
            raise FormatError(base, f"file header line is longer than {MAX_FILE_HEADER} bytes")
        return NeedMore(len(head) + 1)
    if head[:1] == b"3":
        raise FormatError(base, f"damaged file header line of version 3: {head[: min(end, 64)]!r}")
    return _parse_tokens(head[:end], base)


def _check_version(head: bytes, base: int) -> None:
    if head and not 0x30 <= head[0] <= 0x39:
        raise FormatError(base, f"not a dbox file: it starts with {head[:1]!r}, expected a version digit")
    if len(head) > 1 and head[1] != 0x20:
        raise FormatError(
            base + 1, f"not a dbox file: {head[1:2]!r} after the version digit, expected a space"
        )
    if len(head) > 1 and head[0] not in b"123":
        raise FormatError(base, f"dbox version {head[:1].decode()} is not supported")


def _parse_tokens(line: bytes, base: int) -> FileHeader:
    message_header_size: int | None = None
    created: int | None = None
    offset = 2
    for token in line.removesuffix(b"\r")[2:].split(b" "):
        if token[:1] == b"M":
            message_header_size = _parse_hex(token[1:], base + offset + 1, "message header size")
            if not MESSAGE_HEADER_SIZE <= message_header_size <= MAX_MESSAGE_HEADER:
                reason = f"message header size is {message_header_size}"
                bounds = f"expected {MESSAGE_HEADER_SIZE} to {MAX_MESSAGE_HEADER}"
                raise FormatError(base + offset + 1, f"{reason}, {bounds}")
        elif token[:1] == b"C":
            created = _parse_hex(token[1:], base + offset + 1, "creation time")
        offset += len(token) + 1
    if message_header_size is None:
        raise FormatError(base + len(line), "file header line has no message header size (M)")
    return FileHeader(line[0] - 0x30, message_header_size, created, len(line) + 1)


def _parse_hex(text: bytes, offset: int, what: str) -> int:
    if _HEX.fullmatch(text) is None:
        raise FormatError(offset, f"{what} is not a hexadecimal number: {text[:32]!r}")
    value = int(text, 16)
    if value > MAX_SIZE:
        raise FormatError(offset, f"{what} is too large: {text[:32]!r}")
    return value


def parse_message_header(
    data: Buffer, message_header_size: int = MESSAGE_HEADER_SIZE, *, base: int = 0
) -> MessageHeader | NeedMore:
    """Parse the message header at the start of ``data``.

    :param message_header_size: the file's M value (bytes); bytes of the header behind the first 30 are
        ignored.
    :param base: offset of ``data`` in the file, added to the offsets of errors.
    :raises FormatError: bad magic, another type than "N", a size that is not 16 hex digits or not below
        2**63, no LF at the end, or NULs, which the writer has not replaced yet.
    """
    if len(data) >= message_header_size:
        usual = _USUAL_MESSAGE_HEADER.match(data)
        if usual is not None and data[message_header_size - 1] == 0x0A:
            return MessageHeader("N", int(usual[1], 16))
    _check_message_header(bytes(data[:message_header_size]), message_header_size, base)
    return NeedMore(message_header_size)


def _check_message_header(head: bytes, message_header_size: int, base: int) -> None:
    """Raise the error of ``head``; return if its bytes so far are valid."""
    if head[:1] == b"\0":
        raise FormatError(base, "message header is not written yet (NULs)")
    if not _MESSAGE_MAGIC.startswith(head[:2]):
        raise FormatError(base, f"no message header: found {head[:2].hex(' ')}, expected 01 02")
    if len(head) > 2 and head[2] != 0x4E:
        raise FormatError(base + 2, f"message type is {head[2:3]!r}, expected b'N'")
    digits = head[13:29]
    if digits and digits[0] in b"89abcdefABCDEF":
        raise FormatError(base + 13, f"message size is too large: {digits!r}")
    wrong = _NOT_HEX.search(digits)
    if wrong is not None:
        raise FormatError(base + 13 + wrong.start(), f"message size is not 16 hexadecimal digits: {digits!r}")
    if len(head) == message_header_size and head[-1] != 0x0A:
        raise FormatError(
            base + message_header_size - 1, f"message header ends with {head[-1:]!r}, expected LF"
        )


def encode_file_header(created: int) -> bytes:
    """The header line of a new file.  ``created``: seconds since the epoch.

    :raises ValueError: a time before the epoch or not below 2**63.
    """
    if not 0 <= created <= MAX_SIZE:
        raise ValueError(f"creation time out of range: {created}")
    return b"2 M1e C%x\n" % created


def encode_message_header(body_size: int) -> bytes:
    """The 30 bytes before a body of ``body_size`` stored bytes.

    :raises ValueError: a size below 0 or not below 2**63.
    """
    if not 0 <= body_size <= MAX_SIZE:
        raise ValueError(f"message size out of range: {body_size}")
    return b"\x01\x02N          %016X\n" % body_size
