"""The messages that an index's pending requests ask to expunge: the same answer for readers and writers.

A request is an internal EXPUNGE_GUID or EXPUNGE record between tail and head (mail-index-log section 5).  It
counts for a message if

* the index has the uid now (it may have been appended after the request);
* the guid of the request is all zero, or the index has no ``guid`` extension (sdbox), or its guid record of
  the message is the same (locking-and-write-protocol section 6).  EXPUNGE carries no guids.

A request with another guid has no effect: Dovecot ignores it, so no reader hides the message and no writer
expunges it.

Cost: requests are decoded only once, and then compared as arrays.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dboxfs.index.columns import UidArray
from dboxfs.index.log import LogRecord, RecordType

GUID_COLUMN = "guid"

_GUID_SIZE = 16
_ENTRY = np.dtype([("uid", "<u4"), ("guid", "V16")])
_RANGE = np.dtype([("first", "<u4"), ("last", "<u4")])
_NO_GUID = bytes(_GUID_SIZE)


class Rows(Protocol):
    """The needed part of an index: :class:`~dboxfs.index.state.IndexState` has it."""

    @property
    def uids(self) -> UidArray:
        """uid of each row, uint32[n], ascending."""
        ...

    def __len__(self) -> int: ...

    def rows_of(self, uids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Rows of many uids, int64[n], -1 if there is no such message."""
        ...

    def column(self, name: str) -> npt.NDArray[Any] | None:
        """Record data of an extension, uint8[n, record_size]; None: there is none."""
        ...


class PendingExpunges:
    """The expunge requests of one list of pending records, decoded as far as the list had grown.

    :param records: the list, which may grow behind the decoded part.  A list that loses records from its
        beginning is another list.
    """

    def __init__(self, records: list[LogRecord]) -> None:
        self.records = records
        self._decoded = 0
        self._count = 0
        self._entries = np.zeros(16, _ENTRY)
        self._ranges: list[tuple[int, int]] = []

    def uids(self, index: Rows) -> UidArray:
        """uids of existing messages whose expunge is requested, ascending, each once."""
        self._decode()
        asked = np.zeros(len(index), np.bool_)
        if self._count:
            entries = self._entries[: self._count]
            rows = index.rows_of(entries["uid"])
            asked[rows[(rows >= 0) & _fits(index, rows, entries["guid"])]] = True
        for first, last in self._ranges:
            low, high = np.searchsorted(index.uids, (first, last + 1))
            asked[low:high] = True
        found: UidArray = index.uids[asked]
        return found

    def _decode(self) -> None:
        with_guids: list[memoryview] = []
        for record in self.records[self._decoded :]:
            if record.type == RecordType.EXPUNGE_GUID:
                size = len(record.payload)
                with_guids.append(record.payload[: size - size % _ENTRY.itemsize])
            elif record.type == RecordType.EXPUNGE:
                found = np.frombuffer(record.payload, _RANGE, len(record.payload) // _RANGE.itemsize)
                self._ranges += found.tolist()
        if with_guids:
            self._add(np.frombuffer(b"".join(with_guids), _ENTRY))
        self._decoded = len(self.records)

    def _add(self, entries: npt.NDArray[np.void]) -> None:
        end = self._count + len(entries)
        if end > len(self._entries):
            grown = np.zeros(2 * end, _ENTRY)
            grown[: self._count] = self._entries[: self._count]
            self._entries = grown
        self._entries[self._count : end] = entries
        self._count = end


def _fits(index: Rows, rows: npt.NDArray[np.int64], wanted: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Whether each request counts, by its guid.  ``rows``: -1 if there is none."""
    column = index.column(GUID_COLUMN)
    if column is None or column.shape[1] != _GUID_SIZE or not len(column):
        return np.ones(len(rows), np.bool_)
    guids = np.ascontiguousarray(wanted).view(np.uint8).reshape(-1, _GUID_SIZE)
    unchecked = ~guids.any(axis=1)
    same = (column[np.maximum(rows, 0)] == guids).all(axis=1)
    fits: npt.NDArray[np.bool_] = unchecked | same
    return fits
