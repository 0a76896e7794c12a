"""The records of an expunge in a mailbox's log, the same for sdbox and mdbox (PROTOCOL sections 6 and 8)."""

from __future__ import annotations

from collections.abc import Sequence

from dboxfs.errors import NoSuchMessage
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write import log_records
from dboxfs.store.write.session import visible


def heritage(index: IndexLog, heir: int, old: int) -> list[bytes] | None:
    """Records that give *heir* the flags and keywords of *old*; None: *old* is gone.

    :raises NoSuchMessage: there is no heir.
    """
    if not visible(index.state, [heir]):
        raise NoSuchMessage(f"{index.what}: no message with uid {heir}")
    return log_records.inherit(index.state, heir, old) if visible(index.state, [old]) else None


async def finish_expunge(index: IndexLog, gone: Sequence[int], first: Sequence[bytes] = ()) -> None:
    """Write the expunge of *gone* to a locked mailbox, and mark all requests as executed, if they are.

    :param first: records of the same transaction before the expunge.
    """
    state = index.state
    asked = state.pending_expunges if not first and state.has_pending_requests else None
    executed = asked is not None and len(asked) <= len(gone) and {*asked.tolist()} <= {*gone}
    tail = executed and log_records.only_expunges_pending(state)
    batch = [*first, *(log_records.expunge(index.state, gone, external=True) if gone else [])]
    if batch or tail:
        await index.append(batch, tail=tail, durable=True)
