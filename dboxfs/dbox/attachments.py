"""External attachments: MIME parts that Dovecot has cut out of a body and keeps in separate files.

The metadata value X lists them::

    value   = ref *(SP ref)
    ref     = start SP size SP options SP path
    start   = decimal   ; offset of the part in the full plain message, all earlier parts put back
    size    = decimal   ; bytes that the part occupies in the full plain message
    options = "-"       ; the file's bytes are inserted as they are
            / *("C" / "B" decimal)
                        ; B: the file is base64 decoded, encode it with that many characters a line (a
                        ; multiple of 4), line ends between the lines, none at the end; C: CRLF, else LF
    path    = relative path below the attachment directory

The full message is the stored (decompressed) body with every part inserted at its start.  :func:`plan` gives
it as a sequence of segments, so that a reader gets any byte range without building the rest.  For a part with
``B``, :func:`raw_range` gives the bytes of its file that a range of the encoded text needs, and
:func:`encode_base64_range` makes the text.

Invariants.  References ascend and do not overlap.  A path has no empty part, no ``.``, no ``..``, no NUL and
is not absolute: joined to the attachment directory it stays below it (the caller handles symbolic links).  A
part's file is valid only if :meth:`ExtRef.check_raw_size` accepts its size.

In sdbox the file's name has a suffix that is not part of ``path``: the store adds it.

Source: dbox-files section 3.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from msgspec import Struct

from dboxfs.dbox.format2 import MAX_SIZE
from dboxfs.errors import FormatError

_NUMBER: Final = re.compile(rb"0*([0-9]{1,19})")
_OPTIONS: Final = re.compile(rb"-|(?:C|B[0-9]+)+")
_BASE64_OPTION: Final = re.compile(rb"B([0-9]+)")
MAX_REFS: Final = 16384
"""Parts of one message, at most: this limits the memory for a damaged value."""

MAX_LINE_LENGTH: Final = 2**31 - 4
"""Longest base64 line (characters)."""


class ExtRef(Struct, frozen=True):
    """One external part of a message.

    ``start``, ``size``: its place in the full plain message (bytes).  ``options``: as stored.  ``path``:
    below the attachment directory, undecodable bytes as surrogates (``os.fsencode`` gives them back).
    ``line_length``: base64 characters a line, None if the file is inserted as it is.  ``crlf``: CRLF between
    the lines.
    """

    start: int
    size: int
    options: str
    path: str
    line_length: int | None
    crlf: bool

    @property
    def end(self) -> int:
        """Offset behind the part in the full plain message."""
        return self.start + self.size

    def check_raw_size(self, raw_size: int) -> None:
        """Check the size of the part's file (bytes) against ``size``.

        :raises FormatError: the file cannot give exactly ``size`` bytes; offset 0.
        """
        gives = raw_size if self.line_length is None else encoded_size(raw_size, self.line_length, self.crlf)
        if gives != self.size:
            raise FormatError(0, f"attachment of {raw_size} bytes gives {gives} bytes, expected {self.size}")


class Segment(Struct, frozen=True):
    """A piece of the full message: ``size`` bytes at ``out_start``, never 0.

    ``source``: offset in the plain stored body, or the external part.
    """

    out_start: int
    size: int
    source: int | ExtRef


SegmentPlan: TypeAlias = tuple[Segment, ...]


def parse_ext_refs(value: bytes, *, base: int = 0) -> tuple[ExtRef, ...]:
    """Parse the value of metadata key X.

    :param base: offset of the value in the file, added to the offsets of errors.
    :raises FormatError: no groups of four, bad numbers or options, parts that overlap or do not ascend, or a
        path that could lead out of the attachment directory.
    """
    fields = value.split(b" ", 4 * MAX_REFS)
    if len(fields) > 4 * MAX_REFS:
        raise FormatError(base, f"more than {MAX_REFS} external attachments")
    if len(fields) % 4:
        raise FormatError(base, f"external attachments are not groups of four: {len(fields)} fields")
    refs: list[ExtRef] = []
    offset = base
    previous_end = 0
    for i in range(0, len(fields), 4):
        ref = _parse_ref(fields[i : i + 4], offset)
        if ref.start < previous_end:
            raise FormatError(offset, f"external attachment at {ref.start} begins before {previous_end}")
        previous_end = ref.end
        if previous_end > MAX_SIZE:
            raise FormatError(offset, "external attachment ends above 2**63")
        refs.append(ref)
        offset += sum(map(len, fields[i : i + 4])) + 4
    return tuple(refs)


def _parse_ref(fields: list[bytes], offset: int) -> ExtRef:
    start = _parse_number(fields[0], offset, "start")
    offset += len(fields[0]) + 1
    size = _parse_number(fields[1], offset, "size")
    offset += len(fields[1]) + 1
    line_length, crlf = _parse_options(fields[2], offset)
    offset += len(fields[2]) + 1
    _check_path(fields[3], offset)
    path = fields[3].decode("utf-8", "surrogateescape")
    return ExtRef(start, size, fields[2].decode("ascii"), path, line_length, crlf)


def _parse_number(text: bytes, offset: int, what: str) -> int:
    match = _NUMBER.fullmatch(text)
    number = -1 if match is None else int(match[1])
    if not 0 <= number <= MAX_SIZE:
        raise FormatError(offset, f"{what} of an external attachment is not a number: {text[:32]!r}")
    return number


def _parse_options(text: bytes, offset: int) -> tuple[int | None, bool]:
    if _OPTIONS.fullmatch(text) is None:
        raise FormatError(offset, f"unknown options of an external attachment: {text[:32]!r}")
    line_length = None
    for option in _BASE64_OPTION.finditer(text):
        line_length = _parse_number(option[1], offset, "line length")
        if not 0 < line_length <= MAX_LINE_LENGTH or line_length % 4:
            raise FormatError(offset, f"base64 line length is {line_length}, expected a multiple of 4")
    return line_length, b"C" in text


def _check_path(path: bytes, offset: int) -> None:
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise FormatError(offset, f"unsafe path of an external attachment: {path[:256]!r}")


def plan(refs: Iterable[ExtRef], body_size: int) -> SegmentPlan:
    """The full message as segments, in order and without gaps.

    :param refs: from :func:`parse_ext_refs`.
    :param body_size: bytes of the stored body, decompressed.
    :raises FormatError: a part begins behind the end of the body; offset 0.
    """
    segments: list[Segment] = []
    out = taken = 0
    for ref in refs:
        gap = ref.start - out
        if gap > body_size - taken:
            raise FormatError(0, f"external attachment at {ref.start} begins behind the end of the body")
        if gap:
            segments.append(Segment(out, gap, taken))
            taken += gap
        if ref.size:
            segments.append(Segment(ref.start, ref.size, ref))
        out = ref.end
    if taken < body_size:
        segments.append(Segment(out, body_size - taken, taken))
    return tuple(segments)


def encoded_size(raw_size: int, line_length: int, crlf: bool) -> int:
    """Bytes of ``raw_size`` bytes in base64, line ends between the lines included."""
    characters = (raw_size + 2) // 3 * 4
    line_ends = (characters - 1) // line_length if characters else 0
    return characters + line_ends * (2 if crlf else 1)


def raw_range(a: int, b: int, line_length: int, crlf: bool, raw_size: int) -> tuple[int, int]:
    """The range of the file's bytes that :func:`encode_base64_range` needs for [a, b) of the encoded text.

    :param a, b: 0 <= a <= b <= encoded_size(raw_size, …).
    """
    first, last = _characters(a, b, line_length, crlf)
    return min(first // 4 * 3, raw_size), min((last + 3) // 4 * 3, raw_size)


def encode_base64_range(raw: bytes | memoryview, a: int, b: int, line_length: int, crlf: bool) -> bytes:
    """The bytes [a, b) of the encoded text.

    :param raw: exactly the bytes that :func:`raw_range` asks for.  Memory is a small multiple of ``b - a``.
    :raises ValueError: ``raw`` is too short for the range.
    """
    line_end = b"\r\n" if crlf else b"\n"
    first, last = _characters(a, b, line_length, crlf)
    first -= first % 4
    text = binascii.b2a_base64(raw, newline=False)
    if len(text) < last - first:
        raise ValueError(f"{len(raw)} bytes are too few for the encoded range {a} to {b}")
    line, column = divmod(first, line_length)
    position = line * (line_length + len(line_end)) + column  # of text[0] in the whole encoded text
    pieces = [text[: line_length - column]]
    pieces += [text[i : i + line_length] for i in range(line_length - column, len(text), line_length)]
    # the range may begin in the line end before the text, and end in the one behind it
    if first and not column:
        pieces.insert(0, b"")
        position -= len(line_end)
    if not (first + len(text)) % line_length:
        pieces.append(b"")
    return line_end.join(pieces)[a - position : b - position]


def _characters(a: int, b: int, line_length: int, crlf: bool) -> tuple[int, int]:
    """The base64 characters [first, last) of the bytes [a, b) of the text, counted without line ends."""
    stride = line_length + (2 if crlf else 1)
    first = a // stride * line_length + min(a % stride, line_length)
    last = b // stride * line_length + min(b % stride, line_length)
    return first, last
