"""What an import tells: how far it is, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is.  ``of``: None: nobody knows yet.  ``verifying``: it reads again."""

    messages: int
    of: int | None
    bytes: int
    verifying: bool = False


@dataclass(slots=True)
class Imported:
    """What an import did.

    ``messages``: saved by this run, ``copies`` of them without bytes of their own.  ``there``: that the store
    had already, the same bytes.  ``renumbered``: of those saved, with another uid than in the source.
    ``reguided``: with another guid.  ``failed``: a line for each that was left out; ``told``: for each that
    was saved, or that differs, and is not as it should be; ``notes``: what else is worth a line.
    ``verified``: messages that were compared; None: none were to be.
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
