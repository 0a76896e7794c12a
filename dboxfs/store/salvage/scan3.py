"""Format 3: every message of a file, and the bytes between them.

The trailers lead to the records (:mod:`dboxfs.dbox.recovery`): each has the place of its record, and proves
that it belongs there.  So one pass finds the records, and a second one reads the texts and compares their
CRC-32.

A record without a valid trailer is incomplete: its text is from its message header to the trailer magic with
its separator, or to the beginning of the next record.  If a trailer exists but is damaged (or moved, because
bytes before it are lost), its readable lines are used, and an equal CRC-32 proves the text.  A record that is
found like this behind bytes that are no record is ``inside``.

Time: linear in the file's size (:mod:`~dboxfs.store.salvage.effort`).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec.structs import replace

from dboxfs.dbox import Compression, FileHeader, Metadata, parse_file_header, recovery
from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE_3
from dboxfs.dbox.format3 import MAX_TRAILER, TRAILER_HEAD_SIZE, separator_of
from dboxfs.errors import FormatError
from dboxfs.store.salvage.effort import SMALL_ATTEMPT, Effort
from dboxfs.store.salvage.found import Found, Gap, Trust
from dboxfs.store.salvage.measure import Measured, claimed, contradictions, measure_as, settled
from dboxfs.store.salvage.pairs import RECORD_START_3, Pairs, find_pairs
from dboxfs.store.salvage.window import Window

_HEAD: Final = 1100
_LONGEST_TRAILER_LINE: Final = 200
_FIRST_READ: Final = 4 << 10


class Format3Scan:
    """The scan of one file; ``position`` is where the next item begins."""

    def __init__(self, window: Window, *, texts: bool) -> None:
        self.position = 0
        self._window = window
        self._texts = texts
        self._regions: deque[recovery.FoundRecord | recovery.NoRecord] = deque()
        self._effort = Effort(window.size)
        self._pairs = Pairs()
        self._proven: Found | None = None

    async def begin(self) -> bool:
        """Find the records; False: there are none, and no header line of format 3."""
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
            whole = recovery.NoRecord(0, window.size, False, "no record can be made out here")
            self._regions.append(whole)
            self._pairs = await find_pairs(window, 0, window.size)
            return await self._next_proven(0, whole) < window.size
        offsets = {header.size if header is not None else 0, *scan.offsets()}
        heads = {at: await window.read(at, MESSAGE_HEADER_SIZE_3) for at in sorted(offsets)}
        self._regions += recovery.resolve(scan.trailers, heads, header=header, size=window.size)
        self.position = header.size if header is not None else 0
        return True

    async def next_at(self, start: int) -> list[Found | Gap]:
        """The items that begin at *start*; ``position`` is their end then."""
        region = self._regions.popleft()
        assert region.offset == start
        self.position = region.end
        if isinstance(region, recovery.FoundRecord):
            return [await self._record(region)]
        return await self._gap(region)

    async def _record(self, found: recovery.FoundRecord) -> Found:
        trailer = found.trailer
        problems = [found.damage] if found.damage is not None else []
        measured: Measured | None = None
        trust = Trust.REPAIRED if problems else Trust.WHOLE
        if self._texts or problems:
            measured = await measure_as(
                self._window, trailer.body_offset, trailer.offset, trailer.compression,
                claimed(trailer.metadata), self._effort,
            )  # fmt: skip
            if trailer.compression is None:
                measured = settled(measured, trailer.metadata)
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

    async def _gap(self, gap: recovery.NoRecord) -> list[Found | Gap]:
        """Records without a valid trailer, and bytes that are no record."""
        items: list[Found | Gap] = []
        at, inside = gap.offset, False
        self._pairs = await find_pairs(self._window, gap.offset, gap.end)
        while at < gap.end:
            found = self._proven if self._proven is not None and self._proven.offset == at else None
            found = found or await self._incomplete(at, gap)
            if found is None:
                start = await self._next_proven(at + 1, gap)
                size = start - at
                items.append(Gap(at, start, f"{size} bytes that are no message: {gap.reason}"))
                if start == gap.end:
                    break
                found = self._proven
                assert found is not None
                inside |= bool(at) or size > _LONGEST_TRAILER_LINE
            items.append(replace(found, inside=True) if inside else found)
            inside |= found.metadata is None  # later records may be in its text
            at = found.end
        return items

    async def _next_proven(self, start: int, gap: recovery.NoRecord) -> int:
        """The beginning of the next record whose CRC-32 proves its text; the end of the gap if there is
        none.
        """
        for at in self._pairs.behind(start):
            if self._effort.exhausted:
                break
            found = await self._incomplete(at, gap, whole=True)
            if found is not None and found.trust is Trust.REPAIRED:
                self._proven = found
                return at
            self._effort.spend(self._pairs.trailer(at) - at + SMALL_ATTEMPT)
        return gap.end

    async def _incomplete(self, at: int, gap: recovery.NoRecord, *, whole: bool = False) -> Found | None:
        """The rest of the record whose message header is at *at*; None: there is no header.

        :param whole: None also if its trailer is missing.
        """
        window = self._window
        try:
            separator = separator_of(await window.read(at, MESSAGE_HEADER_SIZE_3), base=at)
        except FormatError:
            return None
        if not isinstance(separator, bytes):
            return None
        start = at + MESSAGE_HEADER_SIZE_3
        trailer = self._pairs.trailer(at)
        metadata = await self._lines(trailer, gap.end) if trailer >= 0 else None
        if trailer < 0 and whole:
            return None
        if trailer < 0:
            body_end = end = await self._next_proven(start, gap)
        else:
            body_end = trailer
            end = metadata.base + metadata.size if metadata is not None else gap.end
        kind = _kind(metadata)
        measured = await measure_as(window, start, body_end, kind, claimed(metadata), self._effort)
        sums = metadata.get(b"D") if metadata is not None else None
        trust, reason = Trust.DAMAGED, gap.reason
        if sums == b"%08x" % measured.crc and measured.error is None:
            trust, reason = Trust.REPAIRED, "the trailer is damaged, or has been moved"
        size = body_end - start
        return Found(at, end, start, size, metadata, measured, trust, (reason,), version=3)

    async def _lines(self, start: int, end: int) -> Metadata | None:
        """The readable metadata lines of a damaged trailer."""
        size = _FIRST_READ
        while True:
            data = await self._window.read(start, min(end - start, size))
            stop = data.find(b"\n\n", TRAILER_HEAD_SIZE - 1)
            next_record = RECORD_START_3.search(data, TRAILER_HEAD_SIZE)
            if stop >= 0 or next_record is not None or size >= min(end - start, MAX_TRAILER):
                break
            if not self._effort.spend(size):
                break
            size *= 8
        length = stop + 2 if stop >= 0 else len(data)
        if next_record is not None:
            length = min(length, next_record.start())
        lines = data[TRAILER_HEAD_SIZE:length].split(b"\n")
        items = [(line[:1], line[1:]) for line in lines if b"A" <= line[:1] <= b"Z"]
        return Metadata(tuple(items), length, start) if items else None


_KINDS: Final = {kind.value.encode("ascii"): kind for kind in Compression}


def _kind(metadata: Metadata | None) -> Compression | None:
    name = metadata.get(b"C") if metadata is not None else None
    return _KINDS.get(name) if name is not None else None
