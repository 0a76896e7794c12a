"""The beginnings of records by the map, in a file that may be damaged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from dboxfs.store.salvage.found import MapPlace
from dboxfs.store.salvage.frame import Frames
from dboxfs.store.salvage.window import Window


class Boundaries:
    """The map's places in one file.

    :param places: by offset.
    """

    def __init__(self, window: Window, frames: Frames, places: Sequence[MapPlace]) -> None:
        self._window = window
        self._frames = frames
        self._offsets = [place.offset for place in places]
        self._sizes = [place.size for place in places]
        self._seen = (0, -1)  # (number, the first place from there on that holds)

    async def swallowed(self, start: int, end: int) -> bool:
        """Whether the map has a record that begins between *start* and *end*, and the file has it there."""
        at = bisect_right(self._offsets, start)
        if at == len(self._offsets) or self._offsets[at] >= end:
            return False
        return await self._frames.begins(self._offsets[at])

    async def limit(self, start: int) -> int | None:
        """The latest possible end of the record at *start*, by the map; None: the map doesn't give one."""
        at = bisect_right(self._offsets, start)
        if at < len(self._offsets):
            if await self._holds(self._offsets[at]):
                return self._offsets[at]
            if (moved := await self._moved(start, at)) is not None:
                return moved
            number = await self._next(at)
            if number < len(self._offsets):
                return self._offsets[number]
        last = bool(at) and at == len(self._offsets) and self._offsets[at - 1] == start
        return self._window.size if last else None

    async def _next(self, at: int) -> int:
        """The number of the first place from *at* on where a record begins; the result is remembered."""
        first, found = self._seen
        if first <= at <= found:
            return found
        number = at
        while number < len(self._offsets) and not await self._holds(self._offsets[number]):
            number += 1
        self._seen = (at, number)
        return number

    async def _holds(self, offset: int) -> bool:
        """Whether a record seems to begin or to end at *offset*."""
        if offset >= self._window.size:
            return False
        return await self._frames.begins(offset) or await self._window.read(offset - 2, 2) == b"\n\n"

    async def _moved(self, start: int, number: int) -> int | None:
        """The offset of the map's record *number* behind *start*, if it was moved by as much as the file's
        end.
        """
        moved = self._window.size - self._offsets[-1] - self._sizes[-1]
        at = self._offsets[number] + moved
        if not moved or at <= start or not await self._frames.begins(at):
            return None
        framed = await self._frames.framed(at)
        return at if framed is not None and framed.end - at == self._sizes[number] else None
