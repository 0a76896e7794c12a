"""Replay of log records over an index state (mail-index-log sections 3 to 6).

One :class:`Replay` is one ``apply_log`` call.  It goes through the log transaction by transaction; each is
applied whole or not at all, so that a broken record leaves the state of the last whole transaction.
For that, every change of a row in place is preceded by a note of the old value (:class:`_Undo`);
everything else in a state is replaced, not changed, so that a copy of its attributes brings it back.

Expunged rows stay in place, marked dead, until the end of the call; one compaction then removes them all.
Updates of dead rows are harmless and not looked at.

Costs: a record that names one message is a binary search and a few operations on memoryviews (no numpy
call); one that names a range is a slice.  Notes for undoing stay below the size of the columns touched.

Where the log names what an index does not have (uids that are gone, another generation of an extension,
kinds of records that are unknown), it is skipped, as the format wants.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dboxfs.errors import FormatError
from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import ByteArray, Changes, Column, RowArray, Selection
from dboxfs.index.extensions import KEYWORDS, MODSEQ, Extension
from dboxfs.index.log import (
    EXTERNAL,
    RECORD_HEADER_SIZE,
    SYNC,
    USER_FLAGS,
    LogRecord,
    Place,
    RecordType,
    iter_transactions,
    next_modseq,
    record_kind,
)
from dboxfs.index.payload import EXT_BY_NAME, INTRO_NO_SHRINK, KEYWORD_ADD, KEYWORD_REMOVE, UID_MAX

if TYPE_CHECKING:
    from dboxfs.index.state import IndexState

TAIL_FIELD = 64
#: Fields of the base header that HEADER_UPDATE must not touch: layout, indexid, counts, log position.
_PROTECTED = ((0, 20), (32, 40), (60, 76))
_NEXT_UID = slice(28, 32)

_HH = struct.Struct("<HH")
_II = struct.Struct("<II")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_INTRO = struct.Struct("<IIIHHHH")
_INC = struct.Struct("<Ii")


#: Kinds of internal records that a later sync has to look at (mail-index-log section 5).
_REQUESTS = frozenset(
    {RecordType.EXPUNGE, RecordType.EXPUNGE_GUID, RecordType.FLAG_UPDATE, RecordType.INDEX_DELETED}
)


class _Undo:
    """Old values of rows changed in place by the current transaction, newest last."""

    __slots__ = ("_noted", "_whole", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[Any, int | slice, Any]] = []
        self._noted: dict[int, int] = {}
        self._whole: set[int] = set()

    def note_rows(self, target: npt.NDArray[Any], low: int, high: int, count: int) -> None:
        """Note rows low..high of ``target``; all of its ``count`` rows once that is no more memory."""
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
        for target, where, old in reversed(self.entries):
            target[where] = old
        self.forget()

    def forget(self) -> None:
        self.entries.clear()
        self._noted.clear()
        self._whole.clear()


class Replay:
    """One pass over log bytes ``view``, whose first byte is at file offset ``base``."""

    def __init__(self, state: IndexState, view: memoryview, base: int) -> None:
        self._state = state
        self._view = view
        self._base = base
        self._offset = base
        self._external = False
        self._undo = _Undo()
        self._first_new = len(state)
        self._dead: ByteArray | None = None
        self._low = array("I")
        self._high = array("I")
        self._mailbox_changed = False

    def run(self) -> Changes:
        """Apply all complete transactions.  On :class:`FormatError` those before it are applied."""
        try:
            for places in iter_transactions(self._view, 0, self._base):
                self._transaction(places)
        except FormatError:
            self._finish()
            raise
        return self._finish()

    def _transaction(self, places: list[Place]) -> None:
        state = self._state
        before = state.__dict__.copy()
        lengths = len(state._keywords), len(state._pending)
        dead = self._dead
        try:
            for pos, size, raw in places:
                self._record(pos, size, raw)
        except FormatError:
            self._undo.restore()
            state.__dict__.update(before)
            self._dead = dead
            state._truncate(*lengths)
            raise
        state.head_offset = self._offset + size
        if self._undo.entries:
            self._undo.forget()

    def _record(self, pos: int, size: int, raw: int) -> None:
        state = self._state
        self._offset = offset = self._base + pos
        body = self._view[pos + RECORD_HEADER_SIZE : pos + size]
        kind = record_kind(raw, offset)
        self._external = bool(raw & EXTERNAL)
        handler = _HANDLERS.get(kind)
        if handler is None:
            state.unknown_records += 1
        else:
            state.highest_modseq = next_modseq(
                state.highest_modseq, kind, raw, body, state.hides_internal_flags
            )
            handler(self, body)
        track_tail(state, offset, size, raw, kind, body)

    def _broken(self, reason: str) -> FormatError:
        return FormatError(self._offset, reason)

    # -- rows -------------------------------------------------------------------------------------

    def _rows(self, uid1: int, uid2: int) -> tuple[int, int]:
        """Rows low..high (exclusive) of the uids in uid1..uid2."""
        state = self._state
        uids, count = state._uid_view, state._count
        low = bisect_left(uids, uid1, 0, count)
        if uid1 == uid2:
            return low, low + (low < count and uids[low] == uid1)
        return low, bisect_right(uids, uid2, low, count)

    def _uid_ranges(self, body: memoryview, stride: int) -> list[tuple[int, int, int]]:
        """(position in body, low, high) of each uid range that names a message; checks them all."""
        if not body or len(body) % stride:
            raise self._broken(f"uid ranges of {len(body)} bytes, a multiple of {stride} expected")
        found = []
        last = 0
        for pos in range(0, len(body), stride):
            uid1, uid2 = _II.unpack_from(body, pos)
            if not last < uid1 <= uid2:
                raise self._broken(f"uid range {uid1}..{uid2} is empty or not sorted")
            last = uid2
            low, high = self._rows(uid1, uid2)
            if low < high:
                found.append((pos, low, high))
        return found

    def _touch(self, low: int, high: int) -> None:
        """Remember rows as updated (only those that were there before this replay)."""
        if low < self._first_new:
            self._low.append(low)
            self._high.append(min(high, self._first_new))

    def _raise_modseq(self, low: int, high: int) -> None:
        """Give rows the current modseq, unless they have a higher one."""
        state = self._state
        column = state._modseq_column()
        if column is None:
            return
        if high == low + 1:
            where = slice(low * 8, low * 8 + 8)
            old = bytes(column.flat[where])
            if int.from_bytes(old, "little") < state.highest_modseq:
                self._undo.entries.append((column.flat, where, old))
                column.flat[where] = _U64.pack(state.highest_modseq)
            return
        self._undo.note_rows(column.array, low, high, state._count)
        values = column.array[low:high].view("<u8")
        np.maximum(values, np.uint64(state.highest_modseq), out=values)

    def _reserve(self, extra: int) -> None:
        """Make room for ``extra`` more rows."""
        state = self._state
        needed = state._count + extra
        if needed <= len(state._uids):
            return
        rows = max(needed, state._count + state._count // 4 + 16)
        self._check_columns(rows, state._extensions)
        for name in ("_uids", "_flags"):
            old = getattr(state, name)
            new = np.zeros(rows, old.dtype)
            new[: state._count] = old[: state._count]
            setattr(state, name, new)
        state._columns = tuple(c and c.resized(rows, c.size) for c in state._columns)
        state._refresh_views()

    # -- messages ---------------------------------------------------------------------------------

    def _append(self, body: memoryview) -> None:
        if len(body) % 8:
            raise self._broken(f"append of {len(body)} bytes, a multiple of 8 expected")
        state = self._state
        entries = np.frombuffer(body, _APPEND) if len(body) > 64 else None
        if entries is not None:
            uids = entries["uid"]
            first, last, extra = int(uids[0]), int(uids[-1]), len(uids)
            if not bool(np.all(uids[1:] > uids[:-1])):
                raise self._broken("appended uids are not ascending")
        else:
            singles = [_UID_FLAGS.unpack_from(body, pos) for pos in range(0, len(body), 8)]
            first, last, extra = singles[0][0], singles[-1][0], len(singles)
            if any(a[0] >= b[0] for a, b in pairwise(singles)):
                raise self._broken("appended uids are not ascending")
        if first < state.next_uid or last == UID_MAX:
            raise self._broken(f"append of uid {first}..{last}, next_uid is {state.next_uid}")
        self._reserve(extra)
        row = state._count
        if entries is not None:
            state._uids[row : row + extra] = entries["uid"]
            state._flags[row : row + extra] = entries["flags"]
        else:
            for i, (uid, flags) in enumerate(singles, row):
                state._uid_view[i] = uid
                state._flag_view[i] = flags
        state._count = row + extra
        state.next_uid = last + 1
        self._raise_modseq(row, row + extra)

    def _expunge_ranges(self, body: memoryview) -> None:
        found = self._uid_ranges(body, 8)
        if self._external:
            for _, low, high in found:
                self._kill(low, high)

    def _expunge_guids(self, body: memoryview) -> None:
        if len(body) % 20:
            raise self._broken(f"expunge of {len(body)} bytes, a multiple of 20 expected")
        for pos in range(0, len(body), 20):
            (uid,) = _U32.unpack_from(body, pos)
            if uid == 0:
                raise self._broken("expunge of uid 0")
            if self._external:
                low, high = self._rows(uid, uid)
                if low < high:
                    self._kill(low, high)

    def _kill(self, low: int, high: int) -> None:
        if self._dead is None or len(self._dead) < high:
            dead = np.zeros(len(self._state._uids), np.uint8)
            if self._dead is not None:
                dead[: len(self._dead)] = self._dead
            self._dead = dead
        self._undo.note_rows(self._dead, low, high, len(self._dead))
        self._dead[low:high] = 1

    def _is_dead(self, row: int) -> bool:
        return self._dead is not None and row < len(self._dead) and bool(self._dead[row])

    def _flag_update(self, body: memoryview) -> None:
        state = self._state
        for pos, low, high in self._uid_ranges(body, 12):
            add, remove, modseq_inc = body[pos + 8], body[pos + 9], body[pos + 10]
            if high == low + 1:
                flags = state._flag_view
                old = flags[low]
                self._undo.entries.append((flags, low, old))
                flags[low] = old & ~remove & 0xFF | add
            else:
                self._undo.note_rows(state._flags, low, high, state._count)
                part = state._flags[low:high]
                part &= np.uint8(~remove & 0xFF)
                part |= np.uint8(add)
            self._touch(low, high)
            if (add | remove) & USER_FLAGS or modseq_inc:
                self._raise_modseq(low, high)

    def _modseq_update(self, body: memoryview) -> None:
        if len(body) % 12:
            raise self._broken(f"modseq update of {len(body)} bytes, a multiple of 12 expected")
        column = self._state._modseq_column()
        for pos in range(0, len(body), 12):
            (uid,) = _U32.unpack_from(body, pos)
            low, high = self._rows(uid, uid)
            if column is None or uid == 0 or low == high:
                continue
            where = slice(low * 8, low * 8 + 8)
            old = bytes(column.flat[where])
            if int.from_bytes(old, "little") <= int.from_bytes(body[pos + 4 : pos + 12], "little"):
                self._undo.entries.append((column.flat, where, old))
                column.flat[where] = body[pos + 4 : pos + 12]
                self._touch(low, high)

    # -- keywords ---------------------------------------------------------------------------------

    def _keyword_update(self, body: memoryview) -> None:
        if len(body) < 4:
            raise self._broken("keyword update without a name")
        modify, _, size_low, size_high = body[:4]
        name_size = size_low | size_high << 8
        start = 4 + name_size + -name_size % 4
        name = bytes(body[4 : 4 + name_size]).split(b"\0", 1)[0]
        if not name or start > len(body) or modify not in (KEYWORD_ADD, KEYWORD_REMOVE):
            raise self._broken(f"keyword update with modify type {modify} and a name of {name_size} bytes")
        found = self._uid_ranges(body[start:], 8)
        state = self._state
        bit = state._keyword_index.get(name.lower())
        if bit is None:
            bit = self._add_keyword(name)
        column = state._column(KEYWORDS)
        if column is None or bit >= 8 * column.size:
            if modify == KEYWORD_REMOVE:
                return
            self._resize_keywords(None)
            column = state._column(KEYWORDS)
            assert column is not None
        mask = 1 << (bit & 7)
        for _, low, high in found:
            self._change_bit(column, bit >> 3, mask, low, high, modify == KEYWORD_ADD)
            self._touch(low, high)
            self._raise_modseq(low, high)

    def _change_bit(self, column: Column, byte: int, mask: int, low: int, high: int, add: bool) -> None:
        if high == low + 1:
            where = low * column.size + byte
            old = column.flat[where]
            self._undo.entries.append((column.flat, where, old))
            column.flat[where] = old | mask if add else old & ~mask
            return
        self._undo.note_rows(column.array, low, high, self._state._count)
        part = column.array[low:high, byte]
        if add:
            part |= np.uint8(mask)
        else:
            part &= np.uint8(~mask & 0xFF)

    def _keyword_reset(self, body: memoryview) -> None:
        found = self._uid_ranges(body, 8)
        column = self._state._column(KEYWORDS)
        if column is None:
            return
        for _, low, high in found:
            self._undo.note_rows(column.array, low, high, self._state._count)
            column.array[low:high] = 0
            self._touch(low, high)
            self._raise_modseq(low, high)

    def _add_keyword(self, name: bytes) -> int:
        """Register a new keyword as the next bit; creates the extension if it is the first."""
        state = self._state
        bit = len(state._keywords)
        state._keywords.append(name)
        state._keyword_index[name.lower()] = bit
        state._keyword_bytes += len(name)
        used = ext_format.keywords_used(state._keyword_bytes, bit + 1)
        position = state._ext_index.get(KEYWORDS)
        if position is None:
            self._add_extension(Extension(KEYWORDS, record_align=1))
            self._resize_keywords(used)
        else:
            ext = state._extensions[position]
            if used > len(ext.hdr) or ext.record_size * 8 <= bit:
                self._resize_keywords(used)
        self._mailbox_changed = True
        return bit

    def _resize_keywords(self, used: int | None) -> None:
        """Grow ``keywords`` for its names as Dovecot does: 128 spare header bytes, whole bitmask bytes."""
        state = self._state
        position = state._ext_index[KEYWORDS]
        ext = state._extensions[position]
        size = max(ext.record_size, ext_format.keyword_record_size(len(state._keywords)))
        hdr = ext.hdr if used is None else bytes(used + 128)
        self._replace_extension(position, replace(ext, hdr=hdr, record_size=size, record_align=1))

    # -- extensions -------------------------------------------------------------------------------

    def _ext_intro(self, body: memoryview) -> None:
        pos = 0
        while pos + _INTRO.size <= len(body):
            fields = _INTRO.unpack_from(body, pos)
            pos += _INTRO.size
            name_size = fields[6]
            if pos + name_size > len(body):
                raise self._broken(f"extension name of {name_size} bytes reaches beyond the record")
            self._introduce(fields, bytes(body[pos : pos + name_size]))
            pos += name_size + -name_size % 4

    def _introduce(self, fields: tuple[int, ...], raw_name: bytes) -> None:
        ext_id, reset_id, hdr_size, record_size, record_align, flags, _ = fields
        state = self._state
        if ext_id == EXT_BY_NAME:
            name = ext_format.decode_name(raw_name, self._offset)
            position = state._ext_index.get(name)
        elif ext_id < len(state._extensions):
            position, name = ext_id, state._extensions[ext_id].name
        else:
            raise self._broken(f"extension id {ext_id} is unknown, there are {len(state._extensions)}")
        if name == KEYWORDS:
            raise self._broken("an intro must not name keywords")
        ext_format.check_sizes(self._offset, name, hdr_size, record_size, record_align)
        if position is None:
            position = len(state._extensions)
            self._add_extension(Extension(name, bytes(0), reset_id))
            grown = replace(state._extensions[position], record_size=record_size, record_align=record_align)
            self._replace_extension(position, grown, hdr_size)
        elif state._extensions[position].reset_id != reset_id:
            state.selection = Selection(position, record_size, ignore=True)
            return
        else:
            self._resize(position, hdr_size, record_size, record_align, bool(flags & INTRO_NO_SHRINK))
        state.selection = Selection(position, record_size)

    def _resize(self, position: int, hdr_size: int, record_size: int, align: int, no_shrink: bool) -> None:
        """Bring a known extension to the sizes of an intro; with ``no_shrink`` never to smaller ones."""
        ext = self._state._extensions[position]
        smaller_hdr = hdr_size + -hdr_size % 8 < len(ext.hdr) + -len(ext.hdr) % 8
        if smaller_hdr and no_shrink:
            hdr_size = len(ext.hdr)
        if no_shrink:
            record_size, align = max(record_size, ext.record_size), max(align, ext.record_align)
        if (hdr_size, record_size, align) != (len(ext.hdr), ext.record_size, ext.record_align):
            grown = replace(ext, record_size=record_size, record_align=align)
            self._replace_extension(position, grown, hdr_size)

    def _add_extension(self, ext: Extension) -> None:
        state = self._state
        state._ext_index = {**state._ext_index, ext.name: len(state._extensions)}
        state._extensions = (*state._extensions, ext)
        state._columns = (*state._columns, None)

    def _replace_extension(self, position: int, ext: Extension, hdr_size: int | None = None) -> None:
        """Put ``ext`` in place of the extension at ``position``, with header and column of its sizes."""
        state = self._state
        others = state._extensions[:position], state._extensions[position + 1 :]
        size = len(ext.hdr) if hdr_size is None else hdr_size
        headers = size + sum(len(e.hdr) for part in others for e in part)
        if headers > ext_format.MAX_HEADER_BYTES and size > len(state._extensions[position].hdr):
            raise self._broken(f"extension {ext.name}: {headers} bytes of header data are too many")
        ext = replace(ext, hdr=ext.hdr[:size].ljust(size, b"\0"))
        old = state._extensions[position]
        extensions = (*others[0], ext, *others[1])
        if (old.record_size, old.record_align) != (ext.record_size, ext.record_align):
            rows = len(state._uids)
            self._check_columns(rows, extensions)
            column = state._columns[position]
            if ext.record_size == 0:
                column = None
            elif column is None:
                column = Column(np.zeros((rows, ext.record_size), np.uint8))
            elif column.size != ext.record_size:
                column = column.resized(rows, ext.record_size)
            state._columns = (*state._columns[:position], column, *state._columns[position + 1 :])
            state._laid_out = False
        state._extensions = extensions
        self._mailbox_changed = True

    def _check_columns(self, rows: int, extensions: tuple[Extension, ...]) -> None:
        """Refuse records that are too large for the format, or columns that a lie makes huge."""
        width = sum(e.record_size for e in extensions)
        if width + 8 > ext_format.MAX_RECORD_SIZE:
            raise self._broken(f"extensions need {width} bytes a record, more than a record can have")
        limit = ext_format.MAX_COLUMN_BYTES + rows * ext_format.MAX_COLUMN_BYTES_PER_MESSAGE
        if width * rows > limit:
            raise self._broken(f"extensions need {width} bytes for each of {rows} messages, too much")

    def _selected(self) -> int:
        position = self._state.selection.position
        if position < 0:
            raise self._broken("extension update without an intro before it")
        return position

    def _ext_reset(self, body: memoryview) -> None:
        if len(body) < 4:
            raise self._broken("extension reset without an id")
        position = self._selected()
        state = self._state
        ext = replace(state._extensions[position], reset_id=_U32.unpack_from(body)[0])
        if len(body) < 5 or not body[4]:
            ext = replace(ext, hdr=bytes(len(ext.hdr)))
            if ext.record_size:
                column = Column(np.zeros((len(state._uids), ext.record_size), np.uint8))
                state._columns = (*state._columns[:position], column, *state._columns[position + 1 :])
                self._touch(0, state._count)
        state._extensions = (*state._extensions[:position], ext, *state._extensions[position + 1 :])
        self._mailbox_changed = True

    def _ext_hdr_update(self, body: memoryview) -> None:
        self._update_ext_header(body, _HH)

    def _ext_hdr_update32(self, body: memoryview) -> None:
        self._update_ext_header(body, _II)

    def _update_ext_header(self, body: memoryview, form: struct.Struct) -> None:
        position = self._selected()
        if self._state.selection.ignore:
            return
        state = self._state
        ext = state._extensions[position]
        hdr = bytearray(ext.hdr)
        for where, data in self._pieces(body, form):
            if where + len(data) > len(hdr):
                raise self._broken(f"extension {ext.name}: update {where}+{len(data)} of {len(hdr)} bytes")
            hdr[where : where + len(data)] = data
        ext = replace(ext, hdr=bytes(hdr))
        state._extensions = (*state._extensions[:position], ext, *state._extensions[position + 1 :])
        self._mailbox_changed = True
        if ext.name == MODSEQ:
            self._start_modseqs()

    def _start_modseqs(self) -> None:
        """Tracking begins: messages without a modseq get the highest one (mail-index section 5)."""
        state = self._state
        column = state._modseq_column()
        state._take_modseq_header()
        if column is None or state._count == 0:
            return
        self._undo.note_rows(column.array, 0, state._count, state._count)
        values = column.array[: state._count].view("<u8")
        values[values == 0] = np.uint64(state.highest_modseq)

    def _pieces(self, body: memoryview, form: struct.Struct) -> list[tuple[int, memoryview]]:
        """The { offset, size, data, pad } entries of a header update."""
        pieces = []
        pos = 0
        while pos < len(body):
            start = pos + form.size
            where, size = form.unpack_from(body, pos) if start <= len(body) else (0, len(body))
            if start + size > len(body):
                raise self._broken("header update reaches beyond its record")
            pieces.append((where, body[start : start + size]))
            pos = start + size + -size % 4
        return pieces

    def _ext_rec_update(self, body: memoryview) -> None:
        position = self._selected()
        state = self._state
        selection = state.selection
        if selection.ignore:
            return
        width = selection.record_size
        stride = (4 + width + 3) & ~3
        if len(body) % stride:
            raise self._broken(f"extension records of {len(body)} bytes, a multiple of {stride} expected")
        column = state._columns[position]
        for pos in range(0, len(body), stride):
            row = self._record_row(body, pos)
            if row < 0 or column is None:
                continue
            where = slice(row * column.size, (row + 1) * column.size)
            self._undo.entries.append((column.flat, where, bytes(column.flat[where])))
            data = body[pos + 4 : pos + 4 + width]
            column.flat[where] = data if width == column.size else bytes(data).ljust(column.size, b"\0")
            self._touch(row, row + 1)

    def _record_row(self, body: memoryview, pos: int) -> int:
        """Row of the uid at ``body[pos]``, -1 if the message is gone; the uid must have been appended."""
        (uid,) = _U32.unpack_from(body, pos)
        if not 0 < uid < self._state.next_uid:
            raise self._broken(f"extension record of uid {uid}, next_uid is {self._state.next_uid}")
        low, high = self._rows(uid, uid)
        return low if low < high else -1

    def _ext_atomic_inc(self, body: memoryview) -> None:
        position = self._selected()
        state = self._state
        width = state.selection.record_size
        if state.selection.ignore:
            return
        if len(body) % 8 or width not in (1, 2, 4, 8):
            raise self._broken(f"increments of {len(body)} bytes for numbers of {width} bytes")
        column = state._columns[position]
        for pos in range(0, len(body), 8):
            row = self._record_row(body, pos)
            if row < 0 or column is None or self._is_dead(row):
                continue
            uid, diff = _INC.unpack_from(body, pos)
            where = slice(row * column.size, row * column.size + width)
            old = bytes(column.flat[where])
            value = int.from_bytes(old, "little") + diff
            if not 0 <= value < 1 << 8 * width:
                raise self._broken(f"increment of uid {uid} by {diff} gives {value}")
            self._undo.entries.append((column.flat, where, old))
            column.flat[where] = value.to_bytes(width, "little")
            self._touch(row, row + 1)

    # -- mailbox ----------------------------------------------------------------------------------

    def _header_update(self, body: memoryview) -> None:
        state = self._state
        header = bytearray(state._header)
        header[_NEXT_UID] = _U32.pack(state.next_uid)
        old = bytes(header)
        for where, data in self._pieces(body, _HH):
            if where >= len(header) or where + len(data) > len(header):
                raise self._broken(f"header update {where}+{len(data)} is outside {len(header)} bytes")
            header[where : where + len(data)] = data
        for start, end in _PROTECTED:
            header[start:end] = old[start:end]
        if header != old:
            state.next_uid = max(state.next_uid, _U32.unpack_from(header, 28)[0])
            state._header = bytes(header)
            self._mailbox_changed = True

    def _index_deleted(self, body: memoryview) -> None:
        if self._external:
            self._state.deleted = True
            self._mailbox_changed = True

    def _index_undeleted(self, body: memoryview) -> None:
        if self._external:
            self._state.deleted = False
            self._mailbox_changed = True

    def _attribute_update(self, body: memoryview) -> None:
        text = bytes(body)
        pos = 0
        while pos + 2 < len(text) and text[pos]:
            end = text.find(b"\0", pos)
            if text[pos] not in b"+-" or text[pos + 1] not in b"ps" or end <= pos + 2:
                raise self._broken("attribute update that is no list of names")
            pos = end + 1
        if pos == 0:
            raise self._broken("attribute update without a name")

    def _boundary(self, body: memoryview) -> None:
        """Transactions are cut in :func:`dboxfs.index.log.iter_transactions`."""

    # -- end --------------------------------------------------------------------------------------

    def _finish(self) -> Changes:
        """Remove the dead rows for good and sum up."""
        state = self._state
        state._drop_done_requests()
        count, first_new = state._count, self._first_new
        uids = state._uids
        touched = self._touched_rows(first_new)
        appended, expunged = uids[first_new:count].copy(), uids[:0].copy()
        updated = uids[touched]
        if self._dead is not None and bool(self._dead[:count].any()):
            alive = np.ones(count, np.bool_)
            marked = self._dead[:count]
            alive[: len(marked)] = marked == 0
            appended = appended[alive[first_new:]]
            expunged = uids[:first_new][~alive[:first_new]]
            updated = updated[alive[touched]]
            state._keep_rows(alive)
        return Changes(state.head_offset, appended, expunged, updated, self._mailbox_changed)

    def _touched_rows(self, limit: int) -> RowArray:
        """Updated rows below ``limit``, ascending, each once."""
        if not self._low:
            return np.zeros(0, np.int64)
        low = np.frombuffer(self._low, np.uint32).astype(np.int64)
        high = np.frombuffer(self._high, np.uint32).astype(np.int64)
        lengths = high - low
        total = int(lengths.sum())
        if total < max(limit, 4096):
            before = np.cumsum(lengths) - lengths
            return np.unique(np.repeat(low - before, lengths) + np.arange(total))
        steps = np.zeros(limit + 1, np.int64)
        np.add.at(steps, low, 1)
        np.add.at(steps, high, -1)
        return np.flatnonzero(np.cumsum(steps[:limit]) > 0)


_APPEND = np.dtype([("uid", "<u4"), ("flags", "u1"), ("pad", "V3")])
_UID_FLAGS = struct.Struct("<IB3x")

_HANDLERS: dict[int, Callable[[Replay, memoryview], None]] = {
    RecordType.EXPUNGE: Replay._expunge_ranges,
    RecordType.EXPUNGE_GUID: Replay._expunge_guids,
    RecordType.APPEND: Replay._append,
    RecordType.FLAG_UPDATE: Replay._flag_update,
    RecordType.HEADER_UPDATE: Replay._header_update,
    RecordType.EXT_INTRO: Replay._ext_intro,
    RecordType.EXT_RESET: Replay._ext_reset,
    RecordType.EXT_HDR_UPDATE: Replay._ext_hdr_update,
    RecordType.EXT_HDR_UPDATE32: Replay._ext_hdr_update32,
    RecordType.EXT_REC_UPDATE: Replay._ext_rec_update,
    RecordType.EXT_ATOMIC_INC: Replay._ext_atomic_inc,
    RecordType.KEYWORD_UPDATE: Replay._keyword_update,
    RecordType.KEYWORD_RESET: Replay._keyword_reset,
    RecordType.MODSEQ_UPDATE: Replay._modseq_update,
    RecordType.INDEX_DELETED: Replay._index_deleted,
    RecordType.INDEX_UNDELETED: Replay._index_undeleted,
    RecordType.BOUNDARY: Replay._boundary,
    RecordType.ATTRIBUTE_UPDATE: Replay._attribute_update,
}


def track_tail(state: IndexState, offset: int, size: int, raw: int, kind: int, body: memoryview) -> None:
    """Move the tail over one record, or remember the request in it (mail-index-log section 5)."""
    if raw & EXTERNAL:
        tail = _tail_value(body) if kind == RecordType.HEADER_UPDATE else None
        if tail is not None:
            if tail > offset + size:
                raise FormatError(offset, f"log_file_tail_offset {tail} is beyond this record's end")
            state.tail_offset = max(state.tail_offset, tail)
        elif state.tail_offset == offset:
            state.tail_offset = offset + size
    elif kind in _REQUESTS:
        record = LogRecord(offset, size, RecordType(kind), False, bool(raw & SYNC), body)
        state._keep_pending(record)


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


def collect_pending(state: IndexState, view: memoryview, base: int) -> None:
    """Walk the records between tail and head of a log whose bytes from ``base`` on are ``view``."""
    start = min(max(state.tail_offset - base, 0), len(view))
    for places in iter_transactions(view, start, base):
        for pos, size, raw in places:
            body = view[pos + RECORD_HEADER_SIZE : pos + size]
            track_tail(state, base + pos, size, raw, record_kind(raw, base + pos), body)
    state._drop_done_requests()


def requested_rows(state: IndexState, record: LogRecord) -> list[tuple[int, int]]:
    """Rows low..high of the messages that an expunge request names."""
    guids = record.type == RecordType.EXPUNGE_GUID
    if not guids and record.type != RecordType.EXPUNGE:
        return []
    uids, count = state._uid_view, len(state)
    stride = 20 if guids else 8
    rows = []
    for pos in range(0, len(record.payload) - stride + 1, stride):
        uid1, uid2 = _II.unpack_from(record.payload, pos)
        low = bisect_left(uids, uid1, 0, count)
        rows.append((low, bisect_right(uids, uid1 if guids else uid2, low, count)))
    return rows
