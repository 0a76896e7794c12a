"""The log of messages that could not keep the guid that they brought."""

from __future__ import annotations

import logging

from dboxfs.store import Folder, Store
from dboxfs.store.stored_once import Arrived

log = logging.getLogger(__name__)

MOST_LOGGED = 100
"""How many of them are logged."""


class NewGuids:
    """Logs the first of many."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = 0

    def tell(self, folder: Folder, uid: int, arrived: Arrived) -> None:
        """Log that message *uid* has a new guid, if it has."""
        if not arrived.not_kept:
            return
        self._count += 1
        if self._count <= MOST_LOGGED:
            shown = self._store.display_name(folder)
            log.warning("%s: uid %d has a new guid: %s", shown, uid, arrived.not_kept[0])
        if self._count == MOST_LOGGED:
            log.warning("no more messages that have a new guid are told")
