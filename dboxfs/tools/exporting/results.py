"""Progress and result of an export."""

from __future__ import annotations

from msgspec import Struct, field


class ExportProgress(Struct, frozen=True):
    """The progress of an export: messages and bytes of this run, messages of the store (``of``)."""

    messages: int
    of: int
    bytes: int


class Exported(Struct):
    """The result of an export.

    ``resumed``: number of mailboxes that an earlier run had written.  ``finished``: an earlier run had done
    everything.  ``failed``: a line for each message or mailbox that was left out; ``told``: a line for each
    message of which the format could not hold a part.
    """

    mailboxes: int = 0
    messages: int = 0
    bytes: int = 0
    resumed: int = 0
    finished: bool = False
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
