"""Repair after a crash between a change of the map and the change of a mailbox (PROTOCOL section 10, mdbox).

The map's tail is behind its head: a process changed the map, and died before or after it changed a mailbox.
Under the locks of the map and of all mailboxes the writer counts the references; then

* it corrects refcounts that differ;
* it appends a stored message that has a refcount but no reference to the mailbox of its B line (or to INBOX,
  if that mailbox is gone): the message was perhaps acknowledged;
* it moves the tail.

No message is removed, and a second repair changes nothing.  A message that can't be read keeps its refcount.
If there is no INBOX, mailboxes may lie elsewhere, with references that are not counted here: then no refcount
is made smaller.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter

from msgspec import Struct

from dboxfs.errors import DboxfsError, FormatError
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.disk import AppendFile
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.stored_record import FILE_HEAD, RECORD_HEAD, TAIL, Record, file_header, parse_record
from dboxfs.store.tree import scan_tree
from dboxfs.store.write import log_records
from dboxfs.store.write.results import now_seconds
from dboxfs.store.write.session import Work

log = logging.getLogger(__name__)


class _Lost(Struct, frozen=True):
    """A stored message that no mailbox has: its guid and the mailbox that it was saved to."""

    place: MapRecord
    guid: bytes
    mailbox: str


async def repair_storage(work: Work) -> None:
    """Bring the locked map and all mailboxes together.

    :raises CorruptFile, StoreBusy, OSError: a mailbox can't be read; nothing was changed.
    """
    names = await selectable(work)
    async with work.mailboxes(names) as indexes:
        mapping = MapIndex(work.map.state)
        counted = _references(indexes)
        found = await _lost_messages(work, mapping, counted)
        for lost in found:
            if lost.guid in work.never_acknowledged:
                continue  # it belongs to no mailbox: a purge removes it
            index = indexes.get(lost.mailbox) or indexes.get("INBOX")
            if index is None:
                log.warning("map uid %d is in no mailbox, and there is no INBOX", lost.place.map_uid)
                counted[lost.place.map_uid] = lost.place.refcount
                continue
            await _append(index, lost)
            counted[lost.place.map_uid] = 1
        complete = "INBOX" in indexes
        wrong = [
            (map_uid, counted[map_uid])
            for map_uid, count in zip(mapping.map_uids.tolist(), mapping.refcounts.tolist(), strict=True)
            if counted[map_uid] > count or (complete and counted[map_uid] < count)
        ]
        batch = log_records.set_refcounts(work.map.state, wrong)
        await work.map.append(batch, tail=True, durable=True)
    log.warning(
        "%s: a writer died here; %d messages were brought back and %d reference counts corrected",
        work.map.log_path,
        len(found),
        len(wrong),
    )


async def selectable(work: Work) -> list[str]:
    """The storage names of all mailboxes."""
    found = await scan_tree(work.fs, work.location, lambda _: None)
    return [item.name for item in found.walk() if item.selectable]


def _references(indexes: dict[str, IndexLog]) -> Counter[int]:
    counted: Counter[int] = Counter()
    for index in indexes.values():
        column = map_uids(index.state)
        if column is not None:
            counted.update(column.tolist())
    return counted


async def _lost_messages(work: Work, mapping: MapIndex, counted: Counter[int]) -> list[_Lost]:
    found = []
    for map_uid, count in zip(mapping.map_uids.tolist(), mapping.refcounts.tolist(), strict=True):
        if not count or counted[map_uid]:
            continue
        place = mapping.lookup(map_uid)
        assert place is not None
        try:
            found.append(await _read(work, place))
        except (DboxfsError, OSError) as error:
            log.warning("map uid %d can't be read and stays as it is: %s", map_uid, error)
            counted[map_uid] = count
    return found


async def _read(work: Work, place: MapRecord) -> _Lost:
    """Guid and mailbox of a stored message, by its own metadata."""
    metadata = (await read_record(work, place)).metadata
    if metadata.guid128 is None:
        raise FormatError(place.offset, "the message has no guid")
    return _Lost(place, metadata.guid128, os.fsdecode(metadata.orig_mailbox or b"INBOX"))


async def read_record(work: Work, place: MapRecord) -> Record:
    """The record at a place of the map.

    :raises FormatError: it is damaged.
    :raises FileNotFoundError: its file is in no storage.
    """
    for path in work.storage_paths(place.file_id):
        try:
            file = await work.disk.open_read(path)
        except FileNotFoundError:
            continue
        try:
            return await _read_from(file, place)
        finally:
            await file.close()
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), work.storage_paths(place.file_id)[0])


async def _read_from(file: AppendFile, place: MapRecord) -> Record:
    end = place.offset + place.size if place.size else file.size
    header = file_header(await file.read(FILE_HEAD, 0))
    head = memoryview(await file.read(RECORD_HEAD, place.offset))
    start = max(place.offset, end - TAIL)
    while True:
        tail = memoryview(await file.read(end - start, start))
        found = parse_record(head, tail, start, place.offset, end, header=header, whole=bool(place.size))
        if isinstance(found, Record):
            return found
        start = found.offset


async def _append(index: IndexLog, lost: _Lost) -> None:
    uid = index.state.next_uid
    row = log_records.AppendedRow(uid, 0, (), lost.guid, lost.place.map_uid, now_seconds())
    await index.append(log_records.append_messages(index.state, [row], mdbox=True), durable=True)
