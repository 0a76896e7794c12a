"""One message of the store, as the exporter gives it to a format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from dboxfs.dbox import Metadata
from dboxfs.store.body import Body

TEXT_PIECE = 1 << 20
WHOLE_MESSAGE = 256 << 10


class Outgoing(Struct):
    """A message.  ``received``, ``saved``: seconds since the epoch.  ``flags``: bits as in an index.

    ``data``: the text, if it is small; a larger one is read while it is written.
    """

    uid: int
    received: int
    saved: int
    flags: int
    keywords: tuple[str, ...]
    metadata: Metadata
    size: int
    data: bytes | None = None
    body: Body | None = None

    async def read(self, size: int, offset: int) -> bytes:
        """Up to *size* bytes of the text from *offset* on.

        :raises CorruptFile, OSError: the text can't be read.
        """
        if self.data is not None:
            return self.data[offset : offset + size]
        assert self.body is not None
        return await self.body.read(size, offset)

    async def write_to(self, append: Callable[[bytes], Awaitable[None]], offset: int = 0) -> None:
        """Give *append* the text from *offset* on, at most 1 MiB at a time.

        :raises CorruptFile, OSError: the text can't be read, or *append* raises it.
        """
        while offset < self.size:
            piece = await self.read(min(TEXT_PIECE, self.size - offset), offset)
            if not piece:
                raise OSError(5, f"the text of uid {self.uid} ends {self.size - offset} bytes too early")
            offset += len(piece)
            await append(piece)

    def close(self) -> None:
        """Close the file."""
        if self.body is not None:
            self.body.close()
            self.body = None
