"""What is wrong with a store, in the log: one line for each thing, however often it is met.

Each listing of a folder meets its damaged messages; the log shall tell of them once.  The last
:data:`LINES_KEPT` lines are remembered, so memory is bounded: what is met again after ten thousand others is
told again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from dboxfs.errors import CorruptFile, DboxfsError, EncryptedMessage
from dboxfs.fsapi.ops import fresh

log = logging.getLogger(__name__)

LINES_KEPT = 10_000


class DamageLog:
    """What was told of one store.  ``damaged``: how many damaged messages and files were told of."""

    def __init__(self) -> None:
        self.damaged = 0
        self._told: OrderedDict[str, None] = OrderedDict()

    def error(self, about: str, error: Exception) -> None:
        """Tell of *error*, which came up with the message or folder *about*, once for each of these.

        ``about`` empty: it has to do with no one of them; once for each text.
        """
        key = f"{type(error).__name__} {about or error}"
        known = key in self._told
        self._told[key] = None
        self._told.move_to_end(key)
        if len(self._told) > LINES_KEPT:
            self._told.popitem(last=False)
        if not known:
            self.damaged += isinstance(error, DboxfsError) and not isinstance(error, EncryptedMessage)
            log.error("%s%s", f"{about}: " if about else "", error)


class IndexErrors:
    """The mailboxes of a store (storage names) whose index can't be read, and why."""

    def __init__(self) -> None:
        self._errors: dict[str, DboxfsError | OSError] = {}
        self._retried: set[str] = set()

    def add(self, name: str, shown: str, error: DboxfsError | OSError) -> bool:
        """The index can't be read, says *error*.

        True: from now on it has to be tried again, because no event tells when it can be read.
        """
        if str(self._errors.get(name)) != str(error):
            log.error("%s: %s", shown, error)
        self._errors[name] = error
        new = isinstance(error, OSError) and name not in self._retried
        if new:
            self._retried.add(name)
        return new

    def discard(self, name: str) -> None:
        """The index was read, or the mailbox has gone."""
        self._errors.pop(name, None)
        self._retried.discard(name)

    def check(self, name: str) -> None:
        """
        :raises CorruptFile, OSError: the index of this mailbox can't be read.
        """
        error = self._errors.get(name)
        if isinstance(error, CorruptFile):
            raise CorruptFile(error.path, error.offset, error.reason)
        if error is not None:
            raise fresh(error)

    @property
    def retried(self) -> frozenset[str]:
        """The mailboxes that are tried again: the system could not read them."""
        return frozenset(self._retried)

    def texts(self) -> dict[str, str]:
        """Why, by storage name."""
        return {name: str(error) for name, error in self._errors.items()}
