"""Saved dates of an sdbox: ``date.save`` in ``dovecot.index.cache``, else the file's ctime.

The ctime of the file changes when a copy of the message is made or removed (copies are hard links).  The date
in Dovecot's cache file doesn't change, and may differ from the ctime by a second from the beginning.  So the
cache file comes first.

The whole cache file, up to a limit, is read for a message that has data in it, and dropped afterwards: it can
be as large as all headers of the mailbox.  A file that is damaged or belongs to another index counts as empty
(mail-cache).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dboxfs.errors import FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.mailbox import cache_offsets
from dboxfs.index.state import IndexState
from dboxfs.store.attrs import KNOWN, FactTable, Uids

log = logging.getLogger(__name__)

READ_FOR_FEW = 16 << 20
"""A larger cache file (bytes) is not read for a few messages."""

READ_FOR_ALL = 1 << 30
"""A larger cache file (bytes) is not read for all messages."""


class SavedDates:
    """The saved dates of one read of the cache file; immutable.  Made by :func:`load_saved_dates`.

    ``cache_seq``: file_seq of the cache file that the offsets are for.
    """

    def __init__(self, state: IndexState, file: CacheFile | None) -> None:
        self._state = state
        self._file = file
        self.cache_seq = cache_seq(state)

    def get(self, uid: int) -> int | None:
        """``date.save`` of *uid* in seconds since the epoch; None: the cache file has none."""
        file, state = self._file, self._state
        row = state.row_of(uid)
        offsets = cache_offsets(state, file.header.file_seq) if file is not None else None
        if file is None or offsets is None or row < 0 or not offsets[row]:
            return None
        value = file.lookup(int(offsets[row])).get("date.save")
        return value if isinstance(value, int) else None

    def of(self, uids: Uids) -> npt.NDArray[np.int64]:
        """:meth:`get` of many messages: int64[n], -1: the cache file has none."""
        file = self._file
        if file is None or cache_offsets(self._state, file.header.file_seq) is None:
            return np.full(len(uids), -1, np.int64)
        return file.numbers(self.offsets(uids), "date.save")

    def offsets(self, uids: Uids) -> Uids:
        """The offsets of *uids* in the cache file, by the index; 0: none."""
        return offsets_of(self._state, uids)


async def load_saved_dates(
    fs: FileSystem, path: str, state: IndexState, uids: Uids, limit: int
) -> SavedDates:
    """Read the cache file *path*, if it has data of *uids*.

    :param limit: a larger file (bytes) is not read.
    """
    nothing = SavedDates(state, None)
    column = state.column("cache", "<u4")
    if column is None:
        return nothing
    rows = state.rows_of(uids)
    if not column[rows[rows >= 0]].any():
        return nothing
    (found,) = await fs.peek([Peek(path, ((0, None),), limit=limit + 1)])
    if not isinstance(found, PeekResult) or len(found.chunks[0]) > limit:
        return nothing
    try:
        file = CacheFile(found.chunks[0])
    except FormatError as exc:
        log.info("%s: not used: %s", path, exc)
        return nothing
    return SavedDates(state, file) if file.header.indexid == state.indexid else nothing


def cache_seq(state: IndexState) -> int:
    """file_seq of the cache file that the index's offsets are for; 0: none."""
    return next((extension.reset_id for extension in state.extensions if extension.name == "cache"), 0)


def offsets_of(state: IndexState, uids: Uids) -> Uids:
    """The offsets of *uids* in the cache file, by the index; 0: none."""
    column = state.column("cache", "<u4")
    found = np.zeros(len(uids), np.uint32)
    if column is not None:
        rows = state.rows_of(uids)
        found[rows >= 0] = column[rows[rows >= 0]]
    return found


def remember(table: FactTable, uids: Uids, dates: SavedDates) -> None:
    """Note in *table* that it has the dates of *uids* in *dates*: they are read again only when Dovecot
    caches more.
    """
    rows, there = table.rows_of(uids)
    if len(rows):
        table.set_cached_at(rows, dates.offsets(uids)[there], dates.cache_seq)


async def look_again(fs: FileSystem, path: str, state: IndexState, table: FactTable) -> Uids:
    """Read saved dates that Dovecot may have cached since *table* was filled; gives the uids whose date
    changed.
    """
    column = state.column("cache", "<u4")
    if column is None or table.unknown == len(table):
        return np.empty(0, np.uint32)
    if len(table) == len(state):
        offsets = column
    else:
        rows = state.rows_of(table.uids)
        offsets = np.where(rows >= 0, column[rows], table.cached_at)
    uids: Uids = table.uids[(offsets != table.cached_at) & ((table.columns().state & np.uint8(KNOWN)) != 0)]
    if not len(uids):
        return uids
    dates = await load_saved_dates(fs, path, state, uids, READ_FOR_FEW)
    changed: list[int] = []
    for uid, saved in zip(uids.tolist(), dates.of(uids).tolist(), strict=True):
        facts = table.get(uid)
        if facts is not None and saved >= 0 and saved != facts.saved:
            changed.append(uid)
            table.put(uid, replace(facts, saved=saved))
    remember(table, uids, dates)
    return np.array(changed, np.uint32)


class CachePlaces:
    """sdbox: the offsets of messages in Dovecot's cache file, and a function that reads it.

    :param offsets: gives the offset of each uid, 0: none.
    :param seq: file_seq of the cache file of these offsets.
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
