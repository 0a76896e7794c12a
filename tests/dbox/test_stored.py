"""What begins like a compressed or an encrypted body, and whether it is one."""

from __future__ import annotations

import gzip

import pytest

from dboxfs.dbox import Compression, Doubt, Metadata, is_doubtful, is_encrypted
from dboxfs.errors import FormatError
from tests.dbox.bodies import compress

TEXT = b"Subject: s\n\n" + b"one line after the other\r\n" * 20
CIPHER = b"CRYPTED\x03\x07\x02" + bytes(range(200))


def plain(kind: Compression | None, body: bytes, virtual: bytes | None, step: int = 7) -> bool:
    items = () if virtual is None else ((b"V", virtual),)
    doubt = Doubt(kind, len(body), Metadata(items, 0))
    for offset in range(0, len(body), step):
        doubt.feed(body[offset : offset + step])
    return doubt.plain()


def counted(text: bytes) -> bytes:
    return b"%x" % (len(text) + text.count(b"\n") - text.count(b"\r\n"))


def as_long_as_its_text(text: bytes) -> bytes:
    """A gzip file of exactly the size of its text: the file name in its header is long enough."""
    short = gzip.compress(text, mtime=0)
    name = b"x" * (len(text) - len(short) - 1)
    made = short[:3] + b"\x08" + short[4:10] + name + b"\0" + short[10:]
    assert len(made) == len(text)
    assert gzip.decompress(made) == text
    return made


@pytest.mark.parametrize("kind", list(Compression))
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_body_that_v_counts_as_it_is_is_stored_as_it_is(kind: Compression, step: int) -> None:
    whole = compress(kind, TEXT)
    for body in (whole, whole[:20], whole + b"\nmore\r\n"):
        assert plain(kind, body, counted(body), step)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_compressed_body_of_the_size_of_its_text_is_compressed(step: int) -> None:
    text = TEXT.replace(b"\r", b"")
    body = as_long_as_its_text(text)
    assert counted(text) != counted(body)
    assert not plain(Compression.GZIP, body, counted(text), step)
    assert not plain(Compression.GZIP, body, None, step)
    assert plain(Compression.GZIP, body, counted(body), step)


def test_where_the_metadata_confirm_nothing_the_magic_counts() -> None:
    assert not plain(Compression.GZIP, b"\x1f\x8b\x08 no text", b"1234")
    assert not plain(Compression.GZIP, b"\x1f\x8b\x08 no text", None)
    assert not plain(Compression.GZIP, b"\x1f\x8b\x08 no text", b"no number")
    assert not plain(None, CIPHER, counted(TEXT))
    assert not plain(None, CIPHER, None)
    assert plain(None, CIPHER, counted(CIPHER))


def test_a_small_body_that_claims_gigabytes_is_given_up_at_once() -> None:
    body = gzip.compress(bytes(50_000_000))
    doubt = Doubt(Compression.GZIP, len(body), Metadata(((b"V", b"2faf080"),), 0))
    doubt.feed(body)
    assert doubt._text.size < len(body) + 300_000
    assert not doubt.plain()


def test_only_a_body_without_z_and_without_attachments_is_looked_at() -> None:
    assert is_doubtful(Metadata(((b"V", b"1"),), 0))
    assert not is_doubtful(Metadata(((b"Z", b"1"),), 0))
    assert not is_doubtful(Metadata(((b"X", b""),), 0))
    with pytest.raises(FormatError):
        is_doubtful(Metadata(((b"Z", b"?"),), 0))


@pytest.mark.parametrize("size", range(12))
def test_the_magic_of_ciphertext_has_nine_bytes(size: int) -> None:
    assert is_encrypted(CIPHER[:size]) is (size >= 9)
    assert is_encrypted(memoryview(CIPHER)[:size]) is (size >= 9)
