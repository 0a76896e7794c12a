"""A message that is to be stored compressed or encrypted: the stored bytes and the sizes of its text.

Format 2 has the size of a body in front, so the text is coded once before anything is written.  Up to
:data:`KEPT` the coded bytes stay in memory.  A larger result is only counted; then the text is coded again,
to the same bytes, each time that the body is read.

Coding a piece, and making the secret of an encrypted message, take milliseconds, so a worker thread does it
while the event loop continues.
"""

from __future__ import annotations

from typing import Final

import trio
from msgspec.structs import replace

from dboxfs.dbox import LineEnds
from dboxfs.dbox.encoders import Coding, Encoder
from dboxfs.store.write.message import BytesSource, Coded, NewMessage, Pieces, Source
from dboxfs.store.write_options import WriteOptions

KEPT: Final = 4 << 20
"""Coded bytes of one message that are kept in memory."""
_SMALL_PIECE: Final = 16 << 10
"""A piece up to this size (bytes) is coded at once: a thread would take longer."""


async def new_coding(options: WriteOptions) -> Coding | None:
    """The coding of one new message; None: it is stored as it is."""
    if options.encrypt is None:
        return options.coding()
    return await trio.to_thread.run_sync(options.coding)


async def coded(message: NewMessage, method: Coding, *, convert: bool) -> NewMessage:
    """*message* as it is stored, with the sizes of its text.

    :param convert: make line ends LF.
    :raises OSError: its source can't be read, or has changed.
    """
    source = BytesSource(message.source) if isinstance(message.source, bytes) else message.source
    lines, size, kept = LineEnds(), 0, bytearray()
    encoding = _Encoding(source, method, convert, lines)
    while (out := await encoding.next()) is not None:
        size += len(out)
        if size <= KEPT:
            kept += out
    text = Coded(lines.size, lines.virtual_size)
    if size <= KEPT:
        return replace(message, source=bytes(kept), coded=text)
    return replace(message, source=CodedSource(source, method, size, convert=convert), coded=text)


class CodedSource:
    """The stored bytes of a text, made again each time that they are read from the beginning.

    :param size: number of coded bytes.
    """

    def __init__(self, text: Source, method: Coding, size: int, *, convert: bool) -> None:
        self.size = size
        self._text = text
        self._method = method
        self._convert = convert
        self._encoding = self._begin()
        self._ready = bytearray()
        self._at = 0

    def _begin(self) -> _Encoding:
        return _Encoding(self._text, self._method, self._convert, LineEnds())

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes, fewer at the end.  A smaller offset than before makes the bytes again."""
        if offset < self._at:
            self._encoding, self._at = self._begin(), 0
            self._ready.clear()
        await self._fill(offset - self._at)
        skipped = min(offset - self._at, len(self._ready))
        del self._ready[:skipped]
        self._at += skipped
        await self._fill(size)
        piece = bytes(self._ready[:size])
        del self._ready[: len(piece)]
        self._at += len(piece)
        return piece

    async def _fill(self, size: int) -> None:
        while len(self._ready) < size and (out := await self._encoding.next()) is not None:
            self._ready += out

    async def descriptor(self) -> int | None:
        return None


class _Encoding:
    """One pass over a text; ``lines`` counts its line ends."""

    def __init__(self, text: Source, method: Coding, convert: bool, lines: LineEnds) -> None:
        self._pieces = Pieces(text, convert=convert)
        self._encoder: Encoder | None = method.encoder()
        self._lines = lines

    async def next(self) -> bytes | None:
        """More stored bytes, possibly none yet; None at the end."""
        if self._encoder is None:
            return None
        piece = await self._pieces.next()
        if piece is None:
            encoder, self._encoder = self._encoder, None
            return encoder.finish()
        self._lines.feed(piece)
        if len(piece) <= _SMALL_PIECE:
            return self._encoder.feed(piece)
        return await trio.to_thread.run_sync(self._encoder.feed, piece)
