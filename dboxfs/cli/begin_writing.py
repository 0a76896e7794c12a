"""What a command does before its first change of a store."""

from __future__ import annotations

from dboxfs.store import Store
from dboxfs.store.write import StoreWriter


async def begin_writing(writer: StoreWriter, store: Store) -> None:
    """End what an earlier writer began, and remove what one that was killed has left.

    A mount does the second beside its first requests; a command may have prepared hundreds of messages when
    it was killed, and the next one is the only writer that comes for a long time.
    """
    names = [name for name, folder in store.folders.items() if folder.mailbox is not None]
    await writer.recover(names)
    await writer.sweep(names)
