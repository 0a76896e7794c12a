"""The work of a scan, counted: the same on every machine, however busy it is.

Its unit is one call of a function, of Python's or of C's.  Work that a few calls do on many bytes counts by
the bytes, and what the calls for one message leave out (matching its patterns, collecting its objects) by the
messages; the weights are those of a linear fit to the times of all files that these tests scan.
"""

from __future__ import annotations

import cProfile
import re

import pytest

from dboxfs.dbox import Decompressor
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store.salvage import Found, Gap, Window, scan_file

BYTES = 100
"""Bytes that are read, looked at or decompressed in the time of a call."""

MESSAGE = 20
"""Calls that take as long as what is not counted for a message."""


class CountedWindow(Window):
    """A window that counts the bytes it gives and those it searches: ``seen``."""

    seen = 0

    async def read(self, offset: int, size: int) -> bytes:
        data = await super().read(offset, size)
        self.seen += len(data)
        return data

    async def find(self, pattern: re.Pattern[bytes], start: int, end: int, longest: int) -> int:
        at = await super().find(pattern, start, end, longest)
        self.seen += max(0, (min(end, self.size) if at < 0 else at) - start)
        return at


async def counted_scan(data: bytes, *, single: bool = False) -> tuple[int, list[Found | Gap]]:
    """What a scan of *data* finds; before it the work, in calls."""
    driver = MemoryDriver(nowait=True)
    driver.put("/s/m.1", data)
    unpacked = 0
    read = Decompressor.read

    def counted_read(self: Decompressor, size: int) -> bytes:
        nonlocal unpacked
        plain = read(self, size)
        unpacked += len(plain)
        return plain

    profile = cProfile.Profile()
    async with FileSystem(driver) as fs:
        handle = fs.open("/s/m.1")
        try:
            window = CountedWindow(handle, "/s/m.1", (await handle.wait_open()).st_size)
            with pytest.MonkeyPatch.context() as patch, profile:
                patch.setattr(Decompressor, "read", counted_read)
                items = [item async for item in scan_file(window, single=single)]
        finally:
            handle.close()
    calls = sum(entry.callcount for entry in profile.getstats())
    messages = sum(isinstance(item, Found) for item in items)
    return calls + (window.bytes_read + window.seen + unpacked) // BYTES + MESSAGE * messages, items
