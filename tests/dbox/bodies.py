"""Compressed bodies made by the reference libraries, and what Dovecot 2.3.19 makes of odd ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
from dataclasses import dataclass
from typing import Final

import lz4.block
import zstandard

from dboxfs.dbox import Compression, Decompressor

LZ4_MAGIC: Final = b"Dovecot-LZ4\x0d\x2a\x9b\xc5"
PLAIN: Final = b"From: a@example.org\nSubject: x\n\n" + b"hello\n" * 50


def lz4_body(data: bytes, chunk: int = 65536, maximum: int | None = None) -> bytes:
    """Dovecot's framing around LZ4 blocks of ``chunk`` plain bytes."""
    parts = [LZ4_MAGIC, (maximum or chunk).to_bytes(4, "big")]
    for i in range(0, len(data), chunk):
        block: bytes = lz4.block.compress(data[i : i + chunk], store_size=False)
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def compress(kind: Compression, data: bytes) -> bytes:
    match kind:
        case Compression.GZIP:
            return gzip.compress(data, mtime=0)
        case Compression.BZIP2:
            return bz2.compress(data)
        case Compression.XZ:
            return lzma.compress(data)
        case Compression.ZSTD:
            return zstandard.ZstdCompressor(write_checksum=True).compress(data)
        case Compression.LZ4:
            return lz4_body(data)


def decompress(kind: Compression, body: bytes, step: int = 16384, read: int = 65536) -> bytes:
    """All of the body through a :class:`Decompressor`: ``step`` bytes fed, ``read`` bytes read at a time."""
    decompressor = Decompressor(kind)
    parts = []
    position = 0
    while not decompressor.eof:
        if decompressor.needs_input:
            if position < len(body):
                decompressor.feed(body[position : position + step])
                position += step
            else:
                decompressor.finish()
        part = decompressor.read(read)
        assert len(part) <= read
        assert part or decompressor.needs_input or decompressor.eof
        parts.append(part)
    assert decompressor.read(read) == b""
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Odd:
    """A body that is not just compressed ``PLAIN``.

    ``error``: None where Dovecot reads ``PLAIN`` from it, else (offset, reason) of our error; Dovecot fails
    too.
    """

    kind: Compression
    body: bytes
    error: tuple[int, str] | None = None


def _flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def odd_bodies() -> dict[str, Odd]:
    """By what is odd about them.  Each was read by Dovecot, see ``test_with_dovecot.py``."""
    half = len(PLAIN) // 2
    first, second = PLAIN[:half], PLAIN[half:]
    gz, bz, xz, zs, l4 = (
        Compression.GZIP,
        Compression.BZIP2,
        Compression.XZ,
        Compression.ZSTD,
        Compression.LZ4,
    )
    whole = {kind: compress(kind, PLAIN) for kind in Compression}
    parts = {kind: (compress(kind, first), compress(kind, second)) for kind in Compression}
    size = {kind: len(body) for kind, body in whole.items()}
    fields = b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03\x05\0helloname\0comment\0\xff\xff"
    skippable = b"\x52\x2a\x4d\x18\x03\0\0\0abc"
    return {
        "gzip of two members": Odd(gz, b"".join(parts[gz])),
        "gzip header with all fields": Odd(gz, fields + whole[gz][10:]),
        "gzip with wrong isize": Odd(gz, _flip(whole[gz], -1)),
        "gzip with wrong crc": Odd(gz, _flip(whole[gz], -5), (size[gz] - 8, "CRC is")),
        "gzip without all of its trailer": Odd(gz, whole[gz][:-3], (size[gz] - 3, "gzip body is truncated")),
        "gzip and garbage": Odd(gz, whole[gz] + b"garbage garbage", (size[gz], "no gzip header: found 67")),
        "gzip and NULs": Odd(gz, whole[gz] + bytes(20), (size[gz], "no gzip header: found 00")),
        "bzip2 and garbage": Odd(bz, whole[bz] + b"garbage"),
        "xz of two streams": Odd(xz, b"".join(parts[xz])),
        "xz of two streams with padding": Odd(xz, bytes(8).join(parts[xz])),
        "xz and padding": Odd(xz, whole[xz] + bytes(4)),
        "xz and bad padding": Odd(xz, whole[xz] + bytes(3), (size[xz] + 3, "xz body is truncated")),
        "xz, bad padding, xz": Odd(
            xz, bytes(3).join(parts[xz]), (len(parts[xz][0]) + 3, "3 bytes of padding")
        ),
        "xz and garbage": Odd(xz, whole[xz] + b"garbage!", (size[xz] + 8, "xz body is truncated")),
        "zstd of two frames": Odd(zs, b"".join(parts[zs])),
        "zstd with a skippable frame": Odd(zs, skippable.join(parts[zs])),
        "zstd without checksum": Odd(zs, zstandard.compress(PLAIN)),
        "zstd with wrong checksum": Odd(zs, _flip(whole[zs], -1), (7, "doesn't match checksum")),
        "zstd and garbage": Odd(zs, whole[zs] + b"garbage", (size[zs], "no zstd frame: found 67 61 72 62")),
        "zstd cut": Odd(zs, whole[zs][:-3], (size[zs] - 3, "zstd body is truncated")),
        "lz4 in small chunks": Odd(l4, lz4_body(PLAIN, 10)),
        "lz4 with the largest maximum": Odd(l4, lz4_body(PLAIN, 65536, 1 << 20)),
        "lz4 above the largest maximum": Odd(
            l4, lz4_body(PLAIN, 65536, (1 << 20) + 1), (15, "maximum chunk size is 1048577")
        ),
        "lz4 chunk above its maximum": Odd(l4, lz4_body(PLAIN, len(PLAIN), len(PLAIN) - 1), (19, "lz4: ")),
        "lz4 with a chunk of size 0": Odd(l4, whole[l4] + bytes(4), (size[l4], "chunk size is 0")),
        "lz4 cut": Odd(l4, whole[l4][:-2], (size[l4] - 2, "lz4 body is truncated")),
    }
