"""Compressed bodies: recognised by their first bytes, the same at every chunking, bounded, checked."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from dboxfs.dbox import PREFIX_SIZE, Compression, Decompressor, detect
from dboxfs.errors import FormatError
from tests.dbox.bodies import LZ4_MAGIC, PLAIN, Odd, compress, decompress, lz4_body, odd_bodies

KINDS = list(Compression)
MIB = 1 << 20


def mixed() -> bytes:
    """Incompressible, very compressible and ordinary parts, over several blocks of every format."""
    rnd = random.Random(7)
    return rnd.randbytes(200_000) + bytes(2_500_000) + b"".join(b"line %d\n" % i for i in range(20_000))


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"\x1f\x8b", Compression.GZIP),
        (b"\x1f\x8b\x08", Compression.GZIP),
        (b"BZh1", Compression.BZIP2),
        (b"BZh9AY", Compression.BZIP2),
        (b"\xfd7zXZ\0", Compression.XZ),
        (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
        (LZ4_MAGIC, Compression.LZ4),
        (LZ4_MAGIC + b"\0\1\0\0", Compression.LZ4),
        (b"", None),
        (b"\x1f", None),
        (b"BZh", None),
        (b"BZh0", None),
        (b"BZha", None),
        (b"\xfd7zXZ", None),
        (b"\x28\xb5\x2f", None),
        (LZ4_MAGIC[:-1], None),
        (b"From: x", None),
    ],
)
def test_first_bytes_tell_the_compression(first: bytes, kind: Compression | None) -> None:
    assert detect(first) is kind
    assert detect(memoryview(first)) is kind
    assert detect(bytearray(first)) is kind


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_suffices(kind: Compression) -> None:
    assert detect(compress(kind, PLAIN)[:PREFIX_SIZE]) is kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 20, 1000])
@pytest.mark.parametrize("read", [1, 7, 100_000])
def test_small_body_at_every_chunking(kind: Compression, step: int, read: int) -> None:
    for plain in (b"", b"x", PLAIN):
        assert decompress(kind, compress(kind, plain), step, read) == plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("step", "read"), [(100, 65536), (4096, 1000), (65536, 4096), (1 << 30, 65536), (1 << 30, 1 << 30)]
)
def test_large_body_at_many_chunkings(kind: Compression, step: int, read: int) -> None:
    plain = mixed()
    assert decompress(kind, compress(kind, plain), step, read) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_finish_may_come_before_the_output_is_read(kind: Compression) -> None:
    decompressor = Decompressor(kind)
    decompressor.feed(memoryview(compress(kind, PLAIN)))
    decompressor.finish()
    assert not decompressor.needs_input
    assert decompressor.read(0) == b""
    plain = b""
    while not decompressor.eof:
        plain += decompressor.read(50)
    assert plain == PLAIN
    decompressor.finish()
    with pytest.raises(ValueError, match="feed after finish"):
        decompressor.feed(b"x")


@pytest.mark.parametrize("kind", KINDS)
def test_body_cut_anywhere_is_an_error_at_its_end(kind: Compression) -> None:
    body = compress(kind, PLAIN)
    for size in range(len(body)):
        if kind is Compression.LZ4 and size == len(LZ4_MAGIC) + 4:
            continue  # no chunk at all is an empty body
        with pytest.raises(FormatError, match="truncated") as caught:
            decompress(kind, body[:size])
        assert caught.value.offset == size


def test_lz4_body_cut_between_chunks_is_a_shorter_body() -> None:
    body = lz4_body(PLAIN, 10)
    assert decompress(Compression.LZ4, body[: 19 + 4 + int.from_bytes(body[19:23], "big")]) == PLAIN[:10]
    assert decompress(Compression.LZ4, body[:19]) == b""


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.BZIP2, Compression.XZ, Compression.ZSTD])
def test_flipped_bit_is_an_error_or_changes_nothing(kind: Compression) -> None:
    body = compress(kind, PLAIN)
    errors = 0
    for at in range(len(body)):
        for bit in range(8):
            changed = bytearray(body)
            changed[at] ^= 1 << bit
            try:
                assert decompress(kind, bytes(changed)) == PLAIN
            except FormatError:
                errors += 1
    assert errors > len(body) * 4


def test_flipped_bit_in_lz4_is_an_error_or_other_bytes() -> None:
    body = compress(Compression.LZ4, PLAIN)
    errors = 0
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= 0x80
        try:
            assert len(decompress(Compression.LZ4, bytes(changed))) <= 65536 * 2
        except FormatError:
            errors += 1
    assert errors > len(LZ4_MAGIC)


@pytest.mark.parametrize("name", list(odd_bodies()))
def test_odd_bodies_are_read_as_dovecot_reads_them(name: str) -> None:
    odd = odd_bodies()[name]
    for step in (1, 100_000):
        if odd.error is None:
            assert decompress(odd.kind, odd.body, step) == PLAIN
        else:
            _expect_error(odd, step)


def _expect_error(odd: Odd, step: int) -> None:
    assert odd.error is not None
    with pytest.raises(FormatError, match=odd.error[1]) as caught:
        decompress(odd.kind, odd.body, step)
    assert caught.value.offset == odd.error[0]


def test_second_bzip2_stream_is_ignored_as_in_dovecot() -> None:
    body = compress(Compression.BZIP2, b"one") + compress(Compression.BZIP2, b"two")
    assert decompress(Compression.BZIP2, body) == b"one"
    assert decompress(Compression.BZIP2, body, 1) == b"one"


@pytest.mark.parametrize(
    ("kind", "body", "offset", "reason"),
    [
        (Compression.GZIP, b"", 0, "gzip body is truncated"),
        (Compression.GZIP, b"BZ", 0, "no gzip header: found 42"),
        (Compression.GZIP, b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 140_000, 0, "gzip header is longer"),
        (Compression.GZIP, b"\x1f\x8b\x08" + bytes(7) + b"\xff", 10, "gzip: "),
        (Compression.BZIP2, b"nothing", 0, "bzip2: "),
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\x00\x00\x07\0\0", 6, "bad block header 07 00 00"),
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\x00\x00\x01\0\xff", 6, "bad block header 01 00 ff"),
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\x08\x00\x01\0\0", 0, "zstd: "),
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\x00\xff\x01\0\0", 0, "zstd: "),
        (Compression.LZ4, LZ4_MAGIC[:-1] + b"x\0\1\0\0", 0, "no Dovecot-LZ4 header"),
        (Compression.LZ4, LZ4_MAGIC + b"\0\0\0\0", 15, "maximum chunk size is 0"),
        (Compression.LZ4, LZ4_MAGIC + b"\0\1\0\0\0\x10\0\1", 19, "chunk size is 1048577"),
        (Compression.LZ4, LZ4_MAGIC + b"\0\1\0\0\0\0\0\1\0", 19, "empty chunk"),
        (Compression.LZ4, lz4_body(b"x") + b"\0\0", 27, "lz4 body is truncated"),
    ],
)
def test_damaged_bodies(kind: Compression, body: bytes, offset: int, reason: str) -> None:
    for step in (1, 200_000):
        with pytest.raises(FormatError, match=reason) as caught:
            decompress(kind, body, step)
        assert caught.value.offset == offset


@pytest.mark.parametrize("kind", [Compression.BZIP2, Compression.XZ])
def test_damage_without_visible_blocks_is_placed_at_the_start_of_its_step(kind: Compression) -> None:
    body = bytearray(compress(kind, random.Random(3).randbytes(100_000)))
    body[50_000] ^= 1
    with pytest.raises(FormatError, match=f"{kind.name.lower()}: ") as caught:
        decompress(kind, bytes(body), 1 << 20)
    assert caught.value.offset % 16384 == 0
    assert 49152 <= caught.value.offset <= len(body)
    with pytest.raises(FormatError, match=f"{kind.name.lower()}: ") as caught:
        decompress(kind, b"nothing of the kind")
    assert caught.value.offset == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_is_truncated(kind: Compression) -> None:
    decompressor = Decompressor(kind)
    assert decompressor.needs_input
    assert not decompressor.eof
    assert decompressor.read(100) == b""
    decompressor.feed(b"")
    assert decompressor.needs_input
    with pytest.raises(FormatError, match="truncated") as caught:
        decompressor.finish()
    assert caught.value.offset == 0


@pytest.mark.parametrize("kind", KINDS)
def test_bomb_takes_no_memory(kind: Compression) -> None:
    body = compress(kind, bytes(64 * MIB))
    decompressor = Decompressor(kind)
    tracemalloc.start()
    try:
        decompressor.feed(body)
        decompressor.finish()
        total = 0
        while total < 16 * MIB:
            part = decompressor.read(1000)
            assert 0 < len(part) <= 1000
            total += len(part)
        window = 8 * MIB if kind is Compression.XZ else 0
        assert tracemalloc.get_traced_memory()[1] < window + 2 * MIB + 3 * len(body)
    finally:
        tracemalloc.stop()
