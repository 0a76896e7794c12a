"""What counts as a request to expunge: one answer, by the state that the requests meet."""

from __future__ import annotations

import pytest

from dboxfs.errors import FormatError
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_record
from tests.index import build

GUIDS = {uid: bytes([uid]) * 16 for uid in range(1, 6)}
FIVE = build.append(*GUIDS)
WITH_GUIDS = (build.intro("guid", 16, 1), build.ext_records(*GUIDS.items()))


def test_a_request_with_the_guid_of_the_index_counts_and_so_do_zeros() -> None:
    state = build.replayed(FIVE, *WITH_GUIDS)
    build.apply(state, build.expunge(2, external=False, guid=GUIDS[2]), build.expunge(4, external=False))
    assert state.pending_expunges.tolist() == [2, 4]


def test_a_request_with_another_guid_counts_for_nothing() -> None:
    state = build.replayed(FIVE, *WITH_GUIDS, build.expunge(2, 3, external=False, guid=GUIDS[3]))
    assert state.pending_expunges.tolist() == [3]
    assert state.has_pending_requests
    build.apply(state, build.expunge(2, external=False, guid=GUIDS[2]))
    assert state.pending_expunges.tolist() == [2, 3]


def test_an_index_that_knows_no_guids_obeys_any_request() -> None:
    state = build.replayed(FIVE, build.expunge(2, external=False, guid=GUIDS[5]))
    assert state.pending_expunges.tolist() == [2]


def test_the_old_form_of_a_request_carries_no_guid() -> None:
    request = encode_record(RecordType.EXPUNGE, payload.expunge([(1, 2), (4, 9)]))
    assert build.replayed(FIVE, *WITH_GUIDS, request).pending_expunges.tolist() == [1, 2, 4, 5]


def test_a_request_waits_for_its_message_and_forgets_it_with_it() -> None:
    state = build.replayed(FIVE, build.expunge(1, 7, external=False))
    assert state.pending_expunges.tolist() == [1]
    build.apply(state, build.append(7))
    assert state.pending_expunges.tolist() == [1, 7]
    build.apply(state, build.expunge(1))
    assert state.pending_expunges.tolist() == [7]


def test_requests_come_one_by_one_and_go_with_the_tail() -> None:
    state = build.replayed(build.append(*range(1, 301)))
    for uid in range(1, 201):
        build.apply(state, build.expunge(uid, external=False))
        assert len(state.pending_expunges) == uid
    build.apply(state, build.header(64, state.head_offset.to_bytes(4, "little")))
    assert not state.has_pending_requests
    assert not len(state.pending_expunges)
    build.apply(state, build.expunge(300, external=False))
    assert state.pending_expunges.tolist() == [300]


def test_requests_that_come_at_once_are_what_they_are_one_by_one() -> None:
    uids = [3, 1, 9, 3, 2]
    requests = [build.expunge(uid, external=False, guid=GUIDS.get(uid, bytes(16))) for uid in uids]
    more = [build.expunge(4), build.expunge(5, external=False), build.expunge(1)]
    for behind in ([], more):
        one_by_one, at_once = build.replayed(FIVE, *WITH_GUIDS), build.replayed(FIVE, *WITH_GUIDS)
        for record in requests + behind:
            build.apply(one_by_one, record)
        build.apply(at_once, *requests, *behind)
        assert at_once.pending_requests == one_by_one.pending_requests
        assert [request.size for request in at_once.pending_requests[:5]] == [28] * 5
        assert at_once.pending_expunges.tolist() == one_by_one.pending_expunges.tolist()
        assert (at_once.head_offset, at_once.tail_offset, at_once.highest_modseq) == (
            one_by_one.head_offset,
            one_by_one.tail_offset,
            one_by_one.highest_modseq,
        )
        assert at_once.uids.tolist() == one_by_one.uids.tolist()


def test_a_tail_between_requests_that_came_at_once_leaves_those_behind_it() -> None:
    state = build.replayed(FIVE)
    begin = state.head_offset
    build.apply(state, *(build.expunge(uid, external=False) for uid in range(1, 5)))
    build.apply(state, build.header(64, (begin + 2 * 28).to_bytes(4, "little")))
    assert state.pending_expunges.tolist() == [3, 4]


def test_a_request_for_no_uid_among_others_is_an_error_where_it_is() -> None:
    state = build.replayed(FIVE)
    begin = state.head_offset
    bad = encode_record(RecordType.EXPUNGE_GUID, bytes(20))
    with pytest.raises(FormatError) as caught:
        build.apply(state, build.expunge(1, external=False), bad, build.expunge(2, external=False))
    assert caught.value.offset == begin + 28
    assert state.head_offset == begin + 28
    assert state.pending_expunges.tolist() == [1]


def test_half_a_request_behind_others_waits_for_its_rest() -> None:
    state = build.replayed(FIVE)
    data = b"".join(build.expunge(uid, external=False) for uid in range(1, 4))
    begin = state.head_offset
    state.apply_log(data[:-5], begin)
    assert state.head_offset == begin + 2 * 28
    state.apply_log(data[2 * 28 :], state.head_offset)
    assert state.pending_expunges.tolist() == [1, 2, 3]
