"""Bring back messages that were expunged and not purged (PROTOCOL section 5, mdbox).

Such a message has a record in the map and its bytes in an ``m.N``, but no mailbox has it: its refcount is 0.
Or a mailbox still has it, with a request to expunge it that no Dovecot has executed.  It is brought back like
a copy: one more reference, then a record in a mailbox, with the guid that it had.

All conditions are checked again under the map's lock, since the caller's view may be old: a purge may have
removed the message, Dovecot may have rebuilt the storage, another process may have brought the message back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dboxfs.errors import FormatError, NoSuchMessage
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.mdbox.references import References, check_limit
from dboxfs.store.mdbox.repair import read_record
from dboxfs.store.write import log_records
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.results import Copied, now_seconds
from dboxfs.store.write.session import Work

_DELETED = 0x04


async def undelete(
    work: Work,
    references: References,
    target: str,
    messages: Sequence[Expunged],
    named: Wanted | None,
) -> Copied:
    """See :meth:`dboxfs.store.write.writer.StoreWriter.undelete`."""
    sources = [message.requested[0] for message in messages if message.requested is not None]
    async with work.locked_map() as mapping, work.mailboxes([target, *sources]) as indexes:
        there = indexes[target]
        rows = await _rows(work, mapping, indexes, there, messages)
        check_limit(mapping, rows)
        if named is not None:
            named.uid = rows[0].uid
            await work.name_one(target, there, named)
        await references.begin(log_records.references_of(rows, 1))
        consistent = True
        try:
            await there.append(log_records.append_messages(there.state, rows, mdbox=True), durable=True)
        except OSError:
            consistent = await references.take_back(there, rows)
            raise
        finally:
            if consistent:
                await work.disk.attempt(work.map_done())
        work.count("undeleted", len(rows))
        uids = tuple(row.uid for row in rows)
        return Copied(there.state.uid_validity, tuple(row.map_uid for row in rows), uids)


async def _rows(
    work: Work,
    mapping: MapIndex,
    indexes: Mapping[str, IndexLog],
    there: IndexLog,
    messages: Sequence[Expunged],
) -> list[log_records.AppendedRow]:
    """The rows for *there*.

    :raises NoSuchMessage: one of the messages is not expunged, or is gone.
    """
    rows: list[log_records.AppendedRow] = []
    for uid, message in enumerate(messages, there.state.next_uid):
        place = mapping.lookup(message.map_uid)
        if place is None:
            raise NoSuchMessage(f"map uid {message.map_uid}: a purge has taken this message away")
        flags, keywords = _asked(indexes, message)
        if flags is None and place.refcount:
            raise NoSuchMessage(f"map uid {message.map_uid}: a mailbox has this message")
        try:
            metadata = (await read_record(work, place)).metadata
        except (FormatError, FileNotFoundError) as exc:
            raise NoSuchMessage(f"map uid {message.map_uid} can't be read: {exc}") from exc
        if metadata.guid128 != message.guid:
            raise NoSuchMessage(f"map uid {message.map_uid}: it is another message by now; list them again")
        has_uidl = metadata.pop3_uidl is not None
        flags, now = (flags or 0) & ~_DELETED, now_seconds()
        row = log_records.AppendedRow(uid, flags, keywords, message.guid, message.map_uid, now, has_uidl)
        rows.append(row)
    return rows


def _asked(indexes: Mapping[str, IndexLog], message: Expunged) -> tuple[int | None, tuple[str, ...]]:
    """Flags and keywords of a message whose expunge is still requested; None: it is not."""
    if message.requested is None:
        return None, ()
    name, uid = message.requested
    state = indexes[name].state
    column, row = map_uids(state), state.row_of(uid)
    if row < 0 or column is None or int(column[row]) != message.map_uid:
        return None, ()
    return log_records.marks(state, uid) if uid in state.pending_expunges else (None, ())
