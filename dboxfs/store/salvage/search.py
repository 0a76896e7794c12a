"""Search behind a damaged record of format 2 for its end and for whole records.

The landmarks of a stretch (:mod:`~dboxfs.store.salvage.landmarks`) answer each question, and are searched
once for it: a stretch has :data:`LOOK_AHEAD` bytes from the place of the first question; a question from its
second half begins a new stretch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dboxfs.dbox import PREFIX_SIZE, Compression, Metadata, detect
from dboxfs.store.salvage.effort import SMALL_ATTEMPT, Effort
from dboxfs.store.salvage.found import Found, Trust
from dboxfs.store.salvage.frame import Framed, Frames, confirmed
from dboxfs.store.salvage.landmarks import NOT_COUNTED, Landmarks, find_landmarks
from dboxfs.store.salvage.measure import Measured, TextMeter, claimed, contradictions, measure, settled
from dboxfs.store.salvage.quick import usual_record
from dboxfs.store.salvage.trailer import TRAILER_START, MetadataBlock
from dboxfs.store.salvage.window import Window

LOOK_AHEAD: Final = 32 << 20
"""Bytes behind a damaged record in which its end is searched."""

_NEAR: Final = 1 << 20
_MOST_BLOCKS: Final = 64
"""Metadata blocks that are read for one question at most."""


class Search:
    """Searches in one file."""

    def __init__(self, window: Window, frames: Frames, effort: Effort) -> None:
        self._window = window
        self._frames = frames
        self._effort = effort
        self._landmarks: Landmarks | None = None
        self._barren: tuple[int, int, Found | None] = (0, -1, None)
        """(first offset, last offset, record): no whole record begins between these; the record begins at the
        last one.
        """

    async def _look(self, start: int) -> Landmarks:
        """The landmarks of a stretch that contains *start*."""
        known = self._landmarks
        if known is None or not self._reach(known, start):
            end = min(start + LOOK_AHEAD, self._window.size)
            known = self._landmarks = await find_landmarks(self._window, start, end)
        return known

    def _reach(self, known: Landmarks, start: int) -> bool:
        """Whether *known* are enough for a look at what begins at *start*."""
        if not known.base <= start <= known.end:
            return False
        return known.end == self._window.size or start < known.base + (known.end - known.base) // 2

    # -- the end of a text -------------------------------------------------------------------------------

    async def by_text(self, start: int, end: int) -> Found | None:
        """The record at *start* that ends with the first metadata block before *end* that confirms its
        text.
        """
        landmarks = await self._look(start)
        for body_offset in await self._frames.body_offsets(start):
            kind = detect(await self._window.read(body_offset, PREFIX_SIZE))
            found = None
            if kind is not None:
                found = await self._by_unpacking(landmarks, start, body_offset, end, kind)
            if found is None:
                found = await self._by_size(landmarks, start, body_offset, end)
            if found is not None:
                return found
        return None

    async def _by_size(self, landmarks: Landmarks, start: int, body_offset: int, end: int) -> Found | None:
        """:meth:`by_text` for a plain text at *body_offset*."""
        if not landmarks.base <= body_offset < landmarks.end:
            return None
        key = await landmarks.key(self._window, body_offset)
        for number in landmarks.confirming(key, body_offset, end, _MOST_BLOCKS):
            body_end = int(landmarks.blocks[number])
            block = await self._frames.block(body_end, through=True)
            size = body_end - body_offset
            measured = Measured(size, size, int(landmarks.virtual[number]), None)
            if block is not None and confirmed(measured, block):
                framed = Framed(body_offset, body_end, block)
                return framed.found(start, measured, Trust.REPAIRED, list(block.problems))
            self._effort.spend(block.metadata.size if block is not None else 0)
        return None

    async def _by_unpacking(
        self, landmarks: Landmarks, start: int, body_offset: int, end: int, kind: Compression
    ) -> Found | None:
        """:meth:`by_text` for a compressed text: it is decompressed once, and measured at each possible
        block.
        """
        meter, at = TextMeter(kind, 0, self._effort), body_offset
        first, last = landmarks.blocks_between(body_offset, end)
        for number in range(first, min(last, first + _MOST_BLOCKS)):
            body_end = int(landmarks.blocks[number])
            if not self._effort.spend(body_end - at):
                return None
            async for piece in self._window.pieces(at, body_end):
                meter.feed(piece)
            at = body_end
            if meter.failed:
                return None
            if meter.sizes[1] != int(landmarks.virtual[number]):
                continue
            block = await self._frames.block(body_end, through=True)
            if block is None or not self._effort.spend(block.metadata.size):
                continue
            measured = await self._measured(body_offset, body_end, block.metadata)
            if measured is not None and confirmed(measured, block):
                framed = Framed(body_offset, body_end, block)
                return framed.found(start, measured, Trust.REPAIRED, list(block.problems))
        return None

    async def _measured(self, start: int, end: int, metadata: Metadata) -> Measured | None:
        """Measure the text as a guess; None: there is no effort left for that."""
        claim = claimed(metadata)
        if not (self._effort.spend(end - start) and self._effort.unpack(claim)):
            return None
        return settled(await measure(self._window, start, end, claim, self._effort), metadata)

    # -- metadata blocks ---------------------------------------------------------------------------------

    async def next_block(self, start: int, end: int) -> MetadataBlock | None:
        """The first metadata block that begins at *start* or behind, and before *end*."""
        landmarks = await self._look(start)
        first, last = landmarks.blocks_between(start, end)
        return await self._one_of(landmarks.blocks[first:last][:_MOST_BLOCKS].tolist())

    async def last_block(self, start: int, end: int) -> MetadataBlock | None:
        """The last metadata block between *start* and *end*."""
        near = max(start, end - _NEAR)
        data = await self._window.read(near, end - near)
        blocks = [near + found.start() for found in TRAILER_START.finditer(data)]
        if not blocks and near > start:
            landmarks = await self._look(start)
            first, last = landmarks.blocks_between(start, near)
            blocks = landmarks.blocks[first:last][-_MOST_BLOCKS:].tolist()
        return await self._one_of(reversed(blocks[-_MOST_BLOCKS:]))

    async def _one_of(self, offsets: Iterable[int]) -> MetadataBlock | None:
        for offset in offsets:
            block = await self._frames.block(offset, through=True)
            if block is not None:
                return block
        return None

    # -- whole records -----------------------------------------------------------------------------------

    async def records(self, start: int, end: int, *, only_first: bool) -> list[Found]:
        """Whole records between *start* and *end*, one behind the other."""
        found: list[Found] = []
        while start < end:
            one = await self._next(start, end)
            if one is None:
                break
            found.append(one)
            if only_first:
                break
            start = one.end
        return found

    async def _next(self, start: int, end: int) -> Found | None:
        """The first whole record that begins at *start* or behind and ends before *end*."""
        first, after, known = self._barren
        if first <= start <= after:
            if known is not None and known.end <= end:
                return known
            start = after
        else:
            first = start
        while start < end:
            landmarks = await self._look(start)
            number = landmarks.next_record(start)
            if number < 0:
                if landmarks.end >= min(end, self._window.size):
                    break
                start = max(start + 1, (landmarks.base + landmarks.end) // 2 + 1)
                continue
            while landmarks.goes_on(number) and self._reach(landmarks, start):
                at = int(landmarks.records[number])
                one = await self._whole(at, landmarks.texts[number]) if at < end else None
                if at >= end or (one is not None and one.end > end):
                    self._barren = (first, start, None)
                    return None
                if one is not None:
                    self._barren = (first, at, one)
                    return one
                landmarks.alive[number] = 0
                start, number = at + 1, number + 1
        self._barren = (first, min(start, end), None)
        return None

    async def _whole(self, start: int, virtual: int) -> Found | None:
        """The record at *start*, if it is whole.

        :param virtual: size of its text with CRLF line ends, if V confirms it; else the reason why not.
        """
        data, at = await self._window.loaded(start)
        usual = usual_record(data, at, start - at, texts=True)
        if usual is not None or (virtual < 0 and self._effort.exhausted):
            return usual
        framed = await self._frames.framed(start, through=False)
        measured: Measured | None = None
        if framed is not None and not framed.block.problems:
            size = framed.body_end - framed.body_offset
            if virtual == NOT_COUNTED:
                metadata = framed.block.metadata
                measured = await self._measured(framed.body_offset, framed.body_end, metadata)
            else:
                measured = Measured(size, size, max(virtual, 0), None)
        if framed is None or measured is None or contradictions(measured, framed.block.metadata):
            self._effort.spend(SMALL_ATTEMPT)
            return None
        return framed.found(start, measured, Trust.WHOLE, [])
