"""The name of a user's directory: every user name becomes one that a directory can have, no two the same.

A user's name is shown unchanged, with these exceptions.  ``/``, control characters, bytes that are no UTF-8
and a ``%`` before two hexadecimal digits are written ``%XX``, so that the name can be read back; so is the
first character of ``.``, ``..`` and ``.dboxfs``.  In a name of more than 255 bytes the end is replaced with
``%~`` and 16 digits of the name's SHA-256.
"""

from __future__ import annotations

import hashlib
import re

LONGEST_SHOWN = 255
"""Bytes of a name in a directory, at most."""

_SPECIAL = re.compile("[/\x00-\x1f\x7f\ud800-\udfff]|%(?=[0-9A-Fa-f]{2}|~)")
_RESERVED = ("", ".", "..", ".dboxfs")


def shown_user(name: str) -> bytes:
    """The name of the directory of user *name* (bytes that are no UTF-8: as surrogate escapes)."""
    if name in _RESERVED:
        found = "%" + name[:1].encode().hex().upper() + name[1:] if name else "%"
    else:
        found = _SPECIAL.sub(_escaped, name)
    encoded = found.encode()
    if len(encoded) <= LONGEST_SHOWN:
        return encoded
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16].encode()
    head = encoded[: LONGEST_SHOWN - 18].decode("utf-8", "ignore").encode()
    return head + b"%~" + digest


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def meant_user(shown: str) -> str:
    """The user whose directory is called *shown* (a shortened name can't be read back)."""
    raw = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda found: bytes([int(found[1], 16)]),
        shown.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def parts(name: str) -> tuple[str, str]:
    """The parts before and behind the last ``@``; the second is empty if there is none."""
    local, at, domain = name.rpartition("@")
    return (local, domain) if at and local and domain else (name, "")
