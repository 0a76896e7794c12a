"""Compressed bodies of Dovecot's ``zlib`` / ``mail_compress`` plugin: recognise and decompress them.
``dbox/encoders.py`` compresses.

No flag says that a body is compressed; the first bytes do::

    gzip    1F 8B                               members, one behind the other until the end of the body
    bzip2   "BZh" "1".."9"                      one stream; bytes behind it are ignored
    xz      FD "7zXZ" 00                        streams, NUL padding between, until the end of the body
    zstd    28 B5 2F FD                         frames (also skippable ones) until the end of the body
    lz4     "Dovecot-LZ4" 0D 2A 9B C5, uint32 big-endian maximum plain chunk size (1 to 1 MiB), then until the
            end of the body chunks: uint32 big-endian compressed size (1 to 1 MiB), one raw LZ4 block

Dovecot 2.3 accepts these, and treats bytes behind a complete stream like this.  As in Dovecot, the method
byte, reserved flags, header checksum and ISIZE of gzip are not checked; the CRC is.  One difference: Dovecot
ignores 1 to 3 bytes behind the last lz4 chunk; here they are a truncated chunk.

:class:`Decompressor` is a push decoder: ``feed`` compressed bytes, ``read`` plain ones.  Invariants: one
``read`` gives at most the requested bytes, and produces at most one block (zstd 128 KiB, lz4 1 MiB) beyond
them.  Memory is that, plus unused input, plus the format's own window (zstd at most 128 MiB, xz 80 MiB as in
Dovecot, bzip2 4 MiB), for any input.  The output does not depend on how the input is cut into pieces.

Source: dbox-files section 2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from dboxfs.dbox import _decoders
from dboxfs.dbox.format2 import Buffer

PREFIX_SIZE: Final = 15
"""Bytes at the start of a body that :func:`detect` needs to see (fewer if the body is shorter)."""


class Compression(enum.Enum):
    """The compression of a body.  The value is its name in Dovecot's ``zlib_save``."""

    GZIP = "gz"
    BZIP2 = "bz2"
    XZ = "xz"
    ZSTD = "zstd"
    LZ4 = "lz4"


def detect(first_bytes: Buffer) -> Compression | None:
    """The compression of the body that begins with ``first_bytes``; None: it is plain.

    Dovecot stores no plain message that begins like a compressed one when the plugin is loaded.
    """
    head = bytes(first_bytes[:PREFIX_SIZE])
    if head[:2] == b"\x1f\x8b":
        return Compression.GZIP
    if head[:3] == b"BZh" and head[3:4] in _BZIP2_LEVELS:
        return Compression.BZIP2
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return Compression.ZSTD
    if head == _decoders.LZ4_MAGIC:
        return Compression.LZ4
    if head[:6] == b"\xfd7zXZ\0":
        return Compression.XZ
    return None


_BZIP2_LEVELS: Final = frozenset(b"%d" % level for level in range(1, 10))


class Decompressor:
    """Streaming decompression of one body::

        while not d.eof:
            if d.needs_input:
                chunk = next bytes of the body
                if chunk: d.feed(chunk)
                else: d.finish()
            plain = d.read(65536)

    Every method but ``read`` is cheap.  After an error the decompressor can't be used any more.  Only one
    thread at a time may use it.
    """

    def __init__(self, kind: Compression) -> None:
        self._decoder = _DECODERS[kind]()
        self._input = _decoders.Input()
        self._output = b""
        self._position = 0
        self._starved = True
        self._ended = False

    def feed(self, data: Buffer) -> None:
        """Add the next bytes of the compressed body.  They are copied and kept until they are used.

        :raises ValueError: after ``finish``.
        """
        if self._input.finished:
            raise ValueError("feed after finish")
        if len(data):
            self._input.append(data)
            self._starved = False

    @property
    def needs_input(self) -> bool:
        """Whether ``read`` gives nothing until ``feed`` or ``finish`` is called."""
        return self._starved and not self._ended and self._position >= len(self._output)

    @property
    def eof(self) -> bool:
        """Whether all output was read.

        All formats but bzip2 can continue with another member, stream, frame or chunk, so this needs
        ``finish``.
        """
        return self._ended and self._position >= len(self._output)

    def read(self, max_bytes: int) -> bytes:
        """The next plain bytes, at most ``max_bytes``; fewer bytes do not mean the end.

        ``b""`` only when then ``needs_input`` or ``eof`` is true, or ``max_bytes`` is not positive.

        :raises FormatError: damage, or the body ends too early.  The offset is in the compressed body: the
            start of the block (zstd, lz4) or of the step of at most 16 KiB of input in which it was noticed.
        """
        while self._position >= len(self._output) and max_bytes > 0 and not (self._ended or self._starved):
            output = self._decoder.step(self._input, max(max_bytes, _decoders.MIN_STEP))
            if output is not None:
                self._output, self._position = output, 0
                self._ended = self._decoder.ended
            elif self._input.finished:
                self._end()
            else:
                self._starved = True
        taken = self._output[self._position : self._position + max(max_bytes, 0)]
        self._position += len(taken)
        return taken

    def finish(self) -> None:
        """Mark the end of the body.  May be called before all output was read, and twice.

        :raises FormatError: the body ends too early, if that is known already; otherwise ``read`` raises the
            error.
        """
        self._input.finished = True
        if self._starved and not self._ended:
            self._end()

    def _end(self) -> None:
        self._decoder.check_end(self._input)
        self._ended = True


_DECODERS: Final[Mapping[Compression, Callable[[], _decoders.Decoder]]] = MappingProxyType(
    {
        Compression.GZIP: _decoders.Gzip,
        Compression.BZIP2: _decoders.Bzip2,
        Compression.XZ: _decoders.Xz,
        Compression.ZSTD: _decoders.Zstd,
        Compression.LZ4: _decoders.Lz4,
    }
)
