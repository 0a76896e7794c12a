"""The extended attributes that a mount shows, in a tree that was copied out of a mount or exported.

``user.dbox.<name>`` of files: ``uid guid flags keywords received saved orig_mailbox pop3_uidl``; of
directories: ``mailbox guid uidvalidity uidnext subscribed``.  An invalid value counts as missing.
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
    """A uid or UIDVALIDITY; None: missing or invalid."""
    if value is None or not _NUMBER.fullmatch(value):
        return None
    found = int(value)
    return found if 0 < found < 0xFFFFFFFF else None


def seconds(value: bytes | None) -> int | None:
    """An RFC 3339 date, or ``@seconds``: seconds since the epoch; None: missing or invalid.  No zone: UTC."""
    text = (value or b"").decode("ascii", "replace")
    if match := _SECONDS.fullmatch(text):
        return int(match[1])
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


def flag_bits(value: bytes | None) -> int:
    r"""Flags as ``\Seen \Flagged``; words that are no flags of an index (``\Recent``) are ignored."""
    bits = 0
    for word in (value or b"").decode("ascii", "replace").lower().split():
        bits |= FLAGS.get(word, 0)
    return bits


def mailbox_guid(value: bytes | None) -> bytes | None:
    """32 hex digits as 16 bytes; None: missing, invalid or all zeros."""
    text = (value or b"").decode("ascii", "replace")
    return bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{32}", text) and int(text, 16) else None
