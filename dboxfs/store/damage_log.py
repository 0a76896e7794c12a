"""Faults of a store in the log: one line for each fault, even if it is met often.

Each listing of a folder finds its damaged messages again; they are logged once.  The last :data:`LINES_KEPT`
lines are remembered, so memory is bounded: a fault that is met again after ten thousand others is logged
again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from dboxfs.errors import CorruptFile, DboxfsError, EncryptedMessage
from dboxfs.fsapi.ops import fresh

log = logging.getLogger(__name__)

LINES_KEPT = 10_000


class DamageLog:
    """The faults of one store that were logged.  ``damaged``: number of damaged messages and files among
    them.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._told: OrderedDict[str, None] = OrderedDict()

    def error(self, about: str, error: Exception) -> None:
        """Log *error* of the message or folder *about*, once for each of these.

        ``about`` empty: the error belongs to none of them; it is logged once for each text.
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
    """The mailboxes of a store (storage names) whose index can't be read, with the errors."""

    def __init__(self) -> None:
        self._errors: dict[str, DboxfsError | OSError] = {}
        self._retried: set[str] = set()

    def add(self, name: str, shown: str, error: DboxfsError | OSError) -> bool:
        """Note that the index can't be read because of *error*.

        True: from now on the caller has to try again, because no event says when it can be read.
        """
        if str(self._errors.get(name)) != str(error):
            log.error("%s: %s", shown, error)
        self._errors[name] = error
        new = isinstance(error, OSError) and name not in self._retried
        if new:
            self._retried.add(name)
        return new

    def discard(self, name: str) -> None:
        """Note that the index was read, or the mailbox is gone."""
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
        """The mailboxes that have to be tried again after an error of the system."""
        return frozenset(self._retried)

    def texts(self) -> dict[str, str]:
        """The errors, by storage name."""
        return {name: str(error) for name, error in self._errors.items()}
