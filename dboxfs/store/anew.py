"""Read a whole store again while it is served, as if nothing of it were known.

All cached values are dropped in one step, between two checkpoints: pages, parsed records, files that were
brought ahead or kept open, known damage in indexes.  The states of indexes stay until the new ones are read,
and each is replaced in one step with its sizes and dates, because a mailbox must never look empty.  A program
reads an open message to its end in the file that it was opened in.

The files in `--cache-dir` stay: they are compared with the message files whenever they are used.
"""

from __future__ import annotations

import trio

from dboxfs.store.folder import Folder, why_unreadable
from dboxfs.store.store import Store

_READ_TOGETHER = 32


async def read_anew(store: Store) -> None:
    """Read the whole store again; listeners get a notice for every mailbox, as after a rebuild.

    :raises DboxfsError, OSError: the store is gone; its known state stays.

    Cancelled: the other mailboxes are read again at their next use or change.
    """
    store.fs.cache.clear()
    store.records.drop()
    store.ahead.close()
    store.backend.read_anew()
    for folder in store.folders.values():
        if folder.mailbox is not None:
            folder.mailbox.index.read_anew()
    await store.refresh_tree()
    if store.root.error is not None:
        raise why_unreadable(store.root.error)
    limit = trio.CapacityLimiter(_READ_TOGETHER)

    async def again(folder: Folder) -> None:
        async with limit:
            await store.refresh_mailbox(folder)

    async with trio.open_nursery() as nursery:
        for folder in list(store.folders.values()):
            nursery.start_soon(again, folder)
