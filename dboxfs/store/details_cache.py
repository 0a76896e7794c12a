"""Parsed records in memory: metadata and places of a bounded number of messages.

``getfattr -d`` or ``rsync -X`` asks for a dozen attributes of one message, one request each.  Several of them
are in the message's record, for which its file has to be opened and read in two places.  The table keeps the
parsed record.  It holds at most ``limit`` messages (``--table-size``) and drops the one that was not used for
the longest time.

A key has the owner (a mailbox in its current state), the uid and the place.  So a change needs no search in
the table: a mailbox that changes takes another owner, a purge gives a message another place, and unused
entries are dropped first.  :meth:`DetailsCache.drop` drops all entries in one step.

**Why there are no extents.**  The map has the places of an mdbox's messages.  It has to be read as a whole
anyway, and is held in columns of 14 bytes a message (file_id, offset, size, refcount), searched by bisection;
reads join neighbours into ranges.  A second table of extents would save no read and no byte.  The place of an
sdbox message is its uid.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

DEFAULT_LIMIT = 10_000
"""Messages; each takes about 1 KB."""

DetailsKey = tuple[object, int, tuple[int, ...]]
"""Owner, uid, place."""


class DetailsCache(Generic[V]):
    """Values by key, at most *limit* (0: none); the one that was unused for the longest time is dropped
    first.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[DetailsKey, V] = OrderedDict()
        self._hits = 0
        self._misses = 0
        self._evicted = 0
        self._drops = 0

    @property
    def limit(self) -> int:
        """The largest number of values."""
        return self._limit

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: DetailsKey) -> V | None:
        """The value of *key*, which counts as used now; None: there is none."""
        found = self._entries.get(key)
        if found is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return found

    def put(self, key: DetailsKey, value: V) -> None:
        """Store *value*."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
            self._evicted += 1

    def drop(self) -> None:
        """Drop all values in one step."""
        self._entries = OrderedDict()
        self._drops += 1

    def resize(self, limit: int) -> None:
        """Change the limit."""
        self._limit = limit
        while len(self._entries) > limit:
            self._entries.popitem(last=False)
            self._evicted += 1

    def stats(self) -> dict[str, int]:
        """Counters, the number of entries, and the limit."""
        return {
            "entries": len(self._entries),
            "limit": self._limit,
            "hits": self._hits,
            "misses": self._misses,
            "evicted": self._evicted,
            "drops": self._drops,
        }
