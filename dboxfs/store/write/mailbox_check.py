"""Check of mailbox names: only names that Dovecot would accept and find again."""

from __future__ import annotations

import os

from dboxfs.store.location import Location
from dboxfs.store.mailbox_names import decode_mutf7
from dboxfs.store.write_errors import InvalidName

_LONGEST_PART = 255


def check_mailbox_name(location: Location, name: str) -> None:
    """Check the storage name of a mailbox that is to be made.

    :raises InvalidName: Dovecot would not accept it.
    """
    first = name.partition("/")[0]
    if first != "INBOX" and first.upper() == "INBOX":
        raise InvalidName(f"{name!r}: for IMAP this is INBOX, whatever its case")
    for part in name.split("/"):
        raw = os.fsencode(part)
        plain = location.names.plain(raw)
        literal = part in (".", "..", location.dirname) or part.startswith("~")
        if not part or plain is None or literal:
            raise InvalidName(f"{name!r}: a mailbox name can't have the part {part!r}")
        if len(raw) > _LONGEST_PART or any(byte < 0x20 or byte == 0x7F for byte in plain):
            raise InvalidName(f"{name!r}: too long, or control characters in the name")
        try:
            text = plain.decode("utf-8") if location.utf8 else decode_mutf7(plain)
        except ValueError as exc:
            raise InvalidName(f"{name!r}: not a valid name in this store: {exc}") from exc
        if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text):
            raise InvalidName(f"{name!r}: control characters in the name")
