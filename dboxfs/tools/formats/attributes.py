"""The extended attributes that a mount shows, read from a tree that was copied out of one, or written to one.

``user.dbox.<name>`` of files: ``uid guid flags keywords received saved orig_mailbox``; of directories:
``mailbox guid uidvalidity uidnext subscribed``.  Values that can't be are left out, as if they were missing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

PREFIX = "user.dbox."

FLAGS = {"\\answered": 0x01, "\\flagged": 0x02, "\\deleted": 0x04, "\\seen": 0x08, "\\draft": 0x10}
"""Bits of an index by IMAP name, in lower case."""

_NUMBER = re.compile(rb"[0-9]{1,10}")
_SECONDS = re.compile(r"@(-?[0-9]{1,18})")


def number(value: bytes | None) -> int | None:
    """A uid or UIDVALIDITY; None: there is none."""
    if value is None or not _NUMBER.fullmatch(value):
        return None
    found = int(value)
    return found if 0 < found < 0xFFFFFFFF else None


def seconds(value: bytes | None) -> int | None:
    """An RFC 3339 date in UTC, or ``@seconds``: seconds since the epoch; None: there is none."""
    text = (value or b"").decode("ascii", "replace")
    if match := _SECONDS.fullmatch(text):
        return int(match[1])
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


def flag_bits(value: bytes | None) -> int:
    r"""Flags as ``\Seen \Flagged``; words that are none (``\Recent``) don't count."""
    bits = 0
    for word in (value or b"").decode("ascii", "replace").lower().split():
        bits |= FLAGS.get(word, 0)
    return bits


def mailbox_guid(value: bytes | None) -> bytes | None:
    """32 hex digits as 16 bytes; None: there are none."""
    text = (value or b"").decode("ascii", "replace")
    return bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{32}", text) and int(text, 16) else None
