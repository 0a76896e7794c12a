"""Reference counts in the map, and their correction if a mailbox could not be written (PROTOCOL sections 4 to
8).

All functions need the map's lock.  The refcounts change before the mailboxes that have the references.  If a
mailbox then fails, its refcounts are changed back; only if that works, the map's tail may be moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dboxfs.errors import Unsupported
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write import log_records
from dboxfs.store.write.session import Work, present

REFCOUNT_LIMIT = 32768
"""Copies that a stored message may have (mdbox-map)."""


class References:
    """Changes refcounts of one store."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._disk = work.disk

    async def begin(self, *changes: Sequence[tuple[int, int]]) -> None:
        """Change refcounts before mailboxes are changed; one write, durable.

        :raises OSError: the refcounts are unchanged.
        """
        batch = [r for diffs in changes for r in log_records.change_refcounts(self._work.map.state, diffs)]
        if not batch:
            return
        try:
            await self._work.map.append(batch, durable=True)
        except OSError:
            back = [(map_uid, -diff) for diffs in changes for map_uid, diff in diffs]
            if not self._work.map.tail_is_head and await self._disk.attempt(self.change(back)):
                await self._disk.attempt(self._work.map_done())
            raise

    async def take_back(
        self,
        index: IndexLog,
        appended: Sequence[log_records.AppendedRow],
        replaced: Sequence[tuple[int, int]] = (),
        references: int = 1,
    ) -> bool:
        """Take back the references of messages that a mailbox could not take, or not durably; False: that
        failed, too.

        Messages that are in the mailbox's log are expunged again, unless they replaced others: those are
        expunged by now, so both would be lost.

        :param replaced: (uid, map uid) of messages whose references are given back if they still exist.
        :param references: how many references each appended message was given in the map.
        """
        uids = present(index.state, (message.uid for message in appended))
        if uids and replaced:
            return True
        if uids:
            again = log_records.expunge(index.state, uids, external=True)
            if not await self._disk.attempt(index.append(again)):
                return False
        diffs = [(message.map_uid, -references) for message in appended]
        if not uids:
            diffs += [(map_uid, 1) for _, map_uid in replaced]
        return await self._disk.attempt(self.change(diffs))

    async def change(self, diffs: Iterable[tuple[int, int]], *, tail: bool = False) -> None:
        """Change refcounts in the map: (map uid, difference), in any order.

        :param tail: move the map's tail in the same write.
        """
        sums: dict[int, int] = {}
        for map_uid, diff in diffs:
            sums[map_uid] = sums.get(map_uid, 0) + diff
        change = log_records.change_refcounts(self._work.map.state, sorted(sums.items()))
        if change:
            await self._work.map.append(change, tail=tail)


def check_limit(mapping: MapIndex, rows: Sequence[log_records.AppendedRow]) -> None:
    """Check that each message can have one more reference.

    :raises Unsupported: a message has as many references as it can have.
    """
    for map_uid, more in log_records.references_of(rows, 1):
        found = mapping.lookup(map_uid)
        if found is not None and found.refcount + more >= REFCOUNT_LIMIT:
            raise Unsupported(f"a stored message can't have more than {REFCOUNT_LIMIT - 1} copies")


def lost_references(index: IndexLog, mapping: MapIndex, gone: Sequence[int]) -> list[tuple[int, int]]:
    """The changes of refcounts when *gone* lose their references; no refcount falls below 0."""
    column = map_uids(index.state)
    if column is None or not gone:
        return []
    counts: dict[int, int] = {}
    for map_uid in column[index.state.rows_of(gone)].tolist():
        found = mapping.lookup(map_uid)
        if found is not None and found.refcount > -counts.get(map_uid, 0):
            counts[map_uid] = counts.get(map_uid, 0) - 1
    return sorted(counts.items())
