"""The lines of a file of names.  Lines are only ever appended::

    <CRC-32 of the rest of the line, 8 hex digits> <uidvalidity> <uid> <name>[ <old uid>[ <writer>]]LF

*name* has ``%XX`` for ``%``, white space, control and 8-bit bytes.  A later line about the same uid or the
same name supersedes an earlier one.  A line about a uid that is gone has no effect (uids are never given out
twice), so an expunge by any program needs no line, and a mailbox that Dovecot renames keeps its names.

With an *old uid* other than 0 the line has no effect as long as that message exists, so that at any time the
name means one of the two messages.  *writer* is the process that has written the line, in two kinds of lines:

=============  ======================================================================================
``=<process>`` the message *uid* is there, and will take the place of *old uid*.  If the process dies
               before that, the next writable mount takes the line out
``+<process>`` the message *uid* is about to come (in the place of *old uid*, if that is not 0).  The
               line counts as long as the process runs; a line without a writer follows when the
               message is on disk, unless the name is ``<uid>.eml``, which it has then anyway.  If the
               process dies before that, the line means nothing: the uid may become that of a message
               which has nothing to do with it
=============  ======================================================================================

An invalid line (a wrong checksum, a missing number, a name that no file can have) is skipped and counted.
Bytes behind the last LF are no line: their writer was interrupted, and the next writer cuts them off.
"""

from __future__ import annotations

import enum
import re
import zlib
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, unquote_to_bytes

from msgspec import Struct

LONGEST_NAME = 255
"""Bytes that the name of a file may have."""

HIGHEST_UID = 0xFFFFFFFF
"""Uids and UIDVALIDITY have 32 bits."""

_NUMBER = re.compile(rb"[0-9]{1,10}")
_WRITER = re.compile(rb"[+=][0-9a-f-]{1,60}")
_NO_NAMES = frozenset({b"", b".", b"..", b".dboxfs"})
_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) != "%")


class LineKind(enum.Enum):
    """Kinds of lines; the value is the first character of *writer*."""

    SAID = ""
    PLACED = "="
    ANNOUNCED = "+"


class Line(Struct, frozen=True):
    """*uid* has this name as soon as message ``after`` is gone (0: now).

    ``writer``: the token of the process, with ``kind`` PLACED and ANNOUNCED.
    """

    validity: int
    uid: int
    name: bytes
    after: int = 0
    kind: LineKind = LineKind.SAID
    writer: str = ""


def can_be(name: bytes) -> bool:
    """Whether a file of the mount can have this name."""
    return len(name) <= LONGEST_NAME and name not in _NO_NAMES and b"/" not in name and b"\0" not in name


def encode_line(line: Line) -> bytes:
    """One line of the file."""
    name = quote_from_bytes(line.name, safe=_PLAIN).encode("ascii")
    text = b"%d %d %s" % (line.validity, line.uid, name)
    if line.after or line.writer:
        text += b" %d" % line.after
    if line.writer:
        text += f" {line.kind.value}{line.writer}".encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_lines(data: bytes) -> Iterator[tuple[int, Line | None]]:
    """(end of the line, line) of each; None for an invalid line.  A part without LF at the end is left
    out.
    """
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        line = decode_line(data[at:end])
        at = end + 1
        yield at, line


def decode_line(data: bytes) -> Line | None:
    """Parse a line without its LF; None: it is invalid."""
    crc, _, text = data.partition(b" ")
    parts = text.split(b" ")
    if crc != b"%08x" % zlib.crc32(text) or not 3 <= len(parts) <= 5:
        return None
    validity, uid, quoted = parts[:3]
    after, writer = parts[3] if len(parts) > 3 else b"0", parts[4] if len(parts) > 4 else b""
    if not all(_NUMBER.fullmatch(number) for number in (validity, uid, after)):
        return None
    if len(parts) == 5 and not _WRITER.fullmatch(writer):
        return None
    kind = LineKind(writer[:1].decode("ascii"))
    name = unquote_to_bytes(quoted)
    line = Line(int(validity), int(uid), name, int(after), kind, writer[1:].decode("ascii"))
    possible = 0 < line.validity <= HIGHEST_UID and 0 < line.uid <= HIGHEST_UID and line.after <= HIGHEST_UID
    placed = line.kind is not LineKind.PLACED or line.after
    return line if possible and placed and line.after != line.uid and can_be(name) else None
