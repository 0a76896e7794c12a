"""Format 3: every message of a file, and the bytes between them that are none.

The trailers tell (:mod:`dboxfs.dbox.recovery`): each says where its record begins, and that it belongs there.
So one pass finds them, and a second one reads the texts and compares their CRC-32.

A record without a trailer that holds is incomplete: its text goes from its message header to the trailer
magic with its separator, or to where the next record begins.  If a trailer is there but damaged, its lines
are read as far as they can be, and a CRC-32 that fits proves the text.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from dboxfs.dbox import FileHeader, Metadata, parse_file_header, recovery
from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE_3
from dboxfs.dbox.format3 import MAX_TRAILER, TRAILER_HEAD_SIZE, separator_of
from dboxfs.errors import FormatError
from dboxfs.store.salvage.found import Found, Gap, Trust
from dboxfs.store.salvage.measure import Measured, contradictions, measure_as
from dboxfs.store.salvage.window import Window

_HEAD: Final = 1100
_CRC: Final = re.compile(rb"[0-9a-f]{8}")
_NAMES: Final = {b"gz", b"bz2", b"xz", b"zst", b"lz4"}


class Format3Scan:
    """The scan of one file; ``position`` is where the next item begins."""

    def __init__(self, window: Window, *, texts: bool) -> None:
        self.position = 0
        self._window = window
        self._texts = texts
        self._regions: deque[recovery.Found | recovery.Gap] = deque()

    async def begin(self) -> bool:
        """Find the records; False: there is none, and no header line of format 3."""
        window = self._window
        scan = recovery.TrailerScan()
        async for piece in window.pieces(0, window.size):
            scan.feed(piece)
        try:
            parsed = parse_file_header(await window.read(0, _HEAD))
        except FormatError:
            parsed = None
        header = parsed if isinstance(parsed, FileHeader) and parsed.version == 3 else None
        if header is None and not scan.trailers:
            return False
        offsets = {header.size if header is not None else 0, *scan.offsets()}
        heads = {at: await window.read(at, MESSAGE_HEADER_SIZE_3) for at in sorted(offsets)}
        self._regions += recovery.resolve(scan.trailers, heads, header=header, size=window.size)
        self.position = header.size if header is not None else 0
        return True

    async def next_at(self, start: int) -> list[Found | Gap]:
        """What begins at *start*; ``position`` is then where it ends."""
        region = self._regions.popleft()
        assert region.offset == start
        self.position = region.end
        if isinstance(region, recovery.Found):
            return [await self._record(region)]
        return [await self._incomplete(region)]

    async def _record(self, found: recovery.Found) -> Found:
        trailer = found.trailer
        problems = [found.damage] if found.damage is not None else []
        measured: Measured | None = None
        trust = Trust.REPAIRED if problems else Trust.WHOLE
        if self._texts or problems:
            measured = await measure_as(
                self._window, trailer.body_offset, trailer.offset, trailer.compression
            )
            wrong = contradictions(measured, trailer.metadata)
            if measured.crc != trailer.crc:
                wrong.insert(
                    0, f"the text is damaged: its CRC-32 is {measured.crc:08x}, not {trailer.crc:08x}"
                )
            if wrong:
                broken = measured.crc != trailer.crc or measured.error is not None
                trust = Trust.DAMAGED if broken else Trust.DOUBTFUL
            problems += wrong
        return Found(
            found.offset, found.end, trailer.body_offset, trailer.body_size, trailer.metadata,
            measured, trust, tuple(problems), version=3,
        )  # fmt: skip

    async def _incomplete(self, gap: recovery.Gap) -> Found | Gap:
        """What is left of a record without a trailer that holds."""
        window = self._window
        try:
            separator = separator_of(await window.read(gap.offset, MESSAGE_HEADER_SIZE_3), base=gap.offset)
        except FormatError:
            separator = None
        if not isinstance(separator, bytes):
            return Gap(gap.offset, gap.end, f"{gap.end - gap.offset} bytes that are no message: {gap.reason}")
        start = gap.offset + MESSAGE_HEADER_SIZE_3
        magic = re.compile(re.escape(b"\x01\x03" + separator))
        at = await window.find(magic, start, gap.end, len(separator) + 2)
        end = at if at >= 0 else gap.end
        metadata = await self._lines(at, gap.end) if at >= 0 else None
        measured = await measure_as(window, start, end, None)
        proven = metadata is not None and metadata.get(b"D") == b"%08x" % measured.crc
        if proven and metadata is not None and metadata.get(b"C") is None:
            trust, reason = Trust.REPAIRED, "the trailer is damaged"
        else:
            trust, reason = Trust.DAMAGED, gap.reason
        return Found(gap.offset, gap.end, start, end - start, metadata, measured, trust, (reason,), version=3)

    async def _lines(self, start: int, end: int) -> Metadata | None:
        """The metadata lines of a damaged trailer, as far as they can be read."""
        data = await self._window.read(start, min(end - start, MAX_TRAILER))
        lines = data[TRAILER_HEAD_SIZE:].split(b"\n")
        items = [(line[:1], line[1:]) for line in lines if b"A" <= line[:1] <= b"Z"]
        return Metadata(tuple(items), len(data), start) if items else None
