"""Extensions of an index: their headers, the place of their data in a record, and the keyword names.

::

    keywords header = count u32, count x { unused u32, name_offset u32 }, names (NUL terminated), zeros

An extension has header data, record data, or both.  Its position in the list is the ``ext_id`` of the log;
extensions are never removed or reordered.  In memory the record data of an extension is a column
(:class:`~dboxfs.index.state.IndexState`); ``record_offset`` is only its place in the file's records.

Limits: 63 characters of name, records below 64 KiB in all (mail-index sections 2 to 4), and of our own:
:data:`MAX_HEADER_BYTES` and :data:`MAX_COLUMN_BYTES`, so that a few bytes of log can't ask for gigabytes.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import FormatError

KEYWORDS = "keywords"
MODSEQ = "modseq"
CACHE = "cache"

BASE_RECORD_SIZE = 5
MIN_RECORD_SIZE = 8
MAX_RECORD_SIZE = 0xFFFF
#: All header data that a log may introduce, in bytes (Dovecot's own use stays below a few KiB).
MAX_HEADER_BYTES = 1 << 20
#: All columns together: this many bytes, plus :data:`MAX_COLUMN_BYTES_PER_MESSAGE` for each message.
MAX_COLUMN_BYTES = 64 << 20
MAX_COLUMN_BYTES_PER_MESSAGE = 512

#: An index with more extensions than this is damaged (real ones have about ten).
MAX_EXTENSIONS = 1024

_NAME = re.compile(r"[A-Za-z0-9 _-]{1,63}\Z")
_U32 = struct.Struct("<I")


class Extension(Struct, frozen=True):
    """One extension.  ``hdr`` is its header data; sizes and offsets in bytes."""

    name: str
    hdr: bytes = b""
    reset_id: int = 0
    record_offset: int = 0
    record_size: int = 0
    record_align: int = 0


def decode_name(raw: bytes, offset: int) -> str:
    """The name of an extension; :class:`FormatError` for anything but 1 to 63 plain characters."""
    name = raw.decode("ascii", "replace")
    if not _NAME.match(name):
        raise FormatError(offset, f"extension name {name[:80]!r} is not valid")
    return name


def check_sizes(offset: int, name: str, hdr_size: int, record_size: int, record_align: int) -> None:
    """Raise :class:`FormatError` unless an extension can have these sizes."""
    if record_size == 0 and hdr_size == 0:
        raise FormatError(offset, f"extension {name}: neither header nor record data")
    if record_size >= 1 << 15:
        raise FormatError(offset, f"extension {name}: record_size {record_size} is too large")
    if record_align not in (1, 2, 4, 8) and (record_size or record_align):
        raise FormatError(offset, f"extension {name}: record_align {record_align} is not 1, 2, 4 or 8")


def place_records(extensions: Sequence[Extension]) -> tuple[list[Extension], int]:
    """Lay out the records as Dovecot does: (extensions with new record_offsets, record_size).

    From offset 5 on, each place gets the first extension with the largest alignment that fits there; if none
    fits, padding follows (mail-index section 3).
    """
    placed = [replace(e, record_offset=0) if e.record_offset else e for e in extensions]
    queues = {
        align: deque(i for i, e in enumerate(placed) if e.record_size and e.record_align == align)
        for align in (8, 4, 2, 1)
    }
    offset = BASE_RECORD_SIZE
    while waiting := [align for align, queue in queues.items() if queue]:
        fitting = next((align for align in waiting if offset % align == 0), None)
        if fitting is None:
            offset += -offset % waiting[-1]
            continue
        i = queues[fitting].popleft()
        placed[i] = replace(placed[i], record_offset=offset)
        offset += placed[i].record_size
    max_align = max([4, *(e.record_align for e in extensions)])
    offset += -offset % max_align
    return placed, max(offset, MIN_RECORD_SIZE)


def parse_keywords(hdr: bytes, offset: int) -> list[bytes]:
    """Names in the header of ``keywords``; ``offset`` is the header's place, for errors."""
    if len(hdr) < 4:
        return []
    (count,) = _U32.unpack_from(hdr)
    start = 4 + 8 * count
    if start > len(hdr):
        raise FormatError(offset, f"keywords: {count} names do not fit {len(hdr)} bytes")
    area = hdr[start:]
    if area and area[-1]:
        raise FormatError(offset + len(hdr) - 1, "keywords: the last name has no end")
    names: list[bytes] = []
    unclaimed = len(area)
    for i in range(count):
        (name_offset,) = _U32.unpack_from(hdr, 8 + 8 * i)
        end = area.find(b"\0", name_offset)
        unclaimed -= end + 1 - name_offset
        if end <= name_offset or unclaimed < 0:
            raise FormatError(offset + 8 + 8 * i, f"keywords: no name at offset {name_offset}")
        names.append(area[name_offset:end])
    return names


def encode_keywords(names: Sequence[bytes], hdr_size: int) -> bytes:
    """The header of ``keywords``, padded with zeros to ``hdr_size`` bytes."""
    parts = [_U32.pack(len(names))]
    name_offset = 0
    for name in names:
        parts.append(struct.pack("<II", 0, name_offset))
        name_offset += len(name) + 1
    parts.extend(name + b"\0" for name in names)
    return b"".join(parts).ljust(hdr_size, b"\0")


def keywords_used(names_bytes: int, count: int) -> int:
    """Bytes of a keywords header in use, padded to 4, for ``count`` names of ``names_bytes`` in all."""
    used = 4 + 8 * count + names_bytes + count
    return used + -used % 4


def keyword_record_size(count: int) -> int:
    """Bytes of a keyword bitmask as Dovecot sizes it: one spare byte unless a multiple of 4."""
    size = (count + 7) // 8
    return size + 1 if size % 4 else size
