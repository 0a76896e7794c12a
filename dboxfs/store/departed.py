"""Expunged messages of one mailbox that a program may have open: their bytes, sizes and dates.

If the kernel tells which messages are open, an open message holds its file, and this module is not needed.
If it doesn't (:mod:`dboxfs.vfs.unopened`), a program may open a message by a name that the kernel knows, and
read it through an inode whose message was expunged, replaced or moved meanwhile.  Its bytes are then read in
their old place, as long as that is possible: see the two :class:`DepartedFiles`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from dboxfs.store.attrs import Facts, FactTable, Uids
from dboxfs.store.backend import DepartedFiles, OpenRecord, Places
from dboxfs.store.body import Body, settled_or_closed

MOST_DEPARTED_FACTS = 1024
"""Number of the last expunged messages whose sizes and dates are remembered."""


class DepartedMessages:
    """The expunged messages of one mailbox.

    :param files: their places.
    :param body: makes a body of a settled record.
    """

    def __init__(self, files: DepartedFiles, body: Callable[[OpenRecord, int], Awaitable[Body]]) -> None:
        self._files = files
        self._body = body
        self._facts: OrderedDict[int, Facts] = OrderedDict()

    async def hold(self, uid: int) -> None:
        """Keep a message readable that a program is about to open, even after an expunge.

        :raises NoSuchMessage: its file is gone.
        """
        await self._files.hold(uid)

    def note(self) -> Places | None:
        """The places of all messages, called before the index is read again."""
        return self._files.note()

    def went(self, uids: Uids, table: FactTable) -> None:
        """Remember sizes and dates of messages that are gone.

        :param table: still has their facts.
        """
        if not self._files.wanted:
            return
        for uid in uids[-MOST_DEPARTED_FACTS:].tolist():
            facts = table.get(uid)
            if facts is not None and facts.known and not facts.damaged:
                self._facts[uid] = facts
        while len(self._facts) > MOST_DEPARTED_FACTS:
            self._facts.popitem(last=False)

    async def keep(self, uids: Uids, places: Places | None) -> None:
        """Keep the places of messages that are gone, now that the index was read.

        :param places: the earlier result of :meth:`note`.
        """
        if places is not None and len(uids):
            await self._files.keep(uids, places)

    def facts(self, uid: int) -> Facts | None:
        """Size and dates of an expunged message; None: unknown."""
        return self._facts.get(uid)

    async def open(self, uid: int) -> tuple[Body, Facts] | None:
        """The bytes of an expunged message, and its size and dates; None: its place is not kept.

        :raises DboxfsError, OSError: it can't be read.
        """
        opened = await self._files.open(uid)
        if opened is None:
            return None
        opened = await settled_or_closed(opened)
        try:
            facts = self._facts.get(uid) or opened.record.facts(0)
        except BaseException:
            opened.close()
            raise
        return await self._body(opened, uid), facts

    def forget(self, uid: int) -> None:
        """Forget a message that no program has open."""
        self._files.forget(uid)
        self._facts.pop(uid, None)

    def close(self) -> None:
        """Forget all of them."""
        self._files.close()
        self._facts.clear()
