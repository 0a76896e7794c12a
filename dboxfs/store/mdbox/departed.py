"""Places of expunged messages, which a program may still have open.

A mount whose kernel sends no OPEN learns from the first READ that a message is open.  The message may be
expunged before that.  So the places of the last :data:`MOST_DEPARTED` expunged messages of each mailbox are
kept, with their ``m.N`` open: the bytes of the file don't change, and an open file stays readable after a
purge unlinks it.  A place is given up when the kernel forgets the inode.  A message that was expunged and
purged before the mount read the mailbox is not found.

Places are kept only if the caller requests it (``MdboxStorage.keeps_departed``).  Nothing is held before a
message is expunged: its bytes stay in their ``m.N``.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from dboxfs.errors import CorruptFile
from dboxfs.index.mapindex import MapRecord
from dboxfs.store.attrs import Uids
from dboxfs.store.backend import OpenRecord, Places
from dboxfs.store.mdbox.storage import MailboxColumns, MdboxStorage, OpenContainer, read_record

MOST_DEPARTED = 1024


class DepartedPlaces:
    """The places of one mailbox's expunged messages.

    :param columns: of the mailbox's index.
    """

    def __init__(self, storage: MdboxStorage, columns: MailboxColumns) -> None:
        self._storage = storage
        self._columns = columns
        self._places: OrderedDict[int, tuple[MapRecord, OpenContainer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def wanted(self) -> bool:
        """Whether expunged messages are to stay readable."""
        return self._storage.keeps_departed

    async def hold(self, uid: int) -> None:
        """Do nothing: the bytes of the message stay where they are."""

    def note(self) -> Places | None:
        """The map uids of all messages, before the index is read again; None: they are not needed
        (``wanted``).
        """
        return self._columns.all_map_uids() if self.wanted else None

    async def keep(self, expunged: Uids, places: Places) -> None:
        """Keep the places of messages that were expunged.

        :param places: the earlier result of :meth:`note`.
        """
        uids, map_uids = places
        last = expunged[-MOST_DEPARTED:]
        rows = np.minimum(uids.searchsorted(last), max(len(uids) - 1, 0))
        for uid, row in zip(last.tolist(), rows.tolist(), strict=True):
            if row < len(uids) and uids[row] == uid:
                await self._keep(uid, int(map_uids[row]))
        while len(self._places) > MOST_DEPARTED:
            self.forget(next(iter(self._places)))

    async def _keep(self, uid: int, map_uid: int) -> None:
        place = self._storage.place_before(map_uid)
        if place is None or uid in self._places:
            return
        try:
            container = await self._storage.container(place.file_id)
        except (OSError, CorruptFile):
            return  # no process that has it open can read it either
        self._places[uid] = place, container

    async def open(self, uid: int) -> OpenRecord | None:
        """The record of a message that is gone; None: its place is not kept.

        :raises CorruptFile, OSError: it can't be read.
        """
        found = self._places.get(uid)
        if found is None:
            return None
        place, container = found
        container.users += 1
        try:
            record = await read_record(container, place)
        except BaseException:
            self._storage.release(place.file_id, container)
            raise
        return OpenRecord(
            container.handle, container.path, record, lambda: self._storage.release(place.file_id, container)
        )

    def forget(self, uid: int) -> None:
        """Give up the place of a message: the kernel has no inode of it any more."""
        found = self._places.pop(uid, None)
        if found is not None:
            self._storage.release(found[0].file_id, found[1])

    def close(self) -> None:
        """Give up all places."""
        for uid in list(self._places):
            self.forget(uid)
