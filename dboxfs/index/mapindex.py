"""The mdbox map: the place of each stored message (format: mdbox-map).

A map index is an ordinary index whose uids are map uids.  Extension ``map``: record file_id u32, offset u32,
size u32; header highest_file_id u32, rebuild_count u32.  Extension ``ref``: record refcount u16.

:class:`MapIndex` is a view of an :class:`~dboxfs.index.state.IndexState`, not a copy: it always answers from
the current state.  Its arrays are valid until the state's next ``apply_log``.  A missing map uid may be newer
than the state that was read.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.index.state import IndexState

_MAP_RECORD = np.dtype([("file_id", "<u4"), ("offset", "<u4"), ("size", "<u4")])
_PLACE = struct.Struct("<III")
_REFCOUNT = struct.Struct("<H")
_MAP_HEADER = struct.Struct("<II")


class MapRecord(Struct, frozen=True):
    """Place of one stored message.  ``offset``: of its dbox header in ``m.<file_id>``, bytes.

    ``size``: header, body, metadata and terminator, bytes; 0 = 4 GiB or more, and last in its file.
    """

    map_uid: int
    file_id: int
    offset: int
    size: int
    refcount: int


class MapIndex:
    """The map as of the state's ``head_offset``."""

    def __init__(self, state: IndexState) -> None:
        self.state = state

    def __len__(self) -> int:
        return len(self.state)

    @property
    def uid_validity(self) -> int:
        """uid_validity of the map; every mailbox of the store has it as map_uid_validity."""
        return self.state.uid_validity

    @property
    def highest_file_id(self) -> int:
        """Highest file_id ever used; 0 in an empty map."""
        return self._header()[0]

    @property
    def rebuild_count(self) -> int:
        """Number of rebuilds of the storage."""
        return self._header()[1]

    @property
    def identity(self) -> tuple[int, int, int]:
        """indexid, uid_validity and number of rebuilds: a map that was made anew or rebuilt has another."""
        return self.state.indexid, self.uid_validity, self.rebuild_count

    @property
    def map_uids(self) -> npt.NDArray[np.uint32]:
        """All map uids, ascending."""
        return self.state.uids

    @property
    def file_ids(self) -> npt.NDArray[np.uint32]:
        """file_id of each row."""
        return self._field("file_id")

    @property
    def offsets(self) -> npt.NDArray[np.uint32]:
        """Offset of each row's message in its file, bytes."""
        return self._field("offset")

    @property
    def sizes(self) -> npt.NDArray[np.uint32]:
        """Size of each row's record, bytes."""
        return self._field("size")

    @property
    def refcounts(self) -> npt.NDArray[np.uint16]:
        """Mailbox records that point to each row; 0 = waits for a purge."""
        column = self.state.column("ref", "<u2")
        return np.zeros(len(self.state), np.uint16) if column is None else column

    def lookup(self, map_uid: int) -> MapRecord | None:
        """The record of ``map_uid``; None if the map (as read) has none."""
        row = self.state.row_of(map_uid)
        place = self.state.unpack("map", row, _PLACE) if row >= 0 else None
        if place is None:
            return None
        refcount = self.state.unpack("ref", row, _REFCOUNT) or (0,)
        return MapRecord(map_uid, *place, *refcount)

    def lookup_many(self, map_uids: npt.NDArray[np.uint32]) -> list[MapRecord | None]:
        """:meth:`lookup` of each of *map_uids*."""
        rows, records = self.rows_of(map_uids), self.state.column("map", _MAP_RECORD)
        if records is None or not len(self):
            return [None] * len(rows)
        at = np.maximum(rows, 0)
        fields = [records[name][at].tolist() for name in ("file_id", "offset", "size")]
        columns = zip(rows.tolist(), map_uids.tolist(), *fields, self.refcounts[at].tolist(), strict=True)
        return [
            MapRecord(map_uid, file_id, offset, size, refcount) if row >= 0 else None
            for row, map_uid, file_id, offset, size, refcount in columns
        ]

    def rows_of(self, map_uids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Rows of many map uids, to index the arrays with; -1 if the map has none."""
        return self.state.rows_of(map_uids)

    def _header(self) -> tuple[int, int]:
        hdr = (self.state.header_data("map") or b"").ljust(_MAP_HEADER.size, b"\0")
        highest, rebuilds = _MAP_HEADER.unpack_from(hdr)
        return highest, rebuilds

    def _field(self, name: str) -> npt.NDArray[np.uint32]:
        records = self.state.column("map", _MAP_RECORD)
        return np.zeros(len(self.state), np.uint32) if records is None else records[name]
