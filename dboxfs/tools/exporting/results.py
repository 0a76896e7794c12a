"""What an export tells: how far it is, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export is: messages and bytes of this run, messages of the store."""

    messages: int
    of: int
    bytes: int


@dataclass(slots=True)
class Exported:
    """What an export did.

    ``resumed``: mailboxes that an earlier run had written.  ``finished``: it had done everything.
    ``failed``: a line for each message or mailbox that was left out; ``told``: for what the format could not
    hold.
    """

    mailboxes: int = 0
    messages: int = 0
    bytes: int = 0
    resumed: int = 0
    finished: bool = False
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
