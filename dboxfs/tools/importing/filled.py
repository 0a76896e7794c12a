"""Fills one mailbox with the messages of a source, by the table in ``importer.py``."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from dboxfs.dbox import PREFIX_SIZE, detect, guid128_of, is_encrypted
from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store
from dboxfs.store.write import BytesSource, Coded, CopyAs, NewMessage, RefusedMessage, StoreWriter
from dboxfs.store.write import Source as Text
from dboxfs.store.write.message import BodySource, Pieces
from dboxfs.store.write.results import now_seconds
from dboxfs.store.write_options import Eol
from dboxfs.tools.filling import Filling, line_text, sorted_out
from dboxfs.tools.guarded import Guarded
from dboxfs.tools.importing.guids import GuidTable
from dboxfs.tools.importing.names import is_given
from dboxfs.tools.importing.results import Imported
from dboxfs.tools.importing.source import Incoming, NoArrival, reason_of
from dboxfs.tools.packing import MOST, packed


class _Tag(NamedTuple):
    """A message that waits to be saved.  ``number``: its place in the source's mailbox."""

    number: int
    uid: int | None
    guid: bytes
    where: str


class TextSeen(NamedTuple):
    """A digest of a text in the form that the store will hold, and its first bytes."""

    digest: bytes
    first: bytes


async def look_at(text: Text, *, convert: bool) -> TextSeen:
    """Read a text once.  *convert*: with its line ends converted to LF."""
    digest, first = hashlib.blake2b(digest_size=16), b""
    pieces = Pieces(text, convert=convert)
    while (piece := await pieces.next()) is not None:
        digest.update(piece)
        if len(first) < PREFIX_SIZE:
            first += piece[:PREFIX_SIZE]
    return TextSeen(digest.digest(), first)


async def current(store: Store, name: str) -> Mailbox:
    """A mailbox of the store, as it is now.

    :raises NoSuchMailbox: it is gone.
    """
    folder = store.folders.get(name)
    if folder is not None:
        await store.refresh_mailbox(folder)
    if folder is None or folder.mailbox is None:
        raise NoSuchMailbox(f"{store.location.display_name(name)}: the mailbox is gone")
    return folder.mailbox


class FilledMailbox:
    """One mailbox that is being filled.

    :ivar uids: for each message of the source its uid in the store; 0: it is not there.
    :ivar saved: for each message of the source 1 if this run has saved it, else 0.
    :ivar named: names that messages shall have, by their uid in the store.
    """

    def __init__(
        self, store: Store, writer: StoreWriter, result: Imported, box: Mailbox, known: GuidTable
    ) -> None:
        self._store = store
        self._writer = writer
        self._convert = writer.options.eol is Eol.LF
        self._box = box
        self._known = known
        self._result = result
        self._occurred: Counter[bytes] = Counter()
        self._filling: Filling[_Tag] = Filling(writer, box.name, self._came, self._lost)
        self.uids = array("I")
        self.saved = bytearray()
        self.named: dict[int, bytes] = {}
        self._wanted: dict[int, bytes] = {}

    async def take(self, found: Incoming | NoArrival) -> None:
        """Take the next message of the source: save it, copy it, find it in the store, or leave it out."""
        self.uids.append(0)
        self.saved.append(0)
        if isinstance(found, NoArrival):
            self._result.failed.append(f"{found.where}: left out: {found.reason}")
            return
        text = _source(found)
        try:
            seen = await look_at(text, convert=self._convert)
            coded = await self._coded(text, seen)
        except (DboxfsError, OSError) as exc:
            self._result.failed.append(f"{found.where}: left out: {reason_of(exc)}")
            return
        if found.name is not None and is_given(found.name):
            self._wanted[len(self.uids) - 1] = found.name
        if found.doubt:
            self._result.told.append(f"{found.where}: {found.doubt}")
        await self._place(found, seen, coded)

    async def _place(self, found: Incoming, seen: TextSeen, coded: tuple[bytes, Coded] | None) -> None:
        """Save or copy a message, unless the mailbox has it already."""
        received = found.received if found.received is not None else now_seconds()
        for text_of_guid in self._guids(found, seen):
            guid = guid128_of(text_of_guid)
            if not any(guid) or b"\n" in text_of_guid or text_of_guid.endswith(b"\r"):
                continue
            uid = self._known.there(guid, found.uid)
            if uid is not None:
                if await self._digest(self._box.name, uid) == seen.digest:
                    self._known.is_met(guid, uid, seen.digest, received)
                    self._is(len(self.uids) - 1, uid)
                    self._result.there += 1
                    return
            elif await self._copy(found, guid, seen, received):
                return
            elif self._known.anywhere(guid) is None:
                await self._save(found, text_of_guid, guid, seen, received, coded)
                break
        else:
            self._result.failed.append(f"{found.where}: left out: other messages have its guid")
            return
        if found.guid is not None and text_of_guid != found.guid:
            self._result.reguided += 1
            self._result.notes.append(f"{found.where}: another message has its guid: it has a new one")

    async def _copy(self, found: Incoming, guid: bytes, seen: TextSeen, received: int) -> bool:
        """Copy the message if the store has it already; False: it has no equal one."""
        place = self._known.anywhere(guid)
        if place is None:
            return False
        if self._writer.options.by_folder and place.mailbox != self._box.name:
            return False  # Dovecot could not read the copy with this mailbox's key
        if place.uid == 0:
            await self.flush()
            place = self._known.anywhere(guid)
            if place is None or not place.uid:
                return False
        digest = place.digest or await self._digest(place.mailbox, place.uid)
        date = place.received
        if date is None:
            box = await current(self._store, place.mailbox)
            date = (await box.details(place.uid)).metadata.received
        if digest != seen.digest or (found.received is not None and date != received):
            return False
        keywords = self._keywords(found)
        like = CopyAs(found.uid or 0, found.flags, keywords, found.saved)
        await self._filling.copy(self._tag(found, guid), place.mailbox, place.uid, like)
        return True

    async def _save(
        self,
        found: Incoming,
        text_of_guid: bytes,
        guid: bytes,
        seen: TextSeen,
        received: int,
        coded: tuple[bytes, Coded] | None,
    ) -> None:
        number = len(self.uids) - 1
        source: bytes | Text = found.text if isinstance(found.text, bytes) else Guarded(found.text, number)
        message = NewMessage(
            source if coded is None else coded[0], found.received, found.flags, self._keywords(found),
            None, None, found.uid, found.saved, text_of_guid, None if coded is None else coded[1],
            orig_mailbox=line_text(found.orig_mailbox), pop3_uidl=line_text(found.pop3_uidl),
        )  # fmt: skip
        self._known.add(guid, 0, seen.digest, received)
        self._result.bytes += found.size
        size = len(source) if isinstance(source, bytes) else 0
        await self._filling.add(self._tag(found, guid), number, message, size)

    async def flush(self) -> None:
        """Save the messages that wait."""
        await self._filling.flush()

    def _tag(self, found: Incoming, guid: bytes) -> _Tag:
        return _Tag(len(self.uids) - 1, found.uid, guid, found.where)

    def _came(self, tag: _Tag, uid: int, copied: bool) -> None:
        self._is(tag.number, uid)
        self.saved[tag.number] = 1
        self._known.came(tag.guid, uid)
        self._result.messages += 1
        self._result.copies += copied
        self._result.renumbered += tag.uid is not None and tag.uid != uid

    def _is(self, number: int, uid: int) -> None:
        """Note that message *number* of the source has this uid in the store."""
        self.uids[number] = uid
        if number in self._wanted:
            self.named[uid] = self._wanted.pop(number)

    def _lost(self, tag: _Tag, reason: str) -> None:
        self._known.lost(tag.guid)
        self._result.failed.append(f"{tag.where}: left out: {reason}")

    def _keywords(self, found: Incoming) -> tuple[str, ...]:
        good, bad = sorted_out(found.keywords)
        self._result.told += [f"{found.where}: {word!r} can't be a keyword: left out" for word in bad]
        return good

    def _guids(self, found: Incoming, seen: TextSeen) -> Iterator[bytes]:
        """The guids that a message may have, the best one first."""
        if found.guid is not None:
            yield found.guid
        yield self._made_guid(seen, found.received)

    def _made_guid(self, seen: TextSeen, received: int | None) -> bytes:
        """A guid that is the same at every run: made of text, date, mailbox and a count."""
        key = hashlib.blake2b(digest_size=16)
        key.update(struct.pack("<q", received if received is not None else 0))
        key.update(seen.digest + self._box.name.encode("utf-8", "surrogateescape"))
        self._occurred[key.digest()] += 1
        key.update(struct.pack("<I", self._occurred[key.digest()]))
        return key.hexdigest().encode("ascii")

    async def _digest(self, name: str, uid: int) -> bytes | None:
        """The digest of a text in the store; None: it can't be read."""
        try:
            body = await (await current(self._store, name)).open(uid)
            try:
                return (await look_at(BodySource(body), convert=False)).digest
            finally:
                body.close()
        except (DboxfsError, OSError) as exc:
            self._result.told.append(f"{name}: uid {uid} can't be read: {reason_of(exc)}")
            return None

    async def _coded(self, text: Text, seen: TextSeen) -> tuple[bytes, Coded] | None:
        """The text in the form in which it must be stored; None: as it is.

        :raises RefusedMessage: the store can't hold it.
        """
        options = self._writer.options
        if is_encrypted(seen.first) and not options.codes:
            raise RefusedMessage("it begins like a message that Dovecot's mail_crypt has encrypted")
        if options.dbox_version == 3 or options.compress is not None or detect(seen.first) is None:
            return None
        if options.encrypt is not None:
            raise RefusedMessage("it begins like a compressed message; with --compress zstd it can be saved")
        if text.size > MOST:
            raise RefusedMessage(f"it begins like a compressed message, and has more than {MOST} bytes")
        return await packed(text)


def _source(found: Incoming) -> Text:
    return BytesSource(found.text) if isinstance(found.text, bytes) else found.text
