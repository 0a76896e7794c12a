"""Usual records of format 2, read directly from bytes in memory: plain, small, without a fault.

A file may have 100,000 messages.  This module reads the usual ones; for any other it gives None, and
:mod:`~dboxfs.store.salvage.scan2` reads it in full, with the same result.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE,
    PREFIX_SIZE,
    Metadata,
    bare_line_feeds,
    detect,
    is_encrypted,
)
from dboxfs.store.salvage.found import Found, Trust
from dboxfs.store.salvage.measure import Measured
from dboxfs.store.salvage.trailer import RECORD_START

_BLOCK: Final = re.compile(rb"\n\x01\x03\n((?:[A-Z][^\n\x01\r]{0,200}\n){1,16})\n")
_SMALL: Final = 64 << 10


def usual_records(data: bytes, at: int, base: int, *, texts: bool, most: int) -> list[Found]:
    """The record at ``data[at:]`` and those behind it, as long as they are usual ones."""
    found: list[Found] = []
    while len(found) < most and (one := usual_record(data, at, base, texts=texts)) is not None:
        found.append(one)
        at = one.end - base
    return found


def usual_record(data: bytes, at: int, base: int, *, texts: bool) -> Found | None:
    """The record at ``data[at:]``, if it is a usual one and all of it is in *data*.

    :param base: offset of *data* in the file.
    :param texts: compare its text with its metadata.
    """
    frame = usual_frame(data, at, base)
    if frame is None:
        return None
    size, metadata = frame
    start = at + MESSAGE_HEADER_SIZE
    end = start + size
    measured: Measured | None = None
    if texts:
        text = data[start:end]
        if detect(text[:PREFIX_SIZE]) is not None or is_encrypted(text):
            return None
        keys = dict(reversed(metadata.items))  # the first of each key counts
        virtual = size + bare_line_feeds(text)
        if b"Z" in keys or b"X" in keys or keys.get(b"V", b"").lower() != b"%x" % virtual:
            return None
        measured = Measured(size, size, virtual, None, zlib.crc32(text))
    after = base + end + metadata.size
    return Found(base + at, after, base + start, size, metadata, measured, Trust.WHOLE)


def usual_frame(data: bytes, at: int, base: int) -> tuple[int, Metadata] | None:
    """Size (bytes) and metadata of the text of the record at ``data[at:]``, if both are usual.

    :param base: offset of *data* in the file.
    """
    header = RECORD_START.match(data, at)
    if header is None:
        return None
    size = int(header[1], 16)
    end = at + MESSAGE_HEADER_SIZE + size
    if size > _SMALL or (block := _BLOCK.match(data, end)) is None:
        return None
    items = tuple([(line[:1], line[1:]) for line in block[1].split(b"\n")[:-1]])
    return size, Metadata(items, block.end() - end, base + end)
