"""Details of messages that only their metadata have: read once, and of many messages at once in a walk.

Parsed records are kept in the store's table (``details_cache.py``), which is bounded.  A message that isn't
in it is read alone.  Once a program asks for the messages behind it, too, the next :data:`FIRST_DETAILS` to
:data:`MOST_DETAILS` are read together, in one batch for the workers.  One walk brings at most a quarter of
the table ahead, so its records are still there when they are needed, beside a few other walks.  If the table
is too small for that, nothing is brought ahead.

Concurrency: details of a mailbox that has changed during the read are returned, but not kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError
from dboxfs.store.attrs import Facts, FactTable, Uids
from dboxfs.store.backend import MessageFiles, OpenRecord
from dboxfs.store.details_cache import DetailsCache

FIRST_DETAILS = 8
"""Messages that are read together at the beginning of a walk."""

MOST_DETAILS = 64
"""Messages that are read together at most."""

_SHARE = 4  # one walk may fill this part of the table ahead: 1/_SHARE

_STEP_MOST = 4  # distance of positions in a walk, at most


class Details(Struct, frozen=True):
    """Details that only the metadata have.  ``location``: path below the root, offset, bytes of the
    record.
    """

    metadata: Metadata
    location: str


class DetailedMailbox(Protocol):
    """The mailbox whose messages are read."""

    facts: FactTable

    def known(self, uid: int) -> Facts:
        """
        :raises NoSuchMessage: the mailbox doesn't have it.
        """
        ...


class DetailsReader:
    """The reader of one mailbox's details.

    :param records: the store's table of parsed records.
    :param open_message: opens the record of a message; raises as :meth:`dboxfs.store.Mailbox.open`.
    """

    def __init__(
        self,
        box: DetailedMailbox,
        files: MessageFiles,
        records: DetailsCache[Details],
        open_message: Callable[[int], Awaitable[OpenRecord]],
    ) -> None:
        self._box = box
        self._files = files
        self._records = records
        self._open = open_message
        self._owner = object()  # part of the keys in that table
        self._last = -1 - _STEP_MOST
        self._window = 0

    def renew(self) -> None:
        """Drop the details of a mailbox that has changed: its messages may lie elsewhere, or be others."""
        self._owner = object()

    async def get(self, uid: int) -> Details:
        """The details of a message.

        :raises NoSuchMessage, CorruptFile, OSError: as *open_message*.
        """
        found = self._kept(uid)
        if found is None and len(ahead := self._walk(uid)):
            await self._read_together(ahead)
            found = self._kept(uid)
        return found if found is not None else await self._read_alone(uid)

    def _kept(self, uid: int) -> Details | None:
        place = self._files.place_now(uid)
        if place is None or self._box.known(uid).damaged:
            return None
        return self._records.get((self._owner, uid, place))

    def _walk(self, uid: int) -> Uids:
        """*uid* and the messages behind it, if *uid* is a step of a walk; else empty."""
        uids, row = self._box.facts.uids, self._box.facts.row(uid)
        if not 0 < row - self._last <= _STEP_MOST:
            self._last, self._window = row, 0
            return uids[:0]
        most = min(MOST_DETAILS, self._records.limit // _SHARE)
        if most < FIRST_DETAILS:
            self._last = row
            return uids[:0]
        self._window = min(2 * self._window, most) or FIRST_DETAILS
        self._last = row + self._window - 1
        return uids[row : row + self._window]

    async def _read_together(self, uids: Uids) -> None:
        owner = self._owner
        try:
            found = await self._files.scan(uids)
        except (DboxfsError, OSError):
            return  # the read of each message gives the error
        for one in found:
            if one.record is not None and one.error is None and self._owner is owner:
                self._keep(one.uid, Details(one.record.metadata, self._files.where(one.path, one.record)))

    async def _read_alone(self, uid: int) -> Details:
        owner = self._owner
        opened = await self._open(uid)
        try:
            details = Details(opened.record.metadata, self._files.where(opened.path, opened.record))
        finally:
            opened.close()
        if self._owner is owner:
            self._keep(uid, details)
        return details

    def _keep(self, uid: int, details: Details) -> None:
        place = self._files.place_now(uid)
        if place is not None:
            self._records.put((self._owner, uid, place), details)
