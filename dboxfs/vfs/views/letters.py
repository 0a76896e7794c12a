"""Flags and keywords as the letters of a Maildir name.

::

    <base>:2,<letters>        letters in the order of their bytes

======  ===================================================================================
``D``   \\Draft
``F``   \\Flagged
``P``   the keyword ``$Forwarded`` ("passed"; mbsync, mutt and mblaze know it as that)
``R``   \\Answered
``S``   \\Seen
``T``   \\Deleted: the message stays until a program unlinks it, or a client expunges
a – z   the first 26 keywords of the mailbox but for ``$Forwarded``, in the order in which
        it learnt them; ``dovecot-keywords`` says which.  Later ones have no letter
======  ===================================================================================

Pure: no store, no kernel.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from msgspec import Struct

from dboxfs.store.names.of_mailbox import decode

INFO = b":2,"
"""What stands between the base of a name and its letters."""

FORWARDED = "$Forwarded"

FLAGS = {"D": 0x10, "F": 0x02, "R": 0x01, "S": 0x08, "T": 0x04}
"""Letter -> flag bit."""

SEEN = 0x08
FLAG_MASK = 0x1F

_OF_BYTE = tuple("".join(letter for letter, bit in FLAGS.items() if byte & bit) for byte in range(32))


class Marks(Struct, frozen=True):
    """Flags (bits) and keywords of a message."""

    flags: int
    keywords: tuple[str, ...] = ()


def split(name: bytes) -> tuple[bytes, str]:
    """Base and letters of a name; no letters, if it has no info part."""
    base, found, letters = name.rpartition(INFO)
    return (base, decode(letters)) if found else (name, "")


def with_letters(keywords: Sequence[str]) -> list[str]:
    """Those of a mailbox's keywords that have a letter, in the order of the letters.

    :param keywords: all of the mailbox, in the order in which it learnt them.
    """
    return [word for word in keywords if word.lower() != FORWARDED.lower()][: len(string.ascii_lowercase)]


def letters_of(marks: Marks, keywords: Sequence[str]) -> str:
    """The letters of a message.

    :param keywords: all of its mailbox.
    """
    letters = _OF_BYTE[marks.flags & FLAG_MASK]
    if not marks.keywords:
        return letters
    known = {word: string.ascii_lowercase[place] for place, word in enumerate(with_letters(keywords))}
    own = [known[word] for word in marks.keywords if word in known]
    if any(word.lower() == FORWARDED.lower() for word in marks.keywords):
        letters += "P"
    return "".join(sorted(letters + "".join(own)))


def marks_of(letters: str, keywords: Sequence[str]) -> Marks:
    """The flags and keywords of letters.

    :param keywords: all of the mailbox.
    :raises ValueError: a letter has no meaning.
    """
    flags, found = 0, []
    known = dict(zip(string.ascii_lowercase, with_letters(keywords), strict=False))
    for letter in dict.fromkeys(letters):
        if letter in FLAGS:
            flags |= FLAGS[letter]
        elif letter == "P":
            found.append(FORWARDED)
        elif letter in known:
            found.append(known[letter])
        else:
            raise ValueError(letter)
    return Marks(flags, tuple(found))


def keywords_file(keywords: Sequence[str]) -> bytes:
    """``dovecot-keywords``: one line a letter, its number (``a`` is 0) and its keyword."""
    return "".join(f"{place} {word}\n" for place, word in enumerate(with_letters(keywords))).encode(
        "utf-8", "surrogateescape"
    )
