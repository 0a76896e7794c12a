"""Parsed records in memory: what metadata say and where messages lie, for a bounded number of messages.

``getfattr -d`` or ``rsync -X`` asks for a dozen attributes of one message, one request each, and several of
them stand in the message's record, for which its file has to be opened and read at two places.  The table
keeps what was understood.  It holds at most ``limit`` messages (``--table-size``) and gives up the one that
was not used for the longest time.

A key names the owner (a mailbox as it is now), the uid and the place.  So nothing has to be looked for when
something changes: a mailbox that changes takes another owner, a purge gives a message another place, and what
nobody asks for any more is the first to go.  :meth:`DetailsCache.drop` forgets everything in one step.

**Why positions aren't in it as extents.**  Where the messages of an mdbox lie is in the map, which has to be
followed as a whole anyway and is held in columns of 14 bytes a message (file_id, offset, size, refcount),
found by bisection; neighbours are joined into ranges when they are read.  A second table of extents over it
would save no read and no byte.  An sdbox message's place is its uid.
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
    """Values by key, at most *limit* (0: none), the longest unused one goes first."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[DetailsKey, V] = OrderedDict()
        self._hits = 0
        self._misses = 0
        self._evicted = 0
        self._drops = 0

    @property
    def limit(self) -> int:
        """How many there can be."""
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
        """Remember *value*."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
            self._evicted += 1

    def drop(self) -> None:
        """Forget everything, in one step."""
        self._entries = OrderedDict()
        self._drops += 1

    def resize(self, limit: int) -> None:
        """Another number of messages."""
        self._limit = limit
        while len(self._entries) > limit:
            self._entries.popitem(last=False)
            self._evicted += 1

    def stats(self) -> dict[str, int]:
        """Counters, and how many there are of how many."""
        return {
            "entries": len(self._entries),
            "limit": self._limit,
            "hits": self._hits,
            "misses": self._misses,
            "evicted": self._evicted,
            "drops": self._drops,
        }
