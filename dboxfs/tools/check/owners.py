"""Which mailboxes have which messages of an mdbox: findings about the storage name mailbox and uid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.index.mailbox import map_uids
from dboxfs.tools.check.findings import Finding
from dboxfs.tools.check.indexes import Index

MOST_NAMED = 8
"""Mailbox records of one message that a finding names one by one."""


class Group(Struct, frozen=True):
    """Messages of one mailbox.  ``uids``: ascending.

    ``box`` None: messages that no mailbox has; ``uids`` are map uids.
    """

    box: Index | None
    uids: list[int]


class Owners:
    """A snapshot of all mailbox records, looked up by map uid.  Memory: 12 bytes a record."""

    def __init__(self, boxes: Sequence[Index]) -> None:
        self._boxes = boxes
        numbers: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
        uids: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
        whose: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
        for at, box in enumerate(boxes):
            column = map_uids(box.state) if box.state is not None else None
            if box.state is None or column is None:
                continue
            numbers.append(column.astype(np.uint32))
            uids.append(box.state.uids.astype(np.uint32))
            whose.append(np.full(len(column), at, np.uint32))
        unsorted = np.concatenate(numbers)
        order = np.argsort(unsorted, kind="stable")
        self._map_uids = unsorted[order]
        self._uids = np.concatenate(uids)[order]
        self._whose = np.concatenate(whose)[order]

    def of(self, map_uid: int) -> list[tuple[Index, int]]:
        """Mailbox and uid of every record of *map_uid*."""
        first, last = np.searchsorted(self._map_uids, [map_uid, map_uid + 1])
        return [(self._boxes[self._whose[at]], int(self._uids[at])) for at in range(first, last)]

    def groups(self, wanted: Iterable[int]) -> list[Group]:
        """The records of many map uids by mailbox; the last group holds the map uids that no mailbox has."""
        asked = np.array(sorted(set(wanted)), np.uint32)
        rows = np.flatnonzero(np.isin(self._map_uids, asked))
        found = [
            Group(self._boxes[at], sorted(self._uids[rows[self._whose[rows] == at]].tolist()))
            for at in np.unique(self._whose[rows]).tolist()
        ]
        nobody = np.setdiff1d(asked, self._map_uids[rows]).tolist()
        return [*found, Group(None, nobody)] if nobody else found

    def named(self, finding: Finding) -> Finding:
        """*finding* with the mailboxes and uids of its message, if it only has a map uid."""
        if finding.map_uid is None or finding.mailbox is not None:
            return finding
        places = self.of(finding.map_uid)
        if not places:
            return finding
        names = [f"{box.what}/{uid}" for box, uid in places[:MOST_NAMED]]
        if len(places) > MOST_NAMED:
            names.append(f"{len(places) - MOST_NAMED} more places")
        box, uid = places[0]
        return replace(finding, what=f"{', '.join(names)}: {finding.what}", mailbox=box.mailbox, uid=uid)
