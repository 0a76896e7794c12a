"""A file that many small pieces are appended to: they are collected and written together."""

from __future__ import annotations

from dboxfs.store.disk import AppendFile

_BUFFER = 1 << 20


class BufferedFile:
    """A file that is appended to through a buffer.  ``end``: its length with what waits (bytes)."""

    def __init__(self, file: AppendFile, start: bytes) -> None:
        self.file = file
        self.end = file.size + len(start)
        self._waiting = [start]
        self._size = len(start)

    async def append(self, data: bytes) -> None:
        """Add bytes; they are written when there are enough."""
        self._waiting.append(data)
        self._size += len(data)
        self.end += len(data)
        if self._size >= _BUFFER:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        if self._size:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            await self.file.append(data)

    async def cut(self, end: int) -> None:
        """Take back what is behind *end* (bytes)."""
        await self.flush()
        await self.file.cut(end)
        self.end = end
