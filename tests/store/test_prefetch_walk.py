"""A walk through a mailbox is noticed, and the next messages are brought ahead; nothing else is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dboxfs.store.prefetch import FIRST_WINDOW, LARGEST_WINDOW, Walk


def brought(positions: list[int], *, useful: bool = True) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    walk = Walk(lambda first, last: out.append((first, last)))
    for position in positions:
        walk.opened(position, useful=useful)
    return out


def test_a_single_open_in_the_middle_brings_nothing() -> None:
    assert brought([500]) == []


def test_opens_here_and_there_bring_nothing() -> None:
    assert brought([7, 90, 3, 41, 1000, 20]) == []


def test_going_backwards_brings_nothing() -> None:
    assert brought(list(range(100, 0, -1))) == []


def test_the_second_of_two_neighbours_begins_a_walk() -> None:
    assert brought([10, 11]) == [(12, 12 + FIRST_WINDOW)]


def test_the_window_doubles_up_to_its_limit_and_each_message_is_brought_once() -> None:
    ranges = brought(list(range(2000)))
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert max(last - first for first, last in ranges) <= LARGEST_WINDOW
    assert ranges[-1][1] >= 2000
    ahead = [last - first for first, last in ranges[:3]]
    assert ahead == sorted(ahead)


def test_a_walk_that_leaves_out_a_few_goes_on() -> None:
    assert brought(list(range(0, 400, 3)))[-1][1] >= 398


def test_what_is_in_memory_anyhow_is_not_brought() -> None:
    assert brought(list(range(100)), useful=False) == []


@given(st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=200))
def test_what_is_brought_lies_ahead_and_is_bounded(opens: list[tuple[int, bool]]) -> None:
    position = 0
    out: list[tuple[int, int]] = []
    walk = Walk(lambda first, last: out.append((first, last)))
    for position, useful in opens:
        before = len(out)
        walk.opened(position, useful=useful)
        for first, last in out[before:]:
            assert position < first <= last <= position + 1 + LARGEST_WINDOW
