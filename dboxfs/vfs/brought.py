"""The extended attributes that a program sets on a new file, for the message that it will become.

A program that puts mail back sets the attributes that a backup has kept, one at a time, in any order, before
or after it writes the bytes.  They are kept here until the file is a message.

========================================  ======================================  ==========================
attribute                                 what can be set                         else
========================================  ======================================  ==========================
``flags``                                 names of system flags                   EINVAL
``keywords``                              words that can be keywords              EINVAL
``guid``, ``pop3_uidl``, ``orig_mailbox`` text of 1 to 255 bytes without          EINVAL
                                          control characters
``uid``                                   1 to 2**32-2                            EINVAL
``saved``                                 RFC 3339 in UTC, 1970 to 2106           EINVAL
``received``                              RFC 3339 in UTC                         EINVAL
``virtual_size``, ``modseq``,             anything; the value is ignored
``location``
========================================  ======================================  ==========================

Values only: this module reads no store.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.store.mailbox import FLAG_NAMES
from dboxfs.store.write.log_records import check_keywords
from dboxfs.store.write.session import HIGHEST_NUMBER
from dboxfs.util.dates import rfc3339, seconds_of
from dboxfs.vfs.errors import Refused

INFORMING = frozenset({"virtual_size", "modseq", "location"})
"""Attributes that follow from the message or its place: setting them is accepted and ignored."""

LONGEST_TEXT = 255
"""Bytes of a guid, a UIDL or a mailbox name, at most."""

_LATEST = 0xFFFFFFFF
_BITS = {name.lower(): bit for bit, name in FLAG_NAMES}


def flag_bits(names: Iterable[str]) -> int:
    """The bits of system flags.

    :raises Refused: EINVAL: there is no such flag.
    """
    try:
        return sum({_BITS[name.lower()] for name in names})
    except KeyError:
        raise Refused(errno.EINVAL) from None


def flag_names(bits: int) -> list[str]:
    """The system flags that are set."""
    return [name for bit, name in FLAG_NAMES if bits & bit]


class Brought(Struct, frozen=True):
    """The attributes of a file that is no message yet; None: not set.

    ``flags``: bits.  ``saved``, ``received``: seconds since the epoch.
    """

    flags: int = 0
    keywords: tuple[str, ...] = ()
    guid: bytes | None = None
    saved: int | None = None
    received: int | None = None
    uid: int | None = None
    pop3_uidl: bytes | None = None
    orig_mailbox: bytes | None = None

    def told(self, name: str, value: bytes) -> Brought:
        """A copy with this value of the attribute ``user.dbox.<name>``.

        :raises Refused: EINVAL: there is no such attribute, or it can't have this value.
        """
        match name:
            case "flags":
                return replace(self, flags=flag_bits(words(value)))
            case "keywords":
                return replace(self, keywords=checked_keywords(words(value)))
            case "guid":
                return replace(self, guid=_text(value))
            case "pop3_uidl":
                return replace(self, pop3_uidl=_text(value))
            case "orig_mailbox":
                return replace(self, orig_mailbox=_text(value))
            case "uid":
                return replace(self, uid=number(value, HIGHEST_NUMBER - 1))
            case "saved":
                return replace(self, saved=_date(value, 0, _LATEST))
            case "received":
                return replace(self, received=_date(value))
        if name not in INFORMING:
            raise Refused(errno.EINVAL)
        return self

    def without(self, name: str) -> Brought:
        """A copy without an attribute.

        :raises Refused: ENODATA: it is not set.
        """
        if name == "flags":
            return replace(self, flags=0)
        if name == "keywords":
            return replace(self, keywords=())
        if self.value(name) is None:
            raise Refused(errno.ENODATA)
        fields: dict[str, Any] = {name: None}
        return replace(self, **fields)

    def value(self, name: str) -> str | None:
        """The text of an attribute; None: it is not set."""
        if name == "flags":
            return " ".join(flag_names(self.flags)) or None
        if name == "keywords":
            return " ".join(self.keywords) or None
        found = getattr(self, name) if name in NAMES else None
        if isinstance(found, bytes):
            return os.fsdecode(found)
        if found is not None and name in ("saved", "received"):
            return rfc3339(found)
        return None if found is None else str(found)

    @property
    def names(self) -> list[str]:
        """The attributes that are set."""
        return [name for name, unset in zip(NAMES, _UNSET, strict=True) if getattr(self, name) != unset]


NAMES = Brought.__struct_fields__
"""The attributes that can be set, in the order of a listing."""

_UNSET = Brought.__struct_defaults__


def words(value: bytes) -> list[str]:
    """The words of a text.

    :raises Refused: EINVAL: it is no UTF-8.
    """
    try:
        return value.decode("utf-8").split()
    except UnicodeDecodeError:
        raise Refused(errno.EINVAL) from None


def checked_keywords(found: list[str]) -> tuple[str, ...]:
    """*found*, all of which can be keywords.

    :raises Refused: EINVAL: one of them can't.
    """
    try:
        check_keywords(found)
    except ValueError:
        raise Refused(errno.EINVAL) from None
    return tuple(found)


def number(value: bytes, highest: int) -> int:
    """The number of decimal digits.

    :raises Refused: EINVAL: it is no number of 1 to *highest*.
    """
    if not value.isdigit() or len(value) > len(str(highest)) or not 0 < int(value) <= highest:
        raise Refused(errno.EINVAL)
    return int(value)


def folder_guid(value: bytes) -> bytes:
    """The guid of a mailbox, 16 bytes, from its 32 hex digits.

    :raises Refused: EINVAL: it isn't 32 hex digits, or all are zero.
    """
    try:
        found = bytes.fromhex(value.decode("ascii"))
    except ValueError:
        raise Refused(errno.EINVAL) from None
    if len(value) != 32 or not any(found):
        raise Refused(errno.EINVAL)
    return found


def _text(value: bytes) -> bytes:
    if not 0 < len(value) <= LONGEST_TEXT or any(byte < 0x20 or byte == 0x7F for byte in value):
        raise Refused(errno.EINVAL)
    return value


def _date(value: bytes, earliest: int | None = None, latest: int | None = None) -> int:
    try:
        found = seconds_of(value.decode("ascii"))
    except ValueError:
        raise Refused(errno.EINVAL) from None
    if (earliest is not None and found < earliest) or (latest is not None and found > latest):
        raise Refused(errno.EINVAL)
    return found
