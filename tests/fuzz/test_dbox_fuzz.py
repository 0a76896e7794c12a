"""Arbitrary bytes through the dbox codecs: a value, ``NeedMore`` or ``FormatError``, nothing else.

Round trips, prefixes (a longer input never changes what a shorter one gave) and chunkings as properties.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dboxfs.dbox import (
    METADATA_MAGIC,
    Compression,
    Decompressor,
    ExtRef,
    FileHeader,
    MessageHeader,
    Metadata,
    NeedMore,
    ScannedRecord,
    describe,
    detect,
    encode_base64_range,
    encode_file_header,
    encode_message_header,
    encode_metadata,
    encoded_size,
    find_record,
    next_record,
    parse_ext_refs,
    parse_file_header,
    parse_message_header,
    parse_metadata,
    plan,
    raw_range,
)
from dboxfs.errors import FormatError
from tests.dbox.bodies import compress, decompress
from tests.dbox.vectors import MDBOX_M1

T = TypeVar("T")

unhurried = settings(deadline=5000)  # ms: a loaded machine is no failure, a hang is

HEADER = FileHeader(2, 30, None, 16)

KEYS = st.sampled_from([b"G", b"R", b"V", b"Z", b"P", b"O", b"B", b"X", b"q", b"\xff", b"\r"])
VALUES = st.binary(max_size=40).map(lambda v: v.replace(b"\n", b""))
ITEMS = st.lists(st.tuples(KEYS, VALUES).filter(lambda item: item != (b"\r", b"")), max_size=8)
# bytes that the grammars use, so that inputs get far into the parsers
FRAGMENTS = st.one_of(
    st.sampled_from(
        [b"2 M1e C6b00ae6d\n", b"1 ", b"M1e", b" ", b"\n", b"\r\n", b"\0", b"\x01\x02N", METADATA_MAGIC]
        + [encode_message_header(n) for n in (0, 1, 40, 2**40)]
        + [b"G" + b"ab" * 16 + b"\n", b"R1\n", b"Vx\n", b"O99999999999\n", b"X1 2 B4 a/b\n", b"12 ", b"CB8"]
    ),
    st.binary(max_size=20),
)
NEARLY = st.one_of(st.binary(max_size=200), st.lists(FRAGMENTS, max_size=12).map(b"".join))


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A file that Dovecot wrote, with bytes changed, cut out or put in."""
    data = bytearray(MDBOX_M1)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 3))
        data[at:end] = draw(st.one_of(FRAGMENTS, st.just(b"")))
    return bytes(data[: draw(st.integers(0, len(data)))])


def outcome(parse: Callable[[], T]) -> T | tuple[int, str]:
    try:
        return parse()
    except FormatError as error:
        return error.offset, error.reason


def check_prefixes(data: bytes, parse: Callable[[bytes], object]) -> None:
    """What is known after fewer bytes stays so, and ``NeedMore`` asks for more than there is."""
    known: object = None
    for size in range(len(data) + 1):
        now = outcome(lambda: parse(data[:size]))  # noqa: B023
        if isinstance(now, NeedMore):
            assert known is None
            assert now.size > size
        elif known is None:
            known = now
        elif isinstance(known, tuple):
            assert isinstance(now, tuple)
            assert now[0] == known[0]
        else:
            assert now == known


@unhurried
@given(NEARLY)
def test_file_header_of_any_bytes(data: bytes) -> None:
    check_prefixes(data, parse_file_header)
    assert outcome(lambda: parse_file_header(memoryview(data))) == outcome(lambda: parse_file_header(data))


@unhurried
@given(NEARLY, st.sampled_from([30, 31, 60]))
@example(encode_message_header(0)[:13] + b"a\0", 30)
def test_message_header_of_any_bytes(data: bytes, size: int) -> None:
    check_prefixes(data, lambda d: parse_message_header(d, size))
    assert outcome(lambda: parse_message_header(bytearray(data), size)) == outcome(
        lambda: parse_message_header(memoryview(data), size)
    )


@unhurried
@given(st.one_of(NEARLY, NEARLY.map(lambda d: METADATA_MAGIC + d)), st.sampled_from([None, 3, 10, 100]))
def test_metadata_of_any_bytes(data: bytes, limit: int | None) -> None:
    check_prefixes(data, lambda d: parse_metadata(d, limit=limit))
    found = outcome(lambda: parse_metadata(data, limit=limit))
    assert outcome(lambda: parse_metadata(memoryview(data), limit=limit)) == found
    if isinstance(found, Metadata):
        check_values(found)
        assert found.size <= len(data)


def check_values(metadata: Metadata) -> None:
    for name in ("received", "virtual_size", "physical_size", "pop3_order"):
        value = outcome(lambda: getattr(metadata, name))  # noqa: B023
        assert value is None or isinstance(value, tuple) or 0 <= value < 2**63
    assert metadata.guid128 is None or len(metadata.guid128) == 16
    if metadata.ext_refs is not None:
        check_ext_refs(metadata.ext_refs, 100)


def check_ext_refs(value: bytes, body_size: int) -> None:
    refs = outcome(lambda: parse_ext_refs(value))
    if refs and isinstance(refs[0], ExtRef):
        segments = outcome(lambda: plan(refs, body_size))
        assert isinstance(segments, tuple)


@unhurried
@given(st.one_of(NEARLY, damaged_files()))
def test_records_of_any_bytes(data: bytes) -> None:
    check_prefixes(data[16:], lambda d: next_record(d, 0, HEADER))
    found = find_record(data, 0, HEADER)
    if found is not None:
        assert found.offset + found.size <= len(data)
        assert next_record(data, found.offset, HEADER) == found


@unhurried
@given(st.one_of(NEARLY, damaged_files()))
def test_describe_never_fails(data: bytes) -> None:
    lines = list(describe(data))
    assert lines[-1].startswith("end: ")
    assert all(line.isprintable() for line in lines)


@unhurried
@given(st.integers(0, 346), st.integers(0, 7))
def test_one_flipped_bit_costs_at_most_its_own_record(at: int, bit: int) -> None:
    data = bytearray(MDBOX_M1)
    if at < len(data):
        data[at] ^= 1 << bit
    for offset in (16, 181):
        if not offset <= at < offset + 165:
            assert next_record(data, offset, HEADER) == next_record(MDBOX_M1, offset, HEADER)


OFFSETS = st.integers(0, 2**63 - 1)


@unhurried
@given(OFFSETS)
def test_headers_round_trip(value: int) -> None:
    line = encode_file_header(value)
    assert parse_file_header(line + b"x") == FileHeader(2, 30, value, len(line))
    assert len(encode_message_header(value)) == 30
    assert parse_message_header(encode_message_header(value) + b"x") == MessageHeader("N", value)


@unhurried
@given(ITEMS, st.binary(max_size=20))
def test_metadata_round_trip(items: list[tuple[bytes, bytes]], rest: bytes) -> None:
    data = encode_metadata(items)
    found = parse_metadata(data + rest)
    assert found == Metadata(tuple(items), len(data))
    check_values(found)


@unhurried
@given(st.lists(st.tuples(st.binary(max_size=100), ITEMS), max_size=4))
@example([(MDBOX_M1, []), (b"\n\x01\x03\n\n", [])])
def test_file_of_any_bodies_round_trip(messages: list[tuple[bytes, list[tuple[bytes, bytes]]]]) -> None:
    data = encode_file_header(1)
    for body, items in messages:
        data += encode_message_header(len(body)) + body + encode_metadata(items)
    offset = len(encode_file_header(1))
    for body, items in messages:
        record = next_record(data, offset, HEADER)
        assert isinstance(record, ScannedRecord)
        assert data[record.body_offset : record.metadata_offset] == body
        assert record.metadata.items == tuple(items)
        offset += record.size
    assert offset == len(data)


REF_FIELDS = st.one_of(
    st.sampled_from([b"0", b"1", b"20", b"-", b"B4", b"CB76", b"C", b"a/b", b"..", b"", b"/", b"a\xff"]),
    st.binary(max_size=6),
)


@unhurried
@given(st.lists(REF_FIELDS, max_size=12).map(b" ".join), st.integers(0, 100))
def test_ext_refs_of_any_bytes(value: bytes, body_size: int) -> None:
    check_ext_refs(value, body_size)


@unhurried
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6), st.integers(0, 50))
def test_plan_is_the_whole_message_in_order(parts: list[tuple[int, int]], tail: int) -> None:
    refs = []
    end = body_size = 0
    for gap, size in parts:
        refs.append(ExtRef(end + gap, size, "-", "p", None, False))
        end += gap + size
        body_size += gap
    segments = plan(refs, body_size + tail)
    out = taken = 0
    for segment in segments:
        assert segment.out_start == out
        assert segment.size > 0
        out += segment.size
        if isinstance(segment.source, int):
            assert segment.source == taken
            taken += segment.size
    assert out == end + tail
    assert taken == body_size + tail


@unhurried
@given(st.binary(max_size=300), st.integers(1, 25).map(lambda n: n * 4), st.booleans(), st.data())
def test_base64_ranges_join_to_the_whole(
    raw: bytes, line_length: int, crlf: bool, data: st.DataObject
) -> None:
    size = encoded_size(len(raw), line_length, crlf)
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=5))})
    parts = []
    for a, b in itertools.pairwise(cuts):
        first, last = raw_range(a, b, line_length, crlf, len(raw))
        parts.append(encode_base64_range(raw[first:last], a, b, line_length, crlf))
        assert len(parts[-1]) == b - a
    assert b"".join(parts) == encode_base64_range(raw, 0, size, line_length, crlf)


@unhurried
@given(
    st.sampled_from(list(Compression)), st.binary(max_size=3000), st.integers(1, 500), st.integers(1, 5000)
)
def test_compressed_bodies_round_trip(kind: Compression, plain: bytes, step: int, read: int) -> None:
    body = compress(kind, plain)
    assert detect(body) is kind
    assert decompress(kind, body, step, read) == plain


@unhurried
@given(
    st.sampled_from(list(Compression)),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=5)), max_size=4),
    st.integers(1, 400),
)
def test_damaged_compressed_bodies(
    kind: Compression, plain: bytes, changes: list[tuple[int, bytes]], step: int
) -> None:
    body = bytearray(compress(kind, plain))
    for at, new in changes:
        body[at : at + len(new)] = new
    found = outcome(lambda: decompress(kind, bytes(body), step))
    if isinstance(found, tuple):
        assert 0 <= found[0] <= len(body)
    elif kind is not Compression.LZ4 and not changes:
        assert found == plain


@unhurried
@given(st.sampled_from(list(Compression)), st.binary(max_size=300))
def test_decompressor_of_any_bytes(kind: Compression, body: bytes) -> None:
    prefix = compress(kind, b"")[:10]
    for data in (body, prefix + body):
        decompressor = Decompressor(kind)
        decompressor.feed(data)
        outcome(lambda: drain(decompressor))  # noqa: B023


def drain(decompressor: Decompressor) -> None:
    """At most a bomb's worth of output: what these few bytes can claim need not be read to its end."""
    decompressor.finish()
    total = 0
    while not decompressor.eof and total < 1 << 22:
        part = decompressor.read(1 << 16)
        assert part or decompressor.eof
        total += len(part)


@pytest.mark.parametrize(
    "fragment",
    [
        b"\n\n",
        b"\x01\x02N",
        b"\0",
        b"X ",
        b"X\n",
        b"0 0 - a ",
        encode_message_header(0),
        encode_message_header(1) + b"x" + METADATA_MAGIC,
    ],
)
def test_time_and_memory_are_bounded_by_the_input(fragment: bytes) -> None:
    data = MDBOX_M1[:16] + fragment * (100_000 // len(fragment))
    tracemalloc.start()
    try:
        for start in (0, 16):
            outcome(lambda: parse_metadata(METADATA_MAGIC + data[start:] + b"\n\n"))  # noqa: B023
            outcome(lambda: parse_ext_refs(data[start:]))  # noqa: B023
            outcome(lambda: next_record(data, start, HEADER))  # noqa: B023
        for line in describe(data):
            assert len(line) < 1000
        assert tracemalloc.get_traced_memory()[1] < 16 * len(data)
    finally:
        tracemalloc.stop()
