"""The sequential detector: which range to bring before a read asks for it.  A pure state machine, no files.

It watches the reads of one handle that had to wait, and those that cross ``mark``.  A read that begins where
the last one ended is sequential (so is a first read at offset 0).  Then the window opens with twice the size
of the read, at least 64 KiB, and doubles each time that the reader comes to the middle of the range that was
brought, up to the limit::

    read 4K at 0     bring 4K..68K           window 64K     mark 36K
    ... at 36K       bring 68K..196K         window 128K    mark 132K
    ... at 132K      bring 196K..452K        window 256K    and so on to the limit

A read anywhere else is random: the window shrinks to a quarter and moves there; below the smallest window it
closes, and opens again with the second read in a row.
"""

from __future__ import annotations

import sys

SMALLEST_WINDOW = 64 << 10
NEVER = sys.maxsize


class Readahead:
    """The readahead of one handle.

    :param limit: the largest window in bytes; 0 turns readahead off.
    :ivar window: the present window in bytes, 0: closed.
    :ivar position: the end of the last read; the reader sets it after each read.
    :ivar mark: the reader must call :meth:`observe` for a read that ends behind this offset, and for every
        read that had to wait; not for the others.
    """

    __slots__ = ("_ahead", "_limit", "mark", "position", "window")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ahead = 0
        self.window = 0
        self.position = 0
        self.mark = NEVER

    def observe(self, offset: int, size: int) -> tuple[int, int] | None:
        """A read of ``size`` bytes at ``offset``: the range ``(offset, size)`` to bring now, or None."""
        if self._limit <= 0:
            return None
        end = offset + size
        if not self._is_sequential(offset):
            return self._random(end)
        if not self.window:
            self.window = max(SMALLEST_WINDOW, 2 * size)
            self._ahead = end
        elif end <= self.mark:
            return None
        else:
            self.window *= 2
        return self._bring(max(self._ahead, end))

    def end_of_file(self) -> None:
        """The file ends where the last range ends: no more readahead."""
        self.mark = NEVER

    def _is_sequential(self, offset: int) -> bool:
        if offset == self.position:
            return True
        # Several readers of one stream (the kernel's own readahead) come a little out of order.
        return self.window > 0 and self.position - self.window <= offset <= self._ahead

    def _random(self, end: int) -> tuple[int, int] | None:
        self.window //= 4
        if self.window < SMALLEST_WINDOW:
            self.window = 0
            self.mark = NEVER
            return None
        return self._bring(end)

    def _bring(self, start: int) -> tuple[int, int]:
        self.window = min(self.window, self._limit)
        self._ahead = start + self.window
        self.mark = self._ahead - self.window // 2
        return start, self.window
