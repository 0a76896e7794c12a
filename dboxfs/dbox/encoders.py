"""Compress a body like Dovecot's ``zlib`` / ``mail_compress`` plugin, piece by piece.

The containers are those of :mod:`dboxfs.dbox.compression`.  The same method, level and pieces always give the
same bytes, so a body can be measured in one pass and written in another.  gzip has no name and no time.  lz4
is Dovecot's own container: chunks of 64 KiB of text, each compressed separately.

Source: dbox-files section 2; Dovecot 2.3.19 and 2.4.1 read these bodies.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import lz4.block
import zstandard
from msgspec import Struct

from dboxfs.dbox import _decoders
from dboxfs.dbox.compression import Compression

_LZ4_CHUNK: Final = 64 << 10
_SIZE: Final = struct.Struct(">I")


class Encoder(Protocol):
    """Compresses or encrypts one body: ``feed`` pieces of the text, then ``finish``; both give bytes."""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece of the text."""

    def finish(self) -> bytes:
        """End the text."""


class Coding(Protocol):
    """The coding of a stored message: a :class:`Method`, or an encryption (:mod:`dboxfs.dbox.encrypt`)."""

    def encoder(self) -> Encoder:
        """A new encoder; all give the same bytes for the same pieces."""


class Seals(Protocol):
    """The encryption of new messages; its module is loaded only if it is used."""

    def sealed(self, method: Method | None) -> Coding:
        """The coding of one message; *method* compresses it first, if given."""


class Method(Struct, frozen=True):
    """The compression of new messages.  ``level``: of the format; None: it has no levels."""

    kind: Compression
    level: int | None

    def encoder(self) -> Encoder:
        """A new encoder."""
        return _ENCODERS[self.kind](self.level or 0)

    def compressed(self, text: bytes) -> bytes:
        """Compress a whole text at once."""
        encoder = self.encoder()
        return encoder.feed(text) + encoder.finish()


LEVELS: Final = {
    Compression.GZIP: (1, 9, 6),
    Compression.BZIP2: (1, 9, 9),
    Compression.ZSTD: (1, 22, 3),
}
"""Lowest, highest and usual level; the usual levels are Dovecot's."""


def parse_method(text: str) -> Method | None:
    """``zstd``, ``zstd:19``, ``gz``, ``bz2``, ``lz4``; None for ``none``.

    :raises ValueError: an unknown method, or a level that it doesn't have.
    """
    name, colon, level = text.partition(":")
    if text == "none":
        return None
    kind = next((kind for kind in _ENCODERS if kind.value == name), None)
    if kind is None:
        raise ValueError(f"{text!r}: no method; known are zstd, lz4, gz, bz2 and none")
    if kind not in LEVELS:
        if colon:
            raise ValueError(f"{text!r}: {name} has no levels")
        return Method(kind, None)
    low, high, usual = LEVELS[kind]
    if not colon:
        return Method(kind, usual)
    if not (level.isascii() and level.isdigit() and low <= int(level) <= high):
        raise ValueError(f"{text!r}: levels of {name} are {low} to {high}")
    return Method(kind, int(level))


class _Gzip:
    def __init__(self, level: int) -> None:
        self._encoder = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> bytes:
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        return self._encoder.flush()


class _Bzip2:
    def __init__(self, level: int) -> None:
        self._encoder = bz2.BZ2Compressor(level)

    def feed(self, data: bytes) -> bytes:
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        return self._encoder.flush()


class _Zstd:
    def __init__(self, level: int) -> None:
        self._encoder = zstandard.ZstdCompressor(level, write_content_size=False).compressobj()

    def feed(self, data: bytes) -> bytes:
        return self._encoder.compress(data)

    def finish(self) -> bytes:
        return self._encoder.flush()


class _Lz4:
    def __init__(self, _level: int) -> None:
        self._head = _decoders.LZ4_MAGIC + _SIZE.pack(_LZ4_CHUNK)
        self._text = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._text += data
        out = [self._taken_head()]
        while len(self._text) >= _LZ4_CHUNK:
            out.append(self._chunk(_LZ4_CHUNK))
        return b"".join(out)

    def finish(self) -> bytes:
        return self._taken_head() + (self._chunk(len(self._text)) if self._text else b"")

    def _taken_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def _chunk(self, size: int) -> bytes:
        block: bytes = lz4.block.compress(bytes(self._text[:size]), store_size=False)
        del self._text[:size]
        return _SIZE.pack(len(block)) + block


_ENCODERS: Final[Mapping[Compression, Callable[[int], Encoder]]] = {
    Compression.ZSTD: _Zstd,
    Compression.LZ4: _Lz4,
    Compression.GZIP: _Gzip,
    Compression.BZIP2: _Bzip2,
}
