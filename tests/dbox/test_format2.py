"""The file header line and the message header: every field, every kind of damage with its offset."""

from __future__ import annotations

import pytest

from dboxfs.dbox import (
    MAX_FILE_HEADER,
    FileHeader,
    MessageHeader,
    NeedMore,
    encode_file_header,
    encode_message_header,
    parse_file_header,
    parse_message_header,
)
from dboxfs.dbox.format2 import MAX_MESSAGE_HEADER, MAX_SIZE
from dboxfs.errors import FormatError
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1

GOOD = SDBOX_U1[16:46]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_headers_of_a_file_that_dovecot_wrote(kind: type[bytes | bytearray | memoryview]) -> None:
    assert parse_file_header(kind(SDBOX_U1)) == FileHeader(2, 30, 1795206765, 16)
    assert parse_message_header(kind(SDBOX_U1)[16:]) == MessageHeader("N", 75)
    assert parse_file_header(kind(MDBOX_M1)) == FileHeader(2, 30, 1795206765, 16)
    assert parse_message_header(kind(MDBOX_M1)[181:]) == MessageHeader("N", 75)


def test_headers_are_written_as_dovecot_writes_them() -> None:
    assert encode_file_header(1795206765) == SDBOX_U1[:16]
    assert encode_message_header(75) == SDBOX_U1[16:46]
    assert encode_message_header(0xABCDEF) == b"\x01\x02N          0000000000ABCDEF\n"


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"2 M1e\n", FileHeader(2, 30, None, 6)),
        (b"1 M1e C5\n", FileHeader(1, 30, 5, 9)),
        (b"2 C5 M1E\n", FileHeader(2, 30, 5, 9)),
        (b"2 M20 C5 A17 Zjunk \xff\n", FileHeader(2, 32, 5, 21)),
        (b"1 A00000000000000ff M1e C5\n", FileHeader(1, 30, 5, 27)),
        (b"2 M1e C5\r\n", FileHeader(2, 30, 5, 10)),
        (b"2 M1f M1e  C4 C5\n", FileHeader(2, 30, 5, 17)),
        (b"2 M1000 C7fffffffffffffff\n", FileHeader(2, 4096, 2**63 - 1, 26)),
    ],
)
def test_file_header_tokens(line: bytes, header: FileHeader) -> None:
    assert parse_file_header(line) == header
    assert parse_file_header(line + b"\x01\x02N\n\n") == header


@pytest.mark.parametrize(
    ("line", "offset", "reason"),
    [
        (b"x M1e\n", 0, "not a dbox file: it starts with b'x'"),
        (b"\0", 0, "not a dbox file"),
        (b"\n", 0, "not a dbox file"),
        (b"21 M1e\n", 1, "after the version digit"),
        (b"2\n", 1, "after the version digit"),
        (b"0 M1e\n", 0, "dbox version 0 is not supported"),
        (b"9 M1e\n", 0, "dbox version 9 is not supported"),
        (b"2 C5\n", 4, "no message header size"),
        (b"2 \n", 2, "no message header size"),
        (b"2 M\n", 3, "not a hexadecimal number"),
        (b"2 M1g\n", 3, "not a hexadecimal number"),
        (b"2 M0x1e\n", 3, "not a hexadecimal number"),
        (b"2 M-1\n", 3, "not a hexadecimal number"),
        (b"2 M0\n", 3, "message header size is 0"),
        (b"2 M1d\n", 3, "message header size is 29"),
        (b"2 M1001\n", 3, "message header size is 4097"),
        (b"2 M1e C1_0\n", 7, "creation time is not a hexadecimal number"),
        (b"2 M1e C\n", 7, "creation time is not a hexadecimal number"),
        (b"2 M1e C8000000000000000\n", 7, "creation time is too large"),
        (b"2 M1e" + b" " * MAX_FILE_HEADER, 0, f"longer than {MAX_FILE_HEADER} bytes"),
        (b"2 M1e" + b" " * (MAX_FILE_HEADER - 5) + b"\n", 0, "longer than"),
    ],
)
def test_damaged_file_header(line: bytes, offset: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        parse_file_header(line)
    assert caught.value.offset == offset
    with pytest.raises(FormatError) as caught:
        parse_file_header(line, base=1000)
    assert caught.value.offset == 1000 + offset


def test_longest_file_header() -> None:
    line = b"2 M1e" + b" " * (MAX_FILE_HEADER - 6) + b"\n"
    assert parse_file_header(line) == FileHeader(2, 30, None, MAX_FILE_HEADER)


@pytest.mark.parametrize("size", range(16))
def test_file_header_cut_short_needs_more(size: int) -> None:
    assert parse_file_header(SDBOX_U1[:size]) == NeedMore(size + 1)


@pytest.mark.parametrize("size", range(30))
def test_message_header_cut_short_needs_all_of_it(size: int) -> None:
    assert parse_message_header(GOOD[:size]) == NeedMore(30)
    assert parse_message_header(GOOD[:size], 40) == NeedMore(40)


def test_longer_message_header_has_its_extra_bytes_before_the_last_lf() -> None:
    assert parse_message_header(GOOD[:29] + b"12345\n", 35) == MessageHeader("N", 75)
    assert parse_message_header(GOOD[:29] + b"\n1234\nbody", 35) == MessageHeader("N", 75)
    long = GOOD[:29] + b"x" * (MAX_MESSAGE_HEADER - 30) + b"\n"
    assert parse_message_header(long, MAX_MESSAGE_HEADER) == MessageHeader("N", 75)


def test_blank_area_of_the_message_header_is_not_looked_at() -> None:
    assert parse_message_header(b"\x01\x02N 00000011 0000000000000005\n") == MessageHeader("N", 5)


def test_sizes_up_to_the_largest_file_offset() -> None:
    assert parse_message_header(GOOD[:13] + b"7fffFFFFffffFFFF\n") == MessageHeader("N", MAX_SIZE)
    assert parse_message_header(encode_message_header(MAX_SIZE)) == MessageHeader("N", MAX_SIZE)
    assert parse_message_header(encode_message_header(0)) == MessageHeader("N", 0)


@pytest.mark.parametrize(
    ("head", "offset", "reason"),
    [
        (bytes(30), 0, "not written yet"),
        (b"\0", 0, "not written yet"),
        (b"\x01\x03N", 0, "found 01 03, expected 01 02"),
        (b"F", 0, "found 46, expected 01 02"),
        (b"\x01\x02E" + GOOD[3:], 2, "message type is b'E'"),
        (GOOD[:13] + b"000000000000004G\n", 28, "not 16 hexadecimal digits"),
        (GOOD[:13] + b" 00000000000004B\n", 13, "not 16 hexadecimal digits"),
        (GOOD[:13] + b"0x0000000000004B\n", 14, "not 16 hexadecimal digits"),
        (GOOD[:13] + b"00_0000000000040\n", 15, "not 16 hexadecimal digits"),
        (GOOD[:13] + b"8000000000000000\n", 13, "too large"),
        (GOOD[:13] + b"F", 13, "too large"),
        (GOOD[:29] + b"x", 29, "ends with b'x', expected LF"),
    ],
)
def test_damaged_message_header(head: bytes, offset: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        parse_message_header(head)
    assert caught.value.offset == offset
    with pytest.raises(FormatError) as caught:
        parse_message_header(head, base=181)
    assert caught.value.offset == 181 + offset


def test_longer_message_header_without_lf_at_its_end() -> None:
    with pytest.raises(FormatError, match="expected LF") as caught:
        parse_message_header(GOOD + b"xxxxx", 35, base=16)
    assert caught.value.offset == 16 + 34


@pytest.mark.parametrize("value", [-1, 2**63])
def test_values_that_cannot_be_written(value: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        encode_file_header(value)
    with pytest.raises(ValueError, match="out of range"):
        encode_message_header(value)
