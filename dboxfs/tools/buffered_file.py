"""A file to which many small pieces are appended: they are collected and written together."""

from __future__ import annotations

from dboxfs.store.disk import AppendFile

_BUFFER = 1 << 20


class BufferedFile:
    """A file with a buffer for appended bytes.  ``end``: its length (bytes), with those in the buffer."""

    def __init__(self, file: AppendFile, start: bytes) -> None:
        self.file = file
        self.end = file.size + len(start)
        self._waiting = [start]
        self._size = len(start)

    async def append(self, data: bytes) -> None:
        """Add bytes; the buffer is written when it has 1 MiB."""
        self._waiting.append(data)
        self._size += len(data)
        self.end += len(data)
        if self._size >= _BUFFER:
            await self.flush()

    async def flush(self) -> None:
        """Write the buffer."""
        if self._size:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            await self.file.append(data)

    async def cut(self, end: int) -> None:
        """Cut off the bytes behind *end*."""
        await self.flush()
        await self.file.cut(end)
        self.end = end
