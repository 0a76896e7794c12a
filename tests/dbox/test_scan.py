"""Records one after the other: offsets as the map has them, damage in its place, finding the next one."""

from __future__ import annotations

import pytest

from dboxfs.dbox import (
    FileHeader,
    MessageHeader,
    NeedMore,
    ScannedRecord,
    encode_message_header,
    encode_metadata,
    find_record,
    next_record,
)
from dboxfs.errors import FormatError
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1

HEADER = FileHeader(2, 30, 1795206765, 16)


def record(data: bytes, offset: int, header: FileHeader = HEADER, base: int = 0) -> ScannedRecord:
    found = next_record(data, offset, header, base=base)
    assert isinstance(found, ScannedRecord)
    return found


def build(body: bytes) -> bytes:
    return encode_message_header(len(body)) + body + encode_metadata([(b"R", b"1"), (b"G", b"x")])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_records_of_a_file_that_dovecot_wrote(kind: type[bytes | bytearray | memoryview]) -> None:
    first = next_record(kind(MDBOX_M1), 16, HEADER)
    assert isinstance(first, ScannedRecord)
    # offset and size are those of the map: map_uid 1 at 16, 165 bytes, map_uid 2 at 181, 165 bytes
    assert (first.offset, first.size) == (16, 165)
    assert (first.body_offset, first.metadata_offset) == (46, 121)
    assert first.header == MessageHeader("N", 75)
    second = next_record(kind(MDBOX_M1), 181, HEADER)
    assert isinstance(second, ScannedRecord)
    assert (second.offset, second.size, second.body_offset, second.metadata_offset) == (181, 165, 211, 286)
    assert second.metadata.guid == b"9b6b19296dae006b9c74000083ecc375"
    assert next_record(kind(MDBOX_M1), 346, HEADER) == NeedMore(346 + 30)


def test_window_of_a_file() -> None:
    found = record(MDBOX_M1[100:], 81, base=100)
    assert found == record(MDBOX_M1, 181)
    assert found.metadata.base == 286
    assert next_record(MDBOX_M1[100:200], 81, HEADER, base=100) == NeedMore(81 + 30)
    assert next_record(MDBOX_M1[100:300], 81, HEADER, base=100) == NeedMore(201)


@pytest.mark.parametrize("size", range(16, 174))
def test_record_cut_anywhere_needs_more(size: int) -> None:
    found = next_record(SDBOX_U1[:size], 16, HEADER)
    assert isinstance(found, NeedMore)
    assert size < found.size <= 174


def test_longer_message_headers() -> None:
    head = encode_message_header(4)
    data = head[:-1] + b"more\n" + b"body" + encode_metadata([])
    assert record(data, 0, FileHeader(2, 34, None, 6)).size == 34 + 4 + 5


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (181, "no message header"),
        (183, "message type"),
        (200, "message size"),
        (210, "expected LF"),
        (286, "no metadata"),
    ],
)
def test_damage_is_placed_in_the_file(at: int, reason: str) -> None:
    data = bytearray(MDBOX_M1)
    data[at] = 0x7A
    assert record(bytes(data), 16).size == 165
    for base in (0, 100):
        with pytest.raises(FormatError, match=reason) as caught:
            next_record(data[base:], 181 - base, HEADER, base=base)
        assert caught.value.offset == at


def test_limit_of_the_metadata_block() -> None:
    assert isinstance(next_record(MDBOX_M1, 16, HEADER, limit=60), ScannedRecord)
    with pytest.raises(FormatError, match="does not end") as caught:
        next_record(MDBOX_M1, 16, HEADER, limit=59)
    assert caught.value.offset == 121 + 59


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"\n\x01\x03\n", b"\n\n", MDBOX_M1, MDBOX_M1[16:181], bytes(1000)]
)
def test_body_may_look_like_anything(body: bytes) -> None:
    data = build(body) + build(b"next")
    found = record(data, 0)
    assert data[found.body_offset : found.metadata_offset] == body
    assert record(data, found.size).header.body_size == 4


def test_next_record_behind_damage_is_found() -> None:
    data = MDBOX_M1[:16] + b"garbage \x01\x02N and more" + MDBOX_M1[181:]
    found = find_record(data, 16, HEADER)
    assert found is not None
    assert (found.offset, found.size) == (16 + 20, 165)
    assert find_record(data, found.offset + 1, HEADER) is None
    window = find_record(data[10:], 0, HEADER, base=10)
    assert window == found


def test_incomplete_record_is_not_found() -> None:
    assert find_record(MDBOX_M1[181:-1], 0, HEADER) is None
    assert find_record(b"", 0, HEADER) is None
    assert find_record(b"\x01\x02N", 0, HEADER) is None


def test_search_among_many_starts_of_records_ends() -> None:
    start = encode_message_header(1) + b"x\n\x01\x03\n"
    assert find_record(start * 3000, 0, HEADER) is None
