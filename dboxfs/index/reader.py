"""The choice of the files that make the current state of an index (mail-index-log section 4): a pure
decision.

A reader takes no locks.  It reads the snapshot first and the log after it, so that the log can only be ahead.
:func:`decide` says how to combine them.  Dovecot may rotate the log or replace the snapshot in between; then
the answer is RETRY, and only if that persists the files are damaged.

::

    snapshot, log                      -> Plan(REPLAY_LOG, from H) | Plan(REPLAY_LOG, from its start)
    no snapshot, log from nothing      -> Plan(EMPTY)
    snapshot older than .log           -> Plan(NEED_LOG2), then with .log.2: Plan(REPLAY_LOG2)

:func:`load` carries a plan out on bytes.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from dboxfs.errors import FormatError
from dboxfs.index.log import Buffer, LogHeader, parse_log_header
from dboxfs.index.state import IndexState


class Action(Enum):
    """The next step of a reader."""

    REPLAY_LOG = auto()  #: snapshot, then ``.log`` from ``log_offset``
    REPLAY_LOG2 = auto()  #: snapshot, then ``.log.2`` from ``log2_offset`` to its end, then ``.log``
    EMPTY = auto()  #: drop the snapshot; empty state, then all of ``.log``
    SNAPSHOT_ONLY = auto()  #: ``.log`` is marked corrupted: the snapshot has the whole state
    NEED_LOG2 = auto()  #: read ``.log.2`` and decide again
    RETRY = auto()  #: the files are being replaced: read them again, snapshot first
    DAMAGED = auto()  #: nothing will help


class Plan(Struct, frozen=True):
    """An :class:`Action`, the file offsets to replay from (bytes), and a reason for messages to users."""

    action: Action
    log_offset: int = 0
    log2_offset: int = 0
    reason: str = ""


def decide(
    snapshot: IndexState | None,
    log: LogHeader,
    log2: LogHeader | None = None,
    *,
    log_size: int | None = None,
    log2_read: bool = False,
) -> Plan:
    """The plan for a snapshot from :func:`~dboxfs.index.base.parse_index` and the log headers.

    ``log_size``: bytes of ``.log``, if known, to notice a snapshot that is ahead of it.  ``log2_read``:
    the caller has looked for ``.log.2``; ``log2`` None then means that there is none.
    """
    if log.marked_corrupted:
        if snapshot is None:
            return Plan(Action.DAMAGED, reason="log is marked corrupted and there is no snapshot")
        return Plan(Action.SNAPSHOT_ONLY, reason="log is marked corrupted")
    if snapshot is None:
        if log.prev_file_seq == 0:
            return Plan(Action.EMPTY, log_offset=log.hdr_size)
        return Plan(Action.RETRY, reason=f"no snapshot, and log {log.file_seq} continues another log")
    if log.indexid != snapshot.indexid:
        return Plan(
            Action.RETRY, reason=f"indexid {log.indexid} of the log, {snapshot.indexid} of the snapshot"
        )
    seq, head = snapshot.log_file_seq, snapshot.head_offset
    if seq == log.file_seq:
        if log_size is not None and head > log_size:
            return Plan(Action.RETRY, reason=f"snapshot is at {head}, the log ends at {log_size}")
        return Plan(Action.REPLAY_LOG, log_offset=max(head, log.hdr_size))
    if (seq, head) == (log.prev_file_seq, log.prev_file_offset):
        return Plan(Action.REPLAY_LOG, log_offset=log.hdr_size)
    if log.prev_file_seq == 0:
        return Plan(Action.EMPTY, log_offset=log.hdr_size)
    if log2 is not None and (log2.file_seq, log2.indexid) == (seq, log.indexid):
        return Plan(Action.REPLAY_LOG2, log_offset=log.hdr_size, log2_offset=max(head, log2.hdr_size))
    if log2 is None and not log2_read:
        return Plan(Action.NEED_LOG2, reason=f"snapshot of log {seq}, the log is {log.file_seq}")
    return Plan(Action.RETRY, reason=f"log {seq} of the snapshot is gone, the log is {log.file_seq}")


def load(
    plan: Plan, snapshot: IndexState | None, log: Buffer, log2: Buffer | None = None, *, replay: bool = True
) -> IndexState:
    """Carry out a plan that needs no more reading; ``log`` and ``log2`` are whole files' bytes.

    The result is ``snapshot`` itself, brought up to date, or a new state.  With ``replay`` False it stops
    at ``plan.log_offset`` of ``.log``.  :class:`FormatError` for broken records, for RETRY and DAMAGED, and
    for files that do not fit the plan (any more).
    """
    header = parse_log_header(log)
    if plan.action is Action.EMPTY:
        state = IndexState.empty(header)
    elif snapshot is None or plan.action in (Action.RETRY, Action.DAMAGED, Action.NEED_LOG2):
        raise FormatError(0, plan.reason or "no snapshot")
    elif plan.action is Action.SNAPSHOT_ONLY:
        return snapshot
    elif plan.action is Action.REPLAY_LOG2:
        if log2 is None:
            raise FormatError(0, "the log before this one is missing")
        state = snapshot
        _attach(state, log2)
        state.apply_log(memoryview(log2)[state.head_offset :], state.head_offset)
        state.follow_rotation(header)
    elif snapshot.log_file_seq == header.file_seq:
        state = snapshot
        _attach(state, log)
    else:
        state = snapshot
        state.follow_rotation(header)
    if replay:
        state.apply_log(memoryview(log)[state.head_offset :], state.head_offset)
    return state


def _attach(state: IndexState, log: Buffer) -> None:
    header = parse_log_header(log)
    state.attach_log(header, memoryview(log)[header.hdr_size :])
