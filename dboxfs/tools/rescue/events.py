"""What a rescue reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was lost, or could not be known, or had to be guessed.

    ``code``: its kind, for programs.  ``what``: in plain words.  ``path``, ``offset`` (bytes): what it is
    about.  ``mailbox``: storage name.  ``guid``: 16 bytes.  ``salvaged``: bytes of a damaged message's text
    that are there.
    """

    code: str
    what: str
    path: str = ""
    offset: int | None = None
    mailbox: str | None = None
    uid: int | None = None
    guid: bytes | None = None
    salvaged: int | None = None


Emit = Callable[[Event], None]

LOSSES = frozenset(
    {
        "damaged",
        "lost",
        "index-lost",
        "unreadable",
        "refused",
        "inside",
        "renamed",
        "keywords",
        "no-record",
        "doubtful",
        "stray",
        "pop3",
    }
)
"""Kinds of events after which the new store is not all that the old one was."""


@dataclass(slots=True)
class Rescued:
    """What came of it.

    ``messages``: saved, each once; ``copies``: further places of them.  ``damaged``: texts in the mailbox for
    damaged ones.  ``unplaced``: saved to the mailbox that the message itself names, or INBOX, since no index
    knows them.  ``expunged``: not brought back, since the map says that nobody has them.  ``twins``: second
    copies of a message, left out.  ``bytes``: of the files that were read.  ``version``: dbox version of the
    new store.  ``events``: by kind.
    """

    mailboxes: int = 0
    messages: int = 0
    copies: int = 0
    damaged: int = 0
    unplaced: int = 0
    expunged: int = 0
    twins: int = 0
    files: int = 0
    bytes: int = 0
    version: int = 2
    events: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Nothing was lost, and nothing had to be left unknown."""
        return not any(self.events[code] for code in LOSSES) and not self.unplaced
