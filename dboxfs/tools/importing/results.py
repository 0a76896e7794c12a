"""Progress and result of an import."""

from __future__ import annotations

from msgspec import Struct, field


class ImportProgress(Struct, frozen=True):
    """The progress of an import.  ``of``: None: not known yet.  ``verifying``: it compares."""

    messages: int
    of: int | None
    bytes: int
    verifying: bool = False


class Imported(Struct):
    """The result of an import.  Numbers of messages, where nothing else is said.

    ``messages``: saved by this run; ``copies``: those of them without bytes of their own.  ``there``: already
    in the store, with the same bytes.  ``renumbered``: saved with another uid than in the source.
    ``reguided``: saved with another guid.  ``failed``: a line for each message or mailbox that was left out;
    ``told``: a line for each message that has a problem or differs; ``notes``: other lines for the user.
    ``verified``: compared; None: no comparison was asked for.
    """

    mailboxes: int = 0
    messages: int = 0
    copies: int = 0
    there: int = 0
    renumbered: int = 0
    reguided: int = 0
    bytes: int = 0
    verified: int | None = None
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
