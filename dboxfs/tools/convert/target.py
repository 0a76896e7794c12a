"""Writes the messages of a destination: ``u.<uid>`` files, or records in ``m.N`` files.

A target takes a chunk of messages and returns a :class:`~dboxfs.tools.convert.journal.Batch`: the messages
that are written now.  They count when the journal names them; the journal makes them durable first.  Data
that an interrupted conversion wrote beyond its journal are removed (:meth:`StoreTarget.resume`), or replaced
when the conversion comes to the same message.

A message whose key is known already is not stored twice: it becomes one more reference to its map record
(mdbox) or a hard link (sdbox; a copy if the file can have no more links).  In an mdbox the same holds for
copies without a common key (:mod:`~dboxfs.tools.convert.copies`).
"""

from __future__ import annotations

import os
from array import array
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from dboxfs.store.write.record import NewFile, new_file
from dboxfs.store.write.record import Place as FilePlace
from dboxfs.store.write.results import side_by_side
from dboxfs.store.write.session import Work, message_number
from dboxfs.store.write_options import WriteOptions
from dboxfs.tools.buffered_file import BufferedFile
from dboxfs.tools.convert.copies import Copies, is_copy, is_encrypted_anew
from dboxfs.tools.convert.encoding import RecordFormat, begin_record, completed_items, must_be_packed
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.journal import Batch, DestinationRow, SharedMessage, StoredPlace
from dboxfs.tools.convert.newindexes import MapRows
from dboxfs.tools.convert.source import MOST_PACKED, PIECE, SourceMessage, Stored, Unreadable, close_all

_FIRST = 16
_MAX_RECORD = (1 << 32) - 1

MOST_REFERENCES = 32_000
"""References to one record, at most; Dovecot refuses more than 32,768, and one chunk may come on top."""


class StoreTarget(Protocol):
    """A destination of messages.  ``shared``: messages by key, to which other places may refer."""

    shared: dict[str, SharedMessage]

    def remember(self, batch: Batch) -> None:
        """Take over the messages that the journal of an interrupted conversion names."""

    async def resume(self) -> None:
        """Remove data that the journal doesn't name; call it once, before the first :meth:`put`."""

    async def put(self, mailbox: str, found: list[SourceMessage]) -> Batch:
        """Store messages, ascending by uid.  They are closed afterwards, also after an error.

        :raises OSError: the destination can't be written.
        """

    async def close(self) -> None:
        """Close the open files."""


class SdboxTarget:
    """One file a message.  ``u.<uid>`` is made under its final name, since no reader opens the store yet."""

    def __init__(self, work: Work) -> None:
        self.shared: dict[str, SharedMessage] = {}
        self._work = work
        self._disk = work.disk

    def remember(self, batch: Batch) -> None:
        self.shared.update(batch.shared)

    async def resume(self) -> None:
        """Does nothing: a file that the journal doesn't name is replaced when its message is written."""

    async def put(self, mailbox: str, found: list[SourceMessage]) -> Batch:
        """Write the messages without a key side by side, then those with one in order."""
        batch = Batch(mailbox)
        stored = [message for message in found if isinstance(message, Stored)]
        reasons = {item.uid: item.reason for item in found if isinstance(item, Unreadable)}

        async def put(_: int, message: Stored) -> None:
            try:
                await self._put(batch, message)
            except Unfit as exc:
                reasons[message.uid] = str(exc)

        try:
            alone = [message for message in stored if message.key is None]
            if alone:
                await side_by_side(put, alone)
            for message in stored:
                if message.key is not None:
                    await put(0, message)
        finally:
            close_all(found)
        batch.rows.sort()
        batch.told.sort()
        batch.failed = sorted(reasons.items())
        return batch

    async def _put(self, batch: Batch, message: Stored) -> None:
        path = self._work.message_paths(batch.mailbox, message.uid)[0]
        known = self.shared.get(message.key) if message.key is not None else None
        if known is not None:
            await self._disk.unlink(path)
            await self._work.link_or_copy(self._work.message_paths(known.mailbox, known.ref)[0], path)
            trouble = known.trouble
        else:
            trouble = await self._write(path, message)
            if message.key is not None:
                shared = SharedMessage(batch.mailbox, message.uid, message.guid.hex(), trouble)
                self.shared[message.key] = batch.shared[message.key] = shared
        if trouble:
            batch.told.append((message.uid, trouble))
        batch.rows.append(DestinationRow(message.uid, 0, message.saved, message.guid.hex()))

    async def _write(self, path: str, message: Stored) -> str:
        """Write one file; returns the problem of its text, or an empty string."""
        form = new_file(self._work.options.dbox_version)
        await _pack(message, self._work.options)
        record = await begin_stored(form.first, message)
        if message.data is not None:
            record.feed(message.data)
            message.count(message.data)
            judged = message.judge()
            tail = record.tail(completed_items(judged.items, message.guid, None))
            data = b"".join([form.header, record.head, message.data, tail])
            try:
                await self._disk.write_new(path, data)
            except FileExistsError:  # an interrupted conversion was here
                await self._disk.unlink(path)
                await self._disk.write_new(path, data)
            return judged.trouble
        await self._disk.unlink(path)
        file = await self._disk.create(path)
        try:
            out = BufferedFile(file, form.header)
            trouble = await _write_record(out, record, message, None)
            await out.flush()
            return trouble
        except Unfit:
            await self._disk.unlink(path)
            raise
        finally:
            await file.close()

    async def close(self) -> None:
        """Does nothing: no file is kept open."""


class MdboxTarget:
    """Many messages a file: records one behind the other, a new file when the last one is full.

    Small records are collected and written together.

    :param most_references: number of references to a record after which the message is stored again.
    """

    def __init__(self, work: Work, most_references: int = MOST_REFERENCES) -> None:
        self.shared: dict[str, SharedMessage] = {}
        self._work = work
        self._disk = work.disk
        self._most_references = most_references
        self._places = (array("I"), array("I"), array("I"))
        self._refcounts = array("H")
        self._file_id = 0
        self._end = 0
        self._out: BufferedFile | None = None
        self._form: NewFile
        self._worn: dict[str, SharedMessage] = {}
        self._copies = Copies()

    def remember(self, batch: Batch) -> None:
        self.shared.update(batch.shared)
        told = dict(batch.told)
        for place in batch.stored:
            self._add_place(place)
        for row in batch.rows:
            self._refcounts[row.ref - 1] += 1
            self._copies.add(bytes.fromhex(row.guid), row.ref, told.get(row.uid, ""))

    def _add_place(self, place: StoredPlace) -> int:
        for column, value in zip(self._places, place, strict=True):
            column.append(value)
        self._refcounts.append(0)
        self._file_id = max(self._file_id, place.file_id)
        return len(self._refcounts)

    @property
    def highest_file_id(self) -> int:
        """The file id of the last ``m.N``."""
        return self._file_id

    def rows(self) -> MapRows:
        """The records of the map."""
        columns = [np.array(column, np.uint32) for column in self._places]
        return MapRows(columns[0], columns[1], columns[2], np.array(self._refcounts, np.uint16))

    async def resume(self) -> None:
        """Remove files behind the last one in the journal, and cut that one behind its last record."""
        for key, shared in list(self.shared.items()):
            self._wear(key, shared)
        storage = self._work.location.storage
        last, offset, size = 0, 0, 0
        if len(self._refcounts):
            last, offset, size = (column[-1] for column in self._places)
        for entry in await self._disk.listdir(storage):
            if message_number(entry.name, "m") > last:
                await self._disk.unlink(os.path.join(storage, entry.name))
        if last and size:
            file = await self._disk.open(self._work.storage_paths(last)[0])
            try:
                if file.size > offset + size:
                    await file.cut(offset + size)
            finally:
                await file.close()

    async def put(self, mailbox: str, found: list[SourceMessage]) -> Batch:
        batch = Batch(mailbox)
        try:
            for item in found:
                if isinstance(item, Unreadable):
                    batch.failed.append((item.uid, item.reason))
                    continue
                try:
                    await self._put(batch, item)
                except Unfit as exc:
                    batch.failed.append((item.uid, str(exc)))
            if self._out is not None:
                await self._out.flush()
        finally:
            close_all(found)
        return batch

    async def _put(self, batch: Batch, message: Stored) -> None:
        shared = self.shared.get(message.key) if message.key is not None else None
        if message.known and message.key is not None:
            shared = shared or self._worn[message.key]
        if shared is None:
            await _pack(message, self._work.options)
            shared = await self._copy_of(batch.mailbox, message) or await self._store(batch, message)
            if message.key is not None:
                self.shared[message.key] = batch.shared[message.key] = shared
        self._refcounts[shared.ref - 1] += 1
        if shared.trouble:
            batch.told.append((message.uid, shared.trouble))
        batch.rows.append(DestinationRow(message.uid, shared.ref, message.saved, shared.guid))
        if message.key is not None:
            self._wear(message.key, shared)

    async def _store(self, batch: Batch, message: Stored) -> SharedMessage:
        place, trouble = await self._write(batch.mailbox, message)
        shared = SharedMessage(batch.mailbox, self._add_place(place), message.guid.hex(), trouble)
        batch.stored.append(place)
        self._copies.add(message.guid, shared.ref, trouble)
        return shared

    async def _copy_of(self, mailbox: str, message: Stored) -> SharedMessage | None:
        """The record of which *message* is a copy, found by its guid and proven by its bytes; None: none."""
        ref = self._copies.find(message.guid)
        if ref is None or self._refcounts[ref - 1] >= self._most_references:
            return None
        place = StoredPlace(*(column[ref - 1] for column in self._places))
        if self._out is not None:
            await self._out.flush()
        file = await self._disk.open(self._work.storage_paths(place.file_id)[0])
        try:
            if not await is_copy(file, place, message):
                if await is_encrypted_anew(file, place, message):
                    return None
                message.doubt = "it has the guid of another message, which is not the same"
                return None
        finally:
            await file.close()
        return SharedMessage(mailbox, ref, message.guid.hex(), self._copies.trouble(ref))

    def _wear(self, key: str, shared: SharedMessage) -> None:
        """Forget a record that has too many references, so that the next copy is stored anew."""
        if self._refcounts[shared.ref - 1] >= self._most_references and self.shared.get(key) == shared:
            self._worn[key] = self.shared.pop(key)

    async def _write(self, mailbox: str, message: Stored) -> tuple[StoredPlace, str]:
        """Append one record; returns its place, and the problem of its text or an empty string."""
        out = self._out
        limit = self._work.options.rotate_size
        if out is None or out.end + message.size > limit or message.size >= limit:
            out = await self._next_file()
        start = out.end
        place = replace(self._form.first, offset=start)
        record = await begin_stored(place, message)
        try:
            trouble = await _write_record(out, record, message, mailbox)
        except Unfit:
            await out.cut(start)
            raise
        size = out.end - start
        if size > _MAX_RECORD or message.size >= limit:
            await self._close_file()
        return StoredPlace(self._file_id, start, size if size <= _MAX_RECORD else 0), trouble

    async def _next_file(self) -> BufferedFile:
        await self._close_file()
        self._file_id += 1
        self._form = new_file(self._work.options.dbox_version)
        file = await self._disk.create(self._work.storage_paths(self._file_id)[0])
        self._out = BufferedFile(file, self._form.header)
        return self._out

    async def _close_file(self) -> None:
        out, self._out = self._out, None
        if out is None:
            return
        try:
            await out.flush()
        finally:
            await out.file.close()
        if out.end == len(self._form.header):  # the only message for it could not be read
            await self._disk.unlink(out.file.path)

    async def close(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            await out.file.close()

    async def finish(self) -> None:
        """Close the last file, after the last :meth:`put`."""
        await self._close_file()


async def _pack(message: Stored, options: WriteOptions) -> None:
    """Compress a plain message if the options ask for compressed messages.

    :raises Unfit: the message can't be read.
    """
    plain = message.compression is None and not message.encrypted and not message.known
    if options.compress is not None and options.dbox_version != 3 and plain and message.size <= MOST_PACKED:
        await message.pack(options.compress)


async def begin_stored(place: FilePlace, message: Stored) -> RecordFormat:
    """The record that *message* becomes at *place*.

    :raises Unfit: the format can't hold it, or it can't be read.
    """
    first = await message.read(min(_FIRST, message.size), 0)
    if place.key is None and must_be_packed(first, message.compression, as_it_is=message.as_it_is):
        await message.pack()
        first = await message.read(min(_FIRST, message.size), 0)
    return begin_record(
        place, message.size, first, message.compression,
        encrypted=message.encrypted, as_it_is=message.as_it_is, crc=message.crc,
    )  # fmt: skip


async def _write_record(out: BufferedFile, record: RecordFormat, message: Stored, mailbox: str | None) -> str:
    """Append a record; a part of it may have been written when this raises.

    :param mailbox: for the ``B`` line of an mdbox.
    :return: the problem of the text; empty: none.
    :raises Unfit: the source can't be read.
    """
    await out.append(record.head)
    offset = 0
    while offset < message.size:
        piece = await message.read(min(PIECE, message.size - offset), offset)
        record.feed(piece)
        message.count(piece)
        await out.append(piece)
        offset += len(piece)
    judged = message.judge()
    await out.append(record.tail(completed_items(judged.items, message.guid, mailbox)))
    return judged.trouble
