"""The context of a replay: the table, its undo notes, and the rows that it touched.

A :class:`Context` lives for one ``apply_log``.  Functions that apply records (``messages``,
``keywords``, ``extensions``) use it for all changes that a broken transaction must be able to undo: rows that
are changed in place are noted in :attr:`Context.undo` first; all else in a table is replaced, never changed.
Expunged rows are only marked dead here; updates of dead rows do no harm.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt

from dboxfs.errors import FormatError
from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import ByteArray, RowArray
from dboxfs.index.extensions import Extension
from dboxfs.index.table import Table

_II = struct.Struct("<II")
_U64 = struct.Struct("<Q")


class Undo:
    """Old values of rows changed in place by the current transaction, newest last."""

    __slots__ = ("_noted", "_whole", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[Any, int | slice, Any]] = []
        self._noted: dict[int, int] = {}
        self._whole: set[int] = set()

    def note_rows(self, target: npt.NDArray[Any], low: int, high: int, count: int) -> None:
        """Note rows low..high of ``target``; all of its ``count`` rows once that takes no more memory."""
        key = id(target)
        if key in self._whole:
            return
        noted = self._noted.get(key, 0) + high - low
        if 2 * noted >= count:
            self._whole.add(key)
            low, high = 0, count
        self._noted[key] = noted
        self.entries.append((target, slice(low, high), target[low:high].copy()))

    def restore(self) -> None:
        """Restore all noted values, newest first."""
        for target, where, old in reversed(self.entries):
            target[where] = old
        self.forget()

    def forget(self) -> None:
        """Drop the notes: the transaction is whole."""
        self.entries.clear()
        self._noted.clear()
        self._whole.clear()


class Context:
    """One replay: its position (``offset``, ``external`` of the current record) and its changes."""

    __slots__ = ("dead", "external", "first_new", "high", "low", "mailbox_changed", "offset", "table", "undo")

    def __init__(self, table: Table, offset: int) -> None:
        self.table = table
        self.offset = offset
        self.external = False
        self.undo = Undo()
        #: Rows from here on were appended by this replay.
        self.first_new = table.count
        #: uint8 of each row, 1 = expunged by this replay; None or short: not.
        self.dead: ByteArray | None = None
        self.low = array("I")
        self.high = array("I")
        self.mailbox_changed = False

    def broken(self, reason: str) -> FormatError:
        """The error for the current record."""
        return FormatError(self.offset, reason)

    def rows(self, uid1: int, uid2: int) -> tuple[int, int]:
        """Rows low..high (exclusive) of the uids in uid1..uid2."""
        table = self.table
        uids, count = table.uid_view, table.count
        # A row is never further from the start than its uid from the first one.
        limit = min(count, max(uid1 - uids[0] + 1, 0)) if count else 0
        if limit and uids[limit - 1] == uid1:
            low = limit - 1
        else:
            low = bisect_left(uids, uid1, 0, limit)
        if uid1 == uid2:
            return low, low + (low < count and uids[low] == uid1)
        return low, bisect_right(uids, uid2, low, count)

    def uid_ranges(self, body: memoryview, stride: int) -> list[tuple[int, int, int]]:
        """(position in body, low, high) of each uid range that has a message; checks all ranges."""
        if not body or len(body) % stride:
            raise self.broken(f"uid ranges of {len(body)} bytes, a multiple of {stride} expected")
        found = []
        last = 0
        for pos in range(0, len(body), stride):
            uid1, uid2 = _II.unpack_from(body, pos)
            if not last < uid1 <= uid2:
                raise self.broken(f"uid range {uid1}..{uid2} is empty or not sorted")
            last = uid2
            low, high = self.rows(uid1, uid2)
            if low < high:
                found.append((pos, low, high))
        return found

    def touch(self, low: int, high: int) -> None:
        """Note rows as updated (only those that existed before this replay)."""
        if low < self.first_new:
            self.low.append(low)
            self.high.append(min(high, self.first_new))

    def raise_modseq(self, low: int, high: int) -> None:
        """Give rows the current modseq, unless they have a higher one."""
        table = self.table
        column = table.modseq_column()
        if column is None:
            return
        if high == low + 1:
            where = slice(low * 8, low * 8 + 8)
            old = bytes(column.flat[where])
            if int.from_bytes(old, "little") < table.highest_modseq:
                self.undo.entries.append((column.flat, where, old))
                column.flat[where] = _U64.pack(table.highest_modseq)
            return
        self.undo.note_rows(column.array, low, high, table.count)
        values = column.array[low:high].view("<u8")
        np.maximum(values, np.uint64(table.highest_modseq), out=values)

    def reserve(self, extra: int) -> None:
        """Make room for ``extra`` more rows."""
        table = self.table
        needed = table.count + extra
        if needed <= len(table.uids):
            return
        rows = max(needed, table.count + table.count // 4 + 16)
        self.check_columns(rows, table.extensions)
        table.grow(rows)

    def kill(self, low: int, high: int) -> None:
        """Mark rows as expunged."""
        if self.dead is None or len(self.dead) < high:
            dead = np.zeros(len(self.table.uids), np.uint8)
            if self.dead is not None:
                dead[: len(self.dead)] = self.dead
            self.dead = dead
        self.undo.note_rows(self.dead, low, high, len(self.dead))
        self.dead[low:high] = 1

    def is_dead(self, row: int) -> bool:
        """Whether this replay has expunged the row."""
        return self.dead is not None and row < len(self.dead) and bool(self.dead[row])

    def check_columns(self, rows: int, extensions: tuple[Extension, ...]) -> None:
        """Refuse records that are too large for the format, or columns that a wrong size makes huge."""
        width = sum(e.record_size for e in extensions)
        if width + 8 > ext_format.MAX_RECORD_SIZE:
            raise self.broken(f"extensions need {width} bytes a record, more than a record can have")
        limit = ext_format.MAX_COLUMN_BYTES + rows * ext_format.MAX_COLUMN_BYTES_PER_MESSAGE
        if width * rows > limit:
            raise self.broken(f"extensions need {width} bytes for each of {rows} messages, too much")

    def pieces(self, body: memoryview, form: struct.Struct) -> list[tuple[int, memoryview]]:
        """The { offset, size, data, pad } entries of a header update."""
        pieces = []
        pos = 0
        while pos < len(body):
            start = pos + form.size
            where, size = form.unpack_from(body, pos) if start <= len(body) else (0, len(body))
            if start + size > len(body):
                raise self.broken("header update reaches beyond its record")
            pieces.append((where, body[start : start + size]))
            pos = start + size + -size % 4
        return pieces

    def touched_rows(self, limit: int) -> RowArray:
        """Updated rows below ``limit``, ascending, each once."""
        if not self.low:
            return np.zeros(0, np.int64)
        low = np.frombuffer(self.low, np.uint32).astype(np.int64)
        high = np.frombuffer(self.high, np.uint32).astype(np.int64)
        lengths = high - low
        total = int(lengths.sum())
        if total < max(limit, 4096):
            before = np.cumsum(lengths) - lengths
            return np.unique(np.repeat(low - before, lengths) + np.arange(total))
        steps = np.zeros(limit + 1, np.int64)
        np.add.at(steps, low, 1)
        np.add.at(steps, high, -1)
        return np.flatnonzero(np.cumsum(steps[:limit]) > 0)
