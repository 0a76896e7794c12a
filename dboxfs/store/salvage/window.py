"""The bytes of one file, read in chunks, with access in any order.

The last two chunks are kept: a scan goes forward and reads the end of each record before its text, so nearly
every byte is read once.  Memory: two chunks, and the bytes of a single :meth:`Window.read`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dboxfs.fsapi import FileSystem, Handle

CHUNK = 1 << 20
"""Bytes of one read."""

SPARSE_CHUNK = 4 << 10
"""Bytes of one read in a scan that skips the bodies."""


class Window:
    """An open file of ``size`` bytes.

    :ivar changed: mtime of the file (seconds since the epoch).
    :ivar bytes_read: bytes that were read of the file so far.
    """

    def __init__(
        self, handle: Handle, path: str, size: int, chunk: int = CHUNK, changed: float = 0.0
    ) -> None:
        self.handle = handle
        self.path = path
        self.size = size
        self.chunk = chunk
        self.changed = changed
        self.bytes_read = 0
        self._start = self._older_start = 0
        self._data = self._older = b""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes at *offset*, fewer only at the end of the file.

        :raises OSError: the file can't be read.
        """
        size = max(0, min(size, self.size - offset))
        known = self._known(offset, size)
        if known is not None:
            return known
        end = self._start + len(self._data)
        begin = end if self._data and end <= offset < end + self.chunk else offset
        wanted = min(max(offset + size - begin, self.chunk), self.size - begin)
        self._older, self._older_start = self._data, self._start
        self._data = await self.handle.read(wanted, begin) if wanted > 0 else b""
        self.bytes_read += len(self._data)
        self._start = begin
        return self._data[offset - begin : offset - begin + size]

    def _known(self, offset: int, size: int) -> bytes | None:
        """The bytes at *offset*, if they are in memory."""
        at, before = offset - self._start, offset - self._older_start
        if 0 <= at <= at + size <= len(self._data):
            return self._data[at : at + size]
        if not 0 <= before <= len(self._older):
            return None
        if before + size <= len(self._older):
            return self._older[before : before + size]
        if self._older_start + len(self._older) == self._start and at + size <= len(self._data):
            return self._older[before:] + self._data[: at + size]
        return None

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from *start* to *end*, chunk by chunk; bytes in memory are used first."""
        while start < min(end, self.size):
            at, before = start - self._start, start - self._older_start
            ready = self.chunk
            if 0 <= at < len(self._data):
                ready = len(self._data) - at
            elif 0 <= before < len(self._older):
                ready = len(self._older) - before
            piece = await self.read(start, min(end - start, ready))
            if not piece:
                return
            yield piece
            start += len(piece)

    async def find(self, pattern: re.Pattern[bytes], start: int, end: int, longest: int) -> int:
        """The offset of the first match of *pattern* at *start* or behind; -1: there is none before *end*.

        :param longest: bytes that a match has at most; it must end at *end* or before.
        """
        end = min(end, self.size)
        while start < end:
            data, at = await self._around(start, min(longest, end - start))
            stop = min(len(data), at + end - start)
            if stop <= at:
                return -1
            match = pattern.search(data, at, stop)
            if match is not None:
                return start + match.start() - at
            if start + stop - at >= end:
                return -1
            start += max(1, stop - at - longest + 1)
        return -1

    async def _around(self, offset: int, least: int) -> tuple[bytes, int]:
        """Bytes with at least *least* from *offset* on, if the file has them, and the index of *offset* in
        them; not copied.
        """
        for data, start in ((self._data, self._start), (self._older, self._older_start)):
            if start <= offset <= offset + least <= start + len(data):
                return data, offset - start
        return await self.read(offset, min(self.chunk, self.size - offset)), 0

    async def loaded(self, offset: int) -> tuple[bytes, int]:
        """A chunk in memory that has the byte at *offset*, and the index of that byte; nothing is copied."""
        at = offset - self._start
        if not 0 <= at < len(self._data):
            await self.read(offset, 1)
            at = offset - self._start
        return (self._data, at) if 0 <= at < len(self._data) else (b"", 0)


@asynccontextmanager
async def open_window(fs: FileSystem, path: str, chunk: int = CHUNK) -> AsyncIterator[Window]:
    """Open *path* (no symbolic link) for as long as the context lasts.

    :raises OSError: it can't be opened.
    """
    handle = fs.open(path, nofollow=True)
    try:
        found = await handle.wait_open()
        yield Window(handle, path, found.st_size, chunk, found.st_mtime)
    finally:
        handle.close()
