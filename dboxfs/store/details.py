"""What only the metadata of messages say: read once, and of many messages at once where they are asked for in
the order of the mailbox.

Parsed records are kept in the store's table (``details_cache.py``), which is bounded.  A message that isn't
in it is read alone; once the ones behind it are asked for, too, the next :data:`FIRST_DETAILS` to
:data:`MOST_DETAILS` are read together, in one batch for the workers.  What one walk brings ahead is at most a
quarter of the table, so it is still there when it is asked for, beside a few other walks; a table that is too
small for that brings nothing ahead.

Concurrency: what is read for a mailbox that has changed meanwhile is given, but not kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError
from dboxfs.store.attrs import Facts, FactTable, Uids
from dboxfs.store.backend import MessageFiles, OpenRecord
from dboxfs.store.details_cache import DetailsCache

FIRST_DETAILS = 8
"""Messages that are read together first, ..."""

MOST_DETAILS = 64
"""... and at most."""

_SHARE = 4  # of the table that one walk may fill ahead: one of so many

_STEP_MOST = 4  # positions from one message to the next that still are a walk


@dataclass(frozen=True, slots=True)
class Details:
    """What only the metadata tell.  ``location``: path below the root, offset, bytes of the record."""

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
    """Reads for one mailbox.

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
        self._owner = object()  # of what is in that table
        self._last = -1 - _STEP_MOST
        self._window = 0

    def renew(self) -> None:
        """The mailbox has changed: its messages may lie elsewhere, or be others."""
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
        """*uid* and those behind it, if it is a step of a walk through what isn't known."""
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
            return  # the read of each tells
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
