"""Replay of extension records (mail-index-log section 3, "EXT_INTRO in detail").

An EXT_INTRO selects an extension, by name or by ext_id, and creates it or changes its sizes.  The EXT_*
records behind it refer to that extension until the next intro, also across transactions.  After an intro for
another generation (reset_id) all of them are ignored, except EXT_RESET.
"""

from __future__ import annotations

import struct

import numpy as np
from msgspec.structs import replace

from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import Column, Selection
from dboxfs.index.extensions import CACHE, KEYWORDS, MODSEQ, Extension
from dboxfs.index.payload import EXT_BY_NAME, INTRO_NO_SHRINK
from dboxfs.index.replay.context import Context

_HH = struct.Struct("<HH")
_II = struct.Struct("<II")
_U32 = struct.Struct("<I")
_INTRO = struct.Struct("<IIIHHHH")
_INC = struct.Struct("<Ii")


def ext_intro(ctx: Context, body: memoryview) -> None:
    """EXT_INTRO: select, create or grow one extension (or several, the last one stays selected)."""
    pos = 0
    while pos + _INTRO.size <= len(body):
        fields = _INTRO.unpack_from(body, pos)
        pos += _INTRO.size
        name_size = fields[6]
        if pos + name_size > len(body):
            raise ctx.broken(f"extension name of {name_size} bytes reaches beyond the record")
        introduce(ctx, fields, bytes(body[pos : pos + name_size]))
        pos += name_size + -name_size % 4


def introduce(ctx: Context, fields: tuple[int, ...], raw_name: bytes) -> None:
    """One intro of the record: ``fields`` is its fixed part."""
    ext_id, reset_id, hdr_size, record_size, record_align, flags, _ = fields
    table = ctx.table
    if ext_id == EXT_BY_NAME:
        name = ext_format.decode_name(raw_name, ctx.offset)
        position = table.ext_index.get(name)
    elif ext_id < len(table.extensions):
        position, name = ext_id, table.extensions[ext_id].name
    else:
        raise ctx.broken(f"extension id {ext_id} is unknown, there are {len(table.extensions)}")
    if name == KEYWORDS:
        raise ctx.broken("an intro must not name keywords")
    ext_format.check_sizes(ctx.offset, name, hdr_size, record_size, record_align)
    if position is None:
        position = len(table.extensions)
        add_extension(ctx, Extension(name, bytes(0), reset_id))
        grown = replace(table.extensions[position], record_size=record_size, record_align=record_align)
        replace_extension(ctx, position, grown, hdr_size)
    elif table.extensions[position].reset_id != reset_id:
        table.selection = Selection(position, record_size, ignore=True)
        return
    else:
        resize(ctx, position, hdr_size, record_size, record_align, bool(flags & INTRO_NO_SHRINK))
    table.selection = Selection(position, record_size)


def resize(ctx: Context, position: int, hdr_size: int, record_size: int, align: int, no_shrink: bool) -> None:
    """Give a known extension the sizes of an intro; with ``no_shrink`` never smaller ones."""
    ext = ctx.table.extensions[position]
    smaller_hdr = hdr_size + -hdr_size % 8 < len(ext.hdr) + -len(ext.hdr) % 8
    if smaller_hdr and no_shrink:
        hdr_size = len(ext.hdr)
    if no_shrink:
        record_size, align = max(record_size, ext.record_size), max(align, ext.record_align)
    if (hdr_size, record_size, align) != (len(ext.hdr), ext.record_size, ext.record_align):
        grown = replace(ext, record_size=record_size, record_align=align)
        replace_extension(ctx, position, grown, hdr_size)


def add_extension(ctx: Context, ext: Extension) -> None:
    """Append an extension that has no data yet; its position is the next ext_id."""
    table = ctx.table
    if len(table.extensions) >= ext_format.MAX_EXTENSIONS:
        raise ctx.broken(f"more than {ext_format.MAX_EXTENSIONS} extensions")
    table.ext_index = {**table.ext_index, ext.name: len(table.extensions)}
    table.extensions = (*table.extensions, ext)
    table.columns = (*table.columns, None)


def replace_extension(ctx: Context, position: int, ext: Extension, hdr_size: int | None = None) -> None:
    """Put ``ext`` in place of the extension at ``position``, with header and column of its sizes."""
    table = ctx.table
    others = table.extensions[:position], table.extensions[position + 1 :]
    size = len(ext.hdr) if hdr_size is None else hdr_size
    headers = size + sum(len(e.hdr) for part in others for e in part)
    if headers > ext_format.MAX_HEADER_BYTES and size > len(table.extensions[position].hdr):
        raise ctx.broken(f"extension {ext.name}: {headers} bytes of header data are too many")
    ext = replace(ext, hdr=ext.hdr[:size].ljust(size, b"\0"))
    old = table.extensions[position]
    extensions = (*others[0], ext, *others[1])
    if (old.record_size, old.record_align) != (ext.record_size, ext.record_align):
        rows = len(table.uids)
        ctx.check_columns(rows, extensions)
        column = table.columns[position]
        if ext.record_size == 0:
            column = None
        elif column is None:
            column = Column(np.zeros((rows, ext.record_size), np.uint8))
        elif column.size != ext.record_size:
            column = column.resized(rows, ext.record_size)
        table.columns = (*table.columns[:position], column, *table.columns[position + 1 :])
        table.laid_out = False
    table.extensions = extensions
    ctx.mailbox_changed = True


def selected(ctx: Context) -> int:
    """ext_id that the last intro selected."""
    position = ctx.table.selection.position
    if position < 0:
        raise ctx.broken("extension update without an intro before it")
    return position


def ext_reset(ctx: Context, body: memoryview) -> None:
    """EXT_RESET: a new generation; its data becomes zero unless the record preserves it."""
    if len(body) < 4:
        raise ctx.broken("extension reset without an id")
    position = selected(ctx)
    table = ctx.table
    ext = replace(table.extensions[position], reset_id=_U32.unpack_from(body)[0])
    if len(body) < 5 or not body[4]:
        ext = replace(ext, hdr=bytes(len(ext.hdr)))
        if ext.record_size:
            column = Column(np.zeros((len(table.uids), ext.record_size), np.uint8))
            table.columns = (*table.columns[:position], column, *table.columns[position + 1 :])
            if ext.name != CACHE:
                ctx.touch(0, table.count)
    table.extensions = (*table.extensions[:position], ext, *table.extensions[position + 1 :])
    ctx.mailbox_changed = True


def ext_hdr_update(ctx: Context, body: memoryview) -> None:
    """EXT_HDR_UPDATE: 16 bit offsets and sizes."""
    update_ext_header(ctx, body, _HH)


def ext_hdr_update32(ctx: Context, body: memoryview) -> None:
    """EXT_HDR_UPDATE32: 32 bit offsets and sizes."""
    update_ext_header(ctx, body, _II)


def update_ext_header(ctx: Context, body: memoryview, form: struct.Struct) -> None:
    """Write into the header data of the selected extension."""
    position = selected(ctx)
    if ctx.table.selection.ignore:
        return
    table = ctx.table
    ext = table.extensions[position]
    hdr = bytearray(ext.hdr)
    for where, data in ctx.pieces(body, form):
        if where + len(data) > len(hdr):
            raise ctx.broken(f"extension {ext.name}: update {where}+{len(data)} of {len(hdr)} bytes")
        hdr[where : where + len(data)] = data
    ext = replace(ext, hdr=bytes(hdr))
    table.extensions = (*table.extensions[:position], ext, *table.extensions[position + 1 :])
    ctx.mailbox_changed = True
    if ext.name == MODSEQ:
        start_modseqs(ctx)


def start_modseqs(ctx: Context) -> None:
    """Begin tracking: messages without a modseq get the highest one (mail-index section 5)."""
    table = ctx.table
    column = table.modseq_column()
    table.take_modseq_header()
    if column is None or table.count == 0:
        return
    ctx.undo.note_rows(column.array, 0, table.count, table.count)
    values = column.array[: table.count].view("<u8")
    values[values == 0] = np.uint64(table.highest_modseq)


def ext_rec_update(ctx: Context, body: memoryview) -> None:
    """EXT_REC_UPDATE: record data of messages; the intro's record_size is the stride."""
    position = selected(ctx)
    table = ctx.table
    selection = table.selection
    if selection.ignore:
        return
    width = selection.record_size
    stride = (4 + width + 3) & ~3
    if len(body) % stride:
        raise ctx.broken(f"extension records of {len(body)} bytes, a multiple of {stride} expected")
    column = table.columns[position]
    reported = table.extensions[position].name != CACHE
    for pos in range(0, len(body), stride):
        row = record_row(ctx, body, pos)
        if row < 0 or column is None:
            continue
        where = slice(row * column.size, (row + 1) * column.size)
        ctx.undo.entries.append((column.flat, where, bytes(column.flat[where])))
        data = body[pos + 4 : pos + 4 + width]
        column.flat[where] = data if width == column.size else bytes(data).ljust(column.size, b"\0")
        if reported:
            ctx.touch(row, row + 1)


def record_row(ctx: Context, body: memoryview, pos: int) -> int:
    """Row of the uid at ``body[pos]``, -1 if the message is gone; the uid must have been appended."""
    (uid,) = _U32.unpack_from(body, pos)
    if not 0 < uid < ctx.table.next_uid:
        raise ctx.broken(f"extension record of uid {uid}, next_uid is {ctx.table.next_uid}")
    low, high = ctx.rows(uid, uid)
    return low if low < high else -1


def ext_atomic_inc(ctx: Context, body: memoryview) -> None:
    """EXT_ATOMIC_INC: add to a little-endian number of the intro's record_size; it must stay in range."""
    position = selected(ctx)
    table = ctx.table
    width = table.selection.record_size
    if table.selection.ignore:
        return
    if len(body) % 8 or width not in (1, 2, 4, 8):
        raise ctx.broken(f"increments of {len(body)} bytes for numbers of {width} bytes")
    column = table.columns[position]
    for pos in range(0, len(body), 8):
        row = record_row(ctx, body, pos)
        if row < 0 or column is None or ctx.is_dead(row):
            continue
        uid, diff = _INC.unpack_from(body, pos)
        where = slice(row * column.size, row * column.size + width)
        old = bytes(column.flat[where])
        value = int.from_bytes(old, "little") + diff
        if not 0 <= value < 1 << 8 * width:
            raise ctx.broken(f"increment of uid {uid} by {diff} gives {value}")
        ctx.undo.entries.append((column.flat, where, old))
        column.flat[where] = value.to_bytes(width, "little")
        ctx.touch(row, row + 1)
