"""Messages of an mdbox that are expunged and not purged: their attributes and bytes.

Such a deleted message has a record in the map and no mailbox shows it: its refcount is 0, or each mailbox
that has it also has a request to expunge it that no Dovecot has executed.  A record with refcount 0 that a
mailbox shows has a wrong count, and is no deleted message (``dboxfs check`` names it).  A record with the
guid of a mailbox's message is none either: the message was restored from a backup.

Its attributes are in the metadata of its record: guid, received date, and the mailbox that it was *first
saved to*.  A message that was moved later still names that mailbox, which may be renamed or gone.  The date
of the expunge is not stored.  Flags are known only while the expunge is a request.

:meth:`DeletedMessages.look` gives a snapshot.  A purge may remove any of them at any time;
:meth:`~dboxfs.store.write.writer.StoreWriter.undelete` checks again under the map's lock.  This module
neither locks nor writes.  Concurrency: one event loop; two calls of ``look`` at once at most read the same
records twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import trio
from msgspec import Struct

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError, FormatError, NoSuchMessage, Unsupported
from dboxfs.index.mailbox import guids, map_uids
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import Body, open_body, settled
from dboxfs.store.decrypt import decrypting, key_ids
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.mdbox.storage import MdboxStorage, read_record
from dboxfs.store.store import Store

_READERS = 8
"""Tasks that read records side by side."""

DEFAULT_MAILBOX = "INBOX"
"""The mailbox of a message that names none, as in Dovecot's repair."""


class DeletedMessage(Struct, frozen=True):
    """A deleted message.

    :ivar guid_text: as ``doveadm fetch guid`` gave it.
    :ivar received: seconds since the epoch.
    :ivar size: bytes of the plain message.
    :ivar mailbox: storage name of the mailbox that it was first saved to.
    :ivar location: file below the store's root, offset, bytes of the record.
    """

    what: Expunged
    guid_text: str
    received: int
    size: int
    virtual_size: int | None
    mailbox: str
    location: str

    @property
    def map_uid(self) -> int:
        return self.what.map_uid


class DeletedMessages:
    """The deleted messages of one store.

    :raises Unsupported: the store is an sdbox.
    :ivar unreadable: number of records that the last :meth:`look` could not read and left out.
    """

    def __init__(self, store: Store) -> None:
        if store.storage is None:
            raise Unsupported(
                f"{store.location.root}: an sdbox removes the file of a message with its expunge, only an "
                "mdbox keeps it until a purge; put it back from a backup"
            )
        self._store = store
        self._storage: MdboxStorage = store.storage
        self._known: dict[int, tuple[MapRecord, DeletedMessage]] = {}
        self.unreadable = 0

    async def look(self) -> list[DeletedMessage]:
        """All deleted messages, in the order in which they were saved.  Only new records are read.

        :raises CorruptFile, OSError: the map can't be read.
        """
        requested, shown = self._requests()
        mapping = await self._storage.map(fresh=True)
        dead = mapping.map_uids[mapping.refcounts == 0]
        wanted = np.union1d(dead, np.fromiter(requested, np.uint32, len(requested)))
        wanted = wanted[~np.isin(wanted, shown)]
        places = [place for some in wanted.tolist() if (place := mapping.lookup(some)) is not None]
        known: dict[MapRecord, DeletedMessage] = {}
        for place in places:
            message = self._remembered(place, requested)
            if message is not None:
                known[place] = message
        missing = [place for place in places if place not in known]
        read = await self._read(missing, requested)
        self.unreadable = len(missing) - len(read)
        known.update(read)
        self._known = {place.map_uid: (place, known[place]) for place in places if place in known}
        back = self._shown_guids({message.what.guid for _, message in self._known.values()})
        return [message for _, message in self._known.values() if message.what.guid not in back]

    def _shown_guids(self, wanted: set[bytes]) -> set[bytes]:
        """Those of these guids that messages of mailboxes have."""
        found: set[bytes] = set()
        keys = np.unique(np.frombuffer(b"".join(guid[:4] for guid in wanted), "<u4"))
        for folder in self._store.folders.values():
            state = folder.mailbox.state if folder.mailbox is not None else None
            column = guids(state) if state is not None else None
            if state is None or column is None or not len(column):
                continue
            shown = column[~np.isin(state.uids, state.pending_expunges)]
            first = np.ascontiguousarray(shown[:, :4]).view("<u4").reshape(-1)
            found |= {row.tobytes() for row in shown[np.isin(first, keys)]} & wanted
        return found

    def _requests(self) -> tuple[dict[int, tuple[str, int]], np.ndarray]:
        """By map uid, the mailbox and uid with the request to expunge it; and the map uids that mailboxes
        show.
        """
        requested: dict[int, tuple[str, int]] = {}
        shown: list[np.ndarray] = [np.empty(0, np.uint32)]
        for folder in self._store.folders.values():
            state = folder.mailbox.state if folder.mailbox is not None else None
            column = map_uids(state) if state is not None else None
            if state is None or column is None:
                continue
            asked = np.isin(state.uids, state.pending_expunges)
            shown.append(column[~asked])
            for uid, map_uid in zip(state.uids[asked].tolist(), column[asked].tolist(), strict=True):
                requested[map_uid] = folder.name, uid
        return requested, np.concatenate(shown)

    def _remembered(self, place: MapRecord, requested: dict[int, tuple[str, int]]) -> DeletedMessage | None:
        before = self._known.get(place.map_uid)
        if before is None or before[0] != place or before[1].what.requested != requested.get(place.map_uid):
            return None
        return before[1]

    async def _read(
        self, places: Sequence[MapRecord], requested: dict[int, tuple[str, int]]
    ) -> dict[MapRecord, DeletedMessage]:
        """The messages of the records, by place, without records that can't be read."""
        found: dict[MapRecord, DeletedMessage] = {}
        in_order = sorted(places, key=lambda place: (place.file_id, place.offset))

        async def read(part: Sequence[MapRecord]) -> None:
            for place in part:
                try:
                    found[place] = await self._one(place, requested.get(place.map_uid))
                except (DboxfsError, OSError):
                    continue

        size = -(-len(in_order) // _READERS) or 1
        async with trio.open_nursery() as nursery:
            for start in range(0, len(in_order), size):
                nursery.start_soon(read, in_order[start : start + size])
        return found

    async def _one(self, place: MapRecord, requested: tuple[str, int] | None) -> DeletedMessage:
        record = await self._storage.record(place)
        metadata = record.metadata
        if metadata.guid128 is None:
            raise FormatError(place.offset, "the message has no guid")
        return DeletedMessage(
            Expunged(place.map_uid, metadata.guid128, requested),
            (metadata.guid or b"").decode("utf-8", "surrogateescape"),
            metadata.received,
            record.size,
            metadata.virtual_size,
            mailbox_of(metadata),
            f"storage/m.{place.file_id} {place.offset} {record.end - place.offset}",
        )

    async def open(self, message: DeletedMessage) -> Body:
        """The bytes of a message.  An open body stays readable to its end, also after a purge.

        :raises NoSuchMessage: it was purged.
        :raises DboxfsError, OSError: it can't be read.
        """
        mapping = await self._storage.map(fresh=True)
        opened = await self._open(mapping, message)
        try:
            opened = await settled(opened)
            how = await decrypting(opened, self._store.location.keys)
        except BaseException:
            opened.close()
            raise
        return open_body(self._store.fs, opened, self._store.location.attachments, "", how)

    async def key_ids(self, message: DeletedMessage) -> list[bytes]:
        """The ids (32 bytes each) of the keys that a message is encrypted for; empty: it is not encrypted.

        :raises NoSuchMessage: it was purged.
        :raises DboxfsError, OSError: it can't be read.
        """
        opened = await self._open(await self._storage.map(fresh=True), message)
        try:
            opened = await settled(opened)
            return await key_ids(opened)
        finally:
            opened.close()

    async def _open(self, mapping: MapIndex, message: DeletedMessage) -> OpenRecord:
        place = mapping.lookup(message.map_uid)
        gone = NoSuchMessage(f"map uid {message.map_uid}: a purge has taken this message away")
        if place is None:
            raise gone
        try:
            container = await self._storage.container(place.file_id)
        except FileNotFoundError:
            raise gone from None
        try:
            record = await read_record(container, place)
            if record.metadata.guid128 != message.what.guid:
                raise gone
        except BaseException:
            self._storage.release(place.file_id, container)
            raise
        return OpenRecord(
            container.handle, container.path, record, lambda: self._storage.release(place.file_id, container)
        )


def mailbox_of(metadata: Metadata) -> str:
    """The storage name of the mailbox that a message was first saved to."""
    return os.fsdecode(metadata.orig_mailbox or b"") or DEFAULT_MAILBOX
