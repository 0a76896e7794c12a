"""Metadata blocks of format 2 in files that may be damaged.

A block that the strict parser accepts (:func:`dboxfs.dbox.parse_metadata`) may still be damaged: without its
terminator it continues through the next record, up to that one's end.  So a block is valid only if its keys
are upper-case letters and no message header lies in it.  From any other block :func:`read_block` takes the
readable parts:

* up to two of the four bytes of the magic may be wrong, if the size in the message header leads to it;
* a block ends at its empty line, else at the next message header or the next block, else at the end of the
  file.  So blocks never overlap, and reading all possible blocks of a file takes linear time.  Only a block
  that a whole frame leads to (``through``) may continue to the next message header;
* lines that do not begin with an upper-case letter are left out;
* a guid is 32 hex digits somewhere in the block, if there is no whole G line.

``problems`` names each of these repairs.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from dboxfs.dbox import METADATA_MAGIC, Metadata, parse_metadata
from dboxfs.errors import FormatError

RECORD_START: Final = re.compile(rb"\x01\x02N {10}([0-7][0-9a-fA-F]{15})\n")
"""A message header as Dovecot writes it.  Group 1: the size."""

TRAILER_START: Final = re.compile(rb"\n\x01\x03\n[A-Z]")
"""The beginning of a metadata block."""

USUAL: Final = 16 << 10
"""Bytes that a block has at most, unless it has X lines."""

_MAGIC_SIZE: Final = len(METADATA_MAGIC)
_KNOWN: Final = frozenset((b"G", b"R", b"V", b"Z", b"B", b"X", b"P", b"O"))
_GUID: Final = re.compile(rb"[0-9a-f]{32}")
_TWO_WRONG: Final = 2


class MetadataBlock(Struct, frozen=True):
    """A metadata block.  ``problems``: its faults and repairs, as text; empty: the block is valid."""

    metadata: Metadata
    problems: tuple[str, ...] = ()


def begins_block(data: bytes) -> bool:
    """Whether *data* begins with the magic of a block, with at most two wrong bytes."""
    return len(data) >= _MAGIC_SIZE and _wrong(data) <= _TWO_WRONG


def _wrong(data: bytes) -> int:
    if data.startswith(METADATA_MAGIC):
        return 0
    return sum(a != b for a, b in zip(data, METADATA_MAGIC, strict=False))


def read_block(data: bytes, base: int, *, to_the_end: bool, through: bool = False) -> MetadataBlock | None:
    """The block at the start of *data*; None: there is none, or it does not end in *data*.

    :param base: offset of *data* in the file.
    :param to_the_end: *data* ends at the end of the file.
    :param through: a block without an end may continue through a possible other block.
    """
    if not begins_block(data):
        return None
    wrong = _wrong(data)
    if not wrong and (strict := _strict(data, base)) is not None:
        return MetadataBlock(strict)
    return _lenient(data, base, wrong=wrong, to_the_end=to_the_end, through=through)


def _strict(data: bytes, base: int) -> Metadata | None:
    try:
        found = parse_metadata(data, base=base)
    except FormatError:
        return None
    if not isinstance(found, Metadata) or RECORD_START.search(data[: found.size]):
        return None
    return found if all(b"A" <= key <= b"Z" for key, _ in found.items) else None


def _lenient(data: bytes, base: int, *, wrong: int, to_the_end: bool, through: bool) -> MetadataBlock | None:
    problems = ["the magic before the metadata is damaged"] if wrong else []
    others = (RECORD_START.search(data), None if through else TRAILER_START.search(data, 1))
    ends = [found.start() for found in others if found is not None]
    stop = min(ends, default=len(data))
    empty = data.find(b"\n\n", _MAGIC_SIZE - 1, stop + 1)
    if empty >= 0:
        size = empty + 2
    elif ends or to_the_end:
        size = stop
        problems.append("the metadata have no end")
    else:
        return None
    lines = data[_MAGIC_SIZE:size].split(b"\n")
    items = [(line[:1], line[1:]) for line in lines if b"A" <= line[:1] <= b"Z"]
    if not any(key in _KNOWN for key, _ in items):
        return None
    if len(items) < sum(1 for line in lines if line):
        problems.append("a line of the metadata can't be read")
    if not any(key == b"G" and _GUID.fullmatch(value) for key, value in items):
        guess = _GUID.search(data[_MAGIC_SIZE:size])
        if guess is not None:
            items.insert(0, (b"G", guess[0]))
            problems.append("the guid stands in a damaged line")
    return MetadataBlock(Metadata(tuple(items), size, base), tuple(problems) or ("the metadata are damaged",))
