"""What is wrong with a store, in the log: one line for each thing, however often it is met.

Somebody who lists a folder again and again meets its damaged messages each time; the log shall tell of them
once.  The last :data:`KEPT` lines are remembered, so memory is bounded: what is met again after ten thousand
others is told again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from dboxfs.errors import DboxfsError, EncryptedMessage

log = logging.getLogger(__name__)

KEPT = 10_000


class Reports:
    """The reports of one store.  ``damaged``: how many damaged messages and files were told of."""

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
        if len(self._told) > KEPT:
            self._told.popitem(last=False)
        if not known:
            self.damaged += isinstance(error, DboxfsError) and not isinstance(error, EncryptedMessage)
            log.error("%s%s", f"{about}: " if about else "", error)
