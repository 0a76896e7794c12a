"""Replay of keyword records (mail-index section 4, mail-index-log section 3).

A keyword is a bit in the extension ``keywords``, which the first KEYWORD_UPDATE creates as the next ext_id
without any EXT_INTRO.  Names are compared without case, the first spelling stays, and no name is ever
removed.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from dboxfs.index import extensions as ext_format
from dboxfs.index.columns import Column
from dboxfs.index.extensions import KEYWORDS, Extension
from dboxfs.index.payload import KEYWORD_ADD, KEYWORD_REMOVE
from dboxfs.index.replay.context import Context
from dboxfs.index.replay.extensions import add_extension, replace_extension


def keyword_update(ctx: Context, body: memoryview) -> None:
    """KEYWORD_UPDATE: set or clear one keyword's bit."""
    if len(body) < 4:
        raise ctx.broken("keyword update without a name")
    modify, _, size_low, size_high = body[:4]
    name_size = size_low | size_high << 8
    start = 4 + name_size + -name_size % 4
    name = bytes(body[4 : 4 + name_size]).split(b"\0", 1)[0]
    if not name or start > len(body) or modify not in (KEYWORD_ADD, KEYWORD_REMOVE):
        raise ctx.broken(f"keyword update with modify type {modify} and a name of {name_size} bytes")
    found = ctx.uid_ranges(body[start:], 8)
    table = ctx.table
    bit = table.keyword_index.get(name.lower())
    if bit is None:
        bit = add_keyword(ctx, name)
    column = table.column(KEYWORDS)
    if column is None or bit >= 8 * column.size:
        if modify == KEYWORD_REMOVE:
            return
        column = resize_keywords(ctx, None)
    mask = 1 << (bit & 7)
    for _, low, high in found:
        change_bit(ctx, column, bit >> 3, mask, low, high, modify == KEYWORD_ADD)
        ctx.touch(low, high)
        ctx.raise_modseq(low, high)


def change_bit(ctx: Context, column: Column, byte: int, mask: int, low: int, high: int, add: bool) -> None:
    """Set or clear a bit of rows low..high."""
    if high == low + 1:
        where = low * column.size + byte
        old = column.flat[where]
        ctx.undo.entries.append((column.flat, where, old))
        column.flat[where] = old | mask if add else old & ~mask
        return
    ctx.undo.note_rows(column.array, low, high, ctx.table.count)
    part = column.array[low:high, byte]
    if add:
        part |= np.uint8(mask)
    else:
        part &= np.uint8(~mask & 0xFF)


def keyword_reset(ctx: Context, body: memoryview) -> None:
    """KEYWORD_RESET: clear all keywords."""
    found = ctx.uid_ranges(body, 8)
    column = ctx.table.column(KEYWORDS)
    if column is None:
        return
    for _, low, high in found:
        ctx.undo.note_rows(column.array, low, high, ctx.table.count)
        column.array[low:high] = 0
        ctx.touch(low, high)
        ctx.raise_modseq(low, high)


def add_keyword(ctx: Context, name: bytes) -> int:
    """Register a new keyword as the next bit; creates the extension if it is the first."""
    table = ctx.table
    bit = len(table.keywords)
    table.keywords.append(name)
    table.keyword_index[name.lower()] = bit
    table.keyword_bytes += len(name)
    used = ext_format.keywords_used(table.keyword_bytes, bit + 1)
    position = table.ext_index.get(KEYWORDS)
    if position is None:
        add_extension(ctx, Extension(KEYWORDS, record_align=1))
        resize_keywords(ctx, used)
    else:
        ext = table.extensions[position]
        if used > len(ext.hdr) or ext.record_size * 8 <= bit:
            resize_keywords(ctx, used)
    ctx.mailbox_changed = True
    return bit


def resize_keywords(ctx: Context, used: int | None) -> Column:
    """Grow ``keywords`` for its names as Dovecot does: 128 spare header bytes, whole bitmask bytes."""
    table = ctx.table
    position = table.ext_index[KEYWORDS]
    ext = table.extensions[position]
    size = max(ext.record_size, ext_format.keyword_record_size(len(table.keywords)))
    hdr = ext.hdr if used is None else bytes(used + 128)
    replace_extension(ctx, position, replace(ext, hdr=hdr, record_size=size, record_align=1))
    column = table.columns[position]
    if column is None:
        raise ctx.broken("keywords without record data")
    return column
