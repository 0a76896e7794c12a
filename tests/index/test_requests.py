"""What counts as a request to expunge: one answer, by the state that the requests meet."""

from __future__ import annotations

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
