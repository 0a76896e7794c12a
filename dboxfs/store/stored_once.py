"""New messages with the guid of a message that an mdbox has already: stored once, like Dovecot's COPY.

In an mdbox a guid names one record of the storage.  Two records with one guid are damage: if both have the
same size, a rebuild (``doveadm force-resync``) takes the second one for dead (recovery section 4).  So a guid
that a program gives with a new message is looked up in all mailboxes:

==========================================  ================================================================
the guid is that of                         the new message
==========================================  ================================================================
no message                                  has it, and a record of its own
a message with the same bytes               is a copy: one more reference to that record
a message with the same bytes that was      the same: it is there again
expunged and not purged
an earlier message of the same save,        the same
with the same bytes
a message with other bytes, another date,   has a record and a new guid; the caller gets the reason
or one that can't be read or copied
==========================================  ================================================================

The same bytes: sizes are compared first, then the texts, a piece at a time, before any lock of the store is
taken.  The new message's other values must match too: a copy shares received date, POP3 UIDL and original
mailbox with its record.

Under the lock of the map the writer checks that the record still exists.  If it was purged (``TextGone``),
the save is made again.  A record that was expunged meanwhile, or moved by a purge or to the alternative
storage, can still be used.  Crashes: PROTOCOL sections 4 and 5.

Concurrency: of several saves with the same guid each waits for the one before.  Saves of other processes in
the same moment are not seen.

An sdbox has a file for each message, and its indexes have no guids.  There each message keeps its given guid,
like copies that Dovecot makes, also within one mailbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError, EncryptedMessage, StoreBusy
from dboxfs.index.mailbox import guids, map_uid, map_uids
from dboxfs.store.body import Body, open_body, settled
from dboxfs.store.decrypt import decrypting
from dboxfs.store.deleted import DeletedMessage, DeletedMessages
from dboxfs.store.folder import Folder
from dboxfs.store.mdbox.references import REFCOUNT_LIMIT
from dboxfs.store.size_format import generation_of
from dboxfs.store.store import Store
from dboxfs.store.write.message import BytesSource, NewMessage, Pieces, Source, StoredText, Twin
from dboxfs.store.write.record import checked_guid
from dboxfs.store.write.results import Saved
from dboxfs.store.write.writer import StoreWriter
from dboxfs.store.write_errors import TextGone
from dboxfs.store.write_options import Eol

MOST_LOOKS = 10
"""How often a save is tried because the record that it refers to was purged meanwhile."""

MOST_NOT_PURGED = 4096
"""If the map has more messages that were expunged and not purged, they are ignored."""


class _Unreadable(Exception):
    """The message that has a guid can't be read."""


class Arrived(Struct, frozen=True):
    """Messages that were saved.  ``not_kept``: by number, why a message does not have its given guid."""

    saved: Saved
    not_kept: Mapping[int, str]


class _Holder(Struct, frozen=True):
    """A message that has a guid: *uid* of *folder*, or one that was expunged and not purged."""

    map_uid: int
    folder: Folder | None = None
    uid: int = 0
    deleted: DeletedMessage | None = None


class StoredOnce:
    """Saves messages into *store*, which *writer* writes."""

    def __init__(self, store: Store, writer: StoreWriter) -> None:
        self._store = store
        self._writer = writer
        self._convert = writer.options.eol is Eol.LF
        self._busy: dict[bytes, trio.Event] = {}
        self._deleted = DeletedMessages(store) if store.storage is not None else None

    async def save(self, name: str, messages: Sequence[NewMessage]) -> Arrived:
        """``StoreWriter.save``, which keeps the given guids if that is possible.

        :raises StoreBusy: records with the same guid were purged each time.
        :raises DboxfsError, OSError, ValueError: as ``StoreWriter.save``; nothing was changed.
        """
        brought = {number: checked_guid(new) for number, new in enumerate(messages) if _brings_guid(new)}
        if self._store.storage is None or not brought:
            return Arrived(await self._writer.save(name, messages), {})
        async with self._alone_with(set(brought.values())):
            for _ in range(MOST_LOOKS):
                try:
                    chosen, not_kept = await self._choose(name, messages, brought)
                    saved = await self._writer.save(name, chosen)
                except TextGone:
                    await self._look_again(set(brought.values()))
                else:
                    if (folder := self._store.folders.get(name)) is not None:
                        await self._store.see(folder)  # before other tasks look for the same guid
                    return Arrived(saved, not_kept)
        raise StoreBusy(f"{name}: messages with the same guid go again and again")

    @asynccontextmanager
    async def _alone_with(self, wanted: set[bytes]) -> AsyncIterator[None]:
        """Reserve these guids: meanwhile no other save of this process uses them."""
        while busy := [self._busy[guid] for guid in wanted if guid in self._busy]:
            await busy[0].wait()
        done = trio.Event()
        self._busy |= dict.fromkeys(wanted, done)
        try:
            yield
        finally:
            for guid in wanted:
                del self._busy[guid]
            done.set()

    # -- decisions for each ----------------------------------------------------------------------------

    async def _choose(
        self, name: str, messages: Sequence[NewMessage], brought: Mapping[int, bytes]
    ) -> tuple[list[NewMessage], dict[int, str]]:
        """The messages in the form to be saved, and by number why some can't keep their guids."""
        holders = await self._holders(set(brought.values()))
        first: dict[bytes, int] = {}
        chosen, not_kept = list(messages), dict[int, str]()
        planned: Counter[StoredText | Twin] = Counter()
        for number, guid in brought.items():
            message = messages[number]
            text: StoredText | Twin | str
            if guid in holders:
                text = await self._stored(name, message, holders[guid])
            elif guid in first:
                text = await self._twin(messages, first[guid], message)
            else:
                first[guid] = number
                continue
            if not isinstance(text, str) and self._is_full(text, planned):
                text = "the message that has it can't have more copies"
            if isinstance(text, str):
                not_kept[number] = text
                chosen[number] = replace(message, guid=None, guid_text=None)
            else:
                planned[text] += 1
                chosen[number] = replace(message, same_as=text)
        return chosen, not_kept

    def _is_full(self, text: StoredText | Twin, planned: Counter[StoredText | Twin]) -> bool:
        count = 1
        if isinstance(text, StoredText) and self._store.storage is not None:
            place = self._store.storage.place_before(text.map_uid)
            count = place.refcount if place is not None else 0
        return count + planned[text] + 1 >= REFCOUNT_LIMIT

    async def _stored(self, name: str, message: NewMessage, holders: Sequence[_Holder]) -> StoredText | str:
        """The stored text with the guid and the bytes of *message*, which is for the mailbox *name*; or the
        reason why there is none.

        :raises TextGone: the mailboxes have changed.
        """
        why = ""
        for holder in holders:
            shown = "a message that was expunged and not purged"
            if holder.folder is not None:
                shown = f"{self._store.display_name(holder.folder)}, uid {holder.uid},"
            if self._writer.options.by_folder and (holder.folder is None or holder.folder.name != name):
                why = why or f"{shown} has it, encrypted with the key of another mailbox"
                continue
            try:
                found = await self._compare(message, holder)
            except _Unreadable as exc:
                await self._follow(holder)
                if self._map_uid(holder) != holder.map_uid:
                    raise TextGone(f"{shown} has gone") from exc
                found = f"has it, and can't be read: {exc}"
            if not isinstance(found, str):
                return found
            why = why or f"{shown} {found}"
        return why

    async def _compare(self, message: NewMessage, holder: _Holder) -> StoredText | str:
        """
        Compare *message* with the message of *holder*.

        :raises TextGone: that message is gone.
        :raises _Unreadable: the message that has the guid can't be read.
        :raises OSError: the new message can't be read.
        """
        with _reading():
            generation = await self._generation()
            body, metadata = await self._open(holder)
        try:
            found = _differs(message, metadata.received, metadata.pop3_uidl, metadata.orig_mailbox)
            if not found and not await self._has_text(body, message):
                found = "has it, and another text"
        finally:
            body.close()
        if found:
            return found
        with _reading():
            still = self._map_uid(holder) == holder.map_uid and await self._generation() == generation
        if not still:
            raise TextGone("a message with the same guid went while it was read")
        return StoredText(holder.map_uid, generation)

    async def _open(self, holder: _Holder) -> tuple[Body, Metadata]:
        """Open a message of an index, also if its expunge was requested, or one that only the map has."""
        location = self._store.location
        if holder.deleted is not None and self._deleted is not None and self._store.storage is not None:
            place = (await self._store.storage.map()).lookup(holder.map_uid)
            if place is None:
                raise TextGone("it was purged")
            metadata = (await self._store.storage.record(place)).metadata
            return await self._deleted.open(holder.deleted), metadata
        assert holder.folder is not None
        assert holder.folder.mailbox is not None
        opened = await holder.folder.mailbox.files.open(holder.uid)
        try:
            opened = await settled(opened)
            how = await decrypting(opened, location.keys)
        except BaseException:
            opened.close()
            raise
        body = open_body(self._store.fs, opened, location.attachments, "", how)
        return body, opened.record.metadata

    async def _has_text(self, body: Body, message: NewMessage) -> bool:
        """Whether *message* and *body* have the same text.  Memory: 2 MiB."""
        source = _source(message)
        if body.size > source.size or (not self._convert and body.size != source.size):
            return False
        pieces, offset = Pieces(source, convert=self._convert), 0
        while (piece := await pieces.next()) is not None:
            with _reading():
                if piece and await body.read(len(piece), offset) != piece:
                    return False
            offset += len(piece)
        return offset == body.size

    async def _twin(self, messages: Sequence[NewMessage], number: int, message: NewMessage) -> Twin | str:
        """The twin of *message*, an earlier message of the save; or the reason why it is not the same."""
        other = messages[number]
        found = _differs(message, other.received, other.pop3_uidl, other.orig_mailbox)
        if not found and not await _same_bytes(_source(message), _source(other)):
            found = "has it, and another text"
        if found:
            name = other.wanted.name if other.wanted is not None else b"%d.eml" % (other.uid or 0)
            return f"{name.decode('utf-8', 'replace')} {found}"
        return Twin(number)

    # -- messages with a guid
    # ----------------------------------------------------------------------------------

    async def _holders(self, wanted: set[bytes]) -> dict[bytes, list[_Holder]]:
        """The messages of the store with one of these guids, by guid; one for each record."""
        found: dict[bytes, list[_Holder]] = {}
        keys = np.unique(np.frombuffer(b"".join(guid[:4] for guid in wanted), "<u4"))
        for folder in list(self._store.folders.values()):
            state = folder.mailbox.state if folder.mailbox is not None else None
            names, places = (guids(state), map_uids(state)) if state is not None else (None, None)
            if state is None or names is None or places is None or not len(names):
                continue
            first = np.ascontiguousarray(names[:, :4]).view("<u4").reshape(-1)
            for row in np.flatnonzero(np.isin(first, keys)).tolist():
                guid, place = names[row].tobytes(), int(places[row])
                if guid in wanted and all(place != other.map_uid for other in found.get(guid, ())):
                    found.setdefault(guid, []).append(_Holder(place, folder, int(state.uids[row])))
        if len(found) < len(wanted):
            for holder in await self._not_purged(wanted - found.keys()):
                assert holder.deleted is not None
                found.setdefault(holder.deleted.what.guid, []).append(holder)
        return found

    async def _not_purged(self, wanted: set[bytes]) -> list[_Holder]:
        """The messages that only the map has.  Their metadata are read once, if they are not too many."""
        if self._store.storage is None or self._deleted is None:
            return []
        try:
            mapping = await self._store.storage.map(fresh=True)
            if not 0 < np.count_nonzero(mapping.refcounts == 0) <= MOST_NOT_PURGED:
                return []
            found = await self._deleted.look()
        except (DboxfsError, OSError):  # there is no map yet, or the save raises the error
            return []
        return [_Holder(one.map_uid, deleted=one) for one in found if one.what.guid in wanted]

    async def _look_again(self, wanted: set[bytes]) -> None:
        """Read the mailboxes that seemed to have one of these guids again, and the map."""
        holders = await self._holders(wanted)
        for holder in (holder for some in holders.values() for holder in some):
            await self._follow(holder)

    async def _follow(self, holder: _Holder) -> None:
        """Read the mailbox of a message and the map again."""
        if holder.folder is not None:
            await self._store.refresh_mailbox(holder.folder)
        if self._store.storage is not None:
            await self._store.storage.map(fresh=True)

    def _map_uid(self, holder: _Holder) -> int:
        """The current map uid of a message; 0: it is gone."""
        if holder.folder is None:
            storage = self._store.storage
            is_there = storage is not None and storage.place_before(holder.map_uid) is not None
            return holder.map_uid if is_there else 0
        state = holder.folder.mailbox.state if holder.folder.mailbox is not None else None
        row = state.row_of(holder.uid) if state is not None else -1
        return map_uid(state, row) if state is not None and row >= 0 else 0

    async def _generation(self) -> bytes:
        assert self._store.storage is not None
        mapping = await self._store.storage.map()
        return generation_of(*mapping.identity)


@contextmanager
def _reading() -> Iterator[None]:
    """Map errors of reading the message that has the guid.

    :raises _Unreadable: it can't be read.
    """
    try:
        yield
    except EncryptedMessage as exc:
        raise _Unreadable("it is encrypted") from exc
    except (DboxfsError, OSError) as exc:
        raise _Unreadable(str(exc)) from exc


def _brings_guid(message: NewMessage) -> bool:
    return (message.guid is not None or message.guid_text is not None) and message.coded is None


def _source(message: NewMessage) -> Source:
    return BytesSource(message.source) if isinstance(message.source, bytes) else message.source


def _differs(
    message: NewMessage, received: int | None, pop3_uidl: bytes | None, orig_mailbox: bytes | None
) -> str:
    """The first value of *message* that differs from these, so that it can't be a copy; empty: none."""
    if message.received is not None and message.received != received:
        return "has it, and another received date"
    if message.pop3_uidl is not None and message.pop3_uidl != pop3_uidl:
        return "has it, and another POP3 UIDL"
    if message.orig_mailbox is not None and message.orig_mailbox != orig_mailbox:
        return "has it, and another original mailbox"
    return ""


async def _same_bytes(one: Source, other: Source) -> bool:
    if one.size != other.size:
        return False
    pieces, offset = Pieces(one, convert=False), 0
    while (piece := await pieces.next()) is not None:
        if await other.read(len(piece), offset) != piece:
            return False
        offset += len(piece)
    return True
