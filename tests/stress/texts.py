"""The texts of the stress: each says what it is, and its reader can tell whether all of it is there.

A text is a message with one *segment* or more.  Each segment has a line

    X-Stress: IDENT LENGTH HASH LF

with LENGTH bytes behind it whose hash HASH is (32 hex digits).  The line of the first segment is a header
(behind ``Subject``, before an empty line), the others are what was appended to the message.  What an LMTP
server puts in front of a message is its *prefix*.  No other byte is allowed, so that a reader who knows
nothing else notices a text that was cut, mixed or doubled (:func:`parse`).

IDENT is ``w<worker>-<number>``, and no two segments of a run have the same.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_SEGMENT = re.compile(rb"X-Stress: (\S+) (\d+) ([0-9a-f]{32})\n")
_FIRST = re.compile(rb"Subject: stress\nX-Stress: (\S+) (\d+) ([0-9a-f]{32})\n\n")
_PREFIX = re.compile(rb"(?:(?:Return-Path|Delivered-To|Received):[^\n]*\n(?:[ \t][^\n]*\n)*)+")
_LOOKALIKES = (
    b"\n\x01\x02N 0000000000000010\n",
    b"\n\x01\x03\nR5f0c\nV10\n\n",
    b"\nFrom somebody\n",
    b"\n\n\n",
)
"""What a scan for records looks for; some payloads have it in the middle."""


class Mangled(Exception):
    """These bytes are no text of this stress: cut, mixed or doubled."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a message consists of.

    :ivar prefix: the hash of what a delivery has put in front, or nothing.
    :ivar segments: the idents, in the order in which they stand.
    """

    prefix: str
    segments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.prefix}:{'+'.join(self.segments)}"

    @classmethod
    def of(cls, key: str) -> Text:
        """The inverse of ``str``."""
        prefix, _, segments = key.partition(":")
        return cls(prefix, tuple(segments.split("+")))

    def appended(self, ident: str) -> Text:
        return Text(self.prefix, (*self.segments, ident))


def payload(ident: str, size: int) -> bytes:
    """*size* bytes, at least one, that no other segment has; the last one is a line end."""
    line = 71
    text = hashlib.shake_128(ident.encode()).hexdigest(size // 2 + 1).encode()
    data = b"\n".join(text[n : n + line] for n in range(0, len(text), line))
    if size > 200 and size % 5 == 0:
        extra = _LOOKALIKES[size // 5 % len(_LOOKALIKES)]
        data = data[:100] + extra + data[100:]
    return data[: size - 1] + b"\n"


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def first(ident: str, size: int) -> bytes:
    """A message with one segment, lines ended by LF."""
    data = payload(ident, size)
    return b"Subject: stress\nX-Stress: %s %d %s\n\n" % (ident.encode(), size, hashed(data).encode()) + data


def more(ident: str, size: int) -> bytes:
    """A segment to append."""
    data = payload(ident, size)
    return b"X-Stress: %s %d %s\n" % (ident.encode(), size, hashed(data).encode()) + data


def parse(data: bytes) -> Text:
    """What the bytes of a whole message are (lines ended by LF).  Mangled: they are no text."""
    prefix = ""
    at = 0
    if (delivered := _PREFIX.match(data)) is not None:
        at = delivered.end()
        prefix = hashed(data[:at])
    segments: list[str] = []
    pattern = _FIRST
    while at < len(data):
        head = pattern.match(data, at)
        if head is None:
            raise Mangled(f"no segment at {at} of {len(data)}, after {segments}: {data[at : at + 60]!r}")
        ident, end = head[1].decode(), head.end() + int(head[2])
        body = data[head.end() : end]
        if hashed(body) != head[3].decode():
            raise Mangled(
                f"segment {ident} at {at} of {len(data)}: {len(body)} of {int(head[2])} bytes, or others"
            )
        segments.append(ident)
        at = end
        pattern = _SEGMENT
    if not segments:
        raise Mangled(f"{len(data)} bytes without a segment")
    if len(set(segments)) < len(segments):
        raise Mangled(f"a segment twice: {segments}")
    return Text(prefix, tuple(segments))
