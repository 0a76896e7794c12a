"""What a listing needs to know of every message: size, received date, saved date.  Columns, not objects.

The index doesn't hold these; they stand in the dbox files (message header and metadata) and are read once,
since a message never changes.  :class:`FactTable` keeps them in numpy columns beside the uids, 33 bytes a
message, in the order of the uids.

=========== ======= ======================================================================
column      type    meaning
=========== ======= ======================================================================
uids        uint32  ascending
state       uint8   UNKNOWN, KNOWN or DAMAGED, and HAS_ATTACHMENTS, COMPRESSED
size        int64   bytes of the plain message as the user reads it; DAMAGED: the best guess, or 0
received    int64   seconds since the epoch (``R``)
saved       int64   seconds since the epoch
cached_at   uint32  sdbox: where ``dovecot.index.cache`` had the message when ``saved`` was found
=========== ======= ======================================================================

All methods run between two checkpoints of the event loop, so no lock guards the table.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UNKNOWN = 0
KNOWN = 1
DAMAGED = 2
COMPRESSED = 4
HAS_ATTACHMENTS = 8

_COLUMNS = ("state", "size", "received", "saved", "cached_at")

Uids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Facts:
    """One message's row of the table.  ``size`` in bytes, dates in seconds since the epoch."""

    state: int
    size: int
    received: int
    saved: int

    @property
    def known(self) -> bool:
        return bool(self.state & (KNOWN | DAMAGED))

    @property
    def damaged(self) -> bool:
        return bool(self.state & DAMAGED)


class FactTable:
    """The columns for one mailbox.  ``sync`` follows the mailbox; ``put`` fills rows; ``row`` finds them."""

    __slots__ = ("_uid_view", "cached_at", "received", "saved", "size", "state", "uids", "unknown")

    def __init__(self) -> None:
        self.uids: Uids = np.empty(0, np.uint32)
        self._uid_view = self.uids.data
        self.state = np.empty(0, np.uint8)
        self.size = np.empty(0, np.int64)
        self.received = np.empty(0, np.int64)
        self.saved = np.empty(0, np.int64)
        self.cached_at = np.empty(0, np.uint32)
        self.unknown = 0

    def __len__(self) -> int:
        return len(self.uids)

    def sync(self, uids: Uids) -> None:
        """Make the table hold exactly *uids* (ascending); what was known of those that stay is kept."""
        old = self.uids
        if len(uids) == len(old) and np.array_equal(uids, old):
            return
        if len(uids) > len(old) and np.array_equal(uids[: len(old)], old):
            more = len(uids) - len(old)
            for name in _COLUMNS:
                column = getattr(self, name)
                setattr(self, name, np.concatenate((column, np.zeros(more, column.dtype))))
        else:
            _, at_new, at_old = np.intersect1d(uids, old, assume_unique=True, return_indices=True)
            for name in _COLUMNS:
                column = getattr(self, name)
                fresh = np.zeros(len(uids), column.dtype)
                fresh[at_new] = column[at_old]
                setattr(self, name, fresh)
        self.uids = np.array(uids, np.uint32)
        self._uid_view = self.uids.data
        self.unknown = int(np.count_nonzero(self.state == UNKNOWN))

    def row(self, uid: int) -> int:
        """The row of *uid*, -1 when it is not in the table."""
        at = bisect_left(self._uid_view, uid)
        return at if at < len(self._uid_view) and self._uid_view[at] == uid else -1

    def get(self, uid: int) -> Facts | None:
        """What is known of *uid*; None when the mailbox doesn't have it."""
        row = self.row(uid)
        if row < 0:
            return None
        return Facts(self.state.item(row), self.size.item(row), self.received.item(row), self.saved.item(row))

    def put(self, uid: int, facts: Facts) -> None:
        """Remember *facts*; nothing happens when the message has gone meanwhile."""
        row = self.row(uid)
        if row < 0:
            return
        self.unknown += (facts.state == UNKNOWN) - int(self.state[row] == UNKNOWN)
        self.state[row] = facts.state
        self.size[row] = facts.size
        self.received[row] = facts.received
        self.saved[row] = facts.saved

    def unknown_uids(self) -> Uids:
        """The uids of which nothing is known yet, ascending."""
        unknown: Uids = self.uids[self.state == UNKNOWN]
        return unknown
