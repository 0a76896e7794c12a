"""The metadata block of a dbox record: one line for each key, behind the body.

::

    metadata   = magic *line end
    magic      = LF %x01 %x03 LF
    line       = key value LF          ; key: one byte; value: any bytes without LF, may be empty or very long
    end        = LF                    ; an empty line
               / SP value LF           ; version 1 padding: a line that begins with a space ends the block too

Keys, in the order in which Dovecot writes them: Z R V P O G B X (see the properties of :class:`Metadata`).
``E F K S`` are leftovers of version 1; they and unknown keys are kept as they are and have no meaning.

Invariants.  ``Metadata.items`` are the bytes of the file, so a record can be copied without loss.  If a key
occurs twice, the first one counts, as in Dovecot.  Dovecot's line reader drops one CR before the LF: the
properties do so, too, the items keep it, and a line that is a lone CR ends the block.  A line that begins
with NUL belongs to a block that was never written (a crash can leave NULs), and is an error.

Limits.  At most :data:`MAX_LINES` lines.  A dbox file has no save date.  A value is decoded only when it is
asked for; a malformed one then raises :class:`~dboxfs.errors.FormatError`, and the others stay readable.

Source: dbox-files section 1.4.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from dboxfs.dbox.format2 import MAX_SIZE, METADATA_MAGIC, Buffer, NeedMore
from dboxfs.errors import FormatError

MAX_LINES: Final = 4096
"""Lines of a block, at most: this limits the memory for a damaged block.  Dovecot writes at most eight."""

_FIRST_LINE: Final = len(METADATA_MAGIC)
_LAST_LF_OF_MAGIC: Final = _FIRST_LINE - 1
_HEX: Final = re.compile(rb"[0-9a-fA-F]+")
_DECIMAL: Final = re.compile(rb"0*([0-9]{1,10})")
_GUID_HEX: Final = re.compile(rb"[0-9a-fA-F]{32}")
_VIEW_WINDOW: Final = 1024


class Metadata(Struct, frozen=True):
    """The metadata of one message.

    ``items``: (key byte, value) in the order of the file, unknown keys included.  ``size``: bytes of the
    block in the file, magic and terminator included.  ``base``: offset of the magic in the file, and
    ``head``: bytes from there to the first line (35 in format 3), used in errors only.
    """

    items: tuple[tuple[bytes, bytes], ...]
    size: int
    base: int = 0
    head: int = _FIRST_LINE

    def get(self, key: bytes) -> bytes | None:
        """The value of the first line with this key (without a CR at its end), or None."""
        for found, value in self.items:
            if found == key:
                return value.removesuffix(b"\r")
        return None

    @property
    def guid(self) -> bytes | None:
        """G: the message GUID as stored, normally 32 hex digits but any text; None if missing or empty."""
        return self.get(b"G") or None

    @property
    def guid128(self) -> bytes | None:
        """The GUID of indexes, 16 bytes: G decoded if it is 32 hex digits, else the end of its SHA1."""
        text = self.guid
        return None if text is None else guid128_of(text)

    @property
    def received(self) -> int:
        """R: received date (INTERNALDATE), seconds since the epoch; 0 if missing.

        Dates before 1970 are negative: see :func:`encode_date`.
        """
        return self._hex(b"R", signed=True) or 0

    @property
    def virtual_size(self) -> int | None:
        """V: size of the plain message with CRLF line ends (bytes)."""
        return self._hex(b"V")

    @property
    def physical_size(self) -> int | None:
        """Z: size of the plain message with LF line ends (bytes), decompressed and with its attachments.

        None if missing: then it is the size in the message header.
        """
        return self._hex(b"Z")

    @property
    def pop3_uidl(self) -> bytes | None:
        """P: the POP3 UIDL that overrides the usual one."""
        return self.get(b"P")

    @property
    def pop3_order(self) -> int | None:
        """O: position of the message in a POP3 listing, 0 to 2**32-1."""
        value = self.get(b"O")
        if value is None:
            return None
        match = _DECIMAL.fullmatch(value)
        number = -1 if match is None else int(match[1])
        if not 0 <= number < 2**32:
            reason = f"metadata O is not a 32 bit decimal number: {value[:32]!r}"
            raise FormatError(self._value_offset(b"O"), reason)
        return number

    @property
    def orig_mailbox(self) -> bytes | None:
        """B: storage name (mUTF-7 or UTF-8) of the mailbox of the first save; mdbox only."""
        return self.get(b"B")

    @property
    def ext_refs(self) -> bytes | None:
        """X: external attachments, for :func:`dboxfs.dbox.attachments.parse_ext_refs`."""
        return self.get(b"X")

    def value_offset(self, key: bytes) -> int | None:
        """Offset in the file of the value of the first line with this key, or None."""
        return None if self.get(key) is None else self._value_offset(key)

    def _value_offset(self, key: bytes) -> int:
        offset = self.base + self.head
        for found, value in self.items:
            if found == key:
                break
            offset += len(value) + 2
        return offset + 1

    def _hex(self, key: bytes, *, signed: bool = False) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        number = int(value, 16) if _HEX.fullmatch(value) is not None else -1
        if signed and 2**63 <= number < 2**64:
            return number - 2**64
        if not 0 <= number <= MAX_SIZE:
            reason = f"metadata {key.decode()} is not a hexadecimal number: {value[:32]!r}"
            raise FormatError(self._value_offset(key), reason)
        return number


def parse_metadata(data: Buffer, *, base: int = 0, limit: int | None = None) -> Metadata | NeedMore:
    """Parse the metadata block that begins, with its magic, at the start of ``data``.

    :param base: offset of ``data`` in the file, added to the offsets of errors.
    :param limit: bytes from the start of ``data`` within which the block must end (the end of the record by
        the map, or of the file); None: no limit.
    :raises FormatError: no magic, NULs at the beginning of a line, no end within ``limit``, too many lines.
    """
    if isinstance(data, memoryview):
        return _parse_view(data, base, limit)
    if not data.startswith(METADATA_MAGIC):
        _check_magic(bytes(data[:_FIRST_LINE]), base, limit)
        return NeedMore(_FIRST_LINE + 1)
    lines_end, end = _find_end(data, limit)
    nul = data.find(b"\n\0", _LAST_LF_OF_MAGIC, end if end >= 0 else limit)
    if nul >= 0:
        raise FormatError(base + nul + 1, "metadata line begins with NUL: it was never written")
    if end < 0:
        if limit is not None and len(data) >= limit:
            raise FormatError(base + limit, "metadata does not end where the record does")
        return NeedMore(len(data) + 1)
    lines = bytes(data[_FIRST_LINE:lines_end]).split(b"\n", MAX_LINES)
    if lines.pop():
        raise FormatError(base, f"metadata has more than {MAX_LINES} lines")
    return Metadata(tuple([(line[:1], line[1:]) for line in lines]), end, base)


def _parse_view(view: memoryview, base: int, limit: int | None) -> Metadata | NeedMore:
    """A memoryview can't be searched, so the block is copied in a growing window."""
    window = _VIEW_WINDOW
    while True:
        result = parse_metadata(bytes(view[:window]), base=base, limit=limit)
        if isinstance(result, Metadata) or window >= len(view):
            return result
        window *= 4


def _check_magic(head: bytes, base: int, limit: int | None) -> None:
    if not METADATA_MAGIC.startswith(head):
        raise FormatError(base, f"no metadata: found {head.hex(' ')}, expected {METADATA_MAGIC.hex(' ')}")
    if limit is not None and limit <= len(head):
        raise FormatError(base + limit, "metadata does not end where the record does")


def _find_end(data: bytes | bytearray, limit: int | None) -> tuple[int, int]:
    """(offset behind the last line, offset behind the terminator); (-1, -1): there is no terminator."""
    empty = data.find(b"\n\n", _LAST_LF_OF_MAGIC, limit)
    ends = empty + 2 if empty >= 0 else limit
    best = (empty + 1, empty + 2) if empty >= 0 else (-1, -1)
    padding = data.find(b"\n ", _LAST_LF_OF_MAGIC, ends)
    if padding >= 0:
        line_end = data.find(b"\n", padding + 1, limit)
        best = (padding + 1, line_end + 1) if line_end >= 0 else (-1, -1)
        ends = padding + 1
    carriage_return = data.find(b"\n\r\n", _LAST_LF_OF_MAGIC, ends)
    if carriage_return >= 0:
        best = (carriage_return + 1, carriage_return + 3)
    return best


def guid128_of(text: bytes) -> bytes:
    """The GUID of indexes (16 bytes) for the text of a G line: 32 hex digits are decoded, other texts
    hashed.
    """
    if _GUID_HEX.fullmatch(text) is not None:
        return binascii.unhexlify(text)
    return hashlib.sha1(text, usedforsecurity=False).digest()[-16:]


def encode_date(seconds: int) -> bytes:
    """The value of R for a date in Dovecot's form: hex, before 1970 16 digits with the sign bit set.

    :param seconds: since the epoch.
    :raises ValueError: a date that does not fit 64 bits.
    """
    if not -(2**63) <= seconds < 2**63:
        raise ValueError(f"{seconds} seconds are no date of 64 bits")
    return b"%x" % (seconds & (2**64 - 1))


def encode_metadata(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The metadata block with these (key, value) lines: magic, lines, terminator.

    :raises ValueError: a key that is not one byte or is LF, NUL or space, an LF in a value, or a line that
        would be a lone CR (readers would take the line for the end of the block).
    """
    parts = [METADATA_MAGIC]
    for key, value in items:
        if len(key) != 1 or key in b"\n\0 " or key + value == b"\r":
            raise ValueError(f"bad metadata key: {key!r}")
        if b"\n" in value:
            raise ValueError(f"line feed in the value of metadata {key!r}")
        parts += (key, value, b"\n")
    parts.append(b"\n")
    return b"".join(parts)
