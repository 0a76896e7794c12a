"""The decoders behind :class:`dboxfs.dbox.compression.Decompressor`: one small state machine for each format.

The caller pulls: ``step(input, max_bytes)`` uses some of the input and gives plain bytes (``b""`` is progress
without output), or None if the input does not suffice for a step.  Then the state stays, and the machine
continues when there is more input.  ``ended`` is true when no output can follow.  ``check_end`` raises unless
the input may end here.

The libraries for zstd and raw LZ4 have no output limit.  So these two decoders cut the input at block
boundaries, which limits the output of a step to the format's block size.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Final, Protocol

import lz4.block
import zstandard

from dboxfs.dbox.format2 import Buffer
from dboxfs.errors import FormatError

MIN_STEP: Final = 4096
"""Smallest output limit of a step (bytes): smaller steps would be slow."""

INPUT_STEP: Final = 16384
"""Most input of a step (bytes), if the format has no visible blocks."""

LZ4_MAGIC: Final = b"Dovecot-LZ4\x0d\x2a\x9b\xc5"

_GZIP_HEADER_SIZE: Final = 10
_GZIP_MAX_HEADER: Final = 128 * 1024
_GZIP_TRAILER_SIZE: Final = 8
_GZIP_FHCRC, _GZIP_FEXTRA, _GZIP_FNAME, _GZIP_FCOMMENT = 0x02, 0x04, 0x08, 0x10
_XZ_MEMORY_LIMIT: Final = 80 * 1024 * 1024
_LZ4_MAX_CHUNK: Final = 1024 * 1024
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_MAX_BLOCK: Final = 128 * 1024
_ZSTD_RLE_BLOCK, _ZSTD_RESERVED_BLOCK = 1, 3


class Input:
    """Compressed bytes that were fed and not used yet.  ``offset``: of the first one in the body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        self.offset = 0
        self.finished = False

    def __len__(self) -> int:
        return len(self._buffer) - self._position

    def append(self, data: Buffer) -> None:
        del self._buffer[: self._position]
        self._position = 0
        self._buffer += data

    def peek(self, size: int, start: int = 0) -> bytes:
        """At most ``size`` bytes from ``start`` on, without removing them."""
        begin = self._position + start
        return bytes(memoryview(self._buffer)[begin : begin + size])

    def find_nul(self, start: int) -> int:
        """The index of the first NUL at or behind ``start``; -1: there is none."""
        found = self._buffer.find(0, self._position + start)
        return found if found < 0 else found - self._position

    def skip(self, size: int) -> None:
        self._position += size
        self.offset += size

    def take(self, size: int) -> bytes:
        taken = self.peek(size)
        self.skip(len(taken))
        return taken

    def truncated(self, what: str) -> FormatError:
        return FormatError(self.offset + len(self), f"{what} is truncated")


class Decoder(Protocol):
    """Decompresses one stream, piece by piece."""

    @property
    def ended(self) -> bool: ...

    def step(self, data: Input, max_bytes: int) -> bytes | None: ...

    def check_end(self, data: Input) -> None: ...


class Gzip:
    """Members (header, deflate stream, trailer) until the end of the input, with the same checks as
    Dovecot's.
    """

    ended = False

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None  # None: the next thing is a header
        self._crc = 0
        self._members = 0
        self._more_output = False

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        if self._inflater is None:
            return self._header(data)
        if self._inflater.eof:
            return self._trailer(data)
        return self._inflate(self._inflater, data, max_bytes)

    def check_end(self, data: Input) -> None:
        if self._inflater is not None or len(data) or not self._members:
            raise data.truncated("gzip body")

    def _header(self, data: Input) -> bytes | None:
        head = data.peek(_GZIP_HEADER_SIZE)
        if not b"\x1f\x8b".startswith(head[:2]):
            raise FormatError(data.offset, f"no gzip header: found {head[:2].hex(' ')}, expected 1f 8b")
        size = _gzip_header_size(data)
        if size is None:
            if len(data) > _GZIP_MAX_HEADER:
                raise FormatError(data.offset, f"gzip header is longer than {_GZIP_MAX_HEADER} bytes")
            return None
        data.skip(size)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._crc = 0
        return b""

    def _inflate(self, inflater: zlib._Decompress, data: Input, max_bytes: int) -> bytes | None:
        chunk = data.peek(INPUT_STEP)
        if not chunk and not self._more_output:
            return None
        try:
            output = inflater.decompress(chunk, max_bytes)
        except zlib.error as error:
            raise FormatError(data.offset, f"gzip: {error}") from error
        # at the end both attributes may have the same rest
        data.skip(len(chunk) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail))
        self._more_output = len(output) == max_bytes
        self._crc = zlib.crc32(output, self._crc)
        return output

    def _trailer(self, data: Input) -> bytes | None:
        trailer = data.peek(_GZIP_TRAILER_SIZE)
        if len(trailer) < _GZIP_TRAILER_SIZE:
            return None
        stored = int.from_bytes(trailer[:4], "little")
        if stored != self._crc:
            raise FormatError(data.offset, f"gzip: CRC is {self._crc:08x}, the trailer says {stored:08x}")
        data.skip(_GZIP_TRAILER_SIZE)
        self._inflater = None
        self._members += 1
        self._more_output = False
        return b""


def _gzip_header_size(data: Input) -> int | None:
    """Bytes of the gzip member header at the start of the input; None: it is incomplete."""
    size = _GZIP_HEADER_SIZE
    if len(data) < size:
        return None
    flags = data.peek(1, 3)[0]
    if flags & _GZIP_FEXTRA:
        extra = data.peek(2, size)
        size += 2 + int.from_bytes(extra, "little")
        if len(extra) < 2 or size > len(data):
            return None
    for flag in (_GZIP_FNAME, _GZIP_FCOMMENT):
        if flags & flag:
            end = data.find_nul(size)
            if end < 0:
                return None
            size = end + 1
    if flags & _GZIP_FHCRC:
        size += 2
    return size if size <= len(data) else None


class _LibraryStream:
    """A library object with an output limit, which keeps unused input."""

    def __init__(self, name: str, inflater: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._name = name
        self.inflater = inflater
        self._step_offset = 0

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        chunk = b""
        if self.inflater.needs_input:
            self._step_offset = data.offset
            chunk = data.take(INPUT_STEP)
            if not chunk:
                return None
        try:
            return self.inflater.decompress(chunk, max_bytes)
        except (OSError, lzma.LZMAError) as error:
            raise FormatError(self._step_offset, f"{self._name}: {error}") from error


class Bzip2:
    """One stream; bytes behind it are ignored."""

    def __init__(self) -> None:
        self._stream = _LibraryStream("bzip2", bz2.BZ2Decompressor())

    @property
    def ended(self) -> bool:
        return self._stream.inflater.eof

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        return self._stream.step(data, max_bytes)

    def check_end(self, data: Input) -> None:
        raise data.truncated("bzip2 body")


class Xz:
    """Streams, each followed by a multiple of four NULs, until the end of the input."""

    ended = False

    def __init__(self) -> None:
        self._stream: _LibraryStream | None = None  # None: between streams
        self._streams = 0
        self._padding = 0

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        if self._stream is None:
            return self._between(data)
        output = self._stream.step(data, max_bytes)
        if self._stream.inflater.eof:
            data.skip(-len(self._stream.inflater.unused_data))
            self._stream = None
            self._streams += 1
            self._padding = 0
        return output

    def check_end(self, data: Input) -> None:
        if self._stream is not None or self._padding % 4 or not self._streams:
            raise data.truncated("xz body")

    def _between(self, data: Input) -> bytes | None:
        head = data.peek(INPUT_STEP)
        if not head:
            return None
        padding = len(head) - len(head.lstrip(b"\0")) if self._streams else 0
        self._padding += padding
        data.skip(padding)
        if padding < len(head):
            if self._padding % 4:
                raise FormatError(data.offset, f"xz: {self._padding} bytes of padding, not a multiple of 4")
            inflater = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT)
            self._stream = _LibraryStream("xz", inflater)
        return b""


class Zstd:
    """zstd frames, given to the library block by block (RFC 8878, section 3.1)."""

    ended = False

    def __init__(self) -> None:
        self._inflater: zstandard.ZstdDecompressionObj | None = None  # None: the next thing is a frame
        self._checksum_size = 0
        self._to_skip = 0
        self._frames = 0

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            data.skip(skipped)
            self._to_skip -= skipped
            return b"" if skipped else None
        if self._inflater is None:
            return self._frame_header(data)
        return self._block(self._inflater, data)

    def check_end(self, data: Input) -> None:
        if self._inflater is not None or self._to_skip or len(data) or not self._frames:
            raise data.truncated("zstd body")

    def _frame_header(self, data: Input) -> bytes | None:
        head = data.peek(8)
        if len(head) < 5:
            return None
        if head[0] & 0xF0 == 0x50 and head[1:4] == b"\x2a\x4d\x18":
            if len(head) < 8:
                return None
            data.skip(8)
            self._to_skip = int.from_bytes(head[4:], "little")
            self._frames += 1
            return b""
        if head[:4] != _ZSTD_MAGIC:
            raise FormatError(data.offset, f"no zstd frame: found {head[:4].hex(' ')}, expected 28 b5 2f fd")
        descriptor = head[4]
        single_segment = descriptor >> 5 & 1
        size = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
        size += (single_segment, 2, 4, 8)[descriptor >> 6]
        if len(data) < size:
            return None
        self._checksum_size = 4 if descriptor & 4 else 0
        self._inflater = zstandard.ZstdDecompressor().decompressobj()
        return self._decompress(self._inflater, data, size)

    def _block(self, inflater: zstandard.ZstdDecompressionObj, data: Input) -> bytes | None:
        head = data.peek(3)
        if len(head) < 3:
            return None
        fields = int.from_bytes(head, "little")
        last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
        if kind == _ZSTD_RESERVED_BLOCK or size > _ZSTD_MAX_BLOCK:
            raise FormatError(data.offset, f"zstd: bad block header {head.hex(' ')}")
        total = 3 + (1 if kind == _ZSTD_RLE_BLOCK else size) + (self._checksum_size if last else 0)
        if len(data) < total:
            return None
        offset = data.offset
        output = self._decompress(inflater, data, total)
        if last:
            if not inflater.eof:
                raise FormatError(offset, "zstd: frame does not end with its last block")
            self._inflater = None
            self._frames += 1
        return output

    def _decompress(self, inflater: zstandard.ZstdDecompressionObj, data: Input, size: int) -> bytes:
        offset = data.offset
        try:
            return inflater.decompress(data.take(size))
        except zstandard.ZstdError as error:
            raise FormatError(offset, f"zstd: {error}") from error


class Lz4:
    """Dovecot's framing of raw LZ4 blocks."""

    ended = False

    def __init__(self) -> None:
        self._max_chunk = 0  # 0: the next thing is the header

    def step(self, data: Input, max_bytes: int) -> bytes | None:
        if not self._max_chunk:
            return self._header(data)
        prefix = data.peek(4)
        if len(prefix) < 4:
            return None
        size = int.from_bytes(prefix, "big")
        if not 0 < size <= _LZ4_MAX_CHUNK:
            raise FormatError(data.offset, f"lz4: chunk size is {size}, expected 1 to {_LZ4_MAX_CHUNK}")
        if len(data) < 4 + size:
            return None
        try:
            output: bytes = lz4.block.decompress(data.peek(size, 4), uncompressed_size=self._max_chunk)
        except lz4.block.LZ4BlockError as error:
            raise FormatError(data.offset, f"lz4: {error}") from error
        if not output:
            raise FormatError(data.offset, "lz4: empty chunk")
        data.skip(4 + size)
        return output

    def check_end(self, data: Input) -> None:
        if not self._max_chunk or len(data):
            raise data.truncated("lz4 body")

    def _header(self, data: Input) -> bytes | None:
        head = data.peek(len(LZ4_MAGIC) + 4)
        if len(head) < len(LZ4_MAGIC) + 4:
            return None
        if not head.startswith(LZ4_MAGIC):
            raise FormatError(data.offset, "no Dovecot-LZ4 header")
        max_chunk = int.from_bytes(head[-4:], "big")
        if not 0 < max_chunk <= _LZ4_MAX_CHUNK:
            raise FormatError(
                data.offset + len(LZ4_MAGIC),
                f"lz4: maximum chunk size is {max_chunk}, expected 1 to {_LZ4_MAX_CHUNK}",
            )
        self._max_chunk = max_chunk
        data.skip(len(head))
        return b""
