"""Saved dates of an sdbox: what ``dovecot.index.cache`` remembers as ``date.save``, else the file's ctime.

The date of the file moves when a copy of the message is made or removed (they are hard links); what Dovecot
has in its cache file doesn't, and may differ from the ctime by a second to begin with.  So Dovecot's memory
comes first.

The cache file is read whole when a message that has something in it is looked at, up to a limit, and
dropped afterwards: it can be as large as all headers of the mailbox.  It is only an accelerator for
Dovecot; one that is damaged or doesn't belong to the index counts as empty (mail-cache).
"""

from __future__ import annotations

import logging

from dboxfs.errors import FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.mailbox import cache_offsets
from dboxfs.index.state import IndexState
from dboxfs.store.facts import Uids

log = logging.getLogger(__name__)

FEW = 16 << 20
"""Most bytes of the cache file that are read for the sake of a few messages."""

ALL = 1 << 30
"""Most bytes that are read when all messages are looked at."""


class SavedDates:
    """What one reading of the cache file knows; immutable.  Made by :func:`load_saved_dates`."""

    def __init__(self, state: IndexState, file: CacheFile | None) -> None:
        self._state = state
        self._file = file

    def get(self, uid: int) -> int | None:
        """``date.save`` of *uid* in seconds since the epoch; None: Dovecot remembers nothing."""
        file, state = self._file, self._state
        row = state.row_of(uid)
        offsets = cache_offsets(state, file.header.file_seq) if file is not None else None
        if file is None or offsets is None or row < 0 or not offsets[row]:
            return None
        value = file.lookup(int(offsets[row])).get("date.save")
        return value if isinstance(value, int) else None


async def load_saved_dates(
    fs: FileSystem, path: str, state: IndexState, uids: Uids, limit: int
) -> SavedDates:
    """Read the cache file *path* for the sake of *uids*, if it has anything of them.

    :param limit: a larger file (bytes) is left alone.
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
