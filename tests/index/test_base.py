"""``dovecot.index`` read and written, and what makes one damaged."""

from __future__ import annotations

import cProfile
import struct

import numpy as np
import pytest

from dboxfs.errors import FormatError
from dboxfs.index.base import encode_index, parse_index
from dboxfs.index.log import parse_log_header
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from tests.index import build
from tests.index.vectors import MAILBOX_INDEX, MAILBOX_LOG, MAP_INDEX


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def test_header_records_and_extensions_of_a_snapshot() -> None:
    state = parse_index(MAILBOX_INDEX)
    assert (state.indexid, state.uid_validity, state.next_uid) == (1795206765, 1795206765, 3)
    assert (state.log_file_seq, state.tail_offset, state.head_offset) == (2, 840, 840)
    assert (state.header_flags, state.first_recent_uid, state.day_stamp) == (0, 1, 1795132800)
    assert (state.uids.tolist(), state.flags.tolist()) == ([1, 2], [8, 2])
    assert (state.seen_count, state.deleted_count, state.unseen_count) == (1, 0, 1)
    places = [(e.name, e.reset_id, e.record_offset, e.record_size, e.record_align) for e in state.extensions]
    assert places == [
        ("hdr-pop3-uidl", 0, 0, 0, 0),
        ("mdbox-hdr", 0, 0, 0, 0),
        ("cache", 1795206765, 24, 4, 4),
        ("mdbox", 0, 28, 8, 4),
        ("guid", 0, 5, 16, 1),
        ("keywords", 0, 21, 2, 1),
    ]
    cache = state.column("cache", "<u4")
    assert cache is not None
    assert cache.tolist() == [0x184, 0x1C4]
    assert [state.keywords(0), state.keywords(1)] == [("$Label1", "Work"), ()]


@pytest.mark.parametrize("index", [MAILBOX_INDEX, MAP_INDEX])
def test_a_snapshot_is_written_as_it_was(index: bytes) -> None:
    assert encode_index(parse_index(index)) == index


def test_the_log_up_to_the_snapshot_gives_dovecots_own_snapshot() -> None:
    header = parse_log_header(MAILBOX_LOG)
    state = IndexState.empty(header)
    state.apply_log(MAILBOX_LOG[40:840], 40)
    assert encode_index(state) == MAILBOX_INDEX


def test_snapshot_and_log_give_what_the_log_alone_gives() -> None:
    header = parse_log_header(MAILBOX_LOG)
    snapshot = parse_index(MAILBOX_INDEX)
    plan = decide(snapshot, header, log_size=len(MAILBOX_LOG))
    assert (plan.action, plan.log_offset) == (Action.REPLAY_LOG, 840)
    both = load(plan, snapshot, MAILBOX_LOG)
    alone = load(decide(None, header), None, MAILBOX_LOG)
    assert build.contents(both) == build.contents(alone)
    assert (both.uids.tolist(), both.flags.tolist(), both.head_offset) == ([2], [3], 1100)


def test_lookups_by_uid() -> None:
    state = build.replayed(build.append(3, 5, 9))
    assert [state.row_of(uid) for uid in (0, 3, 4, 5, 9, 10)] == [-1, 0, -1, 1, 2, -1]
    assert state.rows_of([9, 1, 5, 4_000_000_000]).tolist() == [2, -1, 1, -1]
    assert build.replayed().rows_of([1]).tolist() == [-1]


def test_views_are_read_only() -> None:
    state = parse_index(MAILBOX_INDEX)
    column = state.column("mdbox")
    assert column is not None
    for view in (state.uids, state.flags, column):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_unknown_header_bytes_are_kept() -> None:
    extra = b"later fields"
    longer = MAILBOX_INDEX[:120] + extra + bytes(4) + MAILBOX_INDEX[120:]
    longer = patched(longer, 2, struct.pack("<HI", 132, 464 + 16))
    state = parse_index(longer)
    assert state.keywords(0) == ("$Label1", "Work")
    assert encode_index(state) == longer


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"\x06", "major version 6"),
        (12, b"\x00", "big-endian"),
        (2, b"\x10\x00", "header sizes"),
        (4, b"\xff\xff\x00\x00", "header sizes"),
        (8, b"\x04\x00\x00\x00", "record_size 4"),
        (8, b"\xff\xff\xff\x7f", "record_size"),
        (20, b"\x01", "marked as corrupted"),
        (24, bytes(4), "uid_validity 0"),
        (28, bytes(4), "next_uid 0"),
        (28, b"\x02", "next_uid 2"),
        (32, b"\xff\xff\xff\xff", "records of 36 bytes"),
        (32, b"\x03", "records of 36 bytes"),
        (64, b"\xff\xff", "log_file_tail_offset"),
        (120, b"\xff\xff\xff\xff", "extension of"),
        (136, b"\xff", "extension name"),
        (176, b"hdr-pop3\0", "extension name"),
        (0xE0, b"\xff\xff", "extension cache at"),
        (0xE0, b"\x1c\x00", "overlaps"),
        (0xE2, b"\x08\x00", "extension cache at|overlaps"),
        (0xE4, b"\x03\x00", "record_align 3"),
        (312, b"\xff\xff", "keywords: 65535 names"),
        (0x1CB, b"x", "no end"),
        (0x148, b"\xff\x00", "no name"),
        (464, bytes(4), "out of order"),
        (500, b"\x01", "out of order"),
    ],
)
def test_damaged_snapshots_are_refused_with_a_reason(offset: int, value: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_index(patched(MAILBOX_INDEX, offset, value))


def test_every_cut_snapshot_is_refused() -> None:
    for length in range(len(MAILBOX_INDEX)):
        with pytest.raises(FormatError):
            parse_index(MAILBOX_INDEX[:length])


def test_counters_that_are_wrong_are_counted_again() -> None:
    wrong = patched(patched(MAILBOX_INDEX, 40, b"\x63"), 44, b"\x63")
    state = parse_index(patched(wrong, 48, b"\x63"))
    assert (state.seen_count, state.deleted_count, state.first_recent_uid) == (1, 0, 3)
    assert encode_index(state)[40:48] == MAILBOX_INDEX[40:48]


def test_low_water_marks_are_lowered_when_they_promise_too_much() -> None:
    high = patched(patched(MAILBOX_INDEX, 52, b"\x03"), 56, b"\x03")
    state = parse_index(high)
    state.table.head_offset = state.table.tail_offset = 840
    state.apply_log(build.flags(1, 1, 4), 840)
    assert struct.unpack_from("<II", encode_index(state), 52) == (2, 1)


def test_an_attached_log_brings_requests_between_tail_and_head() -> None:
    parts = [build.uid_validity(), build.append(1, 2, 3), build.expunge(2, external=False)]
    parts.append(build.flags(1, 1, 8))
    state = build.replayed(*parts)
    log = b"".join(parts)
    assert (state.tail_offset, state.head_offset) == (40 + 16 + 32, 40 + len(log))
    again = parse_index(encode_index(state))
    assert again.pending_expunges.tolist() == []
    again.attach_log(build.HEADER, log + build.append(4))
    assert build.contents(again) == build.contents(state)


def test_a_log_that_ends_before_the_snapshot_is_damage() -> None:
    state = parse_index(MAILBOX_INDEX)
    with pytest.raises(FormatError, match="ends before"):
        state.attach_log(parse_log_header(MAILBOX_LOG), MAILBOX_LOG[40:800])


def _large(count: int) -> IndexState:
    state = build.replayed(build.uid_validity(), build.intro("mdbox", 8, 4), build.intro("guid", 16, 1))
    for start in range(1, count, 100_000):
        build.apply(state, build.append(*range(start, start + min(count, 100_000))))
    return state


def test_a_million_messages_load_in_no_more_steps_than_a_thousand_and_few_bytes() -> None:
    count = 1_000_000
    state = _large(count)
    data = encode_index(state)
    assert len(data) < 33 * count
    steps = []
    for text in (encode_index(_large(1000)), data):
        with cProfile.Profile() as profile:
            loaded = parse_index(text)
        steps.append(sum(entry.callcount for entry in profile.getstats()))
    assert steps[1] <= steps[0]
    assert np.array_equal(loaded.uids, state.uids)
    stored = loaded.uids.nbytes + loaded.flags.nbytes
    stored += sum(c.nbytes for e in loaded.extensions if (c := loaded.column(e.name)) is not None)
    assert stored == 29 * count


def test_what_is_written_can_be_read_again_or_is_not_written() -> None:
    state = build.replayed(build.append(1, 2))
    with pytest.raises(FormatError, match="uid_validity 0"):
        encode_index(state)
    empty = build.replayed()
    assert len(parse_index(encode_index(empty))) == 0


def test_a_snapshot_that_nobody_could_read_is_not_written() -> None:
    state = build.replayed(build.append(1, 2, 3))  # messages, and no uid_validity
    with pytest.raises(FormatError, match="uid_validity"):
        encode_index(state)
