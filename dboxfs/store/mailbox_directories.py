"""LAYOUT=index: the directory of each mailbox (mailbox-layout section 4).

The name of the directory is the mailbox's guid, 32 hex digits; only the list index has the mailbox's name.
The code that reads the list index (:mod:`.list_index`) or changes it stores the directories here, in one
step, so that a path can be made without waiting.  An unknown name gives a directory that no store has: an
operation with it fails as with a missing mailbox.

Who reads the list index replaces the directories at any time, also while a mailbox is made that is not listed
yet, or one is removed that is listed no more: until that ends its directory is kept (:meth:`~.keep`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class MailboxDirectories:
    """The directories of the mailboxes of one store, by storage name."""

    __slots__ = ("_kept", "_known")

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._kept: dict[str, str] = {}

    def take(self, known: Mapping[str, str]) -> None:
        """Replace all directories but the kept ones."""
        self._known = dict(known)

    @contextmanager
    def keep(self, name: str, guid: bytes) -> Iterator[None]:
        """In the block *guid* is the directory of mailbox *name*, whatever the list index says.

        :param guid: 16 bytes.  The caller holds ``mailboxes.lock``: nobody else keeps one.
        """
        self._kept[name] = guid.hex()
        try:
            yield
        finally:
            del self._kept[name]

    def of(self, name: str) -> str:
        """The directory of mailbox *name*, below that of all mailboxes."""
        return self._kept.get(name) or self._known.get(name) or _nowhere(name)

    def guid(self, name: str) -> bytes | None:
        """The guid of mailbox *name*, 16 bytes; None: there is no such mailbox."""
        directory = self._kept.get(name) or self._known.get(name)
        return None if directory is None else bytes.fromhex(directory)

    @property
    def all(self) -> Mapping[str, str]:
        """All directories, by storage name."""
        return self._known


def _nowhere(name: str) -> str:
    return ".no-mailbox-" + hashlib.sha1(os.fsencode(name), usedforsecurity=False).hexdigest()
