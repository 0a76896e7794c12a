"""Arbitrary bytes through the codec of format 3: a value, ``NeedMore`` or ``FormatError``, nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dboxfs.dbox import (
    ForwardParser,
    FoundRecord,
    NeedMore,
    Trailer,
    TrailerScan,
    describe,
    parse_file_header,
    parse_last_trailer,
    parse_trailer,
    scan_file,
    separator_of,
)
from dboxfs.errors import FormatError
from tests.dbox.golden3 import HEADER, file_of, page_example, separator, trailer

T = TypeVar("T")

unhurried = settings(deadline=5000)  # ms: a loaded machine is no failure, a hang is

GOLDEN = file_of([b"Subject: one\n\n", page_example(), b"", b"\x01\x03" + separator(3)])[0]
FRAGMENTS = st.one_of(
    st.sampled_from(
        [HEADER, b"\x01\x02", b"\x01\x03", b"\n\n", b"L0000007c\n\n", b"K" + b"0" * 32 + b"\n", b"C", b"gz\n"]
        + [separator(n) for n in range(3)]
        + [b"%016x\n" % n for n in (0, 14, 2**62, 2**63)]
        + [trailer(50, separator(0), b""), trailer(50, separator(0), b"Subject: one\n\n", b"R1\nCgz\n")]
    ),
    st.binary(max_size=20),
)
NEARLY = st.one_of(st.binary(max_size=300), st.lists(FRAGMENTS, max_size=12).map(b"".join))


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A golden file with bytes changed, cut out or put in."""
    data = bytearray(GOLDEN)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 3))
        data[at:end] = draw(st.one_of(FRAGMENTS, st.just(b"")))
    return bytes(data[: draw(st.integers(0, len(data)))])


def outcome(parse: Callable[[], T]) -> T | FormatError:
    try:
        return parse()
    except FormatError as caught:
        error = caught
    assert error.offset >= 0
    assert len(str(error).splitlines()) == 1
    return error


@unhurried
@given(st.one_of(NEARLY, damaged_files()), st.integers(0, 1 << 40))
def test_any_bytes_are_parsed_or_refused(data: bytes, base: int) -> None:
    outcome(lambda: parse_file_header(data))
    outcome(lambda: separator_of(data, base=base))
    found = outcome(lambda: parse_trailer(data, base=base))
    if isinstance(found, NeedMore):
        assert found.size > len(data)
    last = outcome(lambda: parse_last_trailer(data, end=len(data) + base))
    if isinstance(last, NeedMore):
        assert last.size > len(data)


@unhurried
@given(st.one_of(NEARLY, damaged_files()), st.integers(0, 400))
def test_a_longer_input_never_changes_what_a_shorter_one_gave(data: bytes, size: int) -> None:
    for parse in (
        lambda piece: parse_trailer(piece, base=1000),
        lambda piece: separator_of(piece, base=7),
        parse_file_header,
    ):
        short, whole = outcome(lambda: parse(data[:size])), outcome(lambda: parse(data))  # noqa: B023
        if isinstance(short, FormatError):
            assert isinstance(whole, FormatError)
        elif not isinstance(short, NeedMore):
            assert whole == short


@unhurried
@given(st.one_of(NEARLY, damaged_files()))
def test_scan_of_any_file_covers_it_and_finds_what_both_ways_find(data: bytes) -> None:
    regions = scan_file(data)
    assert not regions or regions[-1].end == len(data)
    for before, after in zip([None, *regions], regions, strict=False):
        assert before is None or before.end == after.offset
        assert after.offset < after.end
    for region in regions:
        if isinstance(region, FoundRecord):
            assert parse_last_trailer(data[: region.end], end=region.end) == region.trailer
            if region.damage is None:
                parser = ForwardParser(region.offset, to_end=True)
                body = parser.feed(data[region.offset : region.end]) + parser.finish()
                assert parser.record == region.trailer
                assert body == data[region.trailer.body_offset : region.trailer.offset]
    for line in describe(data):
        assert "\n" not in line


@unhurried
@given(st.one_of(NEARLY, damaged_files()), st.integers(0, 100), st.booleans(), st.integers(1, 50))
def test_forward_parser_says_the_same_however_its_input_is_cut(
    data: bytes, offset: int, to_end: bool, step: int
) -> None:
    results: list[tuple[Trailer | None, bytes]] = []
    for size in (step, max(len(data), 1)):
        parser, body = ForwardParser(offset, to_end=to_end), b""
        try:
            at = offset
            while parser.record is None and at < len(data):
                body += parser.feed(data[at : at + size])
                at += size
            if parser.record is None:
                body += parser.finish()
        except FormatError:
            results.append((None, b""))
        else:
            results.append((parser.record, body))
            assert isinstance(parser.record, Trailer)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "fragment",
    [
        b"\x01\x02", b"\x01\x03", b"\n\n", b"\x01\x03" + separator(0),
        b"\x01\x03" + separator(0) + b"%016x\n" % 0,
        b"\x01\x02" + separator(0) + b"\n", trailer(50, separator(0), b""), b"L0000007c\n\n",
    ],
)  # fmt: skip
def test_time_and_memory_are_bounded_by_the_input(fragment: bytes) -> None:
    data = HEADER + b"\x01\x02" + separator(0) + b"\n" + fragment * (200_000 // len(fragment))
    tracemalloc.start()
    try:
        outcome(lambda: ForwardParser(50).feed(data[50:]))
        scan = TrailerScan()
        scan.feed(data)
        scan_file(data)
        assert tracemalloc.get_traced_memory()[1] < 16 * len(data)
    finally:
        tracemalloc.stop()
