"""Recovery and clean-up by a command, before its first change of a store."""

from __future__ import annotations

from dboxfs.store import Store
from dboxfs.store.write import StoreWriter


async def begin_writing(writer: StoreWriter, store: Store) -> None:
    """Finish or undo the work of an earlier writer, and remove the files that a killed one has left.

    A mount removes such files beside its first requests.  A killed command may have prepared hundreds of
    messages, and the next command may be the only writer for a long time.
    """
    names = [name for name, folder in store.folders.items() if folder.mailbox is not None]
    await writer.recover(names)
    await writer.sweep(names)
