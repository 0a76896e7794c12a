"""Which files make the current state: the decision table of mail-index-log section 4."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dboxfs.errors import FormatError
from dboxfs.index.base import encode_index, parse_index
from dboxfs.index.log import LogHeader, encode_log_header, parse_log_header
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from tests.index import build


def snapshot(*parts: bytes) -> IndexState:
    """A snapshot (log 2) after these parts."""
    return parse_index(encode_index(build.replayed(build.uid_validity(), *parts)))


FIRST = LogHeader(indexid=7, file_seq=2)


def next_log(state: IndexState, **changes: int) -> LogHeader:
    header = LogHeader(7, 3, prev_file_seq=2, prev_file_offset=state.head_offset, initial_modseq=9)
    return replace(header, **changes)


def test_no_snapshot_needs_a_log_that_starts_from_nothing() -> None:
    assert (decide(None, FIRST).action, decide(None, FIRST).log_offset) == (Action.EMPTY, 40)
    assert decide(None, LogHeader(7, 3, prev_file_seq=2)).action is Action.RETRY


def test_a_log_marked_corrupted_leaves_the_snapshot() -> None:
    marked = replace(FIRST, indexid=0)
    assert decide(None, marked).action is Action.DAMAGED
    assert decide(snapshot(), marked).action is Action.SNAPSHOT_ONLY


def test_another_indexid_means_files_are_being_replaced() -> None:
    assert decide(snapshot(), replace(FIRST, indexid=8)).action is Action.RETRY


def test_same_log_is_replayed_from_the_head() -> None:
    state = snapshot(build.append(1))
    plan = decide(state, FIRST, log_size=state.head_offset)
    assert (plan.action, plan.log_offset) == (Action.REPLAY_LOG, state.head_offset)
    assert decide(state, FIRST, log_size=state.head_offset - 4).action is Action.RETRY


def test_the_next_log_is_replayed_from_its_start() -> None:
    state = snapshot(build.append(1))
    plan = decide(state, next_log(state))
    assert (plan.action, plan.log_offset) == (Action.REPLAY_LOG, 40)


def test_a_reset_log_drops_the_snapshot() -> None:
    plan = decide(snapshot(build.append(1)), LogHeader(7, 5))
    assert (plan.action, plan.log_offset) == (Action.EMPTY, 40)


def test_an_older_snapshot_needs_the_log_before() -> None:
    state = snapshot(build.append(1))
    log = next_log(state, prev_file_offset=state.head_offset + 100)
    assert decide(state, log).action is Action.NEED_LOG2
    plan = decide(state, log, FIRST, log2_read=True)
    assert (plan.action, plan.log2_offset, plan.log_offset) == (Action.REPLAY_LOG2, state.head_offset, 40)
    assert decide(state, log, None, log2_read=True).action is Action.RETRY
    assert decide(state, log, replace(FIRST, file_seq=1), log2_read=True).action is Action.RETRY
    assert decide(state, log, replace(FIRST, indexid=9), log2_read=True).action is Action.RETRY


def test_a_snapshot_and_two_logs_give_what_one_replay_gives() -> None:
    first = [build.uid_validity(), build.append(1, 2), build.keyword("k", 1, 1)]
    second = [build.flags(1, 2, 8), build.append(3)]
    third = [build.expunge(2), build.flags(3, 3, 2)]
    live = build.replayed(*first)
    stored = parse_index(encode_index(live))
    build.apply(live, *second)
    header = next_log(live, initial_modseq=live.highest_modseq)
    live.follow_rotation(header)
    build.apply(live, *third)
    log2 = encode_log_header(FIRST) + b"".join(first + second)
    log = encode_log_header(header) + b"".join(third)
    plan = decide(stored, parse_log_header(log), parse_log_header(log2), log2_read=True)
    assert build.contents(load(plan, stored, log, log2)) == build.contents(live)
    assert (live.uids.tolist(), live.highest_modseq) == ([1, 3], 7)


def test_plans_that_need_more_can_not_be_carried_out() -> None:
    log = encode_log_header(LogHeader(7, 3, prev_file_seq=2))
    with pytest.raises(FormatError, match="continues another log"):
        load(decide(None, parse_log_header(log)), None, log)


def test_a_shorter_log_before_is_damage() -> None:
    live = build.replayed(build.uid_validity(), build.append(1))
    stored = parse_index(encode_index(live))
    header = LogHeader(7, 3, prev_file_seq=2, prev_file_offset=live.head_offset + 16)
    log = encode_log_header(header)
    log2 = encode_log_header(FIRST) + build.uid_validity() + build.append(1)
    plan = decide(stored, header, FIRST, log2_read=True)
    with pytest.raises(FormatError, match="continues"):
        load(plan, stored, log, log2)
