"""Several mailboxes of one change, locked in an order that no rename changes (PROTOCOL section 2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from dboxfs.errors import DboxfsError
from dboxfs.index.mailbox import mailbox_header
from dboxfs.store.indexes.log import IndexLog, locked_ahead
from dboxfs.store.write.meaning import meant
from dboxfs.store.write.session import Work


@asynccontextmanager
async def locked_by_guid(work: Work, names: Iterable[str]) -> AsyncIterator[dict[str, IndexLog]]:
    """Hold several mailboxes, each once, in the order of their guids.

    A mailbox keeps its guid when it is renamed.  So two tasks, or two processes, that hold several mailboxes
    never wait for each other, also if one of them has read the names before a rename and the other after it.

    :param names: storage names.
    :raises NoSuchMailbox, CorruptFile, StoreBusy: as :meth:`Work.mailbox`; no lock is held.
    """
    await work.locate()
    guids = {name: await _guid(work, name) for name in set(names)}
    order = sorted(guids, key=lambda name: guids[name])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked_ahead([work.index(name) for name in order]))
        yield {name: await stack.enter_async_context(work.mailbox(name)) for name in order}


async def _guid(work: Work, name: str) -> bytes:
    """The guid of the mailbox that the caller means, or of the one that has the name now; empty: its index is
    still to be made, or can't be read, which locking it tells.
    """
    guid = meant().get(name)
    if guid is not None:
        return guid
    try:
        header = mailbox_header(await work.index(name).peek())
    except (DboxfsError, OSError):
        return b""
    return header.guid if header is not None else b""
