"""Reads the messages of a source as they are stored, one chunk after the other.

Small messages are read whole, several at once; a larger one is opened here and read while it is written.  A
message that can't be read becomes an :class:`Unreadable` and doesn't stop the others.

A message that the source has in several places (an mdbox refers to one record several times, an sdbox has
hard links) has a ``key``; a target that knows the key already doesn't need the bytes again.

External attachments are put back into the message: its body is then plain, even if it was compressed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Container, Sequence

import numpy as np
import trio
from msgspec import Struct

from dboxfs.dbox import Compression, Metadata
from dboxfs.dbox.encoders import Method
from dboxfs.errors import DboxfsError, FormatError
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import Body
from dboxfs.store.location import Kind
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.saved_dates import READ_FOR_ALL, SavedDates, load_saved_dates
from dboxfs.store.store import Store
from dboxfs.tools.convert.encoding import kept_items
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot
from dboxfs.tools.convert.soundness import Judged, TextCheck

MESSAGES_TOGETHER = 64
"""Messages of one chunk, which are read side by side."""

SMALL = 256 << 10
"""Largest stored body, in bytes, that is read whole."""

PIECE = 1 << 20
"""Bytes of one read or write of a larger body."""

MOST_PACKED = 64 << 20
"""Bytes of the largest message that can be compressed here."""

USUAL = Method(Compression.GZIP, 6)
"""How a message is compressed that format 2 can't hold plain."""


class Unreadable(Struct, frozen=True):
    """A message that can't be carried over, and why: one line."""

    uid: int
    reason: str


class Stored(Struct):
    """A message as it is stored.  ``saved``: seconds since the epoch.  ``guid``: 16 bytes.

    ``size``: of its body as the destination will store it (bytes).  ``data``: that body, if it is small.
    ``encrypted``: the body is ciphertext.  ``as_it_is``: the body begins like a compressed or encrypted one,
    but its metadata say that it is plain.  ``items``: metadata lines.  ``key``: the same in all places of
    one message; None: it has only one place.  ``known``: the target knows the key, so no bytes were read.
    ``crc``: CRC-32 of the stored body; None: not known.  ``doubt``: the problem of the message or its
    metadata, one line; empty: none.
    """

    uid: int
    saved: int
    guid: bytes
    key: str | None
    size: int
    compression: Compression | None
    items: list[tuple[bytes, bytes]]
    data: bytes | None
    known: bool = False
    encrypted: bool = False
    as_it_is: bool = False
    crc: int | None = None
    doubt: str = ""
    _opened: OpenRecord | None = None
    _body: Body | None = None
    _check: TextCheck | None = None

    def hold(self, opened: OpenRecord, body: Body | None) -> None:
        """Read from these files, and close them at the end; *body*: read it in place of the record's body."""
        self._opened, self._body = opened, body

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* stored bytes of the body.

        :raises Unfit: the bytes can't be read.
        """
        try:
            data = await self._read(size, offset)
        except (DboxfsError, OSError) as exc:
            raise Unfit(reason(exc)) from exc
        if len(data) != size:
            raise Unfit(f"it ends {size - len(data)} bytes too early")
        return data

    async def _read(self, size: int, offset: int) -> bytes:
        if self.data is not None:
            return self.data[offset : offset + size]
        if self._body is not None:
            return await self._body.read(size, offset)
        assert self._opened is not None
        return await self._opened.handle.read(size, self._opened.record.body_offset + offset)

    async def pack(self, method: Method = USUAL) -> None:
        """Compress the body, which must be plain and not counted yet.

        :raises Unfit: the body can't be read, or is too large to be compressed in memory.
        """
        if self.size > MOST_PACKED:
            raise Unfit(f"it begins like a compressed message, and has more than {MOST_PACKED} bytes")
        plain = await self.read(self.size, 0)
        crc, self.crc = self.crc, None
        if crc not in (None, zlib.crc32(plain)):
            self.doubt = "its text is damaged: the CRC-32 does not fit"
        self.data = await trio.to_thread.run_sync(method.compressed, plain)
        self.items = [(b"Z", b"%x" % len(plain)), *(item for item in self.items if item[0] != b"Z")]
        self.size, self.compression, self.as_it_is = len(self.data), method.kind, False
        self.close()

    def count(self, piece: bytes) -> None:
        """Check the next bytes of the body, as they are written."""
        if self._check is None:
            self._check = TextCheck(self.compression, self.items, self.crc)
        self._check.feed(piece)

    def judge(self) -> Judged:
        """The result, at the end of the body: the metadata lines to write, and the problem to report."""
        self.count(b"")
        assert self._check is not None
        judged, self._check = self._check.judge(), None
        trouble = "; ".join(text for text in (self.doubt, judged.trouble) if text)
        return Judged(judged.items, trouble)

    def close(self) -> None:
        """Close the files."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._body is not None:
            self._body.close()
            self._body = None


SourceMessage = Stored | Unreadable


class MailboxSource:
    """The messages of one mailbox of *store*, as *portrait* has them."""

    def __init__(
        self,
        store: Store,
        box: Mailbox,
        portrait: MailboxSnapshot,
        dates: SavedDates | None,
        keys: dict[int, str],
    ) -> None:
        self.name = box.name
        self._store = store
        self._box = box
        self._portrait = portrait
        self._dates = dates
        self._keys = keys

    @classmethod
    async def open(cls, store: Store, box: Mailbox, portrait: MailboxSnapshot) -> MailboxSource:
        """Read the facts about all messages at once: saved dates (sdbox), shared records (mdbox)."""
        keys: dict[int, str] = {}
        dates: SavedDates | None = None
        if store.storage is None:
            assert box.state is not None
            path = store.location.cache_path(box.name)
            dates = await load_saved_dates(store.fs, path, box.state, box.state.uids, READ_FOR_ALL)
        elif portrait.map_uids is not None and len(portrait):
            mapping = await store.storage.map()
            rows = mapping.rows_of(portrait.map_uids)
            shared = (rows >= 0) & (mapping.refcounts[np.maximum(rows, 0)] > 1) if len(mapping) else rows < -1
            for row in np.flatnonzero(shared).tolist():
                keys[int(portrait.uids[row])] = str(int(portrait.map_uids[row]))
        return cls(store, box, portrait, dates, keys)

    async def chunk(self, rows: Sequence[int], known: Container[str]) -> list[SourceMessage]:
        """The messages of some rows of the portrait.

        :param known: keys of messages whose bytes the target doesn't need.
        """
        found: list[SourceMessage | None] = [None] * len(rows)

        async def one(at: int, row: int) -> None:
            uid = int(self._portrait.uids[row])
            try:
                found[at] = await self._message(uid, row, known)
            except (DboxfsError, OSError) as exc:
                found[at] = Unreadable(uid, reason(exc))

        try:
            async with trio.open_nursery() as nursery:
                for at, row in enumerate(rows):
                    nursery.start_soon(one, at, row)
        except BaseException:
            close_all([item for item in found if item is not None])
            raise
        return [item for item in found if item is not None]

    async def _message(self, uid: int, row: int, known: Container[str]) -> Stored:
        opened = await self._box.open_record(uid)
        body: Body | None = None
        try:
            record = opened.record
            inlined = record.metadata.ext_refs is not None
            guid, saved = self._guid(opened, row), self.saved(uid, row, opened)
            key = self._key(uid, opened, guid)
            items, doubt = _dated(kept_items(record.metadata, inlined=inlined), record.metadata, saved)
            message = Stored(
                uid, saved, guid, key, record.stored_size, record.compression,
                items, None, crc=record.crc, doubt=doubt,
            )  # fmt: skip
            message.encrypted = record.encrypted
            message.as_it_is = record.as_it_is and not inlined
            if key is not None and key in known:
                opened.close()
                message.known = True
                return message
            if inlined:
                if self._store.location.attachments is None:
                    raise Unfit("its attachments are in files of their own: --attachments DIR says where")
                body = await self._box.open(uid)
                message.size, message.compression, message.crc = body.size, None, None
            message.hold(opened, body)
            if message.size <= SMALL:
                message.data = await message.read(message.size, 0)
                message.close()
        except BaseException:
            opened.close()
            if body is not None:
                body.close()
            raise
        return message

    def _key(self, uid: int, opened: OpenRecord, guid: bytes) -> str | None:
        """A key that is the same for all places of a message; None: it has only this one.

        It contains the guid: when an interrupted conversion goes on, the numbers may mean another message.
        """
        place = self._keys.get(uid)
        if place is None and self._store.location.kind is Kind.SDBOX:
            status = opened.handle.stat()
            place = f"{status.st_dev}:{status.st_ino}" if status.st_nlink > 1 else None
        return f"{place}:{guid.hex()}" if place is not None else None

    def saved(self, uid: int, row: int, opened: OpenRecord) -> int:
        """When the message was saved or copied here: seconds since the epoch."""
        if self._portrait.save_dates is not None:
            return int(self._portrait.save_dates[row])
        known = self._dates.get(uid) if self._dates is not None else None
        return known if known is not None else int(opened.handle.stat().st_ctime)

    def _guid(self, opened: OpenRecord, row: int) -> bytes:
        found = opened.record.metadata.guid128
        if found is None and self._portrait.guids is not None:
            found = self._portrait.guids[row].tobytes()
        return found if found is not None and any(found) else os.urandom(16)


def _dated(
    items: list[tuple[bytes, bytes]], metadata: Metadata, saved: int
) -> tuple[list[tuple[bytes, bytes]], str]:
    """*items* with a readable received date, and the problem to report if it was not readable."""
    try:
        _ = metadata.received
    except FormatError as exc:
        kept = [(key, b"%x" % max(saved, 0) if key == b"R" else value) for key, value in items]
        return kept, f"{exc.reason}: kept, with the date when it was saved"
    return items, ""


def close_all(found: list[SourceMessage]) -> None:
    """Close the files of these messages."""
    for message in found:
        if isinstance(message, Stored):
            message.close()


def reason(exc: DboxfsError | OSError) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename is not None else exc.strerror
    return str(exc)
