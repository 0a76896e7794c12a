"""Messages on their way into mailboxes of a multi-dbox store, and the records that their mailboxes get."""

from __future__ import annotations

import numpy as np
from msgspec import Struct, field

from dboxfs.index.mailbox import guids, map_uids
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.container import Placed
from dboxfs.store.mdbox.placement import Placer
from dboxfs.store.write import log_records
from dboxfs.store.write.group_commit import Request
from dboxfs.store.write.message import NewMessage
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.record import Composed
from dboxfs.store.write.results import Saved, now_seconds
from dboxfs.store.write.session import visible


class Arriving(Struct):
    """A message on its way.

    ``placed``: its record; None: not written yet, or it refers to a stored text.  ``map_uid``: that a rebuild
    by Dovecot has given the record meanwhile; 0: none has.
    """

    message: NewMessage
    guid: bytes
    placed: Placed | None = None
    map_uid: int = 0


class Save(Struct):
    """A save on its way.

    ``waiting``: messages whose records are in memory; the save's own placer has placed the others.
    ``is_mapped``: the map may have its records.
    """

    name: str
    arriving: list[Arriving] = field(default_factory=list)
    waiting: list[tuple[Arriving, Composed]] = field(default_factory=list)
    placer: Placer | None = None
    is_mapped: bool = False


class Share(Struct):
    """The part of a group for one mailbox: its requests, and the messages that they replace (uid, map uid).

    ``uids``: of the new messages, by the ``id()`` of their :class:`Arriving`.  ``referring``: those of
    ``appended`` whose record the map had before.
    """

    name: str
    index: IndexLog
    requests: list[Request[Save, Saved]]
    appended: list[log_records.AppendedRow] = field(default_factory=list)
    referring: list[log_records.AppendedRow] = field(default_factory=list)
    replaced: list[tuple[int, int]] = field(default_factory=list)
    uids: dict[int, int] = field(default_factory=dict)

    @property
    def wanted(self) -> list[Wanted | None]:
        """The names that the new messages shall have, in their order."""
        return [arriving.message.wanted for request in self.requests for arriving in request.what.arriving]

    def add_row(self, arriving: Arriving, map_uid: int, *, refers: bool) -> None:
        """Add a new message's mailbox record; flags and keywords may come from another message.

        :param refers: the map has the record already.
        """
        state, message, uid = self.index.state, arriving.message, self.uids[id(arriving)]
        flags, keywords = message.flags, message.keywords
        column = map_uids(state)
        if message.replaces is not None and column is not None and visible(state, [message.replaces]):
            flags, keywords = log_records.marks(state, message.replaces)
            self._replace(message.replaces, int(column[state.row_of(message.replaces)]))
        elif message.inherits is not None and visible(state, [message.inherits]):
            flags, keywords = log_records.marks(state, message.inherits)
        if arriving.map_uid:
            for adopted in self.uids_of(arriving.map_uid, arriving.guid):
                self._replace(adopted, arriving.map_uid)
        saved = message.saved if message.saved is not None else now_seconds()
        has_uidl = message.pop3_uidl is not None
        row = log_records.AppendedRow(uid, flags, keywords, arriving.guid, map_uid, saved, has_uidl)
        self.appended.append(row)
        if refers:
            self.referring.append(row)

    def _replace(self, uid: int, map_uid: int) -> None:
        if (uid, map_uid) not in self.replaced:
            self.replaced.append((uid, map_uid))

    def uids_of(self, map_uid: int, guid: bytes) -> list[int]:
        """The uids of the mailbox's messages with this record and this guid."""
        state = self.index.state
        places, names = map_uids(state), guids(state)
        if places is None or names is None:
            return []
        rows = np.flatnonzero(places == map_uid).tolist()
        return [int(state.uids[row]) for row in rows if names[row].tobytes() == guid]

    def records(self) -> list[bytes]:
        """The records for the mailbox's log."""
        records = log_records.append_messages(self.index.state, self.appended, mdbox=True)
        replaced = sorted(uid for uid, _ in self.replaced)
        if replaced:
            records += log_records.expunge(self.index.state, replaced, external=True)
        return records

    def answer(self) -> int:
        """Give its result to each request that has no error; gives the number of messages saved."""
        rows, count = iter(self.appended), 0
        for request in self.requests:
            mine = [next(rows) for _ in request.what.arriving]
            if request.error is None:
                uids, names = tuple(row.uid for row in mine), tuple(row.guid for row in mine)
                request.result = Saved(self.index.state.uid_validity, uids, names)
                count += len(mine)
        return count
