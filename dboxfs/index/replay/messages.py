"""Replay of the records about messages and about the mailbox (mail-index-log section 3).

APPEND, EXPUNGE*, FLAG_UPDATE, MODSEQ_UPDATE; HEADER_UPDATE, INDEX_(UN)DELETED, ATTRIBUTE_UPDATE.
Each function applies one record's payload to ``ctx.table`` and raises :class:`~dboxfs.errors.FormatError` if
it breaks a rule; the caller then undoes its changes.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np

from dboxfs.index.log import USER_FLAGS
from dboxfs.index.payload import UID_MAX
from dboxfs.index.replay.context import Context

#: Fields of the base header that HEADER_UPDATE must not touch: layout, indexid, counts, log position.
_PROTECTED = ((0, 20), (32, 48), (60, 76))
_NEXT_UID = slice(28, 32)

_HH = struct.Struct("<HH")
_U32 = struct.Struct("<I")
_UID_FLAGS = struct.Struct("<IB3x")
_APPEND = np.dtype([("uid", "<u4"), ("flags", "u1"), ("pad", "V3")])


def append(ctx: Context, body: memoryview) -> None:
    """APPEND: new messages behind all others."""
    if len(body) % 8:
        raise ctx.broken(f"append of {len(body)} bytes, a multiple of 8 expected")
    table = ctx.table
    entries = np.frombuffer(body, _APPEND) if len(body) > 64 else None
    if entries is not None:
        uids = entries["uid"]
        first, last, extra = int(uids[0]), int(uids[-1]), len(uids)
        if not bool(np.all(uids[1:] > uids[:-1])):
            raise ctx.broken("appended uids are not ascending")
    else:
        singles = [_UID_FLAGS.unpack_from(body, pos) for pos in range(0, len(body), 8)]
        first, last, extra = singles[0][0], singles[-1][0], len(singles)
        if any(a[0] >= b[0] for a, b in pairwise(singles)):
            raise ctx.broken("appended uids are not ascending")
    if first < table.next_uid or last == UID_MAX:
        raise ctx.broken(f"append of uid {first}..{last}, next_uid is {table.next_uid}")
    ctx.reserve(extra)
    row = table.count
    if entries is not None:
        table.uids[row : row + extra] = entries["uid"]
        table.flags[row : row + extra] = entries["flags"]
    else:
        for i, (uid, flags) in enumerate(singles, row):
            table.uid_view[i] = uid
            table.flag_view[i] = flags
    table.count = row + extra
    table.next_uid = last + 1
    ctx.raise_modseq(row, row + extra)


def expunge_ranges(ctx: Context, body: memoryview) -> None:
    """EXPUNGE, the old form; only an EXTERNAL record removes messages."""
    found = ctx.uid_ranges(body, 8)
    if ctx.external:
        for _, low, high in found:
            ctx.kill(low, high)


def expunge_guids(ctx: Context, body: memoryview) -> None:
    """EXPUNGE_GUID; only an EXTERNAL record removes messages.  Its writer has checked the guid."""
    if len(body) % 20:
        raise ctx.broken(f"expunge of {len(body)} bytes, a multiple of 20 expected")
    for pos in range(0, len(body), 20):
        (uid,) = _U32.unpack_from(body, pos)
        if uid == 0:
            raise ctx.broken("expunge of uid 0")
        if ctx.external:
            low, high = ctx.rows(uid, uid)
            if low < high:
                ctx.kill(low, high)


def flag_update(ctx: Context, body: memoryview) -> None:
    """FLAG_UPDATE: flags & ~remove | add."""
    table = ctx.table
    for pos, low, high in ctx.uid_ranges(body, 12):
        add, remove, modseq_inc = body[pos + 8], body[pos + 9], body[pos + 10]
        if high == low + 1:
            flags = table.flag_view
            old = flags[low]
            ctx.undo.entries.append((flags, low, old))
            flags[low] = old & ~remove & 0xFF | add
        else:
            ctx.undo.note_rows(table.flags, low, high, table.count)
            part = table.flags[low:high]
            part &= np.uint8(~remove & 0xFF)
            part |= np.uint8(add)
        ctx.touch(low, high)
        if (add | remove) & USER_FLAGS or modseq_inc:
            ctx.raise_modseq(low, high)


def modseq_update(ctx: Context, body: memoryview) -> None:
    """MODSEQ_UPDATE: raise a message's modseq (the caller counts the highest one)."""
    if len(body) % 12:
        raise ctx.broken(f"modseq update of {len(body)} bytes, a multiple of 12 expected")
    column = ctx.table.modseq_column()
    for pos in range(0, len(body), 12):
        (uid,) = _U32.unpack_from(body, pos)
        low, high = ctx.rows(uid, uid)
        if column is None or uid == 0 or low == high:
            continue
        where = slice(low * 8, low * 8 + 8)
        old = bytes(column.flat[where])
        if int.from_bytes(old, "little") <= int.from_bytes(body[pos + 4 : pos + 12], "little"):
            ctx.undo.entries.append((column.flat, where, old))
            column.flat[where] = body[pos + 4 : pos + 12]
            ctx.touch(low, high)


def header_update(ctx: Context, body: memoryview) -> None:
    """HEADER_UPDATE of the base header; next_uid never shrinks, the log position stays."""
    table = ctx.table
    header = bytearray(table.header)
    header[_NEXT_UID] = _U32.pack(table.next_uid)
    old = bytes(header)
    for where, data in ctx.pieces(body, _HH):
        if where >= len(header) or where + len(data) > len(header):
            raise ctx.broken(f"header update {where}+{len(data)} is outside {len(header)} bytes")
        header[where : where + len(data)] = data
    for start, end in _PROTECTED:
        header[start:end] = old[start:end]
    if header != old:
        table.next_uid = max(table.next_uid, _U32.unpack_from(header, 28)[0])
        table.header = bytes(header)
        ctx.mailbox_changed = True


def index_deleted(ctx: Context, body: memoryview) -> None:
    """INDEX_DELETED: an EXTERNAL record means that the mailbox is gone."""
    if ctx.external:
        ctx.table.deleted = True
        ctx.mailbox_changed = True


def index_undeleted(ctx: Context, body: memoryview) -> None:
    """INDEX_UNDELETED: undo INDEX_DELETED."""
    if ctx.external:
        ctx.table.deleted = False
        ctx.mailbox_changed = True


def attribute_update(ctx: Context, body: memoryview) -> None:
    """ATTRIBUTE_UPDATE: only check its form; the values are elsewhere."""
    text = bytes(body)
    pos = 0
    while pos + 2 < len(text) and text[pos]:
        end = text.find(b"\0", pos)
        if text[pos] not in b"+-" or text[pos + 1] not in b"ps" or end <= pos + 2:
            raise ctx.broken("attribute update that is no list of names")
        pos = end + 1
    if pos == 0:
        raise ctx.broken("attribute update without a name")
