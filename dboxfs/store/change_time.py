"""st_ctime of a message: seconds are its saved date, nanoseconds a hash of its flags and keywords.

Only the flags and keywords of a message ever change, and a backup program must notice that.  restic, borg,
bup and others compare ctime.  So its nanoseconds are a hash of the flags, of the keywords' names without
their order and case, and of the uid.  The hash is the same in every mount, after a rebuild of the index, and
after a keyword got another number.  If flags and keywords are set back, the ctime is the old one again.

The uid is part of the hash because borg reads every file again that has the newest ctime of all: without the
uid these would be all messages that were saved in one second.

Pure functions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dboxfs.index.columns import UidArray
from dboxfs.index.state import IndexState

FLAGS = 0x1F
"""Bits of the flags that users set; a session's ``\\Recent`` is no change."""

_NS = 1_000_000_000
_SPREAD = 0x9E3779B1
_MIX = 0x85EBCA6B
_WORD = 0xFFFFFFFF


@lru_cache(maxsize=4096)
def marks(flags: int, keywords: tuple[str, ...]) -> int:
    """A 32-bit hash of flags (bits) and keywords."""
    words = sorted({word.lower() for word in keywords})
    return zlib.crc32(
        b"\0".join([b"%d" % (flags & FLAGS), *(word.encode("utf-8", "surrogateescape") for word in words)])
    )


_MARKS_OF_FLAGS = np.array([marks(flags, ()) for flags in range(FLAGS + 1)], np.uint64)


def nanoseconds(marked: int, uid: int) -> int:
    """The nanoseconds of message *uid*, 0 to 999,999,999; *marked*: from :func:`marks`."""
    mixed = (marked + uid * _SPREAD) & _WORD
    mixed = ((mixed ^ mixed >> 16) * _MIX) & _WORD
    return (mixed ^ mixed >> 13) % _NS


def of_message(state: IndexState, row: int, uid: int) -> int:
    """The nanoseconds of one message of an index."""
    return nanoseconds(marks(state.flags_of(row) & FLAGS, state.keywords(row)), uid)


def of_messages(state: IndexState | None, uids: UidArray) -> list[int]:
    """The nanoseconds of many messages; 0 of one that the index does not have."""
    rows = state.rows_of(uids) if state is not None else np.full(len(uids), -1)
    if state is None or not len(uids):
        return [0] * len(uids)
    there = rows >= 0
    marked = np.zeros(len(uids), np.uint64)
    if there.any():
        marked[there] = _marks_of(state, rows[there])
    mixed = (marked + uids.astype(np.uint64) * np.uint64(_SPREAD)) & np.uint64(_WORD)
    mixed = ((mixed ^ mixed >> np.uint64(16)) * np.uint64(_MIX)) & np.uint64(_WORD)
    found = (mixed ^ mixed >> np.uint64(13)) % np.uint64(_NS)
    found[~there] = 0
    nanoseconds_of: list[int] = found.tolist()
    return nanoseconds_of


def _marks_of(state: IndexState, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """:func:`marks` of some rows, computed once for messages with the same bits; without a keyword, from a
    table.
    """
    flags, column = state.flags[rows] & np.uint8(FLAGS), state.column("keywords")
    words = column[rows] if column is not None else None
    if words is None or not words.any():
        found: npt.NDArray[np.uint64] = _MARKS_OF_FLAGS[flags]
        return found
    bits = _packed(flags, words)
    axis = 0 if bits.ndim > 1 else None
    _, first, inverse = np.unique(bits, axis=axis, return_index=True, return_inverse=True)
    one_each: Iterable[int] = (int(rows[at]) for at in first.tolist())
    known = [marks(state.flags_of(row) & FLAGS, state.keywords(row)) for row in one_each]
    return np.array(known, np.uint64)[inverse.reshape(-1)]


def _packed(flags: npt.NDArray[np.uint8], words: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Flags and keyword bits, equal only for equal bits: one number a message (uint64[n]), which sorts ten
    times as fast as several; with too many keywords uint8[n, k].
    """
    if 1 + words.shape[1] > 8:
        return np.hstack([flags.reshape(-1, 1), words])
    wide = np.zeros((len(flags), 8), np.uint8)
    wide[:, 0], wide[:, 1 : 1 + words.shape[1]] = flags, words
    return wide.view(np.uint64).reshape(-1)
