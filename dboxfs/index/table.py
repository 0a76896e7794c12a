"""The rows, columns and log position of one index, which log records change.

A message is a row.  Its uid and flags, and its record in each extension, are at the same row of separate
arrays: ``uids`` uint32[capacity], ``flags`` uint8[capacity], one uint8[capacity, record_size] per extension
(``columns``).

Invariants:

* rows 0 to ``count`` - 1 are sorted by uid, ascending, without duplicates; every uid < ``next_uid``;
* arrays have room for more rows than there are messages; the extension columns are zero there;
* the position of an extension in ``extensions`` is its ext_id and never changes;
* ``head_offset`` is the end of the last whole transaction of log ``log_file_seq`` in the table.

A transaction is applied whole or not at all: :meth:`Table.mark` before it, :meth:`Table.roll_back` if it is
broken.  For that, all attributes but rows and the two lists that grow (``keywords``, ``pending``) are
replaced and never changed in place.  Code that changes rows in place notes their old values
(``replay.context.Undo``) and restores them before :meth:`Table.roll_back`.

Arrays grow geometrically.  One owner, no locks.  ``replay`` has the meaning of records;
:class:`~dboxfs.index.state.IndexState`, which owns the table, answers questions about an index.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import ByteArray, Column, Selection, UidArray
from dboxfs.index.extensions import KEYWORDS, MODSEQ, Extension
from dboxfs.index.log import Buffer, LogHeader, LogRecord

MAX_COPIED_RUNS = 4096
"""Up to so many runs of rows between expunged ones are copied as slices."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Mark(NamedTuple):  # one a transaction: a frozen dataclass takes three times as long to make
    """A table at some moment: its attributes, and the lengths of the lists that grow in place."""

    attributes: dict[str, Any]
    keywords: int
    pending: int


class Table:
    """The rows and columns of one index, with marks to roll back to.

    :param header: base header, 120 bytes or more.
    :param columns: uint8[n, record_size] of each extension, None without record data; owned by the table from
    now on.
    """

    def __init__(
        self,
        header: Buffer,
        uids: UidArray,
        flags: ByteArray,
        extensions: Sequence[Extension],
        columns: Sequence[ByteArray | None],
        record_size: int,
    ) -> None:
        self.header = bytes(header)
        self.count = len(uids)
        self.uids = uids
        self.flags = flags
        self.uid_view = uids.data
        self.flag_view = flags.data
        self.extensions = tuple(extensions)
        self.columns = tuple(None if c is None else Column(c) for c in columns)
        self.ext_index = {e.name: i for i, e in enumerate(self.extensions)}
        self.record_size = record_size
        self.laid_out = True
        self.next_uid: int = _U32.unpack_from(header, 28)[0]
        self.log_file_seq: int = _U32.unpack_from(header, 60)[0]
        self.tail_offset: int = _U32.unpack_from(header, 64)[0]
        self.head_offset: int = _U32.unpack_from(header, 68)[0]
        self.highest_modseq = 1
        self.hides_internal_flags = True
        self.deleted = False
        self.unknown_records = 0
        self.selection = Selection()
        self.pending: list[LogRecord] = []
        self.keywords: list[bytes] = []
        self.keyword_index: dict[bytes, int] = {}
        self.keyword_bytes = 0
        hdr = self.header_data(KEYWORDS)
        for name in ext_format.parse_keywords(hdr, 0) if hdr else ():
            self.keyword_index.setdefault(name.lower(), len(self.keywords))
            self.keywords.append(name)
            self.keyword_bytes += len(name)
        self.take_modseq_header()

    # -- columns ----------------------------------------------------------------------------------

    def column(self, name: str) -> Column | None:
        """Record data of extension ``name``; None: no such extension, or it has no record data."""
        position = self.ext_index.get(name, -1)
        return self.columns[position] if position >= 0 else None

    def modseq_column(self) -> Column | None:
        """The column of modseqs, u64 each; None while the index tracks none."""
        column = self.column(MODSEQ)
        return column if column is not None and column.size == 8 else None

    def grow(self, rows: int) -> None:
        """Give all arrays room for ``rows`` rows."""
        count = self.count
        uids, flags = np.zeros(rows, self.uids.dtype), np.zeros(rows, self.flags.dtype)
        uids[:count], flags[:count] = self.uids[:count], self.flags[:count]
        self.uids, self.flags = uids, flags
        self.columns = tuple(c and c.resized(rows, c.size) for c in self.columns)
        self._refresh_views()

    def keep_rows(self, alive: npt.NDArray[np.bool_]) -> None:
        """Keep only the rows of ``alive`` (one entry for each row), in new arrays."""
        edges = np.flatnonzero(np.diff(alive, prepend=False, append=False))
        runs = [slice(low, high) for low, high in edges.reshape(-1, 2).tolist()]

        def kept(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if 0 < len(runs) <= MAX_COPIED_RUNS:  # whole runs copy about ten times as fast as a mask
                return np.concatenate([rows[run] for run in runs])
            return rows[: self.count][alive]

        self.uids = kept(self.uids)
        self.flags = kept(self.flags)
        self.columns = tuple(c and Column(kept(c.array)) for c in self.columns)
        self.count = len(self.uids)
        self._refresh_views()

    def _refresh_views(self) -> None:
        self.uid_view = self.uids.data
        self.flag_view = self.flags.data

    # -- extensions -------------------------------------------------------------------------------

    def header_data(self, name: str) -> bytes | None:
        """Header data of extension ``name`` as it was read; None: no such extension."""
        position = self.ext_index.get(name, -1)
        return self.extensions[position].hdr if position >= 0 else None

    def keywords_header(self) -> bytes:
        """Header data of the extension ``keywords``, with every keyword of the table."""
        return ext_format.encode_keywords(self.keywords, len(self.header_data(KEYWORDS) or b""))

    def take_modseq_header(self) -> None:
        """Raise the highest modseq to the one in the header of ``modseq``, if that is higher."""
        hdr = self.header_data(MODSEQ)
        if hdr is not None and len(hdr) == 16:
            self.highest_modseq = max(self.highest_modseq, _U64.unpack_from(hdr)[0])

    def lay_out(self) -> None:
        """Give the extensions their places in a record, if some have changed since the last time."""
        if not self.laid_out:
            placed, self.record_size = ext_format.place_records(self.extensions)
            self.extensions = tuple(placed)
            self.laid_out = True

    # -- log --------------------------------------------------------------------------------------

    def start_log(self, header: LogHeader) -> None:
        """Continue at the beginning of another log file."""
        self.log_file_seq = header.file_seq
        self.head_offset = self.tail_offset = header.hdr_size
        self.highest_modseq = max(self.highest_modseq, header.initial_modseq)
        self.hides_internal_flags = header.hides_internal_flags
        self.selection = Selection()
        self.pending = []

    def drop_done_requests(self) -> None:
        """Forget requests that the tail has passed."""
        if self.pending and self.pending[0].offset < self.tail_offset:
            self.pending = [r for r in self.pending if r.offset >= self.tail_offset]

    def mark(self) -> Mark:
        """The current table, for :meth:`roll_back`."""
        return Mark(self.__dict__.copy(), len(self.keywords), len(self.pending))

    def roll_back(self, mark: Mark) -> None:
        """Restore the table of the mark.  Rows that were changed in place must have been restored before."""
        self.__dict__.update(mark.attributes)
        for name in self.keywords[mark.keywords :]:
            del self.keyword_index[name.lower()]
        del self.keywords[mark.keywords :]
        del self.pending[mark.pending :]
        for column in self.columns:
            if column is not None:
                column.array[self.count :] = 0
