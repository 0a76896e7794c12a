"""mdbox: bytes that dead writers have left in ``m.N`` files.

A writer that dies while it appends leaves bytes behind the last record that the map knows.  A whole record
may be a message: it stays for a later purge or rebuild.  An incomplete record is cut off under the locks of
the file and the map, so that writers can append to the file again and Dovecot does not have to repair it.

A whole record that a note of a dead writer names belongs to no mailbox: it is cut off, too.  If other writers
have appended behind it, the map gets a record of it with refcount 0 instead, like that of an expunged
message.  Otherwise Dovecot's purge would find that file and map differ, and rebuild the storage.  A new file
that the map doesn't know and that has only such records is removed.

Bytes behind the last record may also be messages that an older map does not know, or the rest of a message
whose size is wrong in the map.  So bytes are cut only if the last record that the map knows is whole and ends
there, and if the salvage scan finds no readable message in the bytes to be cut.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from dboxfs.dbox import FileHeader, ForwardParser, NeedMore, next_record, parse_file_header
from dboxfs.errors import DboxfsError, FormatError
from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import AppendFile
from dboxfs.store.mdbox.repair import read_record
from dboxfs.store.salvage import Found, Gap, MapPlace, Trust, open_window, scan_file
from dboxfs.store.salvage.window import SPARSE_CHUNK
from dboxfs.store.write import log_records
from dboxfs.store.write.session import Work, message_number

log = logging.getLogger(__name__)

_TAIL_WINDOW = 1 << 20
_LONGEST_TAIL = 64 << 20


async def cut_torn_records(work: Work) -> int:
    """Cut torn ends off all files, and give the map the records that dead writers have left in them.

    Gives the number of files that were changed or got a map record.  A map whose tail is behind its head is
    repaired.
    """
    storage = work.location.storage
    if not await work.disk.exists(work.map.log_path):
        return 0
    async with work.locked_map() as mapping:
        ends = _ends(mapping)
        holes = _with_holes(mapping) if work.never_acknowledged else frozenset()
    names = [entry.name for entry in await work.disk.listdir(storage) if message_number(entry.name, "m")]
    answers = await work.disk.run_all([ops.Stat(os.path.join(storage, name)) for name in names])
    cut = 0
    for name, answer in zip(names, answers, strict=True):
        number = message_number(name, "m")
        end = ends.get(number)
        if isinstance(answer, OSError):
            continue
        if end is None:
            cut += bool(work.never_acknowledged) and await _remove_unknown(work, os.path.join(storage, name))
        elif answer.st_size > end or number in holes:
            cut += await _look_at(work, os.path.join(storage, name))
    return cut


def _ends(mapping: MapIndex) -> dict[int, int]:
    """The end of each file by the map; huge for a file with a record of 4 GiB or more."""
    file_ids, number = np.unique(mapping.file_ids, return_inverse=True)
    sums = np.where(mapping.sizes == 0, np.int64(1) << 62, mapping.offsets.astype(np.int64) + mapping.sizes)
    last = np.zeros(len(file_ids), np.int64)
    np.maximum.at(last, number, sums)
    return dict(zip(file_ids.tolist(), last.tolist(), strict=True))


def _with_holes(mapping: MapIndex) -> frozenset[int]:
    """The files in which the map's records don't follow each other; none with a record of 4 GiB or more."""
    order = np.lexsort((mapping.offsets, mapping.file_ids))
    ids, offsets = mapping.file_ids[order], mapping.offsets[order].astype(np.int64)
    ends = offsets + mapping.sizes[order]
    holes = (ids[1:] == ids[:-1]) & (offsets[1:] != ends[:-1])
    return frozenset(np.setdiff1d(ids[1:][holes], mapping.file_ids[mapping.sizes == 0]).tolist())


async def _remove_unknown(work: Work, path: str) -> bool:
    """Remove a file that the map doesn't know, if all its records are saves of dead writers.

    The next new file would get the number of this one, and a Dovecot that finds the name taken fails that
    save and rebuilds the storage.
    """
    async with _held(work, path) as file:
        if file is None:
            return False
        async with work.locked_map() as mapping:
            if bool((mapping.file_ids == message_number(os.path.basename(path), "m")).any()):
                return False
            if not await _is_same(work, path, file) or not await _is_nobodys(work, path, mapping, 0):
                return False
            await work.disk.unlink(path)
            await work.disk.sync_dir(os.path.dirname(path))
    log.info("%s: a save that was interrupted and never acknowledged is taken back", path)
    return True


@asynccontextmanager
async def _held(work: Work, path: str) -> AsyncIterator[AppendFile | None]:
    """The file, locked; None: it is gone, or another process has locked it."""
    try:
        file = await work.disk.open(path)
    except FileNotFoundError:
        yield None
        return
    holder = object()
    try:
        free = work.fs.locks.acquire(holder, [path, file.identity]) and await file.try_lock(LockKind.FLOCK)
        if not free:
            work.passed_over = True
        yield file if free else None
    finally:
        work.fs.locks.release(holder)
        await file.close()


async def _is_same(work: Work, path: str, file: AppendFile) -> bool:
    """Whether the name still means this file; its ``size`` is then updated."""
    now = await work.disk.stat(path)
    if now is None or (now.st_dev, now.st_ino) != file.identity:
        return False
    file.size = now.st_size
    return True


async def _look_at(work: Work, path: str) -> bool:
    """Cut one file, if no process is appending to it and its end is torn; gives whether it was changed."""
    async with _held(work, path) as file:
        if file is None:
            return False
        async with work.locked_map() as mapping:
            end = _ends(mapping).get(message_number(os.path.basename(path), "m"))
            if end is None or not await _is_same(work, path, file):
                return False
            whole = await _end_of_whole_records(file, end)
            if whole is None:
                return False
            cut = False
            if whole < file.size:
                if not await _is_torn(work, path, mapping, whole):
                    log.warning("%s: damaged at offset %d, left alone; dboxfs check says more", path, whole)
                    return False
                await file.cut(whole)
                cut = True
            if whole > end and await _is_nobodys(work, path, mapping, end):
                await file.cut(end)
                cut = True
            if cut:
                await file.sync()
            return await _disown(work, path, mapping) or cut


async def _is_nobodys(work: Work, path: str, mapping: MapIndex, start: int) -> bool:
    """Whether all records from *start* on are saves of dead writers, by their ``notes``."""
    if not work.never_acknowledged:
        return False
    behind = [item for item in await _items(work, path, mapping) if item.offset >= start]
    return bool(behind) and all(
        isinstance(item, Found) and item.guid in work.never_acknowledged for item in behind
    )


async def _disown(work: Work, path: str, mapping: MapIndex) -> bool:
    """Give the map the records that a dead writer has left between those of other writers; False: there are
    none.

    This is one transaction that also moves the tail: after a crash either all of them are in the map, or the
    next writer, which still has the notes, does all of it again.
    """
    if not work.never_acknowledged:
        return False
    items = await _items(work, path, mapping)
    known = {place.offset for place in _places(mapping, path)}
    follows = {item.offset for item in items} | {max((item.end for item in items), default=0)}
    entries: list[log_records.MapEntry] = []
    for item in items:
        if (
            not isinstance(item, Found)
            or item.guid not in work.never_acknowledged
            or item.trust is not Trust.WHOLE
            or item.inside
            or item.end not in follows
            or item.offset in known
        ):
            continue
        uid, number = mapping.state.next_uid + len(entries), message_number(os.path.basename(path), "m")
        entries.append(log_records.MapEntry(uid, number, item.offset, item.end - item.offset, refcount=0))
    if not entries:
        return False
    await work.map.append(log_records.append_to_map(work.map.state, entries), tail=True, durable=True)
    log.info("%s: %d records of saves that were never acknowledged are left to a purge", path, len(entries))
    return True


async def _items(work: Work, path: str, mapping: MapIndex) -> list[Found | Gap]:
    async with open_window(work.fs, path, SPARSE_CHUNK) as window:
        return [item async for item in scan_file(window, _places(mapping, path), texts=False)]


def _places(mapping: MapIndex, path: str) -> list[MapPlace]:
    rows = np.flatnonzero(mapping.file_ids == message_number(os.path.basename(path), "m"))
    places = sorted(zip(mapping.offsets[rows].tolist(), mapping.sizes[rows].tolist(), strict=True))
    return [MapPlace(offset, size) for offset, size in places]


async def _is_torn(work: Work, path: str, mapping: MapIndex, start: int) -> bool:
    """Whether the file is as the map says, and the bytes from *start* on hold no message that can be read."""
    file_id = message_number(os.path.basename(path), "m")
    rows = np.flatnonzero(mapping.file_ids == file_id)
    last = mapping.lookup(int(mapping.map_uids[rows[int(np.argmax(mapping.offsets[rows]))]]))
    assert last is not None
    try:
        await read_record(work, last)
    except (DboxfsError, FileNotFoundError):
        return False
    async with open_window(work.fs, path, SPARSE_CHUNK) as window:
        # a writer that died in the metadata has not written the empty line at their end
        unended = await window.read(window.size - 2, 2) != b"\n\n"
        async for item in scan_file(window, _places(mapping, path), texts=False):
            if not isinstance(item, Found) or item.offset < start or item.trust is Trust.DAMAGED:
                continue
            if item.offset > start or item.version != 2 or not unended:
                return False
    return True


async def _end_of_whole_records(file: AppendFile, end: int) -> int | None:
    """The end of the last whole record from *end* on; None: it can't be found."""
    try:
        header = parse_file_header(await file.read(64, 0))
        if not isinstance(header, FileHeader):
            return None
        if header.version == 3:
            return await _end_of_whole_records3(file, end)
        while end < file.size:
            window = min(_TAIL_WINDOW, file.size - end)
            while True:
                found = next_record(await file.read(window, end), 0, header, base=end)
                if not isinstance(found, NeedMore):
                    break
                if found.size > file.size - end:
                    return end
                if found.size > _LONGEST_TAIL:
                    return None
                window = min(max(found.size, 2 * window), file.size - end)
            end += found.size
    except FormatError:
        return end
    return end


async def _end_of_whole_records3(file: AppendFile, end: int) -> int:
    """The same for a file of format 3, whose records of any size are read forward."""
    while end < file.size:
        parser, at = ForwardParser(end), end
        try:
            while parser.record is None:
                piece = await file.read(_TAIL_WINDOW, at)
                at += len(piece)
                if piece:
                    parser.feed(piece)
                else:
                    parser.finish()
        except FormatError:
            return end
        end = parser.record.end
    return end
