"""Builds logs by hand, record by record, for the tests of the replay."""

from __future__ import annotations

import struct

from dboxfs.index import payload
from dboxfs.index.log import LogHeader, RecordType, encode_record, encode_transaction
from dboxfs.index.state import IndexState

HEADER = LogHeader(indexid=7, file_seq=2)
#: End of the header: where the records of a log start.
START = HEADER.hdr_size


def uid_validity(value: int = 1000) -> bytes:
    """The HEADER_UPDATE that every mailbox begins with."""
    return header(24, struct.pack("<I", value))


def header(offset: int, data: bytes, external: bool = True) -> bytes:
    return encode_record(RecordType.HEADER_UPDATE, payload.header_update(offset, data), external)


def append(*uids: int, flags: int = 0) -> bytes:
    return encode_record(RecordType.APPEND, payload.append([(uid, flags) for uid in uids]), True)


def flags(uid1: int, uid2: int, add: int, remove: int = 0, inc: int = 0) -> bytes:
    body = payload.flag_update([(uid1, uid2)], add, remove, inc)
    return encode_record(RecordType.FLAG_UPDATE, body)


def keyword(name: str, uid1: int, uid2: int, modify: int = payload.KEYWORD_ADD) -> bytes:
    body = payload.keyword_update(name, [(uid1, uid2)], modify)
    return encode_record(RecordType.KEYWORD_UPDATE, body)


def intro(
    name: str | int,
    record_size: int = 0,
    align: int = 0,
    hdr_size: int = 0,
    reset_id: int = 0,
    shrink: bool = False,
) -> bytes:
    body = payload.ext_intro(
        name,
        reset_id=reset_id,
        hdr_size=hdr_size,
        record_size=record_size,
        record_align=align,
        no_shrink=not shrink,
    )
    return encode_record(RecordType.EXT_INTRO, body, True)


def ext_header(offset: int, data: bytes) -> bytes:
    return encode_record(RecordType.EXT_HDR_UPDATE, payload.ext_hdr_update(offset, data), True)


def ext_records(*records: tuple[int, bytes]) -> bytes:
    return encode_record(RecordType.EXT_REC_UPDATE, payload.ext_rec_update(records), True)


def increment(uid: int, diff: int) -> bytes:
    return encode_record(RecordType.EXT_ATOMIC_INC, payload.ext_atomic_inc([(uid, diff)]))


def reset(reset_id: int, preserve: bool = False) -> bytes:
    return encode_record(RecordType.EXT_RESET, payload.ext_reset(reset_id, preserve), True)


def expunge(*uids: int, external: bool = True, guid: bytes = bytes(16)) -> bytes:
    body = payload.expunge_guid([(uid, guid) for uid in uids])
    return encode_record(RecordType.EXPUNGE_GUID, body, external)


def modseqs(*values: tuple[int, int]) -> bytes:
    return encode_record(RecordType.MODSEQ_UPDATE, payload.modseq_update(values), True)


def transaction(*records: bytes) -> bytes:
    return encode_transaction(records)


def replayed(*parts: bytes) -> IndexState:
    """The state after a log of these parts (records or transactions)."""
    state = IndexState.empty(HEADER)
    state.apply_log(b"".join(parts), START)
    return state


def apply(state: IndexState, *parts: bytes) -> None:
    """Replay more parts over a state."""
    state.apply_log(b"".join(parts), state.head_offset)


def contents(state: IndexState) -> tuple[object, ...]:
    """All that a state says, to compare two of them (fields that a file computes are left out)."""
    header = state.base_header
    return (
        state.head_offset,
        state.tail_offset,
        state.log_file_seq,
        state.next_uid,
        header[12:28] + header[48:52] + header[76:],
        state.deleted,
        state.highest_modseq,
        state.uids.tolist(),
        state.flags.tolist(),
        state.modseqs().tolist(),
        state.keyword_names(),
        [state.keywords(row) for row in range(len(state))],
        state.extensions,
        [None if (c := state.column(e.name)) is None else c.tobytes() for e in state.extensions],
        state.pending_expunges.tolist(),
        [(r.offset, r.type, bytes(r.payload)) for r in state.pending_requests],
        state.unknown_records,
    )
