"""LAYOUT=index: the directory of each mailbox (mailbox-layout section 4).

The name of the directory is the mailbox's guid, 32 hex digits; only the list index has the mailbox's name.
The code that reads the list index (:mod:`.list_index`) or changes it stores the directories here, in one
step, so that a path can be made without waiting.  An unknown name gives a directory that no store has: an
operation with it fails as with a missing mailbox.

Who reads the list index replaces the directories at any time: while a mailbox is made that is not listed yet,
while one is removed that is listed no more, and while one is written that another task renames.  So the task
that does it keeps the directory until it ends (:meth:`~.keep`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct


class _Kept(Struct, eq=False):
    """``directory``: None as soon as it is kept no more, also for tasks that were started meanwhile."""

    directory: str | None


_KEPT: ContextVar[Mapping[tuple[MailboxDirectories, str], _Kept]] = ContextVar("kept", default={})  # noqa: B039 - never changed


class MailboxDirectories:
    """The directories of the mailboxes of one store, by storage name."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def take(self, known: Mapping[str, str]) -> None:
        """Replace all directories but the kept ones."""
        self._known = dict(known)

    @contextmanager
    def keep(self, name: str, guid: bytes) -> Iterator[None]:
        """In the block *guid* is the directory of mailbox *name*, whatever the list index says.

        That holds for this task, and for those that it starts meanwhile: for others the name may already be
        another mailbox's.

        :param guid: 16 bytes.
        """
        kept = _Kept(guid.hex())
        token = _KEPT.set({**_KEPT.get(), (self, name): kept})
        try:
            yield
        finally:
            kept.directory = None
            _KEPT.reset(token)

    def of(self, name: str) -> str:
        """The directory of mailbox *name*, below that of all mailboxes."""
        return self._found(name) or _nowhere(name)

    def guid(self, name: str) -> bytes | None:
        """The guid of mailbox *name*, 16 bytes; None: there is no such mailbox."""
        directory = self._found(name)
        return None if directory is None else bytes.fromhex(directory)

    def _found(self, name: str) -> str | None:
        kept = _KEPT.get().get((self, name))
        return (kept.directory if kept is not None else None) or self._known.get(name)

    @property
    def all(self) -> Mapping[str, str]:
        """All directories, by storage name."""
        return self._known


def _nowhere(name: str) -> str:
    return ".no-mailbox-" + hashlib.sha1(os.fsencode(name), usedforsecurity=False).hexdigest()
