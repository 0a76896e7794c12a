"""Believe nothing that was read of a store, and read it again while it is served.

Everything that is only remembered goes in one step, between two checkpoints: pages, parsed records, files
that were brought ahead or kept open, what was known of damage in indexes.  The states of indexes stay until
the new ones are there, each replaced in one step, because a mailbox must never look empty; sizes and dates go
with them.  A message that is open is read to its end in the file that it was opened in.

What `--cache-dir` keeps is not touched: it is compared with the message files whenever it is used.
"""

from __future__ import annotations

import trio

from dboxfs.store.folder import Folder, why_unreadable
from dboxfs.store.store import Store

_READ_TOGETHER = 32


async def read_anew(store: Store) -> None:
    """Read the whole store again; listeners hear of every mailbox as of one that was rebuilt.

    :raises DboxfsError, OSError: it has gone; what was known of it stays.

    Cancelled: what was not read again yet is read again when it is asked for or changes.
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
