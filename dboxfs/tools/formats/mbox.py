r"""mbox, as Dovecot keeps it (checked against 2.3.19).

::

    From <sender> <Thu Jul  1 08:00:00 2010> [+0000]
    header lines of the message
    X-IMAPbase: <uidvalidity> <last uid, 10 digits> <keywords>      in the first message
    X-UID: <uid>
    Status: RO                                                      R seen, O not recent
    X-Status: ADFT                                                  answered, deleted, flagged, draft
    X-Keywords: <keywords>
    Content-Length: <bytes of the body>
                                                                    an empty line
    body, then LF

A body is as long as ``Content-Length`` says, if another message or the end of the file is behind it; else it
ends before the next LF that a From_ line follows.  Dovecot neither quotes ``From `` in a body nor removes a
``>``, so this module doesn't either.  If the first message has an ``X-IMAP`` line, it is no message: other
programs keep uids in it.  A date without a time zone is local time.

An mbox can't hold a message's own header lines with these names, nor a message without an empty line behind
its header.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from msgspec import Struct

FROM = b"From "
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FROM_LINE = re.compile(
    rb"From (?:.*[^ ])? +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +"
    rb"(?:([A-Z][a-z]{2}) +([0-9]{1,2})|([0-9]{1,2}) +([A-Z][a-z]{2}))"
    rb"(?: +([0-9]{4}))? +([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?"
    rb"(?: +([+-][0-9]{4}|[A-Za-z]{3,4}))?(?: +([0-9]{4}))?(?: +([+-][0-9]{4}))?(?: .*)?"
)
OWN = frozenset(
    (b"content-length", b"status", b"x-imap", b"x-imapbase", b"x-keywords", b"x-status", b"x-uid")
)
"""Header lines that belong to the mbox, not to the message (lower case)."""

_STATUS = {"R": 0x08}
_X_STATUS = {"A": 0x01, "D": 0x04, "F": 0x02, "T": 0x10}


class Own(Struct):
    """The facts in an mbox's own header lines of a message.  ``length``: bytes of its body; None: unknown.

    ``base``: uidvalidity and last uid.  ``pseudo``: it is no message, but only keeps uids.
    """

    flags: int = 0
    keywords: tuple[str, ...] = ()
    uid: int | None = None
    length: int | None = None
    base: tuple[int, int] | None = None
    pseudo: bool = False


def parse_from_line(line: bytes) -> int | None:
    """The date of a From_ line (without its LF): seconds since the epoch.  None: it is no From_ line."""
    found = _FROM_LINE.fullmatch(line.rstrip(b"\r"))
    if found is None:
        return None
    month, day = (found[1], found[2]) if found[1] is not None else (found[4], found[3])
    year = found[5] or found[10]
    if year is None:
        return None
    zone = found[11] or found[9] or b""
    try:
        number = _MONTHS.index(month.decode("ascii")) + 1
        clock = (int(found[6]), int(found[7]), min(int(found[8] or 0), 59))
        date = datetime(int(year), number, int(day), *clock, tzinfo=_zone(zone))
        return int(date.timestamp())
    except (ValueError, OverflowError):
        return None


def _zone(text: bytes) -> tzinfo | None:
    """The time zone of a From_ line; None: local time."""
    if text[:1] in (b"+", b"-"):
        shift = timedelta(hours=int(text[1:3]), minutes=int(text[3:5]))
        return timezone(shift if text[:1] == b"+" else -shift)
    return UTC if text in (b"GMT", b"UTC") else None


def encode_from_line(received: int) -> bytes:
    """The From_ line of a message with a received date (seconds since the epoch): in UTC, with ``+0000``."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(received)
    text = f"{_DAYS[weekday]} {_MONTHS[month - 1]} {day:2} {hour:02}:{minute:02}:{second:02} {year:04} +0000"
    return f"From dboxfs  {text}\n".encode("ascii")


def header_name(line: bytes) -> bytes:
    """The name of a header line, in lower case."""
    return line.partition(b":")[0].rstrip(b" \t").lower()


def take_own(own: Own, line: bytes) -> None:
    """Read one header line of the mbox's own into *own*."""
    name, value = header_name(line), line.partition(b":")[2].strip()
    text = value.decode("utf-8", "surrogateescape")
    if name == b"status":
        own.flags |= _bits(text, _STATUS)
    elif name == b"x-status":
        own.flags |= _bits(text, _X_STATUS)
    elif name == b"x-keywords":
        own.keywords = tuple(dict.fromkeys(text.split()))
    elif name == b"x-uid" and value.isdigit():
        own.uid = int(value)
    elif name == b"content-length" and value.isdigit():
        own.length = int(value)
    elif name in (b"x-imapbase", b"x-imap"):
        words = value.split()
        if len(words) >= 2 and words[0].isdigit() and words[1].isdigit():
            own.base = int(words[0]), int(words[1])
        own.pseudo = own.pseudo or name == b"x-imap"


def _bits(text: str, table: dict[str, int]) -> int:
    flags = 0
    for letter in text:
        flags |= table.get(letter, 0)
    return flags


def encode_own(
    uid: int, flags: int, keywords: Sequence[str], length: int, base: tuple[int, int, Sequence[str]] | None
) -> bytes:
    """The mbox's own header lines of a message.

    :param length: bytes of the body.
    :param base: of the first message: uidvalidity, last uid, keywords of the mailbox.
    """
    lines = []
    if base is not None:
        lines.append(" ".join([f"X-IMAPbase: {base[0]} {base[1]:010}", *base[2]]))
    lines += [f"X-UID: {uid}", f"Status: {'R' if flags & 0x08 else ''}O"]
    if status := "".join(letter for letter, bit in _X_STATUS.items() if flags & bit):
        lines.append(f"X-Status: {status}")
    if keywords:
        lines.append(" ".join(["X-Keywords:", *keywords]))
    lines.append(f"Content-Length: {length}")
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
