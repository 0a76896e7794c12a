"""Format 2: every message of a file, and the bytes between them that are none.

The file is walked record by record: message header, text, metadata, and behind these the next record.  As
long as records are whole nothing but this counts, so a dbox file within a text (an attachment) is never taken
for a message.  Where a record is damaged, the scan goes on like this:

1. header whole, metadata nearly, or cut off: the record is known; what is wrong with it is said;
2. a text whose metadata confirm it: of the metadata blocks that follow, the first whose ``V`` is the size of
   the text up to there ends the record.  That proves the text, whatever its header says;
3. else the text is incomplete.  It ends where the map says that the next record begins, if one does begin
   there, or as far from there as the file's end was moved by bytes that were lost or came in; else where the
   next whole record begins, else at the next metadata block, else at the end of the file.

Whole records within an incomplete one that the map knows as one, or within a text that its metadata
contradict, are given too, as ``inside``: they may be parts of that text, or messages that were lost into it.

Memory: a few chunks.  Time: linear, and for each damaged record at most :data:`LOOK_AHEAD` bytes more.

Source: recovery section 3; dbox-files section 1.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE,
    METADATA_MAGIC,
    FileHeader,
    LineEnds,
    MessageHeader,
    parse_file_header,
    parse_message_header,
)
from dboxfs.errors import FormatError
from dboxfs.store.salvage.found import Found, Gap, Place, Trust
from dboxfs.store.salvage.measure import Measured, contradictions, measure, settled
from dboxfs.store.salvage.trailer import RECORD_START, TRAILER_START, USUAL, Block, read_block
from dboxfs.store.salvage.window import Window

LOOK_AHEAD = 32 << 20
"""Bytes behind a damaged record in which its end is looked for."""

MOST_TRAILERS = 256
"""Metadata blocks that are tried as its end."""

_FIRST = 512
_LONGEST_BLOCK = 1 << 20
_TEXT = re.compile(rb"[^\0]")
_HEAD = 1100
_USUAL_FILE_HEADER = 16
_SCRAP = 256
_MAGIC_SIZE = len(METADATA_MAGIC)
_RECORD_START_SIZE = 30
_TRAILER_START_SIZE = 5


@dataclass(frozen=True, slots=True)
class _Framed:
    """A record by its frame: where its text is, and its metadata."""

    body_offset: int
    body_end: int
    block: Block

    @property
    def end(self) -> int:
        return self.body_end + self.block.metadata.size


class Format2Scan:
    """The scan of one file; ``position`` is where the next item begins."""

    def __init__(self, window: Window, places: Sequence[Place], *, single: bool, texts: bool) -> None:
        self.position = 0
        self._window = window
        self._offsets = [place.offset for place in places]
        self._sizes = [place.size for place in places]
        self._single = single
        self._texts = texts
        self._header_sizes: tuple[int, ...] = (MESSAGE_HEADER_SIZE,)
        self._why = ""

    # -- the file header ---------------------------------------------------------------------------------

    async def begin(self) -> Gap | None:
        """Go to where the first record should be; gives what is wrong with the file header."""
        head = await self._window.read(0, _HEAD)
        if not head:
            return Gap(0, 0, "the file is empty")
        try:
            header = parse_file_header(head)
            if isinstance(header, FileHeader):
                self._header_sizes = tuple(dict.fromkeys((header.message_header_size, MESSAGE_HEADER_SIZE)))
                self.position = header.size
                return None
            reason = "the file ends inside its header line"
        except FormatError as exc:
            reason = exc.reason
        first = RECORD_START.search(head)
        self.position = first.start() if first is not None else min(_USUAL_FILE_HEADER, len(head))
        return Gap(0, self.position, f"the file header line is damaged: {reason}")

    # -- one record --------------------------------------------------------------------------------------

    async def next_at(self, start: int) -> list[Found | Gap]:
        """What begins at *start*; ``position`` is then where it ends."""
        found = await self._whole(start)
        if found is not None:
            self.position = found.end
            if found.trust is not Trust.DOUBTFUL or self._single:
                return [found]
            end = found.body_offset + found.body_size  # bytes of other messages may have got into it
            within = await self._records_within(found.body_offset, end, only_first=False)
            return [found, *(replace(one, inside=True) for one in within)]
        items = await self._damaged(start)
        assert self.position > start
        return items

    async def _whole(self, start: int) -> Found | None:
        """The record at *start*, if its frame can be read; None: ``_why`` says what is wrong."""
        framed = await self._framed(start)
        if framed is None:
            return None
        problems = list(framed.block.problems)
        if not self._texts and not problems:
            return _found(start, framed, None, Trust.WHOLE, problems)
        measured = await measure(self._window, framed.body_offset, framed.body_end)
        measured = settled(measured, framed.block.metadata)
        wrong = contradictions(measured, framed.block.metadata)
        if wrong:
            other = await self._by_text(start, framed.body_end) if measured.error is None else None
            if other is not None:
                return other
            if await self._swallows(start, framed.end):
                self._why = wrong[0]
                return None
        trust = _trust(measured, framed.block, wrong)
        return _found(start, framed, measured, trust, problems + wrong)

    async def _framed(self, start: int) -> _Framed | None:
        for header_size in self._header_sizes:
            header = await self._message_header(start, header_size)
            if header is None:
                continue
            body_offset = start + header_size
            body_end = body_offset + header.body_size
            if body_end >= self._window.size:
                self._why = f"the message of {header.body_size} bytes reaches beyond the end of the file"
                continue
            block = await self._block(body_end)
            if block is not None:
                return _Framed(body_offset, body_end, block)
            self._why = (
                f"no metadata at offset {body_end}, where the message of {header.body_size} bytes ends"
            )
        return None

    async def _message_header(self, start: int, header_size: int) -> MessageHeader | None:
        try:
            found = parse_message_header(await self._window.read(start, header_size), header_size, base=start)
        except FormatError as exc:
            self._why = exc.reason
            return None
        if isinstance(found, MessageHeader):
            return found
        self._why = "the file ends inside a message header"
        return None

    async def _block(self, offset: int) -> Block | None:
        size = _FIRST
        while True:
            data = await self._window.read(offset, size)
            ends = offset + len(data) >= self._window.size
            block = read_block(data, offset, to_the_end=ends)
            if block is not None or ends or size >= _LONGEST_BLOCK:
                return block
            size *= 8

    async def _swallows(self, start: int, end: int) -> bool:
        """Whether the map has a record within, and one does begin there."""
        at = bisect_right(self._offsets, start)
        return at < len(self._offsets) and self._offsets[at] < end and await self._begins(self._offsets[at])

    async def _begins(self, offset: int) -> bool:
        return RECORD_START.match(await self._window.read(offset, _RECORD_START_SIZE)) is not None

    # -- damage ------------------------------------------------------------------------------------------

    async def _damaged(self, start: int) -> list[Found | Gap]:
        why = self._why
        limit = await self._limit(start)
        search_end = limit if limit is not None else min(self._window.size, start + LOOK_AHEAD)
        bare = await self._without_metadata(start)
        if bare is not None:
            self.position = bare.end
            return [bare]
        proven = await self._by_text(start, search_end)
        if proven is not None:
            self.position = proven.end
            return [replace(proven, problems=(why, *proven.problems))]
        inside: list[Found] = []
        if not self._single:
            inside = await self._records_within(start + 1, search_end, only_first=limit is None)
        if limit is None and await self._is_cut(start, inside):
            self.position = self._window.size
            inside = await self._records_within(start + 1, self.position, only_first=False)
            item = await self._incomplete(start, self.position, None, why)
            return [item, *(replace(one, inside=True) for one in inside)]
        if limit is None:
            end = inside[0].offset if inside else self._window.size
            block = await self._next_trailer(start, end)
            if block is not None:
                end = block.metadata.base + block.metadata.size
            self.position = end
            return [await self._incomplete(start, end, block, why)]
        self.position = limit
        item = await self._incomplete(start, limit, await self._last_trailer(start, limit), why)
        return [item, *(replace(one, inside=True) for one in inside)]

    async def _without_metadata(self, start: int) -> Found | None:
        """The record at *start*, if the file ends within its metadata: its text is all there."""
        header_size, size = self._header_sizes[0], self._window.size
        header = await self._message_header(start, header_size)
        body_end = start + header_size + header.body_size if header is not None else size + 1
        if not size - USUAL <= body_end <= size:
            return None
        rest = await self._window.read(body_end, USUAL)
        if not METADATA_MAGIC.startswith(rest[:_MAGIC_SIZE]) or RECORD_START.search(rest):
            return None
        measured = await measure(self._window, start + header_size, body_end)
        why = ("the file ends within the metadata of the message",)
        trust = Trust.DAMAGED if measured.error is not None else Trust.DOUBTFUL
        return Found(start, size, start + header_size, measured.stored, None, measured, trust, why)

    async def _is_cut(self, start: int, inside: Sequence[Found]) -> bool:
        """Whether the record at *start* wants more bytes than the file has, and nothing ends it.

        Then the file was cut within its text, and the records *inside* are parts of that.
        """
        header = await self._message_header(start, self._header_sizes[0])
        if header is None or start + self._header_sizes[0] + header.body_size < self._window.size:
            return False
        return not inside or await self._next_trailer(start, inside[0].offset) is None

    async def _limit(self, start: int) -> int | None:
        """Where the record at *start* ends at the latest, if anybody knows."""
        if self._single:
            return self._window.size
        at = bisect_right(self._offsets, start)
        for number, offset in enumerate(self._offsets[at:], at):
            if offset < self._window.size and await self._is_boundary(offset):
                return offset
            if number == at and (moved := await self._moved(start, number)) is not None:
                return moved
        last = bool(at) and at == len(self._offsets) and self._offsets[at - 1] == start
        return self._window.size if last else None

    async def _moved(self, start: int, number: int) -> int | None:
        """Where the map's record *number* begins behind *start*, if it was moved as far as the file's end."""
        moved = self._window.size - self._offsets[-1] - self._sizes[-1]
        at = self._offsets[number] + moved
        if not moved or at <= start or not await self._begins(at):
            return None
        framed = await self._framed(at)
        return at if framed is not None and framed.end - at == self._sizes[number] else None

    async def _is_boundary(self, offset: int) -> bool:
        """Whether a record seems to begin at *offset*, or to end there."""
        return await self._begins(offset) or await self._window.read(offset - 2, 2) == b"\n\n"

    async def _by_text(self, start: int, end: int) -> Found | None:
        """The record at *start*, ended by the first metadata block that confirms its text."""
        for body_offset in await self._body_offsets(start):
            compressed = (await measure(self._window, body_offset, body_offset + 15)).compression is not None
            lines, counted = LineEnds(), body_offset
            block = await self._next_trailer(body_offset, end)
            for _ in range(MOST_TRAILERS):
                if block is None:
                    break
                body_end = block.metadata.base
                if compressed:
                    measured = await measure(self._window, body_offset, body_end)
                    measured = settled(measured, block.metadata)
                else:
                    async for piece in self._window.pieces(counted, body_end):
                        lines.feed(piece)
                    counted = body_end
                    measured = Measured(body_end - body_offset, lines.size, lines.virtual_size, None)
                if _confirmed(measured, block):
                    framed = _Framed(body_offset, body_end, block)
                    return _found(start, framed, measured, Trust.REPAIRED, list(block.problems))
                block = await self._next_trailer(body_end + 1, end)
        return None

    async def _body_offsets(self, start: int) -> list[int]:
        """Where a text may begin whose message header is damaged."""
        found = [start + size for size in self._header_sizes]
        line_end = (await self._window.read(start, MESSAGE_HEADER_SIZE + 16)).find(b"\n")
        behind = start + line_end + 1
        if line_end >= 0 and not (behind > start + 30 and await self._begins(behind - 30)):
            found.append(behind)
        found.append(start)
        return [offset for offset in dict.fromkeys(found) if offset < self._window.size]

    async def _next_trailer(self, start: int, end: int) -> Block | None:
        """The first metadata block that begins at *start* or behind, and before *end*."""
        while (start := await self._window.find(TRAILER_START, start, end, _TRAILER_START_SIZE)) >= 0:
            block = await self._block(start)
            if block is not None:
                return block
            start += 1
        return None

    async def _records_within(self, start: int, end: int, *, only_first: bool) -> list[Found]:
        """Whole records that begin from *start* on and end before *end*, one behind the other."""
        found: list[Found] = []
        while (start := await self._window.find(RECORD_START, start, end, _RECORD_START_SIZE)) >= 0:
            one = await self._whole_within(start)
            if one is None or one.end > end:
                start += 1
                continue
            found.append(one)
            if only_first:
                break
            start = one.end
        return found

    async def _whole_within(self, start: int) -> Found | None:
        framed = await self._framed(start)
        if framed is None or framed.block.problems:
            return None
        measured = await measure(self._window, framed.body_offset, framed.body_end)
        measured = settled(measured, framed.block.metadata)
        if contradictions(measured, framed.block.metadata):
            return None
        return _found(start, framed, measured, Trust.WHOLE, [])

    async def _incomplete(self, start: int, end: int, block: Block | None, why: str) -> Found | Gap:
        """What is left of the record at *start*."""
        header = await self._window.read(start, MESSAGE_HEADER_SIZE)
        has_header = header[:2] == b"\x01\x02" or header[-1:] == b"\n" or not any(header)
        body_end = block.metadata.base if block is not None else end
        body_offset = min(start + self._header_sizes[0] if has_header else start, body_end)
        if block is None and end - start < _SCRAP and header[:3] != b"\x01\x02N":
            return Gap(start, end, f"{end - start} bytes that are no message: {why}")
        if block is None and await self._window.find(_TEXT, start, end, 1) < 0:
            return Gap(start, end, f"{end - start} NUL bytes: {why}")
        measured = await measure(self._window, body_offset, body_end)
        metadata = block.metadata if block is not None else None
        size = body_end - body_offset
        return Found(start, end, body_offset, size, metadata, measured, Trust.DAMAGED, (why,))

    async def _last_trailer(self, start: int, end: int) -> Block | None:
        last, block = None, await self._next_trailer(start, end)
        while block is not None:
            last, block = block, await self._next_trailer(block.metadata.base + 1, end)
        return last


def _found(
    start: int, framed: _Framed, measured: Measured | None, trust: Trust, problems: list[str]
) -> Found:
    size = framed.body_end - framed.body_offset
    metadata = framed.block.metadata
    return Found(start, framed.end, framed.body_offset, size, metadata, measured, trust, tuple(problems))


def _confirmed(measured: Measured, block: Block) -> bool:
    """Whether the metadata prove that the text is complete."""
    try:
        known = block.metadata.virtual_size is not None and block.metadata.ext_refs is None
    except FormatError:
        return False
    return known and not contradictions(measured, block.metadata)


def _trust(measured: Measured, block: Block, wrong: list[str]) -> Trust:
    if measured.error is not None:
        return Trust.DAMAGED
    if wrong:
        return Trust.DOUBTFUL
    if block.problems:
        return Trust.REPAIRED if _confirmed(measured, block) else Trust.DOUBTFUL
    return Trust.WHOLE
