"""Changes in the state of an index."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from dboxfs.index.state import IndexState


class Delta(Struct, frozen=True):
    """The changes of one refresh: arrays of uids, ascending."""

    appended: np.ndarray
    expunged: np.ndarray
    updated: np.ndarray
    reloaded: bool

    def __bool__(self) -> bool:
        return self.reloaded or bool(len(self.appended) or len(self.expunged) or len(self.updated))


_NO_UIDS = np.empty(0, np.uint32)
NOTHING = Delta(_NO_UIDS, _NO_UIDS, _NO_UIDS, False)


def replay(state: IndexState, data: bytes) -> Delta:
    """Replay the log's *data*, which follow the head of *state*, into it.

    :raises FormatError: the data are damaged.
    """
    if not data:
        return NOTHING
    changes = state.apply_log(data, state.head_offset)
    return Delta(changes.appended, changes.expunged, changes.updated, False)


def difference(old: IndexState | None, new: IndexState | None) -> Delta:
    """The changes from an old state to one that was loaded whole; None: there is no index."""
    before = old.uids if old is not None else _NO_UIDS
    after = new.uids if new is not None else _NO_UIDS
    if not len(before):
        return Delta(after.copy(), _NO_UIDS, _NO_UIDS, True)
    return Delta(
        np.setdiff1d(after, before, assume_unique=True),
        np.setdiff1d(before, after, assume_unique=True),
        np.intersect1d(before, after, assume_unique=True),
        True,
    )
