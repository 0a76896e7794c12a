"""Which messages a store has, by guid, so that an import saves no message twice.

The store itself is the journal of an import: a message is there as a whole or not at all.  So after a kill
the next run needs nothing but this table to go on.

The table has all guids of the mailbox that is being filled: from its index (mdbox), or from its message files
(sdbox).  Of other mailboxes it has those that this run has met, and in an mdbox all: two records with one
guid would be damage there (recovery section 4), so a message that comes again is copied.

Memory: about 200 bytes for each message of this run, 24 for each that an mdbox had.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from dboxfs.index.mailbox import guids
from dboxfs.store.location import Kind
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store

_BATCH = 256


class StoredAt(NamedTuple):
    """The place of a message.  ``uid``: 0: it waits to be saved.  ``digest``: of its text; None: not known.

    ``received``: seconds since the epoch; None: not known.
    """

    mailbox: str
    uid: int
    digest: bytes | None
    received: int | None


class _Columns(Struct, frozen=True, eq=False):
    """Messages of an mdbox: guids ascending, with the number of the mailbox and the uid of each."""

    names: list[str]
    guids: np.ndarray
    boxes: np.ndarray
    uids: np.ndarray

    def find(self, guid: bytes) -> tuple[str, int] | None:
        row = int(np.searchsorted(self.guids, np.bytes_(guid)))
        if row == len(self.guids) or self.guids[row] != guid.rstrip(b"\0"):
            return None
        return self.names[int(self.boxes[row])], int(self.uids[row])


class GuidTable:
    """The guids that an import knows: of the mailbox that it fills, of this run, and (mdbox) of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._columns = _columns(store) if store.location.kind is Kind.MDBOX else None
        self._names: list[str] = []
        self._rows: dict[bytes, int] = {}
        self._boxes, self._uids, self._received = array("I"), array("I"), array("q")
        self._digests = bytearray()
        self._left: dict[bytes, list[int]] = {}

    async def begin(self, box: Mailbox) -> None:
        """Begin with mailbox *box*: read its guids.

        :raises OSError, DboxfsError: its messages can't be read.
        """
        self._names.append(box.name)
        self._left = {}
        state = box.state
        if state is None or not len(box):
            return
        column = guids(state)
        if self._store.location.kind is Kind.MDBOX and column is not None:
            rows = state.rows_of(box.uids)
            for row, uid in zip(rows.tolist(), box.uids.tolist(), strict=True):
                if row >= 0:
                    self._left.setdefault(column[row].tobytes(), []).append(uid)
            return
        for start in range(0, len(box.uids), _BATCH):
            for scanned in await box.files.scan(box.uids[start : start + _BATCH]):
                record = scanned.record
                guid = record.metadata.guid128 if record is not None else None
                if guid is not None:
                    self._left.setdefault(guid, []).append(scanned.uid)

    def there(self, guid: bytes, uid: int | None) -> int | None:
        """A message that the mailbox had before, and that no message of the source was matched with yet.

        :param uid: the preferred one, if there are several.
        """
        uids = self._left.get(guid)
        if not uids:
            return None
        return uid if uid in uids else uids[0]

    def is_met(self, guid: bytes, uid: int, digest: bytes, received: int) -> None:
        """Match the message that :meth:`there` gave with one of the source."""
        self._left[guid].remove(uid)
        self.add(guid, uid, digest, received)

    def anywhere(self, guid: bytes) -> StoredAt | None:
        """A message with this guid in any mailbox; those that this run has met come first."""
        row = self._rows.get(guid)
        if row is not None:
            return self._place(row)
        found = self._columns.find(guid) if self._columns is not None else None
        return StoredAt(*found, None, None) if found is not None else None

    def _place(self, row: int) -> StoredAt:
        digest = bytes(self._digests[16 * row : 16 * row + 16])
        return StoredAt(self._names[self._boxes[row]], self._uids[row], digest, self._received[row])

    def add(self, guid: bytes, uid: int, digest: bytes, received: int) -> None:
        """Add a message that is in the mailbox, or waits to be saved there (*uid* 0)."""
        if guid not in self._rows:
            self._rows[guid] = len(self._uids)
            self._boxes.append(len(self._names) - 1)
            self._uids.append(uid)
            self._received.append(received)
            self._digests += digest

    def came(self, guid: bytes, uid: int) -> None:
        """A message that waited was saved with this uid."""
        row = self._rows.get(guid)
        if row is not None and not self._uids[row]:
            self._uids[row] = uid

    def lost(self, guid: bytes) -> None:
        """A message that waited will not be saved."""
        self._rows.pop(guid, None)


def _columns(store: Store) -> _Columns:
    names: list[str] = []
    columns, boxes, uids = [], [], []
    for name, folder in store.folders.items():
        box = folder.mailbox
        column = guids(box.state) if box is not None and box.state is not None else None
        if box is None or box.state is None or column is None or not len(box):
            continue
        rows = box.state.rows_of(box.uids)
        columns.append(column[rows])
        boxes.append(np.full(len(rows), len(names), np.uint32))
        uids.append(box.uids)
        names.append(name)
    if not names:
        return _Columns([], np.empty(0, "S16"), np.empty(0, np.uint32), np.empty(0, np.uint32))
    every = np.ascontiguousarray(np.concatenate(columns)).view("S16").reshape(-1)
    order = np.argsort(every, kind="stable")
    return _Columns(names, every[order], np.concatenate(boxes)[order], np.concatenate(uids)[order])
