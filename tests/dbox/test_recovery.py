"""A format 3 file without map or index: what is whole is found, what is not is named, nothing is invented."""

from __future__ import annotations

import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.dbox import FoundRecord, NoRecord, TrailerScan, scan_file
from tests.dbox.golden3 import HEADER, file_of, page_example, record, separator
from tests.dbox.test_forward import BODIES
from tests.dbox.vectors import MDBOX_M1

SEVERAL = [b"Subject: a\n\none\n", b"", page_example(), b"\x1f\x8b" + MDBOX_M1, b"last\n" * 20]


def whole(data: bytes) -> list[tuple[int, bytes]]:
    """Offset and body of the records that a scan says are whole and undamaged."""
    found = [region for region in scan_file(data) if isinstance(region, FoundRecord)]
    bodies = [(one.offset, data[one.trailer.body_offset : one.trailer.offset]) for one in found]
    return [
        pair
        for one, pair in zip(found, bodies, strict=True)
        if one.damage is None and zlib.crc32(pair[1]) == one.trailer.crc
    ]


def check_covers(data: bytes) -> list[FoundRecord | NoRecord]:
    """The regions of a file follow each other without holes, and end where it does."""
    regions = scan_file(data)
    for before, after in itertools.pairwise(regions):
        assert before.end == after.offset
    assert not regions or regions[-1].end == len(data)
    return regions


@given(BODIES)
def test_every_message_of_an_undamaged_file_is_found_and_nothing_else(bodies: list[bytes]) -> None:
    data, offsets = file_of(bodies)
    assert whole(data) == list(zip(offsets[:-1], bodies, strict=True))
    assert all(isinstance(region, FoundRecord) for region in check_covers(data))


@given(BODIES, st.lists(st.integers(1, 300), max_size=30))
def test_scan_finds_the_same_in_pieces_of_any_size(bodies: list[bytes], sizes: list[int]) -> None:
    data, _ = file_of(bodies)
    once, scan, at = TrailerScan(), TrailerScan(), 0
    once.feed(data)
    for size in (*sizes, len(data)):
        scan.feed(data[at : at + size])
        at += size
    assert scan.trailers == once.trailers
    assert len(once.trailers) >= len(bodies)


def test_cut_at_every_byte_keeps_what_is_before_and_names_what_is_not() -> None:
    data, offsets = file_of(SEVERAL)
    for size in range(len(data)):
        complete = sum(end <= size for end in offsets[1:])
        expected = list(zip(offsets, SEVERAL, strict=False))[:complete]
        assert whole(data[:size]) == expected, size
        gaps = [region for region in check_covers(data[:size]) if isinstance(region, NoRecord)]
        if size < offsets[0] or size in offsets:
            assert all(not gap.incomplete for gap in gaps)
        else:
            assert [(gap.offset, gap.end, gap.incomplete) for gap in gaps] == [
                (offsets[complete], size, True)
            ]


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80, 0xFF])
def test_one_changed_byte_anywhere_costs_at_most_the_message_that_it_is_in(change: int) -> None:
    data, offsets = file_of(SEVERAL)
    everything = list(zip(offsets[:-1], SEVERAL, strict=True))
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= change
        hit = sum(start <= at for start in offsets) - 1  # -1: the header line
        expected = [one for number, one in enumerate(everything) if number != hit]
        assert whole(bytes(damaged)) == expected, at
        check_covers(bytes(damaged))


def test_message_with_a_damaged_header_is_known_by_its_trailer() -> None:
    data, offsets = file_of(SEVERAL)
    for at in range(offsets[1], offsets[1] + 19):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        found = [region for region in scan_file(bytes(damaged)) if isinstance(region, FoundRecord)]
        assert [one.offset for one in found] == offsets[:-1]
        assert [one.damage is not None for one in found] == [False, True, False, False, False]


def test_message_with_a_damaged_trailer_is_a_gap_with_its_bounds() -> None:
    data, offsets = file_of(SEVERAL)
    for at in (-1, -11, -45, -80):
        damaged = bytearray(data)
        damaged[offsets[2] + at] ^= 1
        gaps = [region for region in scan_file(bytes(damaged)) if isinstance(region, NoRecord)]
        assert [(gap.offset, gap.end, gap.incomplete) for gap in gaps] == [(offsets[1], offsets[2], False)]


def test_records_inside_a_damaged_message_are_none_of_the_file() -> None:
    for inside in (page_example(), file_of([b"x", b"y"])[0], HEADER, file_of(SEVERAL)[0]):
        data, offsets = file_of([b"before", inside + b"\n" + inside, b"behind"])
        for at in (offsets[1], offsets[2] - 1):
            damaged = bytearray(data)
            damaged[at] ^= 1
            assert whole(bytes(damaged)) == [(offsets[0], b"before"), (offsets[2], b"behind")]


def forged(offset: int, prefix: bytes, key: bytes) -> bytes:
    """A body with records of the author's own key, at the places where he hopes to be."""
    body = prefix
    for number in range(5):
        body += record(offset + 19 + len(body), separator(100 + number), b"forged" * 9, b"R1\n", key=key)
    return body


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_author_who_guesses_places_but_not_the_key_forges_nothing(cut: int) -> None:
    first = file_of([b"honest"])[1][-1]
    data, offsets = file_of([b"honest", forged(first, b"From: him\n", separator(9))])
    data = data[: len(data) - cut]
    expected = [b"honest", *([] if cut else [forged(first, b"From: him\n", separator(9))])]
    assert [body for _, body in whole(data)] == expected
    damaged = bytearray(data)
    damaged[30] ^= 1  # the key in the header line: the trailers have to tell
    if not cut:
        assert [body for _, body in whole(bytes(damaged))] == expected
    assert offsets[0] == 50


def test_file_that_is_no_format_3_file_is_one_gap() -> None:
    for data in (MDBOX_M1, b"x", b"\x01\x02" + bytes(100)):
        assert [(region.offset, region.end) for region in scan_file(data)] == [(0, len(data))]
    assert scan_file(b"") == []
    assert scan_file(HEADER) == []


def test_header_line_that_is_gone_costs_no_message() -> None:
    data, offsets = file_of(SEVERAL)
    for header in (b"", b"2 M1e C1\n", b"\0" * 50, b"garbage " * 9):
        moved = header.ljust(50, b"x")[:50] if header else data[:50]
        assert whole(moved + data[50:]) == list(zip(offsets[:-1], SEVERAL, strict=True))


def test_many_look_alikes_are_searched_in_time() -> None:
    head = b"\x01\x03" + separator(1) + b"%016x\n" % 5
    data, offsets = file_of([head * 20_000, b"behind"])
    assert [offset for offset, _ in whole(data)] == offsets[:-1]
