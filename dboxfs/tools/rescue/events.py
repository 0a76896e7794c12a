"""The reports of a rescue: events one by one, and the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec import Struct, field


class Event(Struct, frozen=True):
    """Something that was lost, is not known, or had to be guessed.

    ``code``: its kind, for programs.  ``what``: in plain words.  ``path``, ``offset`` (bytes): the place that
    it is about.  ``mailbox``: storage name.  ``guid``: 16 bytes.  ``salvaged``: bytes of a damaged message's
    text that are left.
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
"""Kinds of events that mean: something of the old store is missing or uncertain in the new one."""


class Rescued(Struct):
    """The result of a rescue.

    ``messages``: saved messages, each counted once; ``copies``: further mailbox records of them.
    ``damaged``: texts saved to the mailbox for damaged messages.  ``unplaced``: messages without a record or
    a uid of their own, saved where ``place.py`` says.  ``expunged``: not brought back, since the map says
    that no mailbox has them.  ``twins``: second copies of a message, left out.  ``files``, ``bytes``: that
    were read.  ``version``: dbox version of the new store.  ``events``: number of events by kind.
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
        """Whether nothing was lost and nothing had to be guessed or left unknown (:data:`LOSSES`)."""
        return not any(self.events[code] for code in LOSSES) and not self.unplaced
