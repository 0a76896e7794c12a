"""Format 2: every message of a file, and the bytes between them.

The scan walks from record to record: message header, text, metadata, and behind these the next record.  As
long as records are whole, it looks at nothing else, so a dbox file within a text (an attachment) is never
taken for a message.  At a damaged record the scan continues like this:

1. if the header is whole, and the metadata are nearly whole or cut off, the record is known, with its faults;
2. if metadata confirm the text: the record ends with the first following metadata block whose ``V`` is the
size of the text up to there.  That proves the text, even against its header;
3. else the text is incomplete.  It ends at the next record by the map, if a record begins there, or begins as
far from there as lost or added bytes have moved the file's end; else at the next whole record, else at the
next metadata block, else at the end of the file.

The scan also gives whole records within an incomplete record whose end the map knows, or within a text that
its metadata contradict, as ``inside``: they may be parts of that text, or messages that got into it.

Memory: a few chunks; for the search behind damage see :mod:`~dboxfs.store.salvage.landmarks`.  Time: linear
in the size of any file (:mod:`~dboxfs.store.salvage.effort`): if a file has more damaged places than work for
them, the bytes between two whole records count as one damaged record.

Source: recovery section 3; dbox-files section 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from dboxfs.dbox import MESSAGE_HEADER_SIZE, METADATA_MAGIC, FileHeader, parse_file_header
from dboxfs.errors import FormatError
from dboxfs.store.salvage.boundaries import Boundaries
from dboxfs.store.salvage.effort import ATTEMPT, Effort
from dboxfs.store.salvage.found import Found, Gap, MapPlace, Trust
from dboxfs.store.salvage.frame import Frames, confirmed
from dboxfs.store.salvage.measure import Measured, claimed, contradictions, measure, settled
from dboxfs.store.salvage.quick import usual_records
from dboxfs.store.salvage.search import LOOK_AHEAD, Search
from dboxfs.store.salvage.trailer import RECORD_START, USUAL, MetadataBlock
from dboxfs.store.salvage.window import Window

_TEXT = re.compile(rb"[^\0]")
_HEAD = 1100
_USUAL_FILE_HEADER = 16
_SCRAP = 256
_SMALLEST = 40  # bytes that a record has at least
_RECORDS_AT_ONCE = 64
_FEW_BYTES = 4
_MAGIC_SIZE = len(METADATA_MAGIC)


class Format2Scan:
    """The scan of one file; ``position`` is where the next item begins."""

    def __init__(self, window: Window, places: Sequence[MapPlace], *, single: bool, texts: bool) -> None:
        self.position = 0
        self._window = window
        self._single = single
        self._texts = texts
        self._effort = Effort(window.size)
        self._frames = Frames(window, self._effort)
        self._boundaries = Boundaries(window, self._frames, places)
        self._search = Search(window, self._frames, self._effort)

    # -- the file header ---------------------------------------------------------------------------------

    async def begin(self) -> Gap | None:
        """Go to the place of the first record; gives a gap if the file header is damaged."""
        head = await self._window.read(0, _HEAD)
        if not head:
            return Gap(0, 0, "the file is empty")
        try:
            header = parse_file_header(head)
            if isinstance(header, FileHeader):
                sizes = dict.fromkeys((header.message_header_size, MESSAGE_HEADER_SIZE))
                self._frames.header_sizes = tuple(sizes)
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
        """The items that begin at *start*; ``position`` is their end then."""
        usual = await self._usual(start)
        if usual:
            self.position = usual[-1].end
            return [*usual]
        found = await self._whole(start)
        if found is not None:
            self.position = found.end
            if found.trust is not Trust.DOUBTFUL or self._single:
                return [found]
            end = found.body_offset + found.body_size  # it may contain bytes of other messages
            within: list[Found] = []
            if found.body_size >= _SMALLEST:
                within = await self._search.records(found.body_offset, end, only_first=False)
            return [found, *(replace(one, inside=True) for one in within)]
        items = await self._damaged(start)
        assert self.position > start
        return items

    async def _usual(self, start: int) -> list[Found]:
        """Usual records at *start* and behind; empty if the first one is not usual."""
        if self._frames.header_sizes != (MESSAGE_HEADER_SIZE,):
            return []
        data, at = await self._window.loaded(start)
        return usual_records(
            data, at, start - at, texts=self._texts, most=1 if self._single else _RECORDS_AT_ONCE
        )

    async def _whole(self, start: int) -> Found | None:
        """The record at *start*, if its frame can be read; None: ``why`` has the fault."""
        framed = await self._frames.framed(start)
        if framed is None:
            return None
        block, problems = framed.block, list(framed.block.problems)
        if not self._texts and not problems:
            return framed.found(start, None, Trust.WHOLE, problems)
        measured = await measure(
            self._window, framed.body_offset, framed.body_end, claimed(block.metadata), self._effort
        )
        measured = settled(measured, block.metadata)
        wrong = contradictions(measured, block.metadata)
        if wrong:
            other = None
            if measured.error is None and self._effort.spend(ATTEMPT):
                other = await self._search.by_text(start, framed.body_end)
            if other is not None:
                return other
            if await self._boundaries.swallowed(start, framed.end):
                self._frames.why = wrong[0]
                return None
        return framed.found(start, measured, _trust(measured, block, wrong), problems + wrong)

    # -- damage ------------------------------------------------------------------------------------------

    async def _damaged(self, start: int) -> list[Found | Gap]:
        why = self._frames.why
        limit = self._window.size if self._single else await self._boundaries.limit(start)
        search_end = limit if limit is not None else min(self._window.size, start + LOOK_AHEAD)
        careful = self._effort.spend(ATTEMPT)
        bare = await self._without_metadata(start) if careful else None
        if bare is not None:
            self.position = bare.end
            return [bare]
        proven = await self._search.by_text(start, search_end) if careful else None
        if proven is not None:
            self.position = proven.end
            return [replace(proven, problems=(why, *proven.problems))]
        inside: list[Found] = []
        if not self._single:
            inside = await self._search.records(start + 1, search_end, only_first=limit is None)
        if limit is None and careful and await self._is_cut(start, inside):
            self.position = self._window.size
            inside = await self._search.records(start + 1, self.position, only_first=False)
            items = await self._incomplete(start, self.position, None, why)
            return [*items, *(replace(one, inside=True) for one in inside)]
        if limit is None:
            items = await self._to_the_next(start, inside, why, careful=careful)
            if not inside or inside[0].offset > items[-1].end:
                return items
            self.position = inside[0].end
            return [*items, inside[0]]
        self.position = limit
        block = await self._search.last_block(start, limit)
        items = await self._incomplete(start, limit, block, why)
        return [*items, *(replace(one, inside=True) for one in inside)]

    async def _to_the_next(
        self, start: int, whole: Sequence[Found], why: str, *, careful: bool
    ) -> list[Found | Gap]:
        """The rest of the record at *start*, before the next *whole* one."""
        end = whole[0].offset if whole else self._window.size
        if end - start < _SMALLEST:
            block = None
        elif careful:
            block = await self._search.next_block(start, end)
            if block is not None:
                end = block.metadata.base + block.metadata.size
        else:
            block = await self._search.last_block(start, end)
            why += "; the file has too many damaged places to look at each"
        self.position = end
        return await self._incomplete(start, end, block, why)

    async def _without_metadata(self, start: int) -> Found | None:
        """The record at *start*, if the file ends within its metadata, so that its text is complete."""
        header_size, size = self._frames.header_sizes[0], self._window.size
        header = await self._frames.message_header(start, header_size)
        body_end = start + header_size + header.body_size if header is not None else size + 1
        if not size - USUAL <= body_end <= size:
            return None
        rest = await self._window.read(body_end, USUAL)
        if not METADATA_MAGIC.startswith(rest[:_MAGIC_SIZE]) or RECORD_START.search(rest):
            return None
        measured = await measure(self._window, start + header_size, body_end, 0, self._effort)
        why = ("the file ends within the metadata of the message",)
        trust = Trust.DAMAGED if measured.error is not None else Trust.DOUBTFUL
        return Found(start, size, start + header_size, measured.stored, None, measured, trust, why)

    async def _is_cut(self, start: int, inside: Sequence[Found]) -> bool:
        """Whether the record at *start* should have more bytes than the file, and no block or record ends it.

        Then the file was cut within its text, and the records *inside* are parts of that text.
        """
        size = self._frames.header_sizes[0]
        header = await self._frames.message_header(start, size)
        if header is None or start + size + header.body_size < self._window.size:
            return False
        return not inside or await self._search.next_block(start, inside[0].offset) is None

    async def _text_end(self, start: int, body_offset: int, end: int) -> int:
        """The end of an incomplete text without metadata, before *end*: by the size in its header, and before
        the NULs that a crash leaves behind the written bytes.
        """
        end = min(end, await self._claimed_end(start, body_offset, end))
        while end > body_offset:
            begin = max(body_offset, end - self._window.chunk)
            text = (await self._window.read(begin, end - begin)).rstrip(b"\0")
            if text:
                return begin + len(text)
            end = begin
        return end

    async def _claimed_end(self, start: int, body_offset: int, end: int) -> int:
        """The end of the text by its header; *end* if that can't be read."""
        header = await self._frames.message_header(start, self._frames.header_sizes[0])
        return body_offset + header.body_size if header is not None else end

    async def _incomplete(
        self, start: int, end: int, block: MetadataBlock | None, why: str
    ) -> list[Found | Gap]:
        """The rest of the record at *start*, and of another one that ends with *block*."""
        header = await self._window.read(start, MESSAGE_HEADER_SIZE)
        has_header = header[:2] == b"\x01\x02" or header[-1:] == b"\n" or not any(header)
        body_end = block.metadata.base if block is not None else end
        body_offset = min(start + self._frames.header_sizes[0] if has_header else start, body_end)
        claimed_end = await self._claimed_end(start, body_offset, body_end)
        rest: list[Found | Gap] = []
        few = await self._window.read(claimed_end, _FEW_BYTES) if claimed_end < body_end else b""
        if few == bytes(_FEW_BYTES):
            # Its metadata are overwritten: the block, and the text before it, belong to another record.
            tail = await self._window.find(_TEXT, claimed_end, body_end, 1)
            if block is not None and tail >= 0:
                rest.append(await self._piece(tail, end, tail, body_end, block, why))
                body_end = end = tail
            block = None
        if block is None and end - start < _SCRAP and header[:3] != b"\x01\x02N":
            return [Gap(start, end, f"{end - start} bytes that are no message: {why}"), *rest]
        if block is None and await self._window.find(_TEXT, start, end, 1) < 0:
            return [Gap(start, end, f"{end - start} NUL bytes: {why}"), *rest]
        if block is None:
            body_end = await self._text_end(start, body_offset, body_end)
        return [await self._piece(start, end, body_offset, body_end, block, why), *rest]

    async def _piece(
        self, start: int, end: int, body_offset: int, body_end: int, block: MetadataBlock | None, why: str
    ) -> Found:
        """Make a damaged record with this text."""
        metadata = block.metadata if block is not None else None
        measured = await measure(self._window, body_offset, body_end, claimed(metadata), self._effort)
        size = body_end - body_offset
        return Found(start, end, body_offset, size, metadata, measured, Trust.DAMAGED, (why,))


def _trust(measured: Measured, block: MetadataBlock, wrong: list[str]) -> Trust:
    if measured.error is not None:
        return Trust.DAMAGED
    if wrong:
        return Trust.DOUBTFUL
    if block.problems:
        return Trust.REPAIRED if confirmed(measured, block) else Trust.DOUBTFUL
    return Trust.WHOLE
