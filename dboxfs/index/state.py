"""The state of one index: the snapshot, brought up to date by the log.

A state owns a :class:`~dboxfs.index.table.Table`, which has the rows and columns, and answers questions about
it.  Messages take no memory beyond their data, and a question about all of them is one numpy call.

Expunges of one :meth:`IndexState.apply_log` are compacted once, into new arrays.  Array views that the
properties return are read-only and valid until the next ``apply_log``.

One owner, no locks: any task may read a state while no task calls ``apply_log``.  ``replay`` has the effect
of records on a state, ``base`` and ``log`` have the file formats.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from dboxfs.errors import FormatError
from dboxfs.index import extensions as ext_format
from dboxfs.index import replay
from dboxfs.index.columns import FLAG_ANSWERED as FLAG_ANSWERED
from dboxfs.index.columns import FLAG_BACKEND as FLAG_BACKEND
from dboxfs.index.columns import FLAG_DELETED as FLAG_DELETED
from dboxfs.index.columns import FLAG_DIRTY as FLAG_DIRTY
from dboxfs.index.columns import FLAG_DRAFT as FLAG_DRAFT
from dboxfs.index.columns import FLAG_FLAGGED as FLAG_FLAGGED
from dboxfs.index.columns import FLAG_SEEN as FLAG_SEEN
from dboxfs.index.columns import ByteArray, UidArray
from dboxfs.index.columns import Changes as Changes
from dboxfs.index.extensions import KEYWORDS, MODSEQ, Extension
from dboxfs.index.log import Buffer, LogHeader, LogRecord, count_modseq
from dboxfs.index.requests import PendingExpunges
from dboxfs.index.table import Table

BASE_HEADER_SIZE = 120

#: Header flag: repaired by Dovecot's own check, a rebuild of the mailbox is due.
HEADER_FSCKED = 0x4

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class IndexState:
    """One index as of ``head_offset`` of log ``log_file_seq``.

    Made by :func:`dboxfs.index.base.parse_index` (then :meth:`attach_log`) or :meth:`empty`; advanced by
    :meth:`apply_log` and :meth:`follow_rotation`.
    """

    def __init__(
        self,
        header: Buffer,
        uids: UidArray,
        flags: ByteArray,
        extensions: Sequence[Extension] = (),
        columns: Sequence[ByteArray | None] = (),
        record_size: int = ext_format.MIN_RECORD_SIZE,
        highest_modseq: int = 1,
    ) -> None:
        """Take a base header (120 bytes or more) and the columns, which the state then owns.  ``header`` and
        ``columns`` must agree with each other: ``parse_index`` checks that.
        """
        self.table = Table(header, uids, flags, extensions, columns, record_size)
        self.table.highest_modseq = max(self.table.highest_modseq, highest_modseq)
        self._asked = PendingExpunges(self.table.pending)

    @classmethod
    def empty(cls, header: LogHeader) -> IndexState:
        """The state before the first record of a log that starts from nothing (prev_file_seq 0)."""
        raw = bytearray(BASE_HEADER_SIZE)
        struct.pack_into("<BBHIIB", raw, 0, 7, 3, BASE_HEADER_SIZE, BASE_HEADER_SIZE, 8, 1)
        for offset, value in ((16, header.indexid), (28, 1), (48, 1), (60, header.file_seq)):
            _U32.pack_into(raw, offset, value)
        for offset in (64, 68):
            _U32.pack_into(raw, offset, header.hdr_size)
        state = cls(raw, np.zeros(0, np.uint32), np.zeros(0, np.uint8))
        state.table.start_log(header)
        return state

    def __len__(self) -> int:
        return self.table.count

    # -- position -------------------------------------------------------------------------------

    @property
    def next_uid(self) -> int:
        """The uid that the next message gets, at least (IMAP UIDNEXT)."""
        return self.table.next_uid

    @property
    def log_file_seq(self) -> int:
        """The file_seq of the log that the state was read from last."""
        return self.table.log_file_seq

    @property
    def tail_offset(self) -> int:
        """Requests behind this offset of the log wait to be executed."""
        return self.table.tail_offset

    @property
    def head_offset(self) -> int:
        """End of the last whole transaction of the log in the state."""
        return self.table.head_offset

    @property
    def highest_modseq(self) -> int:
        """IMAP HIGHESTMODSEQ."""
        return self.table.highest_modseq

    @property
    def hides_internal_flags(self) -> bool:
        """Whether updates of internal flags alone leave the modseq."""
        return self.table.hides_internal_flags

    @property
    def deleted(self) -> bool:
        """Whether the mailbox is marked as deleted."""
        return self.table.deleted

    @property
    def unknown_records(self) -> int:
        """Log records of kinds that the format page does not name; they were skipped."""
        return self.table.unknown_records

    # -- base header ------------------------------------------------------------------------------

    @property
    def indexid(self) -> int:
        """Creation time of the index; the same in index, log and cache."""
        return self._header_field(16)

    @property
    def header_flags(self) -> int:
        """Flags of the base header (:data:`HEADER_FSCKED`)."""
        return self._header_field(20)

    @property
    def uid_validity(self) -> int:
        """IMAP UIDVALIDITY; 0 only while the mailbox is being created."""
        return self._header_field(24)

    @property
    def first_recent_uid(self) -> int:
        """This uid and later ones are \\Recent for the next session."""
        return self._header_field(48)

    @property
    def log2_rotate_time(self) -> int:
        """The time when ``.log.2`` was made, seconds since the epoch; 0 unknown, 0xffffffff none."""
        return self._header_field(76)

    @property
    def day_stamp(self) -> int:
        """Local midnight of the day of the last append, seconds since the epoch."""
        return self._header_field(84)

    # -- messages ---------------------------------------------------------------------------------

    @property
    def uids(self) -> UidArray:
        """uid of each row, ascending (read-only view, valid until the next ``apply_log``)."""
        view = self.table.uids[: self.table.count]
        view.flags.writeable = False
        return view

    @property
    def flags(self) -> ByteArray:
        """Flag byte of each row (mail-index section 3; read-only view)."""
        view = self.table.flags[: self.table.count]
        view.flags.writeable = False
        return view

    def flags_of(self, row: int) -> int:
        """Flag byte of one row: many times as fast as an entry of ``flags``."""
        return int(self.table.flags.item(row))

    def row_of(self, uid: int) -> int:
        """Row of ``uid``, -1 if there is no such message."""
        row = bisect_left(self.table.uid_view, uid, 0, self.table.count)
        return row if row < self.table.count and self.table.uid_view[row] == uid else -1

    def rows_of(self, uids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Rows of many uids in one step, -1 if there is no such message."""
        wanted = np.asarray(uids, dtype=np.uint32)
        rows = np.searchsorted(self.uids, wanted).astype(np.int64)
        if self.table.count == 0:
            return np.full(wanted.shape, -1, np.int64)
        found = self.table.uids[np.minimum(rows, self.table.count - 1)] == wanted
        return np.where(found, rows, np.int64(-1))

    def column(self, name: str, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any] | None:
        """Record data of extension ``name``: uint8[n, record_size], or as ``dtype`` of that size, [n].

        None if the index has no such extension, or if that has no record data, or another size than
        ``dtype``.
        """
        position = self.table.ext_index.get(name, -1)
        column = self.table.columns[position] if position >= 0 else None
        if column is None:
            return None
        view: npt.NDArray[Any] = column.array[: self.table.count]
        if dtype is not None:
            if np.dtype(dtype).itemsize != column.size:
                return None
            view = view.view(dtype).reshape(self.table.count)
        view.flags.writeable = False
        return view

    def unpack(self, name: str, row: int, layout: struct.Struct) -> tuple[Any, ...] | None:
        """Record data of extension ``name`` of one row, quicker than :meth:`column`; None as there."""
        position = self.table.ext_index.get(name, -1)
        column = self.table.columns[position] if position >= 0 else None
        if column is None or column.size != layout.size:
            return None
        return layout.unpack_from(column.flat, row * layout.size)

    def modseq(self, row: int) -> int:
        """modseq of a message; the highest modseq if the index tracks none, or none for this message."""
        column = self.table.modseq_column()
        if column is None:
            return self.highest_modseq
        value: int = _U64.unpack_from(column.flat, row * 8)[0]
        return value or self.highest_modseq

    def modseqs(self) -> npt.NDArray[np.uint64]:
        """modseq of every row, as :meth:`modseq` gives it."""
        column = self.table.modseq_column()
        highest = np.uint64(self.highest_modseq)
        if column is None:
            return np.full(self.table.count, highest, np.uint64)
        values = column.array[: self.table.count].view("<u8").reshape(self.table.count).astype(np.uint64)
        values[values == 0] = highest
        return values

    # -- keywords ---------------------------------------------------------------------------------

    def keyword_names(self) -> tuple[str, ...]:
        """All keywords of the index in the order of their bits, used by a message or not."""
        return tuple(name.decode("utf-8", "surrogateescape") for name in self.table.keywords)

    def keywords(self, row: int) -> tuple[str, ...]:
        """Keywords of a message, in the order of their bits."""
        column = self.table.column(KEYWORDS)
        if column is None:
            return ()
        mask = int.from_bytes(column.flat[row * column.size : (row + 1) * column.size], "little")
        return tuple(
            name.decode("utf-8", "surrogateescape")
            for i, name in enumerate(self.table.keywords)
            if mask >> i & 1
        )

    def with_keyword(self, rows: npt.NDArray[np.integer[Any]], keyword: str) -> npt.NDArray[np.bool_]:
        """Which of *rows* have a keyword, compared without case; shape (len(rows),)."""
        column, found = self.table.column(KEYWORDS), np.zeros(len(rows), bool)
        for bit, name in enumerate(self.keyword_names()):
            if column is not None and name.lower() == keyword.lower() and bit >> 3 < column.size:
                found |= (column.array[rows, bit >> 3] >> (bit & 7) & 1).astype(bool)
        return found

    # -- counts -----------------------------------------------------------------------------------

    @property
    def seen_count(self) -> int:
        """Messages with \\Seen."""
        return int(np.count_nonzero(self.table.flags[: self.table.count] & np.uint8(FLAG_SEEN)))

    @property
    def deleted_count(self) -> int:
        """Messages with \\Deleted."""
        return int(np.count_nonzero(self.table.flags[: self.table.count] & np.uint8(FLAG_DELETED)))

    @property
    def unseen_count(self) -> int:
        """Messages without \\Seen."""
        return self.table.count - self.seen_count

    # -- extensions -------------------------------------------------------------------------------

    @property
    def extensions(self) -> list[Extension]:
        """The extensions in order of their ext_id, with current header data and record layout."""
        self.table.lay_out()
        return [
            replace(e, hdr=self.table.keywords_header()) if e.name == KEYWORDS else e
            for e in self.table.extensions
        ]

    @property
    def record_size(self) -> int:
        """Bytes of a record in a file that holds this state."""
        self.table.lay_out()
        return self.table.record_size

    @property
    def base_header(self) -> bytes:
        """The base header's bytes (120 or more), unknown fields kept; counts and log position are stale."""
        return bytes(self.table.header)

    def header_data(self, name: str) -> bytes | None:
        """Header data of extension ``name``; None if the index has no such extension."""
        if name == KEYWORDS and name in self.table.ext_index:
            return self.table.keywords_header()
        return self.table.header_data(name)

    # -- log --------------------------------------------------------------------------------------

    @property
    def pending_requests(self) -> tuple[LogRecord, ...]:
        """Internal records between tail and head that a sync must execute (mail-index-log section 5).

        EXPUNGE*, FLAG_UPDATE with 0x40, INDEX_DELETED; in the order of the log.
        """
        return tuple(r for r in self.table.pending if r.offset >= self.tail_offset)

    @property
    def has_pending_requests(self) -> bool:
        """Whether there are :attr:`pending_requests`, without decoding them."""
        return bool(self.table.pending)

    @property
    def pending_expunges(self) -> UidArray:
        """uids of existing messages whose expunge was requested and is not executed yet, ascending.

        :mod:`dboxfs.index.requests` decides which requests count, for readers that hide messages and for
        writers that expunge them.
        """
        if self._asked.records is not self.table.pending:
            self._asked = PendingExpunges(self.table.pending)
        return self._asked.uids(self)

    def attach_log(self, header: LogHeader, data: Buffer) -> None:
        """Tie a new snapshot to the log that it ends in, so that :meth:`apply_log` can continue from there.

        ``header`` is the header of log ``log_file_seq``; ``data`` that log's bytes from
        ``header.hdr_size`` on, at least up to ``head_offset`` (more is fine).  They give the highest modseq
        at ``head_offset``, the tail, and the requests between tail and head.  :class:`FormatError` (file
        offset) if the log is shorter or broken before ``head_offset``.
        """
        if header.file_seq != self.log_file_seq:
            raise ValueError(f"log {header.file_seq} does not continue a snapshot of log {self.log_file_seq}")
        view = memoryview(data).cast("B")[: max(self.head_offset - header.hdr_size, 0)]
        if header.hdr_size + len(view) < self.head_offset:
            raise FormatError(
                header.hdr_size + len(view), f"log ends before the snapshot's {self.head_offset}"
            )
        table = self.table
        table.hides_internal_flags = header.hides_internal_flags
        table.head_offset = max(table.head_offset, header.hdr_size)
        table.tail_offset = max(table.tail_offset, header.hdr_size)
        tracked = self._modseq_position(header)
        counted = count_modseq(header, view, self.head_offset, start=tracked)
        table.highest_modseq = max(table.highest_modseq, counted)
        replay.collect_pending(self.table, view, header.hdr_size)

    def follow_rotation(self, header: LogHeader) -> None:
        """Continue with the next log file (mail-index-log section 4), to be replayed from its hdr_size.

        :class:`FormatError` if that log does not continue this state exactly; the state is unchanged then.
        """
        if (header.prev_file_seq, header.prev_file_offset) != (self.log_file_seq, self.head_offset):
            raise FormatError(
                12,
                f"log {header.file_seq} continues {header.prev_file_seq}:{header.prev_file_offset}, "
                f"the state is at {self.log_file_seq}:{self.head_offset}",
            )
        self.table.start_log(header)

    def apply_log(self, data: Buffer, offset: int) -> Changes:
        """Replay log bytes that start at file offset ``offset``, which must be ``head_offset``.

        Applies every complete transaction and moves ``head_offset`` (and ``tail_offset``) behind the last
        one; an incomplete end is left for the next call.  :class:`FormatError` (file offset) for a broken
        record: the state is then that of the last whole transaction before it.  The changes up to there are
        not reported, so the caller compares or reloads.
        """
        if offset != self.head_offset:
            raise ValueError(f"log bytes from {offset} given, the state is at {self.head_offset}")
        return replay.replay(self.table, memoryview(data).cast("B"), offset)

    # -- inside -----------------------------------------------------------------------------------

    def _header_field(self, offset: int) -> int:
        value: int = _U32.unpack_from(self.table.header, offset)[0]
        return value

    def _modseq_position(self, header: LogHeader) -> tuple[int, int] | None:
        """(offset, modseq) in the ``modseq`` header, if it is of this log and before the head."""
        hdr = self.table.header_data(MODSEQ)
        if hdr is None or len(hdr) != 16:
            return None
        highest, log_seq, log_offset = struct.unpack("<QII", hdr)
        if log_seq != header.file_seq or not header.hdr_size <= log_offset <= self.head_offset:
            return None
        return log_offset, highest
