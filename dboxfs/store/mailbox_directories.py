"""LAYOUT=index: which directory each mailbox has (mailbox-layout section 4).

The directory is called by the mailbox's guid, 32 hex digits; the name stands in the list index alone.  What
reads the list index (:mod:`.list_index`) or changes it puts here what it says, in one step, so that paths can
be asked for without waiting.  A name that is not here leads to a directory that no store has: an operation
fails with it as with a mailbox that is missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping


class MailboxDirectories:
    """The directories of the mailboxes of one store, by storage name."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def take(self, known: Mapping[str, str]) -> None:
        """These are all that there are."""
        self._known = dict(known)

    def put(self, name: str, directory: str) -> None:
        """Mailbox *name* is there."""
        self._known[name] = directory

    def of(self, name: str) -> str:
        """The directory of mailbox *name*, below that of all mailboxes."""
        return self._known.get(name) or _nowhere(name)

    @property
    def all(self) -> Mapping[str, str]:
        """Every mailbox, by storage name."""
        return self._known


def _nowhere(name: str) -> str:
    return ".no-mailbox-" + hashlib.sha1(os.fsencode(name), usedforsecurity=False).hexdigest()
