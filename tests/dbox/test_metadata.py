"""The metadata block: every key, every way to end, every kind of damage with its offset."""

from __future__ import annotations

import hashlib

import pytest

from dboxfs.dbox import METADATA_MAGIC, Metadata, NeedMore, encode_metadata, parse_metadata
from dboxfs.dbox.metadata import MAX_LINES
from dboxfs.errors import FormatError
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1

GUID = b"ded684266dae006b9874000083ecc375"


def parsed(data: bytes, base: int = 0) -> Metadata:
    result = parse_metadata(data, base=base)
    assert isinstance(result, Metadata)
    return result


def only(line: bytes, base: int = 0) -> Metadata:
    return parsed(METADATA_MAGIC + line + b"\n\n", base)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_metadata_that_dovecot_wrote(kind: type[bytes | bytearray | memoryview]) -> None:
    result = parse_metadata(kind(SDBOX_U1)[121:], base=121)
    assert result == Metadata(((b"R", b"6b00ae6d"), (b"V", b"51"), (b"G", GUID)), 53, 121)
    first = parse_metadata(kind(MDBOX_M1)[121:])
    assert isinstance(first, Metadata)
    assert first.size == 60
    assert first.orig_mailbox == b"INBOX"
    assert first.guid128 == bytes.fromhex("575fbe276dae006b9a74000083ecc375")


def test_metadata_is_written_as_dovecot_writes_it() -> None:
    assert encode_metadata([(b"R", b"6b00ae6d"), (b"V", b"51"), (b"G", GUID)]) == SDBOX_U1[121:]


def test_every_key() -> None:
    metadata = only(
        b"Z4b\nR6b00ae6d\nV51\nPuidl 1\nO12\nG" + GUID + b"\nBSent &AOQ-\nX10 4 - 12/34/ab-cd\nEx\nQunknown"
    )
    assert metadata.physical_size == 75
    assert metadata.received == 1795206765
    assert metadata.virtual_size == 81
    assert metadata.pop3_uidl == b"uidl 1"
    assert metadata.pop3_order == 12
    assert metadata.guid == GUID
    assert metadata.guid128 == bytes.fromhex(GUID.decode())
    assert metadata.orig_mailbox == b"Sent &AOQ-"
    assert metadata.ext_refs == b"10 4 - 12/34/ab-cd"
    assert metadata.get(b"E") == b"x"
    assert metadata.get(b"Q") == b"unknown"
    assert metadata.get(b"q") is None


def test_missing_keys() -> None:
    metadata = parsed(METADATA_MAGIC + b"\n")
    assert metadata == Metadata((), 5, 0)
    assert metadata.received == 0
    assert metadata.virtual_size is None
    assert metadata.physical_size is None
    assert metadata.guid is None
    assert metadata.guid128 is None
    assert metadata.pop3_uidl is None
    assert metadata.pop3_order is None
    assert metadata.orig_mailbox is None
    assert metadata.ext_refs is None
    assert metadata.value_offset(b"G") is None


@pytest.mark.parametrize("text", [b"a uidl", GUID[:-1], GUID + b"0", GUID[:-1] + b"g", b" " + GUID[1:]])
def test_guid_that_is_not_32_hex_digits_is_the_end_of_its_sha1(text: bytes) -> None:
    metadata = only(b"G" + text)
    assert metadata.guid == text
    assert metadata.guid128 == hashlib.sha1(text).digest()[4:]


def test_known_sha1_guid() -> None:
    # SHA1("abc") = a9993e36 4706816a ba3e2571 7850c26c 9cd0d89d
    assert only(b"Gabc").guid128 == bytes.fromhex("4706816aba3e25717850c26c9cd0d89d")


def test_guid_in_upper_case_and_empty_guid() -> None:
    assert only(b"G" + GUID.upper()).guid128 == bytes.fromhex(GUID.decode())
    assert only(b"G").guid is None
    assert only(b"G").guid128 is None


def test_first_of_two_lines_counts_and_both_are_kept() -> None:
    metadata = only(b"R1\nR2")
    assert metadata.received == 1
    assert metadata.items == ((b"R", b"1"), (b"R", b"2"))


def test_numbers_in_both_cases_and_with_leading_zeros() -> None:
    assert only(b"V00fF").virtual_size == 255
    assert only(b"V7fffffffffffffff").virtual_size == 2**63 - 1
    assert only(b"O0000000000004294967295").pop3_order == 2**32 - 1


@pytest.mark.parametrize("value", [b"", b"g", b"0x1", b"-1", b"1_0", b" 1", b"f" * 5000])
def test_malformed_hex_is_damage_at_its_value_only(value: bytes) -> None:
    metadata = only(b"Bbox\nR" + value + b"\nV" + value + b"\nZ" + value + b"\nG" + GUID, base=100)
    expected = 100 + 4 + 5 + 1
    for name in ("received", "virtual_size", "physical_size"):
        with pytest.raises(FormatError, match="not a hexadecimal number") as caught:
            getattr(metadata, name)
        assert caught.value.offset == expected
        expected += len(value) + 2
    assert metadata.orig_mailbox == b"box"
    assert metadata.guid == GUID


def test_a_size_with_the_sign_bit_is_damage() -> None:
    with pytest.raises(FormatError, match="V is not a hexadecimal number"):
        _ = only(b"V8000000000000000").virtual_size


def test_a_received_date_before_1970_is_negative() -> None:
    """Dovecot 2.3.19 writes INTERNALDATE "01-Jan-1960 00:00:00 +0000" like this."""
    assert only(b"Rffffffffed300880").received == -315619200


@pytest.mark.parametrize("value", [b"", b"a", b"-1", b"+1", b"1_0", b"4294967296", b"9" * 5000])
def test_malformed_pop3_order(value: bytes) -> None:
    with pytest.raises(FormatError, match="not a 32 bit decimal") as caught:
        _ = only(b"R1\nO" + value, base=100).pop3_order
    assert caught.value.offset == 100 + 4 + 3 + 1


def test_value_offset_is_where_the_value_is_in_the_file() -> None:
    metadata = parsed(MDBOX_M1[286:], base=286)
    for key, value in metadata.items:
        offset = metadata.value_offset(key)
        assert offset is not None
        assert MDBOX_M1[offset - 1 : offset + len(value)] == key + value


@pytest.mark.parametrize(
    ("block", "items"),
    [
        (b"R1\n \n", [(b"R", b"1")]),
        (b"R1\n      padding\n", [(b"R", b"1")]),
        (b" \n", []),
        (b"R1\n\r\n", [(b"R", b"1")]),
        (b"\r\n", []),
    ],
)
def test_other_ends_of_a_block(block: bytes, items: list[tuple[bytes, bytes]]) -> None:
    data = METADATA_MAGIC + block
    for rest in (b"", b"\n", b"\n\n", b" \n\r\n", b"R2\n\n", b"\x01\x02N"):
        assert parsed(data + rest) == Metadata(tuple(items), len(data))
    for size in range(len(data)):
        assert parse_metadata(data[:size]) == NeedMore(max(5, size + 1))


def test_cr_at_the_end_of_a_line_is_kept_but_does_not_count() -> None:
    metadata = only(b"R1\r\nBx\r\r\nZq\r", base=7)
    assert metadata.items == ((b"R", b"1\r"), (b"B", b"x\r\r"), (b"Z", b"q\r"))
    assert metadata.received == 1
    assert metadata.orig_mailbox == b"x\r"
    with pytest.raises(FormatError) as caught:
        _ = metadata.physical_size
    assert caught.value.offset == 7 + 4 + 4 + 5 + 1


def test_cut_short_needs_more() -> None:
    block = SDBOX_U1[121:]
    for kind in (bytes, bytearray, memoryview):
        for size in range(len(block)):
            assert parse_metadata(kind(block)[:size]) == NeedMore(max(5, size + 1))


def test_very_long_value() -> None:
    data = METADATA_MAGIC + b"X" + b"1 2 - a/b " * 100_000 + b"\n\n"
    result = parse_metadata(memoryview(data + b"behind"))
    assert isinstance(result, Metadata)
    assert result.size == len(data)
    assert result == parse_metadata(data)


@pytest.mark.parametrize("data", [b"x", b"\n\x01\x02\n", b"\n\x01\x03x", b"\x01\x02N", b"\0\0\0\0"])
def test_no_magic(data: bytes) -> None:
    for kind in (bytes, bytearray, memoryview):
        with pytest.raises(FormatError, match="no metadata: found") as caught:
            parse_metadata(kind(data), base=50)
        assert caught.value.offset == 50


@pytest.mark.parametrize(("block", "at"), [(b"\0\0\0", 4), (b"R1\n\0\0\0\0", 7), (b"R1\n\0\n\n", 7)])
def test_block_that_was_never_written(block: bytes, at: int) -> None:
    for kind in (bytes, memoryview):
        with pytest.raises(FormatError, match="NUL") as caught:
            parse_metadata(kind(METADATA_MAGIC + block), base=50)
        assert caught.value.offset == 50 + at


def test_nul_in_a_value_and_behind_the_block_is_no_damage() -> None:
    assert only(b"Bx\0y").orig_mailbox == b"x\0y"
    assert parsed(METADATA_MAGIC + b"R1\n\n\0\0").size == 8


def test_number_of_lines_is_bounded() -> None:
    assert len(only(b"\n".join([b"x"] * MAX_LINES)).items) == MAX_LINES
    with pytest.raises(FormatError, match="more than 4096 lines") as caught:
        only(b"\n".join([b"x"] * (MAX_LINES + 1)), base=5)
    assert caught.value.offset == 5


@pytest.mark.parametrize("limit", [1, 3, 4, 20, 52])
def test_block_longer_than_its_limit(limit: int) -> None:
    for kind in (bytes, bytearray, memoryview):
        with pytest.raises(FormatError, match="does not end") as caught:
            parse_metadata(kind(SDBOX_U1)[121:], base=121, limit=limit)
        assert caught.value.offset == 121 + limit
        short = kind(SDBOX_U1)[121 : 121 + limit - 1]
        assert isinstance(parse_metadata(short, limit=limit), NeedMore)


@pytest.mark.parametrize("limit", [53, 54, 10_000])
def test_block_within_its_limit(limit: int) -> None:
    assert parse_metadata(SDBOX_U1[121:] + b"x", limit=limit) == parse_metadata(SDBOX_U1[121:])


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"", b"x"), (b"AB", b"x"), (b"\n", b"x"), (b" ", b"x"), (b"\0", b""), (b"\r", b""), (b"B", b"a\nb")],
)
def test_lines_that_cannot_be_written(key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"bad metadata key|line feed"):
        encode_metadata([(b"R", b"1"), (key, value)])
