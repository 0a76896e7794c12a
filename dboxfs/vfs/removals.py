"""Removals of messages: answered when they are in the log; what is left to do comes in batches.

The answer means that nobody shows the message any more, whatever becomes of the daemon then: either it is
expunged (the first messages that a program removes from a mailbox no Dovecot uses), or the request is in the
mailbox's log (PROTOCOL section 8).  Nothing is answered from memory alone.

What is put off, and shared by all removals of a row (``rm -r``): waiting for the disk, carrying the requests
out where no Dovecot does, and reading the mailbox again.  That happens :data:`DELAY` seconds after the last
removal of the row, at the latest after :data:`LONGEST` seconds or :data:`BATCH` messages; fsync of the
directory waits for it, and so does everything that changes the mailbox otherwise (:meth:`Removals.finish`).
An error there is the next caller's of that kind; the messages stay removed, since the log says so.

A message whose request is lost while it waits for Dovecot (a rebuild forgets requests) is asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial

import trio

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.store.write import StoreWriter, meaning
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.names import Names

log = logging.getLogger(__name__)

ONE_BY_ONE = 8
"""Messages in a row that are read again, and carried out where no Dovecot does it, before the answer."""

ROW = 0.1
"""Seconds: what comes later is no longer the same row."""

DELAY = 0.05
LONGEST = 0.5
BATCH = 5000


class _Batch:
    """What was removed from one mailbox and is not finished.

    ``asked``: messages whose request is in the log, and waits for the disk, or to be carried out.
    ``guid``: of the mailbox that they are in.
    ``first``, ``last``: when the oldest of these was asked for, and the newest removal.
    """

    __slots__ = ("asked", "error", "first", "guid", "last", "lock", "row", "scheduled")

    def __init__(self) -> None:
        self.guid: bytes | None = None
        self.asked: set[int] = set()
        self.row = 0
        self.scheduled = False
        self.first = 0.0
        self.last = 0.0
        self.error: Exception | None = None
        self.lock = trio.Lock()


class Removals:
    """Removes messages, and finishes what removals have left to do.

    :param names: hides what is removed, whatever the mailbox, as it was read last, says of it.
    """

    def __init__(self, store: Store, writer: StoreWriter, names: Names, spawn: Spawn) -> None:
        self._store = store
        self._writer = writer
        self._names = names
        self._spawn = spawn
        self._batches: dict[str, _Batch] = {}

    async def remove(self, folder: Folder, uid: int) -> bool:
        """Remove a message; False: somebody else has done it.  Then the mailbox was read again.

        :raises Exception: it is not removed.
        """
        batch = self._batches.setdefault(folder.name, _Batch())
        now = trio.current_time()
        batch.row = batch.row + 1 if now - batch.last < ROW else 1
        self._names.hide(folder, uid)  # the kernel knows that it goes, and needs not be told
        try:
            was_there = await self._remove(folder, batch, uid)
        except BaseException:
            self._names.show(folder, [uid])
            raise
        batch.last = trio.current_time()
        if batch.asked and not batch.scheduled:
            batch.scheduled = True
            if batch.row > ONE_BY_ONE:
                self._store.hold(folder.name)
            self._spawn(partial(self._later, folder))
        return was_there

    async def _remove(self, folder: Folder, batch: _Batch, uid: int) -> bool:
        first, guid = batch.row <= ONE_BY_ONE, _guid_of(folder)
        with meaning((folder.name, guid)):
            if first and self._writer.options.alone:
                was_there = uid in await self._writer.expunge(folder.name, [uid])
            else:
                was_there = await self._writer.ask_expunge(folder.name, uid)
                batch.first = batch.first if batch.asked else trio.current_time()
                batch.asked = batch.asked if batch.guid == guid else set()
                batch.asked.add(uid)
                batch.guid = guid
        if first or not was_there:
            with trio.CancelScope(shield=True):
                await self._store.refresh_mailbox(folder)
            if folder.mailbox is None or uid not in folder.mailbox:
                self._names.show(folder, [uid])
        return was_there

    async def finish(self, folder: Folder) -> None:
        """Wait until all that was removed is on disk, and carried out where no Dovecot does it.

        :raises Exception: it is not: what this, or a run before it, has met.
        """
        batch = self._batches.get(folder.name)
        if batch is None:
            return
        await self._finish(folder, batch)
        error, batch.error = batch.error, None
        if error is not None:
            raise error

    async def finish_all(self) -> None:
        """:meth:`finish` for all mailboxes, whatever becomes of some.

        :raises Exception: the first error; all others are logged.
        """
        first: Exception | None = None
        for name in list(self._batches):
            folder = self._store.folders.get(name)
            if folder is None:
                del self._batches[name]  # the mailbox is gone, or has another name
                continue
            try:
                await self.finish(folder)
            except Exception as exc:  # noqa: BLE001 - the other mailboxes come first
                if first is None:
                    first = exc
        if first is not None:
            raise first

    async def _later(self, folder: Folder) -> None:
        batch = self._batches.get(folder.name)
        if batch is None:
            return
        try:
            while True:
                await trio.sleep(DELAY)
                now = trio.current_time()
                if now - batch.last >= DELAY or now - batch.first >= LONGEST or len(batch.asked) >= BATCH:
                    break
        finally:
            batch.scheduled = False
            self._store.let_go(folder.name)
        await self._finish(folder, batch)
        batch.last = trio.current_time()  # what this took is no pause of whoever removes

    async def _finish(self, folder: Folder, batch: _Batch) -> None:
        async with batch.lock:
            asked, batch.asked = batch.asked, set()
            if not asked:
                return
            guid = batch.guid
            try:
                with trio.CancelScope(shield=True), meaning((folder.name, guid)):
                    await self._carry_out(folder, asked, guid)
            except (DboxfsError, OSError) as exc:
                log.error("%s: messages are removed, but: %s", folder, exc)
                batch.error = exc
            box = folder.mailbox
            another = box is None or box.guid != guid
            self._names.show(folder, [uid for uid in asked if another or box is None or uid not in box])

    async def _carry_out(self, folder: Folder, asked: Collection[int], guid: bytes | None) -> None:
        """Also in a mailbox that Dovecot has given another name meanwhile.  With one that is gone, so are its
        messages.
        """
        try:
            await self._writer.carry_out(folder.name)
        except NoSuchMailbox:
            await self._store.refresh_tree()
            boxes = [(some, some.mailbox) for some in self._store.folders.values() if some is not folder]
            homes = [some for some, box in boxes if box is not None and guid is not None and box.guid == guid]
            for home in homes:
                for uid in asked:
                    await self._writer.ask_expunge(home.name, uid)
                await self._writer.carry_out(home.name)
                await self._store.refresh_mailbox(home)
            return
        await self._store.refresh_mailbox(folder)
        if _guid_of(folder) == guid:
            await self._ask_again(folder, asked)

    async def _ask_again(self, folder: Folder, uids: Collection[int]) -> None:
        """Requests that were lost: Dovecot has rebuilt the mailbox before it saw them."""
        box = folder.mailbox
        lost = [uid for uid in uids if box is not None and uid in box]
        if not lost:
            return
        log.warning("%s: %d removals were lost in a rebuild, and are asked for again", folder, len(lost))
        for uid in lost:
            await self._writer.ask_expunge(folder.name, uid)
        await self._writer.carry_out(folder.name)
        await self._store.refresh_mailbox(folder)


def _guid_of(folder: Folder) -> bytes | None:
    return folder.mailbox.guid if folder.mailbox is not None else None
