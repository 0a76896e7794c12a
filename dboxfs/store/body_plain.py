"""The bytes of a record as they are stored: the body of most messages."""

from __future__ import annotations

from collections.abc import Callable

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import Handle


class PlainBody:
    """The bytes of a record as they are stored.

    :param base: offset of the first byte in the file.
    :param size: number of bytes.
    :param close: gives the handle back.
    """

    __slots__ = ("_base", "_close", "_handle", "_path", "size")

    def __init__(self, handle: Handle, path: str, base: int, size: int, close: Callable[[], None]) -> None:
        self._handle = handle
        self._path = path
        self._base = base
        self._close = close
        self.size = size

    def pread(self, size: int, offset: int) -> bytes:
        wanted = min(size, self.size - offset)
        if wanted <= 0:
            return b""
        data = self._handle.pread_now(wanted, self._base + offset)
        if data is None or len(data) < wanted:
            raise BlockingIOError
        return data

    async def read(self, size: int, offset: int) -> bytes:
        wanted = min(size, self.size - offset)
        if wanted <= 0:
            return b""
        data = await self._handle.read(wanted, self._base + offset)
        if len(data) < wanted:
            at = self._base + offset + len(data)
            raise CorruptFile(self._path, at, "the file ends inside a message")
        return data

    def handed(self) -> None:
        """Do nothing: this body keeps no bytes."""

    def close(self) -> None:
        self._close()
