"""Parts that an index state and its replay share: flags, array types, a column, the changes of a replay."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

#: Flag bits of a message (mail-index section 3); BACKEND: sdbox, the file is in the alt storage.
FLAG_ANSWERED = 0x01
FLAG_FLAGGED = 0x02
FLAG_DELETED = 0x04
FLAG_SEEN = 0x08
FLAG_DRAFT = 0x10
FLAG_BACKEND = 0x40
FLAG_DIRTY = 0x80

UidArray: TypeAlias = npt.NDArray[np.uint32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
RowArray: TypeAlias = npt.NDArray[np.int64]


class Column:
    """Record data of one extension: ``array`` is uint8[capacity, size], ``flat`` its bytes in a row."""

    __slots__ = ("array", "flat", "size")

    def __init__(self, array: ByteArray) -> None:
        self.array = array
        self.size = int(array.shape[1])
        self.flat = array.reshape(-1).data

    def resized(self, rows: int, size: int) -> Column:
        """A copy with room for ``rows`` rows of ``size`` bytes; new bytes are zero."""
        array = np.zeros((rows, size), np.uint8)
        keep = min(rows, len(self.array)), min(size, self.size)
        array[: keep[0], : keep[1]] = self.array[: keep[0], : keep[1]]
        return Column(array)


class Changes(Struct, frozen=True):
    """The changes of one replay.  uids are ascending; ``updated`` may have too many.

    ``updated``: flags, keywords, extension data or modseq changed.  Not reported: cache offsets (any reader
    of the mailbox makes Dovecot add some) and the start of modseq tracking (it changes no answer).  As long
    as modseqs are not tracked, every message's modseq is the index's highest one and moves with it.
    ``mailbox_changed``: base header, extension headers, extension list, or the deleted mark.
    """

    head_offset: int
    appended: UidArray
    expunged: UidArray
    updated: UidArray
    mailbox_changed: bool


class Selection(Struct, frozen=True):
    """The extension that the last EXT_INTRO selected: its ext_id, the stride of its record updates.

    ``position`` -1: none was introduced yet.  ``ignore``: the intro was for another generation.
    """

    position: int = -1
    record_size: int = 0
    ignore: bool = False
