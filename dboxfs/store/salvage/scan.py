"""Scan one dbox file of any format and with any damage.

The header line of a file gives its format; if that is damaged, the records do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence

from dboxfs.dbox import FileHeader, parse_file_header
from dboxfs.errors import FormatError
from dboxfs.store.salvage.found import Found, Gap, MapPlace
from dboxfs.store.salvage.scan2 import Format2Scan
from dboxfs.store.salvage.scan3 import Format3Scan
from dboxfs.store.salvage.window import Window

_HEAD = 1100


def scan_file(
    window: Window, places: Sequence[MapPlace] = (), *, single: bool = False, texts: bool = True
) -> AsyncIterator[Found | Gap]:
    """All messages and gaps of the file, in the order of offsets (``inside`` messages behind their outer
    one).

    Reading raises OSError if the file can't be read.

    :param places: places of the records by the map, in the order of offsets.
    :param single: the file has one message (sdbox), which all its bytes belong to.
    :param texts: read the texts; False: read only the frames of whole records.
    """
    return _Items(window, places, single=single, texts=texts)


class _Items:
    """The items of a scan, one by one."""

    def __init__(self, window: Window, places: Sequence[MapPlace], *, single: bool, texts: bool) -> None:
        self._window = window
        self._places = places
        self._single = single
        self._texts = texts
        self._scan: Format2Scan | Format3Scan | None = None
        self._found = False
        self._ready: deque[Found | Gap] = deque()

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Found | Gap:
        if self._scan is None:
            self._scan = await self._begin()
        scan, size = self._scan, self._window.size
        while not self._ready:
            if scan.position >= size:
                raise StopAsyncIteration
            if self._single and self._found:
                behind = f"{size - scan.position} bytes behind the message"
                self._ready.append(Gap(scan.position, size, behind))
                scan.position = size
                break
            items = await scan.next_at(scan.position)
            if self._single:
                first = next((at for at, item in enumerate(items) if isinstance(item, Found)), len(items))
                items = items[: first + 1]
                scan.position = items[-1].end
                self._found = first < len(items)
            self._ready += items
        return self._ready.popleft()

    async def _begin(self) -> Format2Scan | Format3Scan:
        version = await self._version()
        if version != 2:
            newer = Format3Scan(self._window, texts=self._texts)
            if await newer.begin():
                return newer
        older = Format2Scan(self._window, self._places, single=self._single, texts=self._texts)
        gap = await older.begin()
        self._ready += [gap] if gap is not None else []
        return older

    async def _version(self) -> int:
        """The format in the header line; 0: it can't be read."""
        try:
            header = parse_file_header(await self._window.read(0, _HEAD))
        except FormatError:
            return 0
        return (3 if header.version == 3 else 2) if isinstance(header, FileHeader) else 0
