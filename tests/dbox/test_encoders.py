"""Encoders: one method makes the same bytes however often, and what they make is read back.

That Dovecot reads it: ``tests/store/write/test_compress.py``.
"""

from __future__ import annotations

import pytest

from dboxfs.dbox import Compression, Decompressor, detect
from dboxfs.dbox.encoders import Method, parse_method

METHODS = ("zstd", "zstd:1", "zstd:19", "lz4", "gz", "gz:9", "bz2", "bz2:1")
TEXTS = (b"", b"x", b"Subject: x\n\n" + b"line\n" * 50_000, bytes(range(256)) * 700)


def plain(data: bytes) -> bytes:
    kind = detect(data)
    assert kind is not None
    decoder, out = Decompressor(kind), []
    decoder.feed(data)
    decoder.finish()
    while not decoder.eof:
        out.append(decoder.read(1 << 20))
    return b"".join(out)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_a_text_in_pieces_comes_back_whole_and_the_bytes_are_the_same_each_time(
    name: str, text: bytes
) -> None:
    method = parse_method(name)
    assert method is not None
    made = []
    for _ in range(2):
        encoder = method.encoder()
        pieces = [encoder.feed(text[at : at + 10_007]) for at in range(0, len(text), 10_007)]
        made.append(b"".join([*pieces, encoder.finish()]))
    assert made[0] == made[1]
    assert detect(made[0] + b" " * 4) is method.kind
    assert plain(made[0]) == text
    assert plain(method.compressed(text)) == text


def test_methods_are_understood_with_their_levels() -> None:
    assert parse_method("none") is None
    assert parse_method("zstd") == Method(Compression.ZSTD, 3)
    assert parse_method("gz") == Method(Compression.GZIP, 6)
    assert parse_method("bz2:5") == Method(Compression.BZIP2, 5)
    assert parse_method("lz4") == Method(Compression.LZ4, None)
    for wrong in ("", "xz", "zstd:", "zstd:0", "zstd:23", "gz:10", "lz4:1", "none:1", "gz:x", "gz:-1"):
        with pytest.raises(ValueError, match=r"method|levels"):
            parse_method(wrong)
