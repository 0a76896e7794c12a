"""The facts of a usual message from the two ends of its record, with two regular expressions.

Nearly every record that Dovecot or this program writes is *usual*: format 2, not compressed, not encrypted,
without attachments, its metadata lines in the order Z R V P O G B.  A listing needs only a few numbers of
it, so the first scan of a mailbox looks for these alone::

    head = ["2 M1e C" hex LF] %x01 %x02 "N" 10(any) size LF letter      ; the line: sdbox
    tail = LF %x01 %x03 LF [Z] R V [P] [O] G [B] LF                     ; where the size says

``None`` means "not usual, or damaged": :func:`~dboxfs.store.stored_record.parse_record` decides.  For a usual
record both give the same facts.  Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dboxfs.dbox import Buffer
from dboxfs.store.attrs import KNOWN, Facts

_MESSAGE: Final = rb"\x01\x02N[\0-\xff]{10}([0-7][0-9a-fA-F]{15})\n(?!BZh|Dovecot-LZ4|CRYPTED)[A-Za-z]"
_HEAD: Final = re.compile(_MESSAGE)
_FILE_HEAD: Final = re.compile(rb"2 M1[eE] C[0-9a-fA-F]{1,15}\n" + _MESSAGE)
_TAIL: Final = re.compile(
    rb"\n\x01\x03\n(?:Z[0-9a-fA-F]{1,15}\n)?R([0-9a-fA-F]{1,15})\nV([0-9a-fA-F]{1,15})\n"
    rb"(?:P[^\n]*\n)?(?:O[^\n]*\n)?G([^\n\r]+)\n(?:B[^\n]*\n)?\n"
)


class UsualMessage(NamedTuple):
    """The facts of a usual message, and its guid as it is stored (the value of G)."""

    facts: Facts
    guid: bytes


def usual_message(
    head: Buffer, tail: Buffer, tail_offset: int, offset: int, end: int, saved: int, *, whole: bool
) -> UsualMessage | None:
    """The message whose record ends at *end*; None: it is not usual, or damaged.

    :param head: the bytes of the file from *offset* on; offset 0: they begin with the file's header line.
    :param tail: the bytes of the file from *tail_offset* on.
    :param saved: seconds since the epoch.
    :param whole: the record must end exactly at *end*, not before it.
    """
    first = (_HEAD if offset else _FILE_HEAD).match(head)
    if first is None:
        return None
    size = int(first[1], 16)
    start = offset + first.end() - 1 + size - tail_offset
    last = _TAIL.match(tail, start, end - tail_offset) if start >= 0 else None
    if last is None or (whole and tail_offset + last.end() != end):
        return None
    virtual = int(last[2], 16)
    facts = Facts(KNOWN, size, int(last[1], 16), saved, virtual if size <= virtual <= 2 * size else 0)
    return UsualMessage(facts, last[3])


def usual_body(data: Buffer, size: int) -> int | None:
    """Where the body begins in an sdbox file with a usual message of *size* bytes; None: it is another one.

    :param data: the first bytes of the file.
    """
    first = _FILE_HEAD.match(data)
    return None if first is None or int(first[1], 16) != size else first.end() - 1
