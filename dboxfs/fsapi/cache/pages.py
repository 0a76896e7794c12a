"""One open file's pages in the page cache, for a file that the kernel's cache can't serve.

A file is cut into pages of 64 KiB, counted from 0; the last one is short.  A short page is never taken for
the end of the file: files grow.

Pages are named by the open file, not by its path.  If the ctime was older than two seconds at the open, a
later change surely gives another ctime; then device, inode, size, mtime and ctime identify the bytes and are
the name, so a file that is closed and opened again finds its pages.  Otherwise the name is the open file's
own, and its pages are dropped when it is closed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable

from dboxfs.fsapi.cache.cache import PageCache

PAGE = 64 << 10
_SETTLED_NS = 2 * 10**9


class PagedFile:
    """The pages of one open file.

    :param status: its attributes when it was opened.
    """

    __slots__ = ("_cache", "_key", "_last", "_own_key")

    def __init__(self, cache: PageCache, status: os.stat_result) -> None:
        self._cache = cache
        self._own_key = time.time_ns() - status.st_ctime_ns < _SETTLED_NS
        self._key: Hashable = object()
        if not self._own_key:
            times = (status.st_mtime_ns, status.st_ctime_ns)
            self._key = (status.st_dev, status.st_ino, status.st_size, *times)
        self._last = -1

    def lookup(self, size: int, offset: int) -> bytes | None:
        """At most ``size`` bytes at ``offset``, up to the end of a page; None: not in the cache."""
        number = offset // PAGE
        page = self._cache.get(self._key, number)
        if number != self._last:
            if number == self._last + 1:
                self._cache.passed(self._key, self._last)
            self._last = number
        if page is None:
            return None
        start = offset - number * PAGE
        if start >= len(page):
            return None
        return page if start == 0 and size >= len(page) else page[start : start + size]

    def has(self, offset: int) -> bool:
        """Whether the page of this offset is in the cache; this is not a use."""
        return self._cache.contains(self._key, offset // PAGE)

    def start_of(self, offset: int) -> int:
        """The offset where a read must begin to bring this one: its page's, or the end of the cached page."""
        number = offset // PAGE
        page = self._cache.peek(self._key, number)
        return number * PAGE + (0 if page is None else min(len(page), offset % PAGE))

    def store(self, offset: int, data: bytes, asked: int | None) -> None:
        """Keep bytes that were read from ``offset`` (see :meth:`start_of`).

        ``asked``: they were read ahead, and only a reader of this offset (-1: no reader) has asked for them;
        None: a reader has asked for all of them.
        """
        number, start = divmod(offset, PAGE)
        if start:
            page = self._cache.peek(self._key, number)
            if page is None or len(page) < start:
                return
            data = page[:start] + data
        for start in range(0, len(data), PAGE):
            piece = data if len(data) <= PAGE else data[start : start + PAGE]
            prefetched = asked is not None and asked // PAGE != number
            self._cache.put(self._key, number, piece, prefetched=prefetched)
            number += 1

    def missing(self, offset: int, size: int, most: int) -> list[tuple[int, int]]:
        """The missing parts of a range, as ``(offset, size)`` of whole pages, none larger than ``most``."""
        ranges: list[tuple[int, int]] = []
        for start in range(offset - offset % PAGE, offset + size, PAGE):
            if self.has(start):
                continue
            if ranges and sum(ranges[-1]) == start and ranges[-1][1] + PAGE <= most:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + PAGE)
            else:
                ranges.append((start, PAGE))
        return ranges

    def expect(self, size: int) -> bool:
        """Take room in the cache for readahead; False: there is none."""
        if size > self._cache.prefetch_room():
            return False
        self._cache.expect(size)
        return True

    def end_expect(self, size: int) -> None:
        """Give back the room of readahead that has arrived or failed."""
        self._cache.expect(-size)

    def close(self) -> None:
        """The file is closed: its reader has passed the last page; drop pages that can't be found again."""
        if self._own_key:
            self._cache.drop(self._key)
        else:
            self._cache.passed(self._key, self._last)
