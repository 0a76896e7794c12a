"""Findings for mail that the store has and does not show, since its indexes or INBOX are elsewhere or lost.

:mod:`dboxfs.store.hidden` finds the causes; a mount warns of them, and a conversion refuses to go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.hidden import Cause, Hidden, hidden_mail, unlisted_messages
from dboxfs.store.location import Kind, Location
from dboxfs.store.mdbox.storage import MdboxStorage
from dboxfs.tools.check.findings import Finding, Severity
from dboxfs.tools.check.indexes import Index


async def hidden_findings(
    fs: FileSystem, location: Location, boxes: Sequence[Index], mapping: Index | None, *, mail: bool
) -> list[Finding]:
    """One finding for each cause for which mail may be hidden.

    :param boxes: the indexes of all mailboxes, already read.
    :param mapping: the map of an mdbox, read after them; None: an sdbox.
    :param mail: the store has messages.
    """
    states = {box.mailbox: box.state for box in boxes if box.mailbox is not None and box.error is None}
    unread = [box.mailbox for box in boxes if box.mailbox is not None and box.error is not None]
    storage = unlisted = None
    if mapping is not None and mapping.state is not None:
        storage = MdboxStorage(fs, location)
        unlisted = unlisted_messages(MapIndex(mapping.state), states)
    try:
        found = await hidden_mail(fs, location, states, unread=unread, storage=storage, unlisted=unlisted)
    except (CorruptFile, OSError):
        return []  # the map can't be read: the check of the references reports that
    finally:
        if storage is not None:
            storage.close()
    told = {Cause.NO_INDEX} if location.kind is Kind.SDBOX else set()  # reported for each mailbox already
    return [_finding(one, mail=mail) for one in found if one.cause not in told]


def _finding(hidden: Hidden, *, mail: bool) -> Finding:
    severity = Severity.ERROR if mail or hidden.messages else Severity.NOTE
    return Finding(
        severity, hidden.cause.value, hidden.path, hidden.what, hidden.todo,
        mailbox=hidden.mailbox, count=max(hidden.messages, 1),
    )  # fmt: skip
