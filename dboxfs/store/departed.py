"""Messages of one mailbox that are gone, and that a program may have open: their bytes, sizes and dates.

Where the kernel tells which messages are open, an open one holds its file, and nothing of this is needed.
Where it doesn't (:mod:`dboxfs.vfs.unopened`), who has opened a message by the name that the kernel knows asks
for its bytes under an inode of which the message is gone: it was expunged, replaced or moved meanwhile. The
bytes are then read where they were, as long as they can be: see the two :class:`DepartedFiles`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from dboxfs.store.attrs import Facts, FactTable, Uids
from dboxfs.store.backend import DepartedFiles, OpenRecord, Places
from dboxfs.store.body import Body, settled_or_closed

MOST_DEPARTED_FACTS = 1024
"""Messages whose sizes and dates are remembered; the last ones."""


class DepartedMessages:
    """Those of one mailbox.

    :param files: where they lie.
    :param body: makes a body of a settled record.
    """

    def __init__(self, files: DepartedFiles, body: Callable[[OpenRecord, int], Awaitable[Body]]) -> None:
        self._files = files
        self._body = body
        self._facts: OrderedDict[int, Facts] = OrderedDict()

    async def hold(self, uid: int) -> None:
        """A program is about to open this message: it stays readable, whatever becomes of it.

        :raises NoSuchMessage: its file is gone.
        """
        await self._files.hold(uid)

    def note(self) -> Places | None:
        """Before the index is followed."""
        return self._files.note()

    def went(self, uids: Uids, table: FactTable) -> None:
        """These messages are gone.

        :param table: knows them still.
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
        """The index was followed, and these messages are gone.

        :param places: what :meth:`note` gave before.
        """
        if places is not None and len(uids):
            await self._files.keep(uids, places)

    def facts(self, uid: int) -> Facts | None:
        """Size and dates of a message that is gone; None: not known."""
        return self._facts.get(uid)

    async def open(self, uid: int) -> tuple[Body, Facts] | None:
        """The bytes of a message that is gone, and its size and dates; None: its place is not kept.

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
        """No program has this message open."""
        self._files.forget(uid)
        self._facts.pop(uid, None)

    def close(self) -> None:
        """Give all of them up."""
        self._files.close()
        self._facts.clear()
