"""Replay of log records over a table, transaction by transaction.

Each transaction is applied whole or not at all, so that a broken record leaves the table of the last whole
one.  For that, the old value of a row is noted before each change in place
(:class:`~dboxfs.index.replay.context.Undo`), and the table is marked before each transaction.

Expunged rows stay in place, marked dead, until the end of the call; one compaction then removes them all.
Updates of dead rows are harmless and not checked.

Costs: a record for one message takes a binary search and a few operations on memoryviews (no numpy call); a
record for a range takes a slice.  Undo notes stay below the size of the touched columns.  Thousands of
requests to expunge one message each, which ``rm -r`` leaves, are taken in one step if they are the first new
records (:func:`_requests_at_once`).

Records about things that the index does not have (uids that are gone, another generation of an extension,
unknown kinds of records) are skipped, as the format demands.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from dboxfs.errors import FormatError
from dboxfs.index.columns import FLAG_BACKEND, Changes
from dboxfs.index.log import (
    EXTERNAL,
    RECORD_HEADER_SIZE,
    SYNC,
    LogRecord,
    Place,
    RecordType,
    encode_record,
    iter_transactions,
    next_modseq,
    record_kind,
)
from dboxfs.index.replay import extensions, keywords, messages
from dboxfs.index.replay.context import Context
from dboxfs.index.table import Table

TAIL_FIELD = 64

_HH = struct.Struct("<HH")
_U32 = struct.Struct("<I")

#: Kinds of internal records that a later sync must process (mail-index-log section 5).
_REQUESTS = frozenset(
    {RecordType.EXPUNGE, RecordType.EXPUNGE_GUID, RecordType.FLAG_UPDATE, RecordType.INDEX_DELETED}
)

_ONE_REQUEST = np.dtype([("head", "<u8"), ("uid", "<u4"), ("guid", "V16")])
#: Size and type of a transaction of its own that asks to expunge one message.
_REQUEST_HEAD = np.frombuffer(encode_record(RecordType.EXPUNGE_GUID, bytes(20)), _ONE_REQUEST)["head"][0]
_REQUEST_START = encode_record(RecordType.EXPUNGE_GUID, bytes(20))[:RECORD_HEADER_SIZE]


def _boundary(ctx: Context, body: memoryview) -> None:
    """Do nothing: :func:`dboxfs.index.log.iter_transactions` splits the log into transactions."""


_HANDLERS: dict[int, Callable[[Context, memoryview], None]] = {
    RecordType.EXPUNGE: messages.expunge_ranges,
    RecordType.EXPUNGE_GUID: messages.expunge_guids,
    RecordType.APPEND: messages.append,
    RecordType.FLAG_UPDATE: messages.flag_update,
    RecordType.MODSEQ_UPDATE: messages.modseq_update,
    RecordType.HEADER_UPDATE: messages.header_update,
    RecordType.INDEX_DELETED: messages.index_deleted,
    RecordType.INDEX_UNDELETED: messages.index_undeleted,
    RecordType.ATTRIBUTE_UPDATE: messages.attribute_update,
    RecordType.KEYWORD_UPDATE: keywords.keyword_update,
    RecordType.KEYWORD_RESET: keywords.keyword_reset,
    RecordType.EXT_INTRO: extensions.ext_intro,
    RecordType.EXT_RESET: extensions.ext_reset,
    RecordType.EXT_HDR_UPDATE: extensions.ext_hdr_update,
    RecordType.EXT_HDR_UPDATE32: extensions.ext_hdr_update32,
    RecordType.EXT_REC_UPDATE: extensions.ext_rec_update,
    RecordType.EXT_ATOMIC_INC: extensions.ext_atomic_inc,
    RecordType.BOUNDARY: _boundary,
}


def replay(table: Table, view: memoryview, offset: int) -> Changes:
    """Replay log bytes whose first byte is at file offset ``offset``, which must be the table's head.

    Applies every complete transaction and moves head and tail behind the last one.

    :raises FormatError: (file offset) a broken record; the transactions before it are applied.
    """
    return _Replay(table, view, offset).run()


class _Replay:
    """One pass over log bytes ``view``, whose first byte is at file offset ``base``."""

    def __init__(self, table: Table, view: memoryview, base: int) -> None:
        self._view = view
        self._base = base
        self._ctx = Context(table, base)

    def run(self) -> Changes:
        """Apply all complete transactions.  On :class:`FormatError` those before it are applied."""
        start = _requests_at_once(self._ctx.table, self._view, self._base)
        try:
            for places in iter_transactions(self._view, start, self._base):
                self._transaction(places)
        except FormatError:
            self._finish()
            raise
        return self._finish()

    def _transaction(self, places: list[Place]) -> None:
        ctx = self._ctx
        table = ctx.table
        mark = table.mark()
        dead = ctx.dead
        try:
            for pos, size, raw in places:
                self._record(pos, size, raw)
        except FormatError:
            ctx.undo.restore()
            table.roll_back(mark)
            ctx.dead = dead
            raise
        table.head_offset = ctx.offset + size
        if ctx.undo.entries:
            ctx.undo.forget()

    def _record(self, pos: int, size: int, raw: int) -> None:
        ctx = self._ctx
        table = ctx.table
        ctx.offset = offset = self._base + pos
        body = self._view[pos + RECORD_HEADER_SIZE : pos + size]
        kind = record_kind(raw, offset)
        ctx.external = bool(raw & EXTERNAL)
        handler = _HANDLERS.get(kind)
        if handler is None:
            table.unknown_records += 1
        else:
            table.highest_modseq = next_modseq(
                table.highest_modseq, kind, raw, body, table.hides_internal_flags
            )
            handler(ctx, body)
        track_tail(table, offset, size, raw, kind, body)

    def _finish(self) -> Changes:
        """Remove the dead rows, and give the changes."""
        ctx = self._ctx
        table = ctx.table
        table.drop_done_requests()
        count, first_new = table.count, ctx.first_new
        uids = table.uids
        touched = ctx.touched_rows(first_new)
        appended, expunged = uids[first_new:count].copy(), uids[:0].copy()
        updated = uids[touched]
        if ctx.dead is not None and bool(ctx.dead[:count].any()):
            alive = np.ones(count, np.bool_)
            marked = ctx.dead[:count]
            alive[: len(marked)] = marked == 0
            appended = appended[alive[first_new:]]
            expunged = uids[:first_new][~alive[:first_new]]
            updated = updated[alive[touched]]
            table.keep_rows(alive)
        return Changes(table.head_offset, appended, expunged, updated, ctx.mailbox_changed)


def _requests_at_once(table: Table, view: memoryview, base: int) -> int:
    """Store the requests for one message each at the beginning of ``view``; gives the number of their bytes.

    A request changes only the list of pending requests: no row, no modseq, and not the tail.
    """
    if bytes(view[: len(_REQUEST_START)]) != _REQUEST_START:
        return 0
    records = np.frombuffer(view, _ONE_REQUEST, len(view) // _ONE_REQUEST.itemsize)
    others = (records["head"] != _REQUEST_HEAD) | (records["uid"] == 0)
    count = int(others.argmax()) if others.any() else len(records)
    size = _ONE_REQUEST.itemsize
    taken = memoryview(bytes(view[: count * size]))
    for pos in range(0, len(taken), size):
        body = taken[pos + RECORD_HEADER_SIZE : pos + size]
        table.pending.append(LogRecord(base + pos, size, RecordType.EXPUNGE_GUID, False, False, body))
    table.head_offset = base + len(taken)
    return len(taken)


def track_tail(table: Table, offset: int, size: int, raw: int, kind: int, body: memoryview) -> None:
    """Move the tail over one record, or store the request in it (mail-index-log section 5)."""
    if raw & EXTERNAL:
        tail = _tail_value(body) if kind == RecordType.HEADER_UPDATE else None
        if tail is not None:
            if tail > offset + size:
                raise FormatError(offset, f"log_file_tail_offset {tail} is beyond this record's end")
            table.tail_offset = max(table.tail_offset, tail)
        elif table.tail_offset == offset:
            table.tail_offset = offset + size
    elif kind in _REQUESTS and (kind != RecordType.FLAG_UPDATE or _moves_message(body)):
        copy = memoryview(bytes(body))
        table.pending.append(LogRecord(offset, size, RecordType(kind), False, bool(raw & SYNC), copy))


def _moves_message(body: memoryview) -> bool:
    """Whether a FLAG_UPDATE asks to move messages to or from the alt storage (flag 0x40)."""
    if len(body) == 12:
        return bool((body[8] | body[9]) & FLAG_BACKEND)
    return any((body[pos + 8] | body[pos + 9]) & FLAG_BACKEND for pos in range(0, len(body) - 11, 12))


def _tail_value(body: memoryview) -> int | None:
    """log_file_tail_offset if a HEADER_UPDATE payload sets it."""
    pos = 0
    while pos + 4 <= len(body):
        where, size = _HH.unpack_from(body, pos)
        if where <= TAIL_FIELD and where + size >= TAIL_FIELD + 4 and pos + 4 + size <= len(body):
            value: int = _U32.unpack_from(body, pos + 4 + TAIL_FIELD - where)[0]
            return value
        pos += 4 + size + -size % 4
    return None


def collect_pending(table: Table, view: memoryview, base: int) -> None:
    """Walk the records between tail and head of a log whose bytes from ``base`` on are ``view``."""
    start = min(max(table.tail_offset - base, 0), len(view))
    for places in iter_transactions(view, start, base):
        for pos, size, raw in places:
            body = view[pos + RECORD_HEADER_SIZE : pos + size]
            track_tail(table, base + pos, size, raw, record_kind(raw, base + pos), body)
    table.drop_done_requests()
