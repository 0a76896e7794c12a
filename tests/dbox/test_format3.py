"""Format 3 is what FORMAT3.md says, to the byte: header lines, trailers, what is refused and where."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.dbox import (
    Compression,
    FileHeader,
    NeedMore,
    RecordWriter,
    Trailer,
    begins_trailer,
    check_message_header,
    encode_file_header3,
    encode_trailer,
    move_trailer,
    parse_file_header,
    parse_last_trailer,
    parse_trailer,
    separator_of,
    trailer_size,
)
from dboxfs.errors import FormatError
from tests.dbox.golden3 import FIRST, HEADER, KEY, SECOND, page_example, record, separator, trailer

BODY = b"Subject: hi\n\nhello\n"
LINES = b"R6b00a985\nV16\nG00112233445566778899aabbccddeeff\n"
ITEMS = ((b"R", b"6b00a985"), (b"V", b"16"), (b"G", b"00112233445566778899aabbccddeeff"))


def parsed(data: bytes, base: int) -> Trailer:
    found = parse_trailer(data, base=base)
    assert isinstance(found, Trailer)
    return found


def test_the_example_of_the_page_is_what_its_grammar_says() -> None:
    first = record(50, FIRST, BODY, LINES)
    assert page_example() == HEADER + first + record(50 + len(first), SECOND, b"\x1f\x8b")


def test_example_of_the_page_is_read_as_the_page_explains_it() -> None:
    data = page_example()
    assert parse_file_header(data) == FileHeader(3, 19, 0x6B00A985, 50, KEY)
    first = parsed(data[0x58:], 0x58)
    assert (first.record_offset, first.body_offset, first.offset, first.end) == (0x32, 0x45, 0x58, 0x104)
    assert (first.body_size, first.size, first.record_size) == (0x13, 0xAC, 0xD2)
    assert (first.separator, first.key, first.crc) == (FIRST, KEY, 0x63DF2A6D)
    assert first.metadata.items == ITEMS
    assert (first.metadata.received, first.metadata.virtual_size) == (0x6B00A985, 22)
    second = parse_last_trailer(data, end=len(data))
    assert isinstance(second, Trailer)
    assert (second.record_offset, second.body_offset, second.offset) == (0x104, 0x117, 0x119)
    assert second.compression is None, "only a C line makes a body compressed"
    check_message_header(data[0x104:], second)
    assert separator_of(data[0x104:]) == SECOND


def test_writer_makes_the_example_of_the_page() -> None:
    data = encode_file_header3(0x6B00A985, KEY)
    for separated, pieces, items in (
        (FIRST, [BODY[:5], b"", BODY[5:]], ITEMS),
        (SECOND, [b"\x1f", b"\x8b"], ()),
    ):
        writer = RecordWriter(KEY, len(data), separated)
        data += writer.header
        for piece in pieces:
            writer.feed(piece)
            data += piece
        data += writer.trailer(items)
    assert data == page_example()


@pytest.mark.parametrize("name", [kind.value for kind in Compression])
def test_compression_has_a_line_of_its_own(name: str) -> None:
    data = trailer(50, FIRST, b"x" * 9, b"R1\nC" + name.encode() + b"\n")
    found = parsed(data, 50 + 19 + 9)
    assert found.compression is Compression(name)
    assert found.metadata.items == ((b"R", b"1"),)
    made = encode_trailer(
        [(b"R", b"1")], separator=FIRST, body_size=9, crc=zlib.crc32(b"x" * 9), key=KEY, offset=50,
        compression=Compression(name),
    )  # fmt: skip
    assert made == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (trailer(50, FIRST, BODY, b"Cxyz\n"), "unknown compression"),
        (trailer(50, FIRST, BODY, b"Cgz\nR1\n"), "stands among the metadata"),
        (trailer(50, FIRST, BODY, b"K1\nR1\n"), "stands among the metadata"),
        (trailer(50, FIRST, BODY, b"R1\n" * 4097), "more than 4096 lines"),
        (trailer(51, FIRST, BODY, LINES), "tag"),
        (trailer(50, FIRST, BODY, LINES).replace(b"\nR6", b"\nR7"), "tag"),
        (trailer(50, FIRST, BODY, LINES).replace(b"L000000ac", b"L000000ad"), "L line"),
        (trailer(50, FIRST, BODY, LINES).replace(b"K1011", b"K101A"), "does not end with its D, K, H and L"),
        (trailer(50, FIRST, BODY, size=1 << 40), "no room"),
        (b"\x01\x03" + FIRST + b"8" + b"0" * 15 + b"\n", "not 16 hexadecimal digits"),
        (b"\x01\x03" + FIRST + b"0" * 15 + b"A\n", "not 16 hexadecimal digits"),
        (b"\x01\x02" + FIRST, "no trailer"),
        (b"\x01\x03" + FIRST + b"%016x\n" % 19 + b"X" * (1 << 20), "longer than"),
    ],
)  # fmt: skip
def test_trailer_that_breaks_the_grammar_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        parse_trailer(data, base=0x45 + len(BODY))
    assert caught.value.offset >= 0x45 + len(BODY)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_trailer_cut_anywhere_needs_more(kind: type[bytes | bytearray | memoryview]) -> None:
    data = trailer(50, FIRST, BODY, LINES)
    for size in range(len(data)):
        found = parse_trailer(kind(data[:size]), base=0x58)
        assert isinstance(found, NeedMore)
        assert size < found.size <= len(data)
    assert isinstance(parse_trailer(kind(data + b"more"), base=0x58), Trailer)


@pytest.mark.parametrize("size", range(11, 0xAC, 7))
def test_tail_that_is_too_short_says_how_much_is_needed(size: int) -> None:
    data = page_example()[:0x104]
    assert parse_last_trailer(data[-size:], end=0x104) == NeedMore(0xAC)
    assert isinstance(parse_last_trailer(memoryview(data)[-0xAC:], end=0x104), Trailer)


def test_long_trailer_is_found_from_its_end() -> None:
    lines = b"X" + b"y" * 100_000 + b"\nB/INBOX\n"
    data = HEADER + record(50, FIRST, BODY, lines)
    found = parse_last_trailer(data[-512:], end=len(data))
    assert isinstance(found, NeedMore)
    found = parse_last_trailer(data[-found.size :], end=len(data))
    assert isinstance(found, Trailer)
    assert (found.record_offset, found.metadata.orig_mailbox) == (50, b"/INBOX")
    assert found.metadata.value_offset(b"X") == found.offset + 35 + 1


@pytest.mark.parametrize("end", [0, 5, 11, 0x103, 0x105])
def test_no_trailer_ends_elsewhere(end: int) -> None:
    with pytest.raises(FormatError):
        parse_last_trailer(page_example()[:end][-512:], end=end)


@pytest.mark.parametrize(
    "line",
    [
        b"3 M13 C6b00a985\n",
        b"3 M1e C6b00a985 K" + b"0" * 32 + b"\n",
        b"3 M13 C6B00A985 K" + b"0" * 32 + b"\n",
        b"3 M13 C6b00a985 K" + b"0" * 31 + b"\n",
        b"3 M13 K" + b"0" * 32 + b"\n",
        HEADER.replace(b"\n", b"\r\n"),
    ],
)
def test_header_line_has_one_spelling(line: bytes) -> None:
    for size in range(len(line) - 1):
        assert isinstance(parse_file_header(line[:size]), NeedMore)
    with pytest.raises(FormatError, match="damaged file header line of version 3"):
        parse_file_header(line)


@pytest.mark.parametrize(
    ("head", "offset"),
    [(b"\x01\x03", 7), (b"x", 7), (b"\x01\x02" + FIRST + b"x", 25), (b"\x01\x02" * 10, 25)],
)
def test_damaged_message_header_is_placed_in_the_file(head: bytes, offset: int) -> None:
    with pytest.raises(FormatError) as caught:
        separator_of(head, base=7)
    assert caught.value.offset == offset


def test_message_header_of_another_record_is_refused() -> None:
    data = page_example()
    with pytest.raises(FormatError, match="does not fit its trailer"):
        check_message_header(data[0x104:], parsed(data[0x58:], 0x58))


@pytest.mark.parametrize("key", [b"", b"RR", b"\n", b"\0", b" ", b"C", b"D", b"K", b"H", b"L"])
def test_metadata_that_would_not_be_read_back_is_not_written(key: bytes) -> None:
    with pytest.raises(ValueError, match="bad metadata key"):
        encode_trailer([(key, b"1")], separator=FIRST, body_size=1, crc=0, key=KEY, offset=0)


def test_values_out_of_range_are_not_written() -> None:
    for items in ([(b"R", b"1\n2")], [(b"R", b"1")] * 4096, [(b"X", b"y" * (1 << 20))], [(b"\r", b"")]):
        with pytest.raises(ValueError, match=r"range|bytes|line|key"):
            encode_trailer(items, separator=FIRST, body_size=1, crc=0, key=KEY, offset=0)
    for change in (
        {"separator": b"x"},
        {"key": b"x"},
        {"body_size": -1},
        {"offset": 1 << 63},
        {"crc": 1 << 32},
    ):
        values = {"separator": FIRST, "body_size": 1, "crc": 0, "key": KEY, "offset": 0} | change
        with pytest.raises(ValueError, match=r"range|bytes|line|key"):
            encode_trailer([], **values)  # type: ignore[arg-type]
    for created, key in ((-1, KEY), (1 << 60, KEY), (1, b"short")):
        with pytest.raises(ValueError, match=r"range|bytes|line|key"):
            encode_file_header3(created, key)


@given(
    st.lists(st.tuples(st.sampled_from([b"R", b"V", b"G", b"B", b"X", b"P", b"O", b"a", b"\xff"]),
                       st.binary(max_size=40).map(lambda v: v.replace(b"\n", b"")))),
    st.binary(max_size=60),
    st.integers(0, 1 << 40),
)  # fmt: skip
def test_moved_trailer_is_as_long_and_holds_only_there(
    items: list[tuple[bytes, bytes]], body: bytes, offset: int
) -> None:
    lines = b"".join(key + value + b"\n" for key, value in items)
    found = parsed(trailer(50, FIRST, body, lines), 69 + len(body))
    assert found.metadata.items == tuple(items)
    moved = move_trailer(found, separator(1), offset)
    assert moved == trailer(offset, FIRST, body, lines, key=separator(1))
    assert len(moved) == found.size
    with pytest.raises(FormatError, match="tag"):
        parse_trailer(moved, base=offset + 20 + len(body))


def test_size_of_a_trailer_is_known_before_it_is_made() -> None:
    assert trailer_size(ITEMS) == 0xAC
    assert trailer_size(()) == 0x7C


def test_beginning_of_a_trailer_is_recognised_at_a_glance() -> None:
    data = page_example()
    assert begins_trailer(data[0x58:], FIRST, 0x13)
    assert not begins_trailer(data[0x58:], FIRST, 0x12)
    assert not begins_trailer(data[0x58:], SECOND, 0x13)
    assert not begins_trailer(data[0x58 : 0x58 + 34], FIRST, 0x13)
