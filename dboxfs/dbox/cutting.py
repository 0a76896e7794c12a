"""The parts of a message that Dovecot keeps in files of their own (``mail_attachment_dir``; 2.4:
``mail_ext_attachment_path``), and what is left of the message.

A part is cut out if it is no multipart, has a Content-Type that is not ``text/*``, and its bytes, as they are
in the message, are at least ``min_size``.  Parts of a message in a message are looked at, too.  The line end
before a boundary belongs to the boundary.  A part that is base64, whatever its headers say, in lines of one
length with one line end, is stored decoded; any other as it is.  :mod:`dboxfs.dbox.attachments` has the form
of the references.

The name of a file is the digest of its bytes and a random number, below two directories::

    path = HH "/" HH "/" digest "-" 32HEX      ; HH HH: the first four digits of the digest

Invariant.  The parts put back at their places give the message: base64 that does not come out again byte by
byte is stored as it is.

Limits.  Boundaries are nested :data:`_MOST_NESTED` deep at most; what is deeper stays in the message.

Source: Dovecot 2.3.19 and 2.4.1 were given the same messages; dbox-files section 3.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from typing import Final

from msgspec import Struct

from dboxfs.dbox.attachments import MAX_REFS, encode_base64_range, encoded_size, raw_range

_MOST_NESTED: Final = 50
_MOST_BEHIND: Final = 1024
"""Bytes behind the base64 of a part, at most; they stay in the message."""

_PIECE: Final = 1 << 20
_HEADERS: Final = 1 << 20
"""Bytes of the headers of a part that are looked at, at most."""

_LINE: Final = re.compile(rb"^--([^\r\n]*)", re.MULTILINE)
_END_OF_HEADERS: Final = re.compile(rb"^\r?\n", re.MULTILINE)
_FOLD: Final = re.compile(rb"\r?\n(?=[ \t])")
_TYPE: Final = re.compile(rb"[ \t]*([^\s;()/]+/[^\s;()/]+)")
_BOUNDARY: Final = re.compile(rb";\s*boundary\s*=\s*(?:\"([^\"]*)\"|([^\s;\"]+))", re.IGNORECASE)
_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))?")
_DIGESTS: Final = {"sha1", "sha256", "sha512", "md5"}
_HASH: Final = re.compile(r"%\{(\w+)(?::(\d+))?\}")


class Cutting(Struct, frozen=True):
    """How parts are cut out.

    ``min_size``: bytes that a part has at least.  ``digest``: its kind.  ``bits``: so many of it are in the
    name; None: all.
    """

    min_size: int
    digest: str = "sha1"
    bits: int | None = None


class CutPart(Struct, frozen=True):
    """A part in a file of its own: ``path`` below the directory of attachments, and its bytes."""

    path: str
    data: bytes


class CutMessage(Struct, frozen=True):
    """A message without the parts that were cut out.  ``refs``: the value of metadata key X."""

    rest: bytes
    refs: bytes
    parts: tuple[CutPart, ...]


def parse_hash(text: str) -> tuple[str, int | None] | None:
    """Digest and bits of ``mail_attachment_hash`` (``%{sha1}``, ``%{sha256:80}``); None: not known here."""
    found = _HASH.fullmatch(text)
    if found is None or found[1] not in _DIGESTS or int(found[2] or 64) % 8 or int(found[2] or 64) < 16:
        return None
    return found[1], int(found[2]) if found[2] else None


def cut(text: bytes, how: Cutting) -> CutMessage | None:
    """A message without its large parts; None: it has none.  Memory: three times the message.

    :param text: the whole message.
    """
    rest, refs, parts, done = [], [], [], 0
    for start, end in _large_parts(text, how.min_size)[:MAX_REFS]:
        data, size, options = _decoded(text, start, end, how.min_size) or (text[start:end], end - start, "-")
        path = _path(data, how)
        rest.append(text[done:start])
        refs.append(f"{start} {size} {options} {path}")
        parts.append(CutPart(path, data))
        done = start + size
    if not parts:
        return None
    return CutMessage(b"".join([*rest, text[done:]]), " ".join(refs).encode("ascii"), tuple(parts))


def _path(data: bytes, how: Cutting) -> str:
    digest = hashlib.new(how.digest, data, usedforsecurity=False).hexdigest()
    digest = digest if how.bits is None else digest[: how.bits // 4]
    return f"{digest[:2]}/{digest[2:4]}/{digest}-{os.urandom(16).hex()}"


def _decoded(text: bytes, start: int, end: int, min_size: int) -> tuple[bytes, int, str] | None:
    """A part that begins with base64: the decoded bytes, their size in the message, the options of the
    reference.  None: it does not, or has much more than that, or encoding it again would give other bytes.
    """
    first = _blocks(text, start, end) - start
    if not first:
        return None
    newline = next(
        (end_of_line for end_of_line in (b"\n", b"\r\n") if text.startswith(end_of_line, start + first)), b""
    )
    at, last = start, start + first
    if newline:
        lines = re.compile(b"(?:[A-Za-z0-9+/]{%d}%b)*+" % (first, newline)).match(text, start, end)
        assert lines is not None, "it may match nothing"
        at = lines.end()
        last = min(_blocks(text, at, end), at + first)
        last = last if last > at else max(at - len(newline), start + first)
    size = last - start
    if size < min_size or end - last > _MOST_BEHIND:
        return None
    data = binascii.a2b_base64(text[start:last])
    crlf = len(newline) == 2
    if encoded_size(len(data), first, crlf) != size:
        return None
    for a in range(0, size, _PIECE):
        b = min(a + _PIECE, size)
        low, high = raw_range(a, b, first, crlf, len(data))
        if encode_base64_range(data[low:high], a, b, first, crlf) != text[start + a : start + b]:
            return None
    return data, size, f"{'C' if crlf and size > first else ''}B{first}"


def _blocks(text: bytes, start: int, end: int) -> int:
    """The end of the whole blocks of base64 that begin at *start*."""
    found = _BASE64.match(text, start, end)
    assert found is not None, "it may match nothing"
    return found.end()


class _Hit(Struct, frozen=True):
    """A boundary, or the end of the text.  ``before``: the end of what comes before it.  ``behind``: the
    beginning of the next line.  ``depth``: of its multipart, -1 at the end of the text.
    """

    before: int
    behind: int
    depth: int
    is_last: bool


def _large_parts(text: bytes, min_size: int) -> list[tuple[int, int]]:
    """Parts that are cut out: begin and end."""
    found: list[tuple[int, int]] = []
    boundaries: list[bytes] = []
    in_digest: list[bool] = []
    at = 0
    while True:
        body, kind, boundary = _headers(text, at)
        if kind == b"message/rfc822" or (not kind and in_digest and in_digest[-1]):
            at = body
            continue
        if boundary is not None and len(boundaries) < _MOST_NESTED:
            boundaries.append(boundary)
            in_digest.append(kind == b"multipart/digest")
            hit = _next_boundary(text, body, boundaries)
        else:
            hit = _next_boundary(text, body, boundaries)
            multipart = kind.startswith(b"multipart/")
            if kind and not multipart and not kind.startswith(b"text/") and hit.before - body >= min_size:
                found.append((body, hit.before))
        while hit.depth >= 0 and hit.is_last:
            del boundaries[hit.depth :], in_digest[hit.depth :]
            hit = _next_boundary(text, hit.behind, boundaries)
        if hit.depth < 0:
            return found
        del boundaries[hit.depth + 1 :], in_digest[hit.depth + 1 :]
        at = hit.behind


def _next_boundary(text: bytes, at: int, boundaries: list[bytes]) -> _Hit:
    for line in _LINE.finditer(text, at) if boundaries else ():
        for depth in reversed(range(len(boundaries))):
            if line[1].startswith(boundaries[depth]):
                before = line.start() - 1
                before -= text[before - 1 : before] == b"\r"
                behind = text.find(b"\n", line.end()) + 1 or len(text)
                is_last = line[1][len(boundaries[depth]) :].startswith(b"--")
                return _Hit(max(before, at), behind, depth, is_last)
    return _Hit(len(text), len(text), -1, True)


def _headers(text: bytes, at: int) -> tuple[int, bytes, bytes | None]:
    """The headers of a part: begin of its body, type in lower case (empty: none), boundary of a multipart."""
    end = _END_OF_HEADERS.search(text, at, at + _HEADERS)
    if end is None:
        return len(text), b"", None
    kind, boundary = b"", None
    for line in _FOLD.sub(b"", text[at : end.start()]).splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type" and (said := _TYPE.match(value)) is not None:
            kind, named = said[1].lower(), _BOUNDARY.search(value)
            is_multipart = kind.startswith(b"multipart/") and named is not None
            boundary = (named[1] or named[2]) if is_multipart and named is not None else None
    return end.end(), kind, boundary or None
