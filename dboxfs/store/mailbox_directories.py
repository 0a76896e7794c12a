"""LAYOUT=index: the directory of each mailbox (mailbox-layout section 4).

The name of the directory is the mailbox's guid, 32 hex digits; only the list index has the mailbox's name.
The code that reads the list index (:mod:`.list_index`) or changes it stores the directories here, in one
step, so that a path can be made without waiting.  An unknown name gives a directory that no store has: an
operation with it fails as with a missing mailbox.
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
        """Replace all directories."""
        self._known = dict(known)

    def put(self, name: str, directory: str) -> None:
        """Store the directory of mailbox *name*."""
        self._known[name] = directory

    def of(self, name: str) -> str:
        """The directory of mailbox *name*, below that of all mailboxes."""
        return self._known.get(name) or _nowhere(name)

    @property
    def all(self) -> Mapping[str, str]:
        """All directories, by storage name."""
        return self._known


def _nowhere(name: str) -> str:
    return ".no-mailbox-" + hashlib.sha1(os.fsencode(name), usedforsecurity=False).hexdigest()
