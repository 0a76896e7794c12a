"""The report of a mount with ``-o restore`` about its restored messages: ``restore.json``."""

from __future__ import annotations

from msgspec import Struct, field

MOST_TOLD = 1000
"""How many names, uids and guids that could not be kept are listed one by one."""


class RestoreReport(Struct):
    """Counts of a restore so far; ``size``: bytes.

    ``there``: messages that the store had already, which were not saved again.
    ``not_kept``: (mailbox, file name or empty, the value, the reason).  ``untold``: how many more there were.
    ``failed``: mailbox -> why its commit failed.
    ``under_way``: the mailbox that is being committed; empty: none.
    """

    messages: int = 0
    size: int = 0
    mailboxes: int = 0
    there: int = 0
    kept_uid: int = 0
    kept_guid: int = 0
    not_kept: list[tuple[str, str, str, str]] = field(default_factory=list)
    untold: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    under_way: str = ""

    def tell(self, mailbox: str, name: bytes, what: str, why: str) -> None:
        """The value *what* (a name, a uid, a guid) of a file or mailbox could not be kept, because *why*."""
        if len(self.not_kept) < MOST_TOLD:
            self.not_kept.append((mailbox, name.decode("utf-8", "replace"), what, why))
        else:
            self.untold += 1

    def describe(self, *, staged: int, on_disk: int) -> dict[str, object]:
        """The content of restore.json.

        :param staged: number of staged files.  :param on_disk: bytes of their temporary files.
        """
        return {
            "messages": self.messages,
            "bytes": self.size,
            "mailboxes": self.mailboxes,
            "there": self.there,
            "kept_uid": self.kept_uid,
            "kept_guid": self.kept_guid,
            "staged": staged,
            "staged_bytes_on_disk": on_disk,
            "under_way": self.under_way,
            "failed": self.failed,
            "not_kept": [
                {"mailbox": box, "name": name, "what": what, "why": why}
                for box, name, what, why in self.not_kept
            ],
            "not_kept_and_not_told": self.untold,
        }
