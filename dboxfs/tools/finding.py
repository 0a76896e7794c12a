"""Find messages by flags, keywords, dates, sizes and headers.

The cheapest conditions are tested first: flags and keywords are in the index, sizes and dates in the size
table or the message's record, headers in Dovecot's cache file or the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.store import Facts, Mailbox
from dboxfs.store.headers import Fields, HeaderReader

SEEN, FLAGGED = 0x08, 0x02


class Query(Struct, frozen=True):
    """The conditions of a search; a message must meet all of them.

    ``since``: received at this time (seconds since the epoch) or later.  ``larger``: more than so many bytes.
    ``headers``: field names, and texts that the fields contain in upper or lower case.  ``wants``: further
    fields to read of the found messages.
    """

    unseen: bool = False
    flagged: bool = False
    keywords: tuple[str, ...] = ()
    since: int | None = None
    larger: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    wants: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether it has conditions that the index can't answer."""
        return self.since is not None or self.larger is not None or bool(self.headers)

    @property
    def fields(self) -> Sequence[str]:
        """The header fields that have to be read."""
        return tuple(dict.fromkeys([name for name, _ in self.headers] + list(self.wants)))


class FoundMessage(Struct, frozen=True):
    """One message; ``facts`` None: it can't be read, and ``error`` says why.

    ``unread``: the message or its header can't be read, so it is not known whether it meets the query.
    """

    uid: int
    facts: Facts | None
    flags: tuple[str, ...]
    keywords: tuple[str, ...]
    fields: Fields = field(default_factory=dict)
    error: str = ""
    unread: bool = False


async def find(box: Mailbox, query: Query, headers: HeaderReader) -> list[FoundMessage]:
    """The messages of a mailbox for which *query* is true, in the order of their uids.

    A message that can't be read is among them, unless its flags and keywords in the index exclude it.
    """
    uids = _by_index(box, query)
    await box.scan()
    found = [message for message in [await _look_at(box, uid) for uid in uids] if _fits(message, query)]
    if query.fields:
        fields = await headers.read(box, [m.uid for m in found if m.facts is not None], query.fields)
        found = [_with_fields(m, fields.get(m.uid)) for m in found]
    return [message for message in found if _has_headers(message, query)]


def _by_index(box: Mailbox, query: Query) -> Iterable[int]:
    state, uids = box.state, box.uids
    if state is None:
        return []
    rows = state.rows_of(uids)
    flags = state.flags[np.maximum(rows, 0)]
    wanted = rows >= 0
    if query.unseen:
        wanted &= (flags & SEEN) == 0
    if query.flagged:
        wanted &= (flags & FLAGGED) != 0
    found: list[int] = uids[wanted].tolist()
    if query.keywords:
        asked = {word.lower() for word in query.keywords}
        found = [uid for uid in found if asked <= {word.lower() for word in box.keywords(uid)}]
    return found


async def _look_at(box: Mailbox, uid: int) -> FoundMessage:
    flags, keywords = box.flags(uid), box.keywords(uid)
    try:
        facts = await box.facts_of(uid)
    except (DboxfsError, OSError) as exc:
        return FoundMessage(uid, None, flags, keywords, error=str(exc), unread=True)
    return FoundMessage(uid, facts, flags, keywords, unread=facts.damaged)


def _fits(message: FoundMessage, query: Query) -> bool:
    facts = message.facts
    if facts is None or message.unread:
        return True
    if query.since is not None and facts.received < query.since:
        return False
    return query.larger is None or facts.size > query.larger


def _with_fields(message: FoundMessage, fields: Fields | None) -> FoundMessage:
    return replace(message, fields=fields or {}, unread=fields is None)


def _has_headers(message: FoundMessage, query: Query) -> bool:
    if message.unread:
        return True
    return all(text.lower() in message.fields.get(name, "").lower() for name, text in query.headers)
