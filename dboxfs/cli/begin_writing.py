"""What a command does before it changes a store: nobody else writes it, it is recovered and clean."""

from __future__ import annotations

from dboxfs.store import Store
from dboxfs.store.write import StoreWriter, WriteOptions
from dboxfs.store.write.claim import claim


async def begin_writing(writer: StoreWriter, store: Store, options: WriteOptions) -> None:
    """Claim the store, finish or undo the work of an earlier writer, and remove what a killed one has left.

    A mount removes such files beside its first requests.  A killed command may have prepared hundreds of
    messages, and the next command may be the only writer for a long time.

    :raises StoreBusy: the store lies on a network file system, and another machine writes it.
    """
    await claim(store, options, shares=True)
    names = [name for name, folder in store.folders.items() if folder.mailbox is not None]
    await writer.recover(names)
    await writer.sweep(names)
