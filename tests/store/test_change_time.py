"""ctime tells whether flags or keywords of a message have changed, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.index import payload
from dboxfs.store.change_time import marks, nanoseconds, of_message, of_messages
from tests.index.build import append, apply, expunge, flags, keyword, replayed

WORDS = st.lists(st.sampled_from(["$Label1", "$Forwarded", "work", "später"]), unique=True)


def test_a_change_of_flags_or_keywords_changes_it_and_its_end_takes_that_back() -> None:
    state = replayed(append(1, 2, 3))
    before = of_messages(state, state.uids)
    assert len(set(before)) == 3
    apply(state, flags(2, 2, 0x08), keyword("$Label1", 3, 3))
    changed = of_messages(state, state.uids)
    assert [a == b for a, b in zip(before, changed, strict=True)] == [True, False, False]
    apply(state, flags(2, 2, 0, 0x08), keyword("$Label1", 3, 3, payload.KEYWORD_REMOVE))
    assert of_messages(state, state.uids) == before


def test_it_is_the_same_when_keywords_have_other_numbers_or_case() -> None:
    one = replayed(append(7), keyword("a", 7, 7), keyword("B", 7, 7))
    other = replayed(append(5, 7), keyword("unused", 5, 5), keyword("b", 7, 7), keyword("A", 7, 7))
    apply(other, expunge(5), flags(7, 7, 0x20))  # \Recent
    uid = np.array([7], np.uint32)
    assert of_messages(one, uid) == of_messages(other, uid)


def test_many_messages_have_what_each_has() -> None:
    state = replayed(append(1, 2, 3, 4, 300, flags=0x08), keyword("a", 2, 3), keyword("b", 3, 300))
    uids = np.array([1, 2, 3, 4, 300, 301], np.uint32)
    each = [of_message(state, row, uid) for row, uid in enumerate(uids.tolist()[:5])]
    assert of_messages(state, uids) == [*each, 0]
    assert of_messages(None, uids) == [0] * 6
    assert of_messages(state, uids[:0]) == []


def test_many_messages_have_what_each_has_without_a_keyword_of_theirs() -> None:
    every = (flags(uid, uid, uid - 1) for uid in range(1, 33))
    state = replayed(append(*range(1, 34)), *every, keyword("a", 33, 33))
    found = of_messages(state, state.uids)
    assert found == [of_message(state, row, row + 1) for row in range(33)]
    assert of_messages(state, state.uids[:32]) == found[:32]


def test_many_messages_have_what_each_has_with_more_keywords_than_fit_one_number() -> None:
    words = [f"word{number}" for number in range(70)]
    state = replayed(append(1, 2, 3, flags=0x08), *(keyword(word, 2, 3) for word in words))
    apply(state, keyword(words[69], 3, 3, payload.KEYWORD_REMOVE))
    found = of_messages(state, state.uids)
    assert found == [of_message(state, row, uid) for row, uid in enumerate((1, 2, 3))]
    assert len(set(found)) == 3


@given(st.integers(0, 31), WORDS, st.integers(1, 2**32 - 2))
def test_it_is_less_than_a_second_and_depends_on_every_part(bits: int, words: list[str], uid: int) -> None:
    found = nanoseconds(marks(bits, tuple(words)), uid)
    assert 0 <= found < 1_000_000_000
    assert found == nanoseconds(marks(bits | 0x20, tuple(reversed(words))), uid)
    assert found != nanoseconds(marks(bits ^ 0x08, tuple(words)), uid)
    assert found != nanoseconds(marks(bits, (*words, "more")), uid)


def test_messages_of_one_second_are_told_apart() -> None:
    same = {nanoseconds(marks(0x08, ()), uid) for uid in range(1, 20_001)}
    assert len(same) > 19_990
