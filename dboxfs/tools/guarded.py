"""Sources of texts whose read errors can be told from errors of the store that is written."""

from __future__ import annotations

import errno

from msgspec import Struct

from dboxfs.errors import DboxfsError
from dboxfs.store.write import Source


class TextLost(OSError):
    """The text of a message could not be read while it was saved.

    :ivar number: the number of the message in its :class:`Guarded`.
    :ivar reason: in words.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(errno.EIO, reason)
        self.number = number
        self.reason = reason


class Guarded(Struct, frozen=True):
    """A source that raises each of its read errors as :class:`TextLost`, with the number of its message."""

    source: Source
    number: int

    @property
    def size(self) -> int:
        return self.source.size

    async def read(self, size: int, offset: int) -> bytes:
        """As :meth:`Source.read <dboxfs.store.write.Source.read>`.

        :raises TextLost: *source* can't be read, or became shorter.
        """
        try:
            data = await self.source.read(size, offset)
        except (DboxfsError, OSError) as exc:
            raise TextLost(self.number, f"{exc}") from exc
        if len(data) < min(size, self.source.size - offset):
            raise TextLost(self.number, "its file became shorter while it was read")
        return data

    async def descriptor(self) -> int | None:
        return None
