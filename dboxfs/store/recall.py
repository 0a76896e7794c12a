"""The size table of one mailbox at work: what it knows is taken into the facts, what is new goes back to it.

:meth:`Recall.take` comes before the first scan.  It reads the table, asks what the bytes of its messages
are at present (``MessageFiles.marks``), and believes the rows whose mark is still the same.  The scan that
follows reads the headers of the others.

:meth:`Recall.keep` writes the table: the rows read since, and the rows that were there and are of messages
that still exist, whether they were looked at or not (a row is never wrong, see ``sizetable``).  It is called
during and after a scan and at the end of the mount, and writes only when there is enough new (:data:`LEAST`,
:data:`SHARE`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from dboxfs.errors import CorruptFile
from dboxfs.store.facts import DAMAGED, FactColumns, FactTable, Uids
from dboxfs.store.messages import MessageFiles
from dboxfs.store.saveddates import SavedDates
from dboxfs.store.sizetable import Remembered, SizeTables, merged, usable

LEAST = 64
"""Fewer rows are not worth a file: their headers are read in no time."""

SHARE = 32
"""A table is written again when this part of it is new, or everything at the end of the mount."""


class CachePlaces:
    """sdbox: where the cache file of Dovecot has messages, and how to ask it.

    :param offsets: gives the offset of each uid, 0: nowhere.
    :param seq: file_seq of the cache that they are for.
    :param dates: reads the saved dates of uids from it.
    """

    def __init__(
        self,
        offsets: Callable[[Uids], Uids],
        seq: int,
        dates: Callable[[Uids], Awaitable[SavedDates | None]],
    ) -> None:
        self.offsets = offsets
        self.seq = seq
        self.dates = dates


class Recall:
    """What the size table has to do with one mailbox."""

    def __init__(self, tables: SizeTables, files: MessageFiles) -> None:
        self._tables = tables
        self._files = files
        self._taken: FactTable | None = None
        self._generation: bytes | None = None
        self._saving = False

    async def take(
        self,
        table: FactTable,
        guid: bytes,
        uid_validity: int,
        cache: CachePlaces | None,
        advance: Callable[[], bool],
    ) -> None:
        """Fill *table* with what is remembered and still true.  Does it once for each table.

        :param advance: called when there are new facts; False: *table* is no longer wanted.
        """
        if self._taken is table or not self._tables.usable:
            return
        try:
            self._generation = generation = await self._files.generation()
            if generation is None:
                return
            rows = await self._tables.load(self._tables.key(guid, uid_validity), generation)
            self._taken = table
            if rows is None:
                return
            wanted = np.isin(rows.uids, table.unknown_uids(), assume_unique=True)
            rows = rows[wanted & usable(rows.facts.state)]
            dates = await _StaleDates.of(rows, cache)
            step = self._files.marks_at_once
            for first in range(0, len(rows), step):
                some = slice(first, first + step)
                await self._verify(table, rows[some], dates[some])
                if not advance():
                    return
        except (CorruptFile, OSError):
            return  # whoever reads the messages meets it again, and tells

    async def _verify(self, table: FactTable, rows: Remembered, dates: _StaleDates) -> None:
        now = await self._files.marks(rows.uids)
        same = (now.marks == rows.marks) & (now.marks != 0)
        saved = dates.saved(rows, now.saved)
        at = np.searchsorted(table.uids, rows.uids)
        at = np.minimum(at, max(len(table) - 1, 0))
        if len(table):
            wanted = same & (table.uids[at] == rows.uids) & (table.columns(at).state == 0)
            facts = FactColumns(rows.facts.state, rows.facts.size, rows.facts.received, saved)
            table.put_many(at[wanted], facts[wanted])
            if dates.seq is not None and wanted.any():
                table.set_cached_at(at[wanted], dates.offsets[wanted], dates.seq)
        hits = int(np.count_nonzero(same))
        self._tables.hits += hits
        self._tables.misses += len(rows) - hits

    async def keep(self, table: FactTable, guid: bytes, uid_validity: int, *, final: bool = False) -> None:
        """Write what *table* has that isn't in the file yet, if that is enough (*final*: anything is)."""
        marks = table.marks
        fresh_rows = np.flatnonzero((marks != 0) & usable(table.columns().state))
        enough = 1 if final else max(len(table) // SHARE, 1)
        if self._saving or not self._tables.usable or len(table) < LEAST or len(fresh_rows) < enough:
            return
        self._saving = True
        try:
            await self._write(table, fresh_rows, guid, uid_validity)
        except (CorruptFile, OSError):
            return  # as above
        finally:
            self._saving = False

    async def _write(self, table: FactTable, rows: np.ndarray, guid: bytes, uid_validity: int) -> None:
        fresh = Remembered(
            table.uids[rows],
            table.marks[rows],
            table.columns(rows),
            table.cached_at[rows],
            table.cache_seq or 0,
        )
        generation = await self._files.generation()
        if generation is None or self._generation not in (None, generation):
            return  # repaired meanwhile: the mailbox is about to be read anew
        key = self._tables.key(guid, uid_validity)
        old = await self._tables.load(key, generation)
        whole = table.uids[(table.columns().state & np.uint8(DAMAGED)) == 0]
        if await self._tables.save(key, generation, merged(fresh, old, whole)):
            self._written(table, fresh)

    @staticmethod
    def _written(table: FactTable, fresh: Remembered) -> None:
        """Those of *fresh* that are still as they were needn't be written again."""
        if not len(table):
            return
        at = np.minimum(np.searchsorted(table.uids, fresh.uids), len(table) - 1)
        same = (table.uids[at] == fresh.uids) & (table.marks[at] == fresh.marks)
        table.forget_marks(at[same])


class _StaleDates:
    """The saved dates of rows: which of them Dovecot's cache has to be asked about, and what it says.

    ``seq`` None: mdbox, where the index has the date.
    """

    def __init__(self, offsets: Uids, stale: np.ndarray, seq: int | None, known: SavedDates | None) -> None:
        self.offsets = offsets
        self.seq = seq
        self._stale = stale
        self._known = known

    @classmethod
    async def of(cls, rows: Remembered, cache: CachePlaces | None) -> _StaleDates:
        if cache is None:
            return cls(rows.cached_at, np.ones(len(rows), bool), None, None)
        offsets = cache.offsets(rows.uids)
        foreign = cache.seq == 0 or cache.seq != rows.cache_seq
        stale = (offsets != rows.cached_at) | ((offsets != 0) & foreign)
        ask = rows.uids[stale & (offsets != 0)]
        return cls(offsets, stale, cache.seq, await cache.dates(ask) if len(ask) else None)

    def __getitem__(self, rows: slice) -> _StaleDates:
        return _StaleDates(self.offsets[rows], self._stale[rows], self.seq, self._known)

    def saved(self, rows: Remembered, now: np.ndarray) -> np.ndarray:
        """The saved date of each row; *now*: what the files or the index say."""
        saved = np.where(self._stale, now, rows.facts.saved)
        if self._known is not None:
            for row in np.flatnonzero(self._stale & (self.offsets != 0)).tolist():
                date = self._known.get(int(rows.uids[row]))
                if date is not None:
                    saved[row] = date
        return saved
