"""A body read forward ends where it ends, however it is cut into pieces and whatever is in it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dboxfs.dbox import (
    ForwardParser,
    RecordWriter,
    Trailer,
    check_message_header,
    encode_file_header3,
    encode_message_header,
    encode_metadata,
    parse_last_trailer,
)
from dboxfs.errors import FormatError
from tests.dbox.golden3 import KEY, file_of, page_example, record, separator, trailer
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1

OTHER = page_example()
FORMAT_2 = encode_message_header(4) + b"body" + encode_metadata([(b"R", b"1"), (b"G", b"x")])
LOOK_ALIKES = (
    b"\x01\x02", b"\x01\x03", b"\x01\x03\n", b"\n\x01\x03\n", b"\x01", b"\n\n", b"L000000ac\n\n",
    OTHER[0x32:0x58], OTHER[0x58:0x104], OTHER[0x104:], OTHER, MDBOX_M1, SDBOX_U1, FORMAT_2,
    b"\x01\x03" + separator(1) + b"\n",
    b"\x01\x02" + separator(0) + b"\n", b"D00000000\nK" + b"0" * 32 + b"\n", trailer(50, separator(1), b"x"),
)  # fmt: skip
BODIES = st.lists(
    st.lists(st.one_of(st.sampled_from(LOOK_ALIKES), st.binary(max_size=50)), max_size=5).map(b"".join),
    min_size=1, max_size=5,
)  # fmt: skip


def pieces_of(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def forward(
    data: bytes, offset: int, sizes: Iterable[int] = (), *, to_end: bool = False
) -> tuple[bytes, Trailer, bytes]:
    """Body, trailer, and the bytes behind it."""
    parser, body, rest = ForwardParser(offset, to_end=to_end), [], []
    for piece in pieces_of(data[offset:], sizes):
        if parser.record is None:
            body.append(parser.feed(piece))
        else:
            rest.append(piece)
    body.append(parser.finish())
    assert parser.record is not None
    return b"".join(body), parser.record, parser.unused + b"".join(rest)


@given(BODIES, st.lists(st.integers(0, 200), max_size=30))
def test_every_message_of_a_file_is_read_exactly_both_ways(bodies: list[bytes], sizes: list[int]) -> None:
    data, offsets = file_of(bodies)
    for number, body in enumerate(bodies):
        start, end = offsets[number : number + 2]
        found, trailer, rest = forward(data, start, sizes)
        assert (found, rest) == (body, data[end:])
        assert (trailer.record_offset, trailer.end) == (start, end)
        backward = parse_last_trailer(data[max(0, end - 512) : end], end=end)
        assert backward == trailer
        check_message_header(data[start:], trailer)
        assert data[trailer.body_offset : trailer.offset] == body
        assert forward(data[:end], start, sizes, to_end=True)[:2] == (body, trailer)


@given(BODIES, st.lists(st.integers(0, 200), max_size=30))
def test_writer_makes_what_the_page_says_whatever_pieces_it_is_given(
    bodies: list[bytes], sizes: list[int]
) -> None:
    expected, offsets = file_of(bodies)
    data = encode_file_header3(0x6B00A985, KEY)
    for number, body in enumerate(bodies):
        assert len(data) == offsets[number]
        writer = RecordWriter(KEY, len(data), separator(number))
        data += writer.header
        for piece in pieces_of(body, sizes):
            writer.feed(piece)
            data += piece
        assert writer.size == len(body)
        data += writer.trailer([(b"R", b"%x" % (1000 + number)), (b"G", b"%032x" % number)])
    assert data == expected


@given(BODIES)
def test_single_file_is_read_byte_by_byte(bodies: list[bytes]) -> None:
    data, _ = file_of([b"".join(bodies)])
    found, trailer, _ = forward(data, 50, [1] * len(data), to_end=True)
    assert found == b"".join(bodies)
    assert trailer.end == len(data)


def test_body_that_is_a_copy_of_its_own_file() -> None:
    bodies = [b"first\n", b"second\n"]
    for _ in range(3):
        data, _ = file_of(bodies)
        bodies.append(data)
    data, offsets = file_of(bodies)
    for number, body in enumerate(bodies):
        assert forward(data, offsets[number], [97] * 50)[0] == body


@given(st.lists(st.integers(1, 99), max_size=20))
@example([])
def test_author_who_knows_the_separator_can_not_end_a_body_that_ends_with_its_file(sizes: list[int]) -> None:
    mine = separator(7)
    inner = b"inner"
    before = inner + trailer(50, mine, inner, b"R1\n")  # a trailer that holds, at its place
    before += b"\x01\x03" + mine + b"\x01\x03" + mine + b"%016x\n" % len(before)
    data = file_of([])[0] + record(50, mine, before, b"R2\n")
    body, found, _ = forward(data, 50, sizes, to_end=True)
    assert body == before
    assert found == parse_last_trailer(data, end=len(data))


def test_author_who_knows_the_separator_needs_size_length_and_tag_too() -> None:
    mine = separator(7)
    guesses = [
        trailer(50, mine, b"x" * 99, b"R1\n"),
        trailer(51, mine, b"", b"R1\n"),
        trailer(50, mine, b"", b"R1\n").replace(b"H", b"H0", 1),
        b"\x01\x03" + mine + b"%016x\n" % 0 + b"R1\n\n",
        b"\x01\x03" + mine,
    ]
    data = file_of([])[0] + record(50, mine, b"".join(guesses))
    assert forward(data, 50, [3] * 99)[0] == b"".join(guesses)


@pytest.mark.parametrize("to_end", [False, True])
def test_record_cut_anywhere_is_incomplete(to_end: bool) -> None:
    data, _ = file_of([b"Subject: hi\n\n" + OTHER])
    for size in range(50, len(data)):
        with pytest.raises(FormatError, match="incomplete"):
            forward(data[:size], 50, [64] * 9, to_end=to_end)


def test_bytes_behind_a_single_record_are_no_record() -> None:
    data, _ = file_of([b"Subject: hi\n"])
    with pytest.raises(FormatError, match="incomplete"):
        forward(data + b"x", 50, to_end=True)
    with pytest.raises(FormatError):
        parse_last_trailer(data + b"x", end=len(data) + 1)


def test_damage_behind_a_record_does_not_touch_it() -> None:
    data, offsets = file_of([b"one", b"two"])
    damaged = bytearray(data)
    damaged[offsets[1]] ^= 1
    assert forward(bytes(damaged), 50)[0] == b"one"


def test_memory_does_not_grow_with_the_body() -> None:
    parser, total = ForwardParser(50), 0
    parser.feed(b"\x01\x02" + separator(0) + b"\n")
    for _ in range(64):
        total += len(parser.feed(bytes(1 << 16)))
        assert len(parser._buffer) < 64
    assert total > (64 << 16) - 64
    parser.feed(b"\x01\x03" + separator(0) + b"%016x\n" % (64 << 16))
    for _ in range(64):
        parser.feed(b"x" * (1 << 16))
        assert len(parser._buffer) <= (1 << 20) + (1 << 16)
