"""Ranges of large objects, in blocks of 1 MiB where they are read one behind the other.

A small range somewhere is one request of exactly that range.  A range of 256 KiB, the third small one in a
block, or one in or behind a block that is kept, brings whole blocks: one at first, four in one request where
the block before is there.  So a walk through an object makes one request for 4 MiB, whatever the size of the
reads, several walks at once too (messages in the order of their names are three or four: 1, 10, 100, 1000,
1001 ...), and single reads pay for no more than what they ask for.  Threads that want the same block wait for
one of them to bring it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BLOCK: Final = 1 << 20
BLOCKS_AHEAD: Final = 4
BLOCKS_KEPT: Final = 32
LARGE_READ: Final = 256 << 10
SMALL_READS: Final = 2
"""Small ranges of a block that are a request each."""

BLOCKS_COUNTED: Final = 1024

Get = Callable[[str, int, int], bytes]


class BlockReader:
    """Reads objects with *get* (key, start, end), which may be called on any thread."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._turns: dict[str, threading.Lock] = {}
        self._small: OrderedDict[tuple[str, int], int] = OrderedDict()

    def read(self, key: str, size: int, start: int, end: int) -> bytes:
        """The bytes from *start* to before *end* of an object of *size* bytes.

        :raises OSError: they can't be read.
        """
        first, last = start // BLOCK, (end - 1) // BLOCK
        with self._lock:
            near = (key, first) in self._kept or (key, first - 1) in self._kept
            single = end - start < LARGE_READ and not near and self._is_single(key, first)
        if single:
            return self._get(key, start, end)
        pieces = [self._block(key, size, number) for number in range(first, last + 1)]
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return data[start - first * BLOCK : end - first * BLOCK]

    def _is_single(self, key: str, block: int) -> bool:
        """Count a small range; whether it is one of the first in its block."""
        count = self._small.pop((key, block), 0) + 1
        self._small[key, block] = count
        if len(self._small) > BLOCKS_COUNTED:
            self._small.popitem(last=False)
        return count <= SMALL_READS

    def _block(self, key: str, size: int, number: int) -> bytes:
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                found = self._kept.get((key, number))
                if found is not None:
                    self._kept.move_to_end((key, number))
                    return found
                count = BLOCKS_AHEAD if (key, number - 1) in self._kept else 1
            start = number * BLOCK
            data = self._get(key, start, min(size, start + count * BLOCK))
            with self._lock:
                for at in range(0, len(data), BLOCK):
                    self._kept[key, number + at // BLOCK] = data[at : at + BLOCK]
                while len(self._kept) > BLOCKS_KEPT:
                    self._kept.popitem(last=False)
            return data[:BLOCK]
