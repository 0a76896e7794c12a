"""unlink: one message at once, thousands in batches.

The first messages that somebody removes from a mailbox are expunged one by one, and unlink(2) answers when
that is done.  Whoever goes on (``rm -r``) is answered as soon as the message is hidden, and every
:data:`DELAY` seconds, or :data:`BATCH` messages, what has come together is expunged in one transaction.  An
error there is reported by the next unlink, rmdir or fsync of the directory, and the messages are shown again.
Everything that changes the mailbox otherwise waits for the batch (:meth:`Removals.finish`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from dboxfs.store import Folder, Store
from dboxfs.store.writing import StoreWriter

ONE_BY_ONE = 8
"""Messages in a row that are expunged at once."""

ROW = 0.1
"""Seconds: what comes later is no longer the same row."""

DELAY = 0.01
BATCH = 1000


class _Batch:
    """What is to be removed from one mailbox."""

    __slots__ = ("error", "last", "lock", "row", "scheduled", "uids")

    def __init__(self) -> None:
        self.uids: set[int] = set()
        self.row = 0
        self.scheduled = False
        self.last = 0.0
        self.error: Exception | None = None
        self.lock = trio.Lock()


class Removals:
    """See the module.

    :param spawn: starts a background task.
    """

    def __init__(
        self, store: Store, writer: StoreWriter, spawn: Callable[[Callable[[], Awaitable[object]]], None]
    ) -> None:
        self._store = store
        self._writer = writer
        self._spawn = spawn
        self._batches: dict[str, _Batch] = {}

    def hidden(self, folder: Folder) -> set[int]:
        """The uids that are removed, and not expunged yet."""
        batch = self._batches.get(folder.name)
        return batch.uids if batch is not None else set()

    async def remove(self, folder: Folder, uid: int) -> None:
        """Remove a message.

        :raises Exception: what the expunge, or an earlier one of the same row, has met.
        """
        batch = self._batches.setdefault(folder.name, _Batch())
        now = trio.current_time()
        batch.row = batch.row + 1 if now - batch.last < ROW else 1
        batch.uids.add(uid)
        if batch.row <= ONE_BY_ONE or len(batch.uids) >= BATCH:
            await self.finish(folder)
        elif not batch.scheduled:
            batch.scheduled = True
            self._spawn(partial(self._later, folder))
        batch.last = trio.current_time()

    async def finish(self, folder: Folder) -> None:
        """Wait until nothing is left to be removed.

        :raises Exception: what the expunge met.
        """
        batch = self._batches.get(folder.name)
        if batch is None:
            return
        await self._expunge(folder, batch)
        error, batch.error = batch.error, None
        if error is not None:
            raise error

    async def finish_all(self) -> None:
        """:meth:`finish` for all mailboxes."""
        for name in list(self._batches):
            folder = self._store.folders.get(name)
            if folder is not None:
                await self.finish(folder)

    async def _later(self, folder: Folder) -> None:
        await trio.sleep(DELAY)
        batch = self._batches.get(folder.name)
        if batch is not None:
            batch.scheduled = False
            await self._expunge(folder, batch)

    async def _expunge(self, folder: Folder, batch: _Batch) -> None:
        async with batch.lock:
            uids = set(batch.uids)
            if not uids:
                return
            try:
                await self._writer.expunge(folder.name, uids)
                await self._store.refresh_mailbox(folder)
            except Exception as exc:  # noqa: BLE001 - it is the next caller's
                batch.error = exc
            finally:
                batch.uids -= uids
