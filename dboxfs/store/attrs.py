"""Attributes of messages that a listing needs: size, received date, saved date.  Columns, not objects.

They are not in the index, but in the dbox files (message header and metadata).  They are read once, since a
message never changes.  :class:`FactTable` keeps them in numpy columns beside the uids, 13 to 17 bytes a
message, in the order of the uids.  Before the first fact is put there are no columns.

=========== ======= ======================================================================
column      type    meaning
=========== ======= ======================================================================
uids        uint32  ascending; the mailbox's own array
state       uint8   UNKNOWN, KNOWN or DAMAGED, and HAS_ATTACHMENTS, CODED (compressed, encrypted)
size        uint32  bytes of the plain message as the user reads it; DAMAGED: the best guess, or 0
received    uint32  seconds since the epoch (``R``)
saved       uint32  seconds since the epoch
virtual     uint32  bytes with CRLF line ends, if the metadata say it (``V``); else 0
cached_at   uint32  sdbox: where ``dovecot.index.cache`` had the message when ``saved`` was found
mark        uint64  the message's bytes (``size_table``), until the facts are in the table; else 0
=========== ======= ======================================================================

The sizes and the dates become int64 the first time that a value doesn't fit (4 GiB, before 1970).
``virtual``, ``cached_at`` and ``mark`` exist only while there is something in them.

All methods run between two checkpoints of the event loop, so no lock guards the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

UNKNOWN = 0
KNOWN = 1
DAMAGED = 2
CODED = 4
HAS_ATTACHMENTS = 8

_NARROW = ("size", "received", "saved")
_LAZY = {"state": np.uint8, "size": np.uint32, "received": np.uint32, "saved": np.uint32}
_OPTIONAL = {"virtual": np.uint32, "cached_at": np.uint32, "mark": np.uint64}
_LARGEST_U32 = 0xFFFFFFFF

Uids = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Facts:
    """One message's row of the table.  ``size`` in bytes, dates in seconds since the epoch.

    ``virtual``: bytes with CRLF line ends; 0: not known.
    ``nanoseconds``: of the time of its last change (:mod:`dboxfs.store.change_time`), if the mailbox gives
    them; the table does not have them.
    """

    state: int
    size: int
    received: int
    saved: int
    virtual: int = 0
    nanoseconds: int = field(default=0, compare=False)

    @property
    def known(self) -> bool:
        return bool(self.state & (KNOWN | DAMAGED))

    @property
    def damaged(self) -> bool:
        return bool(self.state & DAMAGED)


class FactColumns(Struct, frozen=True):
    """Facts of many messages: arrays of one length, any integer types."""

    state: npt.NDArray[Any]
    size: npt.NDArray[Any]
    received: npt.NDArray[Any]
    saved: npt.NDArray[Any]
    virtual: npt.NDArray[Any]

    @classmethod
    def of(cls, facts: Sequence[Facts]) -> FactColumns:
        """The columns of these rows."""
        sizes, dates = [one.size for one in facts], [one.received for one in facts]
        return cls(
            np.array([one.state for one in facts], np.uint8),
            np.array(sizes, np.int64),
            np.array(dates, np.int64),
            np.array([one.saved for one in facts], np.int64),
            np.array([one.virtual for one in facts], np.int64),
        )

    def __getitem__(self, rows: Any) -> FactColumns:
        """The facts of some rows: a slice, an array of row numbers, or a mask."""
        columns = (self.state, self.size, self.received, self.saved, self.virtual)
        return FactColumns(*(column[rows] for column in columns))

    def __len__(self) -> int:
        return len(self.state)


class FactTable:
    """The columns for one mailbox.  ``sync`` follows the mailbox; ``put`` fills rows; ``row`` finds them.

    ``unknown``: number of rows whose facts are unknown.  ``version``: changes with every change of the table.
    ``cache_seq``: the file_seq of the cache file that ``cached_at`` refers to; 0: several.
    """

    __slots__ = (
        "_cached_at", "_mark", "_received", "_saved", "_size", "_state", "_uid_view", "_virtual",
        "cache_seq", "uids", "unknown", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.uids: Uids = np.empty(0, np.uint32)
        self._uid_view = self.uids.data
        self._state: npt.NDArray[Any] | None = None
        self._size: npt.NDArray[Any] | None = None
        self._received: npt.NDArray[Any] | None = None
        self._saved: npt.NDArray[Any] | None = None
        self._virtual: npt.NDArray[Any] | None = None
        self._cached_at: npt.NDArray[Any] | None = None
        self._mark: npt.NDArray[Any] | None = None
        self.unknown = 0
        self.version = 0
        self.cache_seq: int | None = None

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take, without the uids."""
        columns = [getattr(self, "_" + name) for name in (*_LAZY, *_OPTIONAL)]
        return sum(column.nbytes for column in columns if column is not None)

    # -- following the mailbox -----------------------------------------------------------------

    def sync(self, uids: Uids) -> None:
        """Make the table hold exactly *uids* (ascending); uids that stay keep their facts.

        The table keeps the array itself: the caller must not change it from now on.
        """
        old = self.uids
        if uids is old or (len(uids) == len(old) and np.array_equal(uids, old)):
            return
        self.uids = uids
        self._uid_view = uids.data
        self.version += 1
        if self._state is None:
            self.unknown = len(uids)
            return
        if len(uids) > len(old) and np.array_equal(uids[: len(old)], old):
            at_new: Any = slice(0, len(old))
            at_old: Any = slice(None)
        else:
            at_new, at_old = _common(uids, old)
        for name in ("_" + name for name in (*_LAZY, *_OPTIONAL)):
            column = getattr(self, name)
            if column is not None:
                fresh = np.zeros(len(uids), column.dtype)
                fresh[at_new] = column[at_old]
                setattr(self, name, fresh)
        self.unknown = int(np.count_nonzero(self._state == UNKNOWN))

    # -- looking -------------------------------------------------------------------------------

    def row(self, uid: int) -> int:
        """The row of *uid*, -1 when it is not in the table."""
        at = bisect_left(self._uid_view, uid)
        return at if at < len(self._uid_view) and self._uid_view[at] == uid else -1

    def rows_of(self, uids: Uids) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """The rows of those of *uids* that are in the table, and which these are."""
        at = np.searchsorted(self.uids, uids)
        there = at < len(self.uids)
        there[there] = self.uids[at[there]] == uids[there]
        return at[there], there

    def get(self, uid: int) -> Facts | None:
        """The facts of *uid*; None: the mailbox doesn't have it."""
        row = self.row(uid)
        return None if row < 0 else self.at(row)

    def at(self, row: int) -> Facts:
        """The facts of the message in *row*."""
        state, size, received, saved = self._state, self._size, self._received, self._saved
        if state is None or size is None or received is None or saved is None:
            return Facts(UNKNOWN, 0, 0, 0)
        virtual = self._virtual.item(row) if self._virtual is not None else 0
        return Facts(state.item(row), size.item(row), received.item(row), saved.item(row), virtual)

    def known_size(self, uid: int) -> tuple[int, int | None]:
        """The row of *uid* (-1: it is not in the table), and its size in bytes, if it is known and plain."""
        row = self.row(uid)
        if row < 0 or self._state is None or self._size is None or self._state.item(row) != KNOWN:
            return row, None
        return row, self._size.item(row)

    def columns(self, rows: Any = slice(None)) -> FactColumns:
        """The facts of many rows: copies for row numbers and masks, views for a slice."""
        state, size, received, saved = self._state, self._size, self._received, self._saved
        virtual = self._virtual
        if state is None or size is None or received is None or saved is None:
            none = np.broadcast_to(np.zeros(1, np.uint8), len(self.uids))
            return FactColumns(none, none, none, none, none)[rows]
        if virtual is None:
            virtual = np.broadcast_to(np.zeros(1, np.uint8), len(self.uids))
        return FactColumns(state, size, received, saved, virtual)[rows]

    def states(self, rows: Any) -> npt.NDArray[Any]:
        """The column ``state`` of many rows, as of :meth:`columns`."""
        return self.columns(rows).state if self._state is None else self._state[rows]

    def unknown_uids(self) -> Uids:
        """The uids whose facts are unknown, ascending."""
        unknown: Uids = self.uids if self._state is None else self.uids[self._state == UNKNOWN]
        return unknown

    def is_unknown(self, uids: Uids) -> npt.NDArray[np.bool_]:
        """Which of *uids* are in the table with unknown facts."""
        if not len(self.uids):
            return np.zeros(len(uids), np.bool_)
        at = np.minimum(np.searchsorted(self.uids, uids), len(self.uids) - 1)
        found: npt.NDArray[np.bool_] = (self.uids[at] == uids) & (self.states(at) == UNKNOWN)
        return found

    @property
    def cached_at(self) -> Uids:
        """The offset of each message in the cache file, 0: none (read-only)."""
        column = self._cached_at
        return np.broadcast_to(np.zeros(1, np.uint32), len(self.uids)) if column is None else column

    @property
    def marks(self) -> Marks:
        """The marks of facts that are not in the size table yet, 0 for others (read-only)."""
        column = self._mark
        return np.broadcast_to(np.zeros(1, np.uint64), len(self.uids)) if column is None else column

    # -- filling -------------------------------------------------------------------------------

    def put(self, uid: int, facts: Facts, mark: int | None = None) -> None:
        """Store *facts*; no change if the message is gone.

        :param mark: of the bytes that they were read from; 0: not sure enough to be kept; None: unchanged.
        """
        row = self.row(uid)
        if row < 0:
            return
        state = self._allocated()
        self.version += 1
        self.unknown += (facts.state == UNKNOWN) - int(state[row] == UNKNOWN)
        state[row] = facts.state
        for name, value in (("_size", facts.size), ("_received", facts.received), ("_saved", facts.saved)):
            if not 0 <= value <= _LARGEST_U32:
                self._widen(name)
            getattr(self, name)[row] = value
        if facts.virtual or self._virtual is not None:
            self._virtual_up_to(facts.virtual)[row] = facts.virtual
        if mark is not None:
            self._set_optional("mark", row, mark)

    def put_many(self, rows: Rows, facts: FactColumns, marks: Marks | None = None) -> None:
        """Store the facts of many *rows*, each of which comes once.

        :param marks: as of :meth:`put`; None: the facts are in the size table already, or there is none.
        """
        if not len(rows):
            return
        state = self._allocated()
        self.version += 1
        self.unknown += int(np.count_nonzero(facts.state == UNKNOWN))
        self.unknown -= int(np.count_nonzero(state[rows] == UNKNOWN))
        state[rows] = facts.state
        for name in _NARROW:
            values: npt.NDArray[Any] = getattr(facts, name)
            if values.dtype.itemsize > 4 and not _fits(values):
                self._widen("_" + name)
            getattr(self, "_" + name)[rows] = values
        largest = int(facts.virtual.max())
        if largest or self._virtual is not None:
            self._virtual_up_to(largest)[rows] = facts.virtual
        if marks is not None or self._mark is not None:
            self._set_optional("mark", rows, 0 if marks is None else marks)

    def set_cached_at(self, rows: Any, offsets: Any, cache_seq: int) -> None:
        """Store the offsets of the messages in *rows* (one row, or an array) in the cache file
        *cache_seq*.
        """
        self._set_optional("cached_at", rows, offsets)
        self.cache_seq = cache_seq if self.cache_seq in (None, cache_seq) else 0

    def forget_marks(self, rows: Any) -> None:
        """Drop the marks of *rows*, whose facts are in the size table now."""
        if self._mark is not None:
            self._mark[rows] = 0
            if not self._mark.any():
                self._mark = None

    def _virtual_up_to(self, largest: int) -> npt.NDArray[Any]:
        """The column of virtual sizes, which has room for this one (bytes)."""
        if self._virtual is None:
            self._virtual = np.zeros(len(self.uids), _OPTIONAL["virtual"])
        if largest > _LARGEST_U32:
            self._virtual = self._virtual.astype(np.int64)
        return self._virtual

    def _set_optional(self, name: str, rows: Any, values: Any) -> None:
        column = getattr(self, "_" + name)
        if column is None:
            if not np.any(values):
                return
            column = np.zeros(len(self.uids), _OPTIONAL[name])
            setattr(self, "_" + name, column)
        column[rows] = values

    def _allocated(self) -> npt.NDArray[Any]:
        if self._state is None:
            for name, dtype in _LAZY.items():
                setattr(self, "_" + name, np.zeros(len(self.uids), dtype))
        state = self._state
        assert state is not None
        return state

    def _widen(self, name: str) -> None:
        setattr(self, name, getattr(self, name).astype(np.int64))


def _fits(values: npt.NDArray[Any]) -> bool:
    return int(values.min()) >= 0 and int(values.max()) <= _LARGEST_U32


def _common(new: Uids, old: Uids) -> tuple[Rows, Rows]:
    """The rows in *new* and in *old* of the uids that both have; both are ascending."""
    if not len(old) or not len(new):
        nothing = np.empty(0, np.int64)
        return nothing, nothing
    at_old = np.minimum(np.searchsorted(old, new), len(old) - 1)
    there = old[at_old] == new
    return np.flatnonzero(there), at_old[there]
