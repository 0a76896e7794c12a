"""What each kind of record does to a state, and which ones are damage."""

from __future__ import annotations

import struct

import pytest

from dboxfs.errors import FormatError
from dboxfs.index import payload
from dboxfs.index.log import LogHeader, RecordType, encode_record
from dboxfs.index.payload import KEYWORD_REMOVE
from dboxfs.index.state import IndexState
from tests.index import build
from tests.index.build import apply, contents, replayed
from tests.index.vectors import MAILBOX_LOG

TEN = build.append(*range(1, 11))


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


# -- messages -----------------------------------------------------------------------------------------


def test_append_adds_rows_and_moves_next_uid() -> None:
    state = replayed(build.append(3, 4, flags=0x08), build.append(10))
    assert state.uids.tolist() == [3, 4, 10]
    assert state.flags.tolist() == [8, 8, 0]
    assert (state.next_uid, len(state), state.seen_count, state.unseen_count) == (11, 3, 2, 1)


def test_many_appended_in_one_record_are_as_many_single_ones() -> None:
    many = replayed(build.append(*range(1, 1001), flags=4))
    single = replayed(*(build.append(uid, flags=4) for uid in range(1, 1001)))
    assert many.uids.tolist() == single.uids.tolist() == list(range(1, 1001))
    assert many.flags.tolist() == single.flags.tolist()
    assert many.deleted_count == 1000


@pytest.mark.parametrize("uids", [(10,), (1, 2), tuple(range(11, 30))[::-1]])
def test_an_append_below_next_uid_or_out_of_order_is_damage(uids: tuple[int, ...]) -> None:
    body = b"".join(struct.pack("<IB3x", uid, 0) for uid in uids)
    state = replayed(TEN)
    with pytest.raises(FormatError, match=r"append|ascending"):
        apply(state, encode_record(RecordType.APPEND, body, True))
    assert state.uids.tolist() == list(range(1, 11))


@pytest.mark.parametrize("flag", [0x01, 0x02, 0x04, 0x08, 0x10, 0x40, 0x80])
def test_flags_are_added_and_removed(flag: int) -> None:
    state = replayed(TEN, build.flags(2, 4, flag), build.flags(4, 4, 0, flag))
    assert state.flags.tolist() == [0, flag, flag, 0, 0, 0, 0, 0, 0, 0]


def test_a_flag_update_removes_before_it_adds() -> None:
    state = replayed(build.append(1, 2, flags=0x1F), build.flags(1, 1, 0x08, 0xFF))
    assert state.flags.tolist() == [0x08, 0x1F]


def test_updates_of_messages_that_are_gone_are_ignored() -> None:
    state = replayed(TEN, build.expunge(5))
    apply(state, build.flags(5, 5, 8), build.keyword("x", 5, 5), build.flags(90, 99, 8))
    assert state.flags.tolist() == [0] * 9
    assert [state.keywords(row) for row in range(9)] == [()] * 9


def test_external_expunges_remove_and_requests_do_not() -> None:
    state = replayed(TEN, build.expunge(2, 5), build.expunge(7, external=False))
    assert state.uids.tolist() == [1, 3, 4, 6, 7, 8, 9, 10]
    assert state.pending_expunges.tolist() == [7]


def test_the_old_form_of_expunge_takes_ranges() -> None:
    ranges = payload.expunge([(2, 4), (6, 6), (90, 99)])
    state = replayed(TEN, encode_record(RecordType.EXPUNGE, ranges, True))
    assert state.uids.tolist() == [1, 5, 7, 8, 9, 10]
    state = replayed(TEN, encode_record(RecordType.EXPUNGE, ranges, False))
    assert len(state) == 10
    assert state.pending_expunges.tolist() == [2, 3, 4, 6]


def test_an_expunged_message_leaves_the_columns_of_others_in_place() -> None:
    state = replayed(TEN, build.intro("x", 4, 4))
    apply(state, *(build.ext_records((uid, u32(uid * 11))) for uid in range(1, 11)))
    apply(state, build.expunge(1, 4, 10), build.append(11))
    column = state.column("x", "<u4")
    assert column is not None
    assert column.tolist() == [22, 33, 55, 66, 77, 88, 99, 0]


UID_RANGE_RECORDS = [
    (RecordType.FLAG_UPDATE, lambda a, b: struct.pack("<IIBBBx", a, b, 8, 0, 0), b""),
    (RecordType.EXPUNGE, lambda a, b: u32(a, b), b""),
    (RecordType.KEYWORD_RESET, lambda a, b: u32(a, b), b""),
    (RecordType.KEYWORD_UPDATE, lambda a, b: u32(a, b), b"\0\0\x01\0k\0\0\0"),
]


@pytest.mark.parametrize(("kind", "entry", "head"), UID_RANGE_RECORDS)
@pytest.mark.parametrize("ranges", [[(0, 1)], [(3, 2)], [(1, 3), (3, 4)], [(5, 6), (1, 2)], []])
def test_uid_ranges_must_be_sorted_and_whole(
    kind: RecordType, entry: object, head: bytes, ranges: list[tuple[int, int]]
) -> None:
    assert callable(entry)
    body = head + b"".join(entry(a, b) for a, b in ranges)
    if not body:
        body = bytes(4)
    state = replayed(TEN)
    before = contents(state)
    with pytest.raises(FormatError, match="uid range"):
        apply(state, encode_record(kind, body, True))
    assert contents(state) == before


# -- keywords -----------------------------------------------------------------------------------------


def test_keywords_are_case_insensitive_and_keep_their_first_spelling() -> None:
    state = replayed(TEN, build.keyword("Work", 1, 3), build.keyword("WORK", 5, 5), build.keyword("b", 3, 3))
    assert state.keyword_names() == ("Work", "b")
    assert [state.keywords(row) for row in (0, 2, 4, 5)] == [("Work",), ("Work", "b"), ("Work",), ()]


def test_removing_a_keyword_and_all_keywords() -> None:
    state = replayed(TEN, build.keyword("a", 1, 3), build.keyword("b", 1, 3))
    apply(state, build.keyword("a", 2, 2, KEYWORD_REMOVE))
    apply(state, encode_record(RecordType.KEYWORD_RESET, payload.keyword_reset([(3, 3)])))
    assert [state.keywords(row) for row in range(3)] == [("a", "b"), ("b",), ()]


def test_keywords_outgrow_their_header_and_bitmask() -> None:
    names = [f"keyword-{i}" for i in range(300)]
    state = replayed(TEN, *(build.keyword(name, i % 10 + 1, i % 10 + 1) for i, name in enumerate(names)))
    assert state.keyword_names() == tuple(names)
    for row in range(10):
        assert state.keywords(row) == tuple(names[row::10])
    (ext,) = state.extensions
    assert ext.record_size >= 38
    assert ext.hdr[:4] == u32(300)
    assert ext.hdr[4 + 8 * 300 :].startswith(b"keyword-0\0keyword-1\0")


def test_the_first_keyword_takes_the_next_ext_id() -> None:
    state = replayed(TEN, build.intro("a", 4, 4), build.keyword("k", 1, 1), build.intro("b", 4, 4))
    assert [e.name for e in state.extensions] == ["a", "keywords", "b"]
    apply(state, build.intro(2, 4, 4), build.ext_records((1, u32(7))))
    column = state.column("b", "<u4")
    assert column is not None
    assert column[0] == 7


def test_an_intro_of_keywords_is_damage() -> None:
    body = struct.pack("<IIIHHHH8s", 0xFFFFFFFF, 0, 8, 1, 1, 0, 8, b"keywords")
    with pytest.raises(FormatError, match="keywords"):
        replayed(TEN, encode_record(RecordType.EXT_INTRO, body, True))
    with pytest.raises(FormatError, match="keywords"):
        replayed(TEN, build.keyword("k", 1, 1), build.intro(0, 1, 1))


@pytest.mark.parametrize(
    "body", [bytes(4) + u32(1, 1), b"\x02\0\x01\0k\0\0\0" + u32(1, 1), b"\0\0\xff\0abcd"]
)
def test_keyword_updates_without_a_name_or_sense_are_damage(body: bytes) -> None:
    with pytest.raises(FormatError, match="keyword update"):
        replayed(TEN, encode_record(RecordType.KEYWORD_UPDATE, body))


# -- extensions ---------------------------------------------------------------------------------------


def test_a_new_extension_is_zero_for_the_messages_that_are_there() -> None:
    state = replayed(TEN, build.intro("x", 8, 8, hdr_size=4), build.ext_header(1, b"ab"))
    column = state.column("x", "<u8")
    assert column is not None
    assert column.tolist() == [0] * 10
    assert state.header_data("x") == b"\0ab\0"
    assert state.header_data("y") is None
    assert state.column("x", "<u4") is None


def test_a_name_is_looked_up_before_it_is_created() -> None:
    state = replayed(build.intro("x", 4, 4), build.intro("y", 4, 4), build.intro("x", 4, 4))
    assert [e.name for e in state.extensions] == ["x", "y"]


def test_updates_for_another_generation_are_ignored_until_it_is_reset() -> None:
    state = replayed(TEN, build.intro("x", 4, 4, hdr_size=4, reset_id=5), build.ext_records((1, u32(1))))
    other = build.intro("x", 4, 4, hdr_size=4, reset_id=6)
    apply(state, other, build.ext_records((2, u32(2))), build.ext_header(0, u32(9)), build.increment(3, 1))
    column = state.column("x", "<u4")
    assert column is not None
    assert column[:3].tolist() == [1, 0, 0]
    assert state.header_data("x") == bytes(4)
    apply(state, other, build.reset(6), other, build.ext_records((2, u32(2))))
    column = state.column("x", "<u4")
    assert column is not None
    assert column[:3].tolist() == [0, 2, 0]
    assert state.extensions[0].reset_id == 6


def test_a_reset_may_preserve_the_data() -> None:
    state = replayed(TEN, build.intro("x", 4, 4, hdr_size=4), build.ext_records((1, u32(1))))
    apply(state, build.ext_header(0, b"data"), build.reset(3, preserve=True))
    column = state.column("x", "<u4")
    assert column is not None
    assert (column[0], state.header_data("x"), state.extensions[0].reset_id) == (1, b"data", 3)


def test_extensions_grow_and_keep_their_data() -> None:
    state = replayed(TEN, build.intro("x", 4, 4, hdr_size=4), build.ext_records((1, u32(77))))
    apply(state, build.ext_header(0, b"abcd"))
    apply(state, build.intro("x", 12, 4, hdr_size=20))
    column = state.column("x")
    assert column is not None
    assert column[0].tobytes() == u32(77, 0, 0)
    assert state.header_data("x") == b"abcd" + bytes(16)


def test_no_shrink_keeps_sizes_and_its_absence_shrinks() -> None:
    start = [TEN, build.intro("x", 8, 8, hdr_size=24), build.ext_records((1, u32(1, 2)))]
    state = replayed(*start, build.intro("x", 4, 4, hdr_size=8))
    assert (state.extensions[0].record_size, len(state.extensions[0].hdr)) == (8, 24)
    state = replayed(*start, build.intro("x", 4, 4, hdr_size=8, shrink=True))
    assert (state.extensions[0].record_size, len(state.extensions[0].hdr)) == (4, 8)
    column = state.column("x", "<u4")
    assert column is not None
    assert column[0] == 1


def test_a_smaller_record_update_clears_the_rest() -> None:
    state = replayed(TEN, build.intro("x", 8, 4), build.ext_records((1, u32(1, 2))))
    apply(state, build.intro("x", 4, 4), build.ext_records((1, u32(3))))
    column = state.column("x")
    assert column is not None
    assert column[0].tobytes() == u32(3, 0)


def test_header_updates_with_wide_offsets() -> None:
    wide = encode_record(RecordType.EXT_HDR_UPDATE32, payload.ext_hdr_update32(70_000, b"end"), True)
    state = replayed(build.intro("x", hdr_size=70_003), wide)
    data = state.header_data("x")
    assert data is not None
    assert data == bytes(70_000) + b"end"


@pytest.mark.parametrize(("size", "top"), [(1, 255), (2, 65535), (4, 2**32 - 1), (8, 2**64 - 1)])
def test_increments_stop_at_the_ends_of_the_number(size: int, top: int) -> None:
    full = build.ext_records((1, top.to_bytes(size, "little")))
    state = replayed(TEN, build.intro("x", size, size), full, build.increment(1, -1), build.increment(2, 5))
    column = state.column("x", f"<u{size}")
    assert column is not None
    assert [int(v) for v in column[:2]] == [top - 1, 5]
    for uid, diff in ((1, 2), (2, -6)):
        with pytest.raises(FormatError, match="increment"):
            apply(state, build.increment(uid, diff))
    column = state.column("x", f"<u{size}")
    assert column is not None
    assert [int(v) for v in column[:2]] == [top - 1, 5]


def test_increments_of_numbers_that_are_none_are_damage() -> None:
    with pytest.raises(FormatError, match="3 bytes"):
        replayed(TEN, build.intro("x", 3, 1), build.increment(1, 1))


@pytest.mark.parametrize(
    "records",
    [
        [build.ext_records((1, u32(1)))],
        [build.increment(1, 1)],
        [build.reset(1)],
        [build.ext_header(0, b"a")],
        [build.intro(0, 4, 4)],
        [build.intro("x", hdr_size=4), build.ext_header(2, b"abc")],
        [build.intro("x", 4, 4), build.ext_records((60, u32(1)))],
        [build.intro("x", 4, 4), build.ext_records((0, u32(1)))],
        [build.intro("x")],
        [build.intro("x", 4, 3)],
        [build.intro("x", 40_000, 4)],
        [build.intro("x", hdr_size=1 << 24)],
        [build.intro(f"x{i}", 32_000, 4) for i in range(3)],
        [build.header(118, b"abcd")],
        [build.header(64, u32(10_000))],
        [encode_record(RecordType.HEADER_UPDATE, struct.pack("<HHI", 24, 8, 1), True)],
        [encode_record(RecordType.ATTRIBUTE_UPDATE, b"*pname\0\0", True)],
        [encode_record(RecordType.ATTRIBUTE_UPDATE, b"+p\0\0", True)],
        [encode_record(RecordType.EXPUNGE_GUID, bytes(20), True)],
        [encode_record(RecordType.EXPUNGE_GUID, bytes(16), True)],
        [encode_record(RecordType.MODSEQ_UPDATE, bytes(16), True)],
        [encode_record(RecordType.APPEND, bytes(12), True)],
    ],
)
def test_a_broken_record_leaves_the_transaction_before_it(records: list[bytes]) -> None:
    before = contents(replayed(TEN))
    state = replayed(TEN)
    head = state.head_offset
    first = [build.flags(1, 9, 8), build.keyword("k", 2, 3), build.append(50)]
    with pytest.raises(FormatError) as caught:
        apply(state, build.transaction(*first, *records))
    assert contents(state) == before
    assert caught.value.offset > head
    # and the state still takes what comes instead
    apply(state, build.append(11), build.intro("y", 4, 4), build.ext_records((11, u32(4))))
    column = state.column("y", "<u4")
    assert column is not None
    assert column.tolist() == [0] * 10 + [4]


def test_transactions_before_a_broken_one_are_applied() -> None:
    state = IndexState.empty(build.HEADER)
    log = TEN + build.expunge(1) + build.flags(2, 2, 8) + build.increment(1, 1) + build.append(11)
    with pytest.raises(FormatError) as caught:
        state.apply_log(log, build.START)
    assert caught.value.offset == build.START + len(TEN) + 28 + 20
    assert state.head_offset == caught.value.offset
    assert state.uids.tolist() == list(range(2, 11))
    assert state.flags.tolist() == [8] + [0] * 8


def test_unknown_kinds_of_records_are_skipped() -> None:
    state = replayed(TEN, encode_record(0x400000, u32(1)), build.flags(1, 1, 8))
    assert (state.unknown_records, int(state.flags[0])) == (1, 8)


# -- header, deletion ---------------------------------------------------------------------------------


def test_header_updates_change_fields_but_never_shrink_next_uid() -> None:
    state = replayed(build.uid_validity(4711), TEN, build.header(48, u32(5)), build.header(28, u32(3)))
    assert (state.uid_validity, state.first_recent_uid, state.next_uid) == (4711, 5, 11)
    apply(state, build.header(28, u32(500)))
    assert state.next_uid == 500


def test_header_updates_do_not_touch_layout_counts_and_log_position() -> None:
    state = replayed(TEN)
    before = contents(state)
    apply(state, build.header(0, bytes(20)), build.header(32, bytes(16)), build.header(60, u32(9)))
    assert contents(state)[2:] == before[2:]


def test_an_external_index_deleted_means_gone_until_it_is_taken_back() -> None:
    request = encode_record(RecordType.INDEX_DELETED, payload.index_deleted())
    done = encode_record(RecordType.INDEX_DELETED, payload.index_deleted(), True)
    back = encode_record(RecordType.INDEX_UNDELETED, payload.index_deleted(), True)
    assert [r.type for r in replayed(TEN, request).pending_requests] == [RecordType.INDEX_DELETED]
    logs = [[request], [request, done], [done, back]]
    assert [replayed(TEN, *log).deleted for log in logs] == [False, True, False]


# -- tail and requests --------------------------------------------------------------------------------


def test_the_tail_moves_over_external_records_and_stops_at_internal_ones() -> None:
    state = replayed(TEN, build.uid_validity())
    assert state.tail_offset == state.head_offset
    tail = state.head_offset
    apply(state, build.flags(1, 1, 8), build.append(11))
    assert state.tail_offset == tail
    update = encode_record(RecordType.HEADER_UPDATE, payload.tail_update(state.head_offset), True)
    apply(state, update)
    assert state.tail_offset == state.head_offset


def test_the_tail_never_moves_back() -> None:
    state = replayed(TEN)
    tail = state.tail_offset
    apply(state, build.header(64, u32(40)), build.append(11))
    assert state.tail_offset == tail


def test_an_internal_tail_update_moves_nothing() -> None:
    state = replayed(TEN)
    tail = state.tail_offset
    apply(state, build.header(64, u32(tail + 16), external=False))
    assert state.tail_offset == tail


def test_requests_are_pending_until_the_tail_passes_them() -> None:
    state = replayed(TEN, build.expunge(3, external=False), build.flags(4, 4, 0x40), build.flags(5, 5, 8))
    assert [r.type for r in state.pending_requests] == [RecordType.EXPUNGE_GUID, RecordType.FLAG_UPDATE]
    apply(state, build.expunge(3))
    assert state.pending_expunges.tolist() == []
    assert len(state.pending_requests) == 2
    apply(state, encode_record(RecordType.HEADER_UPDATE, payload.tail_update(state.head_offset), True))
    assert list(state.pending_requests) == []


# -- modseq -------------------------------------------------------------------------------------------


def modseq_tracking(highest: int) -> bytes:
    start = struct.pack("<QII", highest, 0, 0)
    return build.transaction(build.intro("modseq", 8, 8, hdr_size=16), build.ext_header(0, start))


def test_without_tracking_every_message_has_the_highest_modseq() -> None:
    state = replayed(TEN, build.flags(1, 1, 8))
    assert state.highest_modseq == 3
    assert state.modseqs().tolist() == [3] * 10


def test_tracking_starts_with_the_highest_and_follows_changes() -> None:
    state = replayed(TEN, modseq_tracking(2))
    assert state.modseqs().tolist() == [2] * 10
    apply(state, build.flags(2, 3, 8), build.keyword("k", 3, 3), build.flags(4, 4, 0x80), build.append(11))
    assert state.highest_modseq == 5
    assert state.modseqs().tolist() == [2, 3, 4, 2, 2, 2, 2, 2, 2, 2, 5]
    assert [state.modseq(row) for row in (0, 2, 10)] == [2, 4, 5]


def test_modseq_updates_raise_and_never_lower() -> None:
    state = replayed(TEN, modseq_tracking(2), build.modseqs((1, 50), (2, 1), (99, 60)))
    assert state.highest_modseq == 60
    assert state.modseqs()[:3].tolist() == [50, 2, 2]


# -- changes, positions -------------------------------------------------------------------------------


def test_changes_name_what_happened_to_whom() -> None:
    state = replayed(TEN)
    log = [build.append(11, 12, 13), build.flags(2, 3, 8), build.expunge(3, 12), build.keyword("k", 5, 5)]
    changes = state.apply_log(b"".join(log), state.head_offset)
    assert changes.appended.tolist() == [11, 13]
    assert changes.expunged.tolist() == [3]
    assert changes.updated.tolist() == [2, 5]
    assert changes.head_offset == state.head_offset
    assert changes.mailbox_changed
    assert not state.apply_log(build.flags(2, 3, 8), state.head_offset).mailbox_changed


def test_changes_of_many_overlapping_ranges() -> None:
    state = replayed(build.append(*range(1, 5001)))
    log = b"".join(build.flags(uid, uid + 1000, 8) for uid in range(1000, 3000, 50))
    changes = state.apply_log(log, state.head_offset)
    assert changes.updated.tolist() == list(range(1000, 3951))


def test_log_bytes_must_continue_the_state() -> None:
    state = replayed(TEN)
    with pytest.raises(ValueError, match="the state is at"):
        state.apply_log(build.append(11), state.head_offset + 4)


def test_replay_in_pieces_is_replay_in_one_go() -> None:
    whole = IndexState.empty(build.HEADER)
    whole.apply_log(MAILBOX_LOG[40:], 40)
    expected = contents(whole)
    for split in range(40, len(MAILBOX_LOG) + 1):
        state = IndexState.empty(build.HEADER)
        state.apply_log(MAILBOX_LOG[40:split], 40)
        state.apply_log(MAILBOX_LOG[state.head_offset :], state.head_offset)
        assert contents(state) == expected


def test_byte_by_byte_replay_is_replay_in_one_go() -> None:
    whole = IndexState.empty(build.HEADER)
    whole.apply_log(MAILBOX_LOG[40:], 40)
    state = IndexState.empty(build.HEADER)
    for end in range(41, len(MAILBOX_LOG) + 1):
        state.apply_log(MAILBOX_LOG[state.head_offset : end], state.head_offset)
    assert contents(state) == contents(whole)


def test_the_next_log_must_continue_exactly() -> None:
    state = replayed(TEN)
    wrong = LogHeader(7, 3, prev_file_seq=2, prev_file_offset=state.head_offset + 4)
    with pytest.raises(FormatError, match="continues"):
        state.follow_rotation(wrong)
    right = LogHeader(7, 3, prev_file_seq=2, prev_file_offset=state.head_offset, initial_modseq=77)
    state.follow_rotation(right)
    assert (state.log_file_seq, state.head_offset, state.highest_modseq) == (3, 40, 77)
    apply(state, build.append(11))
    assert state.highest_modseq == 78


@pytest.mark.parametrize("step", [2, 3, 1000])
def test_scattered_and_few_expunges_keep_the_same_rows(step: int) -> None:
    state = replayed(build.append(*range(1, 20_001)), build.intro("x", 4, 4), build.flags(1, 10_000, 8))
    apply(state, *(build.ext_records((uid, u32(uid))) for uid in range(1, 20_001, 7)))
    apply(state, build.expunge(*range(1, 20_001, step)))
    left = [uid for uid in range(1, 20_001) if (uid - 1) % step]
    column = state.column("x", "<u4")
    assert column is not None
    assert state.uids.tolist() == left
    assert state.flags.tolist() == [8 if uid <= 10_000 else 0 for uid in left]
    assert column.tolist() == [0 if (uid - 1) % 7 else uid for uid in left]


def test_all_messages_can_be_expunged() -> None:
    state = replayed(TEN, build.intro("x", 4, 4), build.expunge(*range(1, 11)), build.append(11))
    assert state.uids.tolist() == [11]
    apply(state, build.expunge(11))
    assert (len(state), state.unseen_count, state.next_uid) == (0, 0, 12)
    assert state.column("x", "<u4") is not None
