"""Columns of an mdbox mailbox's index beside uids and flags: map uids, saved dates and GUIDs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dboxfs.index import mailbox
from dboxfs.store.attrs import Uids
from dboxfs.store.backend import Places, StateOf


class MailboxColumns:
    """The columns of one mailbox, as its index has them now.

    :param state: gives the state of the index.
    """

    def __init__(self, state: StateOf) -> None:
        self._state = state

    def all_map_uids(self) -> Places | None:
        """The uids of the mailbox and the map uid of each, as the index has them now; None: the index has no
        map uids.  The arrays stay as they are: an expunge makes new ones.
        """
        state = self._state()
        column = mailbox.map_uids(state) if state is not None else None
        return None if state is None or column is None else (state.uids, column)

    def map_uids(self, uids: Uids) -> tuple[np.ndarray, np.ndarray]:
        """(map_uid, save_date) of *uids*, uint32[n] each; zeros for those that the index doesn't have."""
        numbers, dates = np.zeros(len(uids), np.uint32), np.zeros(len(uids), np.uint32)
        state = self._state()
        if (
            state is not None
            and (of_row := mailbox.map_uids(state)) is not None
            and (saved := mailbox.save_dates(state)) is not None
        ):
            rows = state.rows_of(uids)
            found = rows >= 0
            numbers[found] = of_row[rows[found]]
            dates[found] = saved[rows[found]]
        return numbers, dates

    def map_uid(self, uid: int) -> int:
        """The map uid of *uid*; 0 if the index has none."""
        state = self._state()
        row = state.row_of(uid) if state is not None else -1
        return mailbox.map_uid(state, row) if state is not None and row >= 0 else 0

    def guids(self, uids: Uids) -> npt.NDArray[np.uint8]:
        """The GUIDs of *uids* in the index, uint8[n, 16]; zeros for those without one."""
        found, state = np.zeros((len(uids), 16), np.uint8), self._state()
        column = mailbox.guids(state) if state is not None else None
        if state is not None and column is not None:
            rows = state.rows_of(uids)
            found[rows >= 0] = column[rows[rows >= 0]]
        return found
