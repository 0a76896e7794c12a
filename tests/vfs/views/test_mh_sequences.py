"""The grammar of ``.mh_sequences``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.vfs.views.mh_sequences import format_sequence, parse_sequences


@given(st.sets(st.integers(1, 200)), st.sets(st.integers(1, 200)))
def test_what_is_written_is_read(numbers: set[int], others: set[int]) -> None:
    line = format_sequence(b"unseen", np.array(sorted(numbers, reverse=True), np.int64))
    asked = np.array(sorted(numbers | others), np.int64)
    found = parse_sequences(line).has(b"unseen", asked)
    assert {int(n) for n in asked[found]} == numbers


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12))
def test_ranges_that_overlap_or_run_backwards_mean_what_they_hold(spans: list[tuple[int, int]]) -> None:
    text = b"x: " + b" ".join(b"%d-%d" % span for span in spans) + b"\n"
    asked = np.arange(62)
    expected = {n for a, b in spans for n in range(a, b + 1)}
    assert {int(n) for n in asked[parse_sequences(text).has(b"x", asked)]} == expected


@pytest.mark.parametrize(
    ("line", "unseen"),
    [
        (b"unseen: 1-3 7", [1, 2, 3, 7]),
        (b"unseen:1", []),
        (b"unseen: 1-4294967295", list(range(1, 10))),
        (b"unseen: 1-99999999999", []),
        (b"unseen: two", []),
        (b"un seen: 2", []),
        (b"unseen: 1\nunseen: 9", [1, 9]),
        (b"\xff\x00", []),
    ],
)
def test_a_line_that_says_no_sequence_says_nothing(line: bytes, unseen: list[int]) -> None:
    asked = np.arange(1, 10)
    assert asked[parse_sequences(line).has(b"unseen", asked)].tolist() == unseen


def test_ranges_are_the_shortest() -> None:
    assert format_sequence(b"unseen", np.array([5, 1, 2, 3, 9, 10], np.int64)) == b"unseen: 1-3 5 9-10\n"
    assert format_sequence(b"unseen", np.array([], np.int64)) == b""


def test_sequences_that_are_a_programs_own_are_kept_as_they_were_written() -> None:
    found = parse_sequences(b"cur: 3\nunseen: 1\nmine: 1-2 9\nflagged: 2\n")
    assert found.lines == {b"cur": b"cur: 3", b"mine": b"mine: 1-2 9"}
