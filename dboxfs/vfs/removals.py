"""Removals of messages: each is answered when it is in the log; the rest of the work comes in batches.

After the answer no reader of the store shows the message any more, even if the daemon dies then: either it is
expunged (the first messages of a row), or the request is in the mailbox's log (PROTOCOL section 8).  No
removal is answered from memory alone.  A new message, a change of the mailbox itself or a pause ends a row.

A row of removals (``rm -r``) shares the rest: waiting for the disk, carrying the requests out where there is
no Dovecot, and reading the mailbox again.  That happens :data:`DELAY` seconds after the last removal of the
row, at the latest after :data:`LONGEST` seconds or :data:`BATCH` messages.  fsync of the directory, and other
changes of the mailbox, wait for it (:meth:`Removals.finish`); the next of these gets an error of this work.
The messages stay removed all the same, since the log says so.

Beside a Dovecot the requests are carried out :data:`ROW_ENDED` seconds after the last removal, or
:data:`LONGEST_ROW` seconds after the first batch: this costs reading each message of an sdbox, and nothing
waits for it but the end of the mount.  Until then they are noted, so that no death of the daemon undoes them.
If a request is lost meanwhile (a rebuild by Dovecot forgets requests), it is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial

import trio

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.store.write import StoreWriter, meaning
from dboxfs.store.write.meaning import called
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.names import Names

log = logging.getLogger(__name__)

ONE_BY_ONE = 8
"""This many removals at the beginning of a row are carried out before their answer, and the mailbox is read
again."""

ROW = 0.1
"""Seconds: a removal after a longer pause begins a new row."""

DELAY = 0.05
"""Seconds after the last removal of a row until the rest is done."""

LONGEST = 0.5
"""Seconds after the first removal of a batch until the rest is done, at most."""

BATCH = 5000
"""Messages of a batch, at most."""

ROW_ENDED = 1.0
"""Seconds without a removal: then the requests of a row are carried out beside a Dovecot."""

LONGEST_ROW = 60.0
"""Seconds after the first batch of a row until that happens, at most."""


class _Batch:
    """The unfinished removals of one mailbox.

    ``asked``: uids whose request is in the log, and waits for the disk, or to be carried out.
    ``guid``: of the mailbox that they are in.  ``error``: of a run that no caller has got yet.
    ``first``, ``last``: time of the oldest of these requests, and of the newest removal.
    ``row``: removals of the row so far.  ``next_uid``: of the mailbox, at the newest removal.  ``open``: a
    task waits for the end of the row.
    """

    __slots__ = ("asked", "error", "first", "guid", "last", "lock", "next_uid", "open", "row", "scheduled")

    def __init__(self) -> None:
        self.guid: bytes | None = None
        self.asked: set[int] = set()
        self.row = 0
        self.next_uid = 0
        self.open = False
        self.scheduled = False
        self.first = 0.0
        self.last = 0.0
        self.error: Exception | None = None
        self.lock = trio.Lock()


class Removals:
    """Removes messages, and finishes batches of removals.

    :param names: hides a removed message while the mailbox, as it was read last, still has it.
    """

    def __init__(self, store: Store, writer: StoreWriter, names: Names, spawn: Spawn) -> None:
        self._store = store
        self._writer = writer
        self._names = names
        self._spawn = spawn
        self._batches: dict[str, _Batch] = {}
        self._keeping = trio.Lock()

    async def remove(self, folder: Folder, uid: int, name: bytes) -> bool:
        """Remove the message *uid*, called *name*; False: another process has done it, and the mailbox was
        read again.

        :raises Superseded: another mount has given the message another name; it is not removed.
        :raises Exception: it is not removed.
        """
        batch = self._batches.setdefault(folder.name, _Batch())
        now = trio.current_time()
        next_uid = folder.mailbox.uid_next if folder.mailbox is not None else 0
        batch.row = batch.row + 1 if now - batch.last < ROW and next_uid == batch.next_uid else 1
        batch.next_uid = next_uid
        self._names.hide(folder, uid)  # the kernel knows of this removal and need not be told
        try:
            was_there = await self._remove(folder, batch, uid, name)
        except BaseException:
            self._names.show(folder, [uid])
            raise
        batch.last = trio.current_time()
        if batch.asked and not batch.scheduled:
            batch.scheduled = True
            if batch.row > ONE_BY_ONE:
                self._store.changes.hold(folder.name)
            self._spawn(partial(self._later, folder))
        return was_there

    async def _remove(self, folder: Folder, batch: _Batch, uid: int, name: bytes) -> bool:
        first, guid = batch.row <= ONE_BY_ONE, _guid_of(folder)
        with meaning((folder.name, guid)), called(folder, uid, name):
            if first:
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
        """Wait until all removals are on disk, and carried out where no Dovecot does it.

        :raises Exception: they are not: the error of this run, or of an earlier one.
        """
        batch = self._batches.get(folder.name)
        if batch is None:
            return
        batch.row = 0
        await self._finish(folder, batch)
        error, batch.error = batch.error, None
        if error is not None:
            raise error

    async def finish_all(self) -> None:
        """:meth:`finish` for all mailboxes, also after one has failed; and all requests are carried out.

        :raises Exception: the first error; the others are logged.
        """
        first: Exception | None = None
        for name in list(self._batches):
            folder = self._store.folders.get(name)
            if folder is None:
                del self._batches[name]  # the mailbox is gone, or has another name
                continue
            try:
                await self.finish(folder)
            except Exception as exc:  # raised after the other mailboxes, or logged
                if first is None:
                    first = exc
                else:
                    log.error("%s: its removals are not carried out: %r", folder, exc, exc_info=exc)
        await self._keep_promises(None)
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
            self._store.changes.let_go(folder.name)
        await self._finish(folder, batch)
        batch.last = trio.current_time()  # the time of this run is no pause of the removing program
        if not (batch.open or self._writer.options.alone):
            batch.open = True
            self._spawn(partial(self._when_it_ends, folder, batch))

    async def _when_it_ends(self, folder: Folder, batch: _Batch) -> None:
        """Carry out the requests of a row when no more of them come."""
        latest = trio.current_time() + LONGEST_ROW
        try:
            while (now := trio.current_time()) < latest and (batch.scheduled or now - batch.last < ROW_ENDED):
                await trio.sleep(ROW_ENDED)
        finally:
            batch.open = False
        await self._keep_promises(folder)
        batch.last = trio.current_time()

    async def _keep_promises(self, folder: Folder | None) -> None:
        """Carry out requests (of one mailbox) that are noted.  Those that can't be are noted still."""
        async with self._keeping:
            with trio.CancelScope(shield=True):
                try:
                    await self._writer.keep_promises(folder.name if folder is not None else None)
                    if folder is not None:
                        await self._store.refresh_mailbox(folder)
                except (DboxfsError, OSError) as exc:
                    log.warning("%s: messages are removed, but only requested: %s", folder or "removals", exc)

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
        """Carry the requests out, also in a mailbox that Dovecot has renamed meanwhile.  The messages of a
        mailbox that was deleted are gone with it.
        """
        try:
            await self._writer.carry_out(folder.name)
        except NoSuchMailbox:
            await self._store.refresh_tree()
            boxes = [(some, some.mailbox) for some in self._store.folders.values() if some is not folder]
            homes = [some for some, box in boxes if box is not None and guid is not None and box.guid == guid]
            for home in homes:
                with meaning((home.name, guid)):
                    for uid in asked:
                        await self._writer.ask_expunge(home.name, uid)
                    await self._writer.carry_out(home.name)
                await self._store.refresh_mailbox(home)
            return
        await self._store.refresh_mailbox(folder)
        if _guid_of(folder) == guid:
            await self._ask_again(folder, asked)

    async def _ask_again(self, folder: Folder, uids: Collection[int]) -> None:
        """Make requests again that were lost because Dovecot has rebuilt the mailbox before it saw them."""
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
