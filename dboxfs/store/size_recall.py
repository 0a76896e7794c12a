"""Use of one mailbox's size table: its rows go into the facts, and new facts go back to it.

:meth:`Recall.take` runs before the first scan.  It reads the table, gets the current marks of its messages
(``MessageFiles.marks``), and takes the rows whose mark is still the same.  The scan then reads the headers of
the other messages.

:meth:`Recall.keep` writes the table: the rows read since, and the old rows of messages that still exist, also
those that were not verified (a row is never wrong, see ``size_format``).  It is called during and after a
scan and at the end of the mount, and writes only if there are enough new rows (:data:`LEAST`, :data:`SHARE`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from dboxfs.errors import CorruptFile
from dboxfs.store.attrs import DAMAGED, FactTable, Uids
from dboxfs.store.backend import MessageFiles
from dboxfs.store.saved_dates import CachePlaces, SavedDates
from dboxfs.store.size_format import BLOCK_ROWS, NOT_CACHED, Key, Remembered, merged, usable
from dboxfs.store.size_table import SizeTables, TableFile

LEAST = 64
"""Fewer rows get no file: reading their headers is fast."""

SHARE = 32
"""A table is written again when 1/SHARE of it is new; at the end of the mount if any row is new."""


class Recall:
    """The use of the size table for one mailbox."""

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
        """Fill *table* with the rows that are still true; once for each table.

        :param advance: called when there are new facts; False: *table* is no longer wanted.
        """
        if self._taken is table or not self._tables.usable:
            return
        try:
            self._generation = generation = await self._files.generation()
            if generation is None:
                return
            file = await self._tables.open(self._tables.key(guid, uid_validity), generation)
            self._taken = table
            if file is None:
                return
            with contextlib.closing(file):
                while (rows := await file.next()) is not None:
                    if not await self._take_block(table, rows, cache, advance):
                        return
        except (CorruptFile, OSError):
            return  # the read of the messages meets the error again, and reports it

    async def _take_block(
        self, table: FactTable, rows: Remembered, cache: CachePlaces | None, advance: Callable[[], bool]
    ) -> bool:
        rows = rows[usable(rows.facts.state) & table.is_unknown(rows.uids)]
        dates = await _StaleDates.of(rows, cache)
        step = self._files.marks_at_once
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            await self._verify(table, rows[some], dates[some])
            if not advance():
                return False
        return True

    async def _verify(self, table: FactTable, rows: Remembered, dates: _StaleDates) -> None:
        now = await self._files.marks(rows.uids)
        same = (now.marks == rows.marks) & (now.marks != 0)
        saved = dates.saved(rows, now.saved)
        at = np.searchsorted(table.uids, rows.uids)
        at = np.minimum(at, max(len(table) - 1, 0))
        if len(table):
            wanted = same & (table.uids[at] == rows.uids) & (table.columns(at).state == 0)
            facts = replace(rows.facts, saved=saved)
            table.put_many(at[wanted], facts[wanted])
            if dates.seq is not None and wanted.any():
                table.set_cached_at(at[wanted], dates.offsets[wanted], dates.seq)
        hits = int(np.count_nonzero(same))
        self._tables.hits += hits
        self._tables.misses += len(rows) - hits

    async def keep(self, table: FactTable, guid: bytes, uid_validity: int, *, final: bool = False) -> None:
        """Write the facts of *table* that are not in the file yet, if they are enough (*final*: one is
        enough).

        Facts that were given to the file count as kept, also if the write failed.
        """
        new = int(np.count_nonzero(table.marks))
        enough = 1 if final else max(len(table) // SHARE, 1)
        if self._saving or not self._tables.usable or len(table) < LEAST or new < enough:
            return
        self._saving = True
        try:
            generation = await self._files.generation()
            if generation is not None and self._generation in (None, generation):  # else it was repaired
                await self._write(table, self._tables.key(guid, uid_validity), generation)
        except (CorruptFile, OSError):
            return  # as above
        finally:
            self._saving = False

    async def _write(self, table: FactTable, key: Key, generation: bytes) -> None:
        old = await self._tables.open(key, generation)
        try:
            blocks = _Blocks(table, old)
            await self._tables.save(key, generation, blocks.cache_seq, blocks.next)
        finally:
            if old is not None:
                old.close()


class _Blocks:
    """The blocks of a new file: a table's new facts, and the old file's rows of its other messages.

    Each block is a separate snapshot; that is enough, since each row is valid by itself.
    """

    def __init__(self, table: FactTable, old: TableFile | None) -> None:
        self.cache_seq = table.cache_seq or 0
        self._table = table
        self._old = old
        self._rest: Remembered | None = None
        self._done = 0

    async def next(self) -> Remembered | None:
        """The next block; None: there are no more."""
        while True:
            uids = self._table.uids
            rest = uids[np.searchsorted(uids, self._done, side="right") :]
            if not len(rest):
                return None
            last = int(rest[min(BLOCK_ROWS, len(rest)) - 1])
            old = await self._old_until(last)
            block = self._block(last, old)
            self._done = last
            if len(block):
                return block

    def _block(self, last: int, old: list[Remembered]) -> Remembered:
        """The rows of the messages up to uid *last*."""
        table = self._table
        low, high = np.searchsorted(table.uids, (self._done, last), side="right").tolist()
        span = slice(low, high)
        facts = table.columns(span)
        good = usable(facts.state) & (table.marks[span] != 0)
        rows = low + np.flatnonzero(good)
        if table.cache_seq not in (None, self.cache_seq):
            cached_at = np.full(len(rows), NOT_CACHED, np.uint32)
        else:
            cached_at = table.cached_at[rows]
        fresh = Remembered(table.uids[rows], table.marks[rows], facts[good], cached_at, self.cache_seq)
        whole = table.uids[span][(facts.state & np.uint8(DAMAGED)) == 0]
        table.forget_marks(span)
        return merged(fresh, old, whole)

    async def _old_until(self, last: int) -> list[Remembered]:
        """The old rows up to uid *last* that were not given yet."""
        found: list[Remembered] = []
        while self._old is not None:
            rows = self._rest if self._rest is not None else await self._old.next()
            self._rest = None
            if rows is None:
                break
            cut = int(np.searchsorted(rows.uids, last, side="right"))
            found.append(rows[:cut])
            if cut < len(rows):
                self._rest = rows[cut:]
                break
        return found


class _StaleDates:
    """The saved dates of rows, with those that have to be read again from Dovecot's cache file.

    ``seq`` None: an mdbox, whose index has the dates.
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
        """The saved date of each row; *now*: the dates of the files or the index."""
        saved = np.where(self._stale, now, rows.facts.saved)
        if self._known is not None:
            asked = np.flatnonzero(self._stale & (self.offsets != 0))
            dates = self._known.of(rows.uids[asked])
            saved[asked[dates >= 0]] = dates[dates >= 0]
        return saved
