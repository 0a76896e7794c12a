"""The frame of a record of format 2: its header, and the metadata block at the end that its size gives."""

from __future__ import annotations

from msgspec import Struct

from dboxfs.dbox import MESSAGE_HEADER_SIZE, MessageHeader, parse_message_header
from dboxfs.errors import FormatError
from dboxfs.store.salvage.effort import Effort
from dboxfs.store.salvage.found import Found, Trust
from dboxfs.store.salvage.measure import Measured, contradictions
from dboxfs.store.salvage.quick import usual_frame
from dboxfs.store.salvage.trailer import RECORD_START, MetadataBlock, begins_block, read_block
from dboxfs.store.salvage.window import Window

RECORD_START_SIZE = 30

_FIRST_BYTES = 512
_LONG_BLOCK = 4 << 10
_LONGEST_BLOCK = 1 << 20


class Framed(Struct, frozen=True):
    """A record by its frame: the place of its text, and its metadata."""

    body_offset: int
    body_end: int
    block: MetadataBlock

    @property
    def end(self) -> int:
        """The end of the record in the file."""
        return self.body_end + self.block.metadata.size

    def found(self, start: int, measured: Measured | None, trust: Trust, problems: list[str]) -> Found:
        """The message at *start* that has this frame."""
        size = self.body_end - self.body_offset
        metadata = self.block.metadata
        return Found(start, self.end, self.body_offset, size, metadata, measured, trust, tuple(problems))


class Frames:
    """Reads the frames of one file.

    :ivar header_sizes: possible sizes of its message headers (bytes).
    :ivar why: the fault of the last frame that could not be read, as text.
    """

    def __init__(self, window: Window, effort: Effort) -> None:
        self.header_sizes: tuple[int, ...] = (MESSAGE_HEADER_SIZE,)
        self.why = ""
        self._window = window
        self._effort = effort

    async def framed(self, start: int, *, through: bool = True) -> Framed | None:
        """The frame of the record at *start*; None: it can't be read.

        :param through: its block may have no end, and continue to the next message header.
        """
        if self.header_sizes == (MESSAGE_HEADER_SIZE,):
            data, at = await self._window.loaded(start)
            usual = usual_frame(data, at, start - at)
            if usual is not None:
                _, metadata = usual
                return Framed(start + MESSAGE_HEADER_SIZE, metadata.base, MetadataBlock(metadata))
        for header_size in self.header_sizes:
            header = await self.message_header(start, header_size)
            if header is None:
                continue
            body_offset = start + header_size
            body_end = body_offset + header.body_size
            if body_end >= self._window.size:
                self.why = f"the message of {header.body_size} bytes reaches beyond the end of the file"
                continue
            block = await self.block(body_end, through=through)
            if block is not None:
                return Framed(body_offset, body_end, block)
            self.why = f"no metadata at offset {body_end}, where the message of {header.body_size} bytes ends"
        return None

    async def message_header(self, start: int, header_size: int) -> MessageHeader | None:
        """The message header at *start*; None: there is none."""
        try:
            found = parse_message_header(await self._window.read(start, header_size), header_size, base=start)
        except FormatError as exc:
            self.why = exc.reason
        else:
            if isinstance(found, MessageHeader):
                return found
            self.why = "the file ends inside a message header"
        return None

    async def block(self, offset: int, *, through: bool = False) -> MetadataBlock | None:
        """The metadata block at *offset*; None: there is none, or it has no end."""
        size, work = _FIRST_BYTES, 0
        while True:
            data = await self._window.read(offset, size)
            if not begins_block(data):
                return None
            ends = offset + len(data) >= self._window.size
            block = read_block(data, offset, to_the_end=ends, through=through)
            if block is not None:
                return block
            work += size
            if ends or size >= (_LONG_BLOCK if self._effort.exhausted else _LONGEST_BLOCK):
                self._effort.spend(work)
                return None
            size *= 8

    async def begins(self, offset: int) -> bool:
        """Whether there is a message header at *offset*."""
        return RECORD_START.match(await self._window.read(offset, RECORD_START_SIZE)) is not None

    async def body_offsets(self, start: int) -> list[int]:
        """Possible beginnings of the text of a record at *start* with a damaged message header."""
        found = [start + size for size in self.header_sizes]
        line_end = (await self._window.read(start, MESSAGE_HEADER_SIZE + 16)).find(b"\n")
        behind = start + line_end + 1
        if line_end >= 0 and not (behind > start + RECORD_START_SIZE and await self.begins(behind - 30)):
            found.append(behind)
        found.append(start)
        return [offset for offset in dict.fromkeys(found) if offset < self._window.size]


def confirmed(measured: Measured, block: MetadataBlock) -> bool:
    """Whether the metadata prove that a text is complete."""
    try:
        known = block.metadata.virtual_size is not None and block.metadata.ext_refs is None
    except FormatError:
        return False
    return known and not contradictions(measured, block.metadata)
