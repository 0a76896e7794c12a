"""mdbox: records at the end of ``m.N`` files that were never finished.

A writer that dies while it appends leaves bytes behind the last record that the map knows.  A whole record
is a save that was not acknowledged: it is left for whoever purges or rebuilds.  What is no whole record is
cut off, under the file's lock and the map's, so that the file can be appended to again and Dovecot does not
have to repair it.

Bytes behind the last record may as well be messages that an older map does not know, or the rest of one whose
size the map has wrong.  So nothing is cut unless the last record that the map knows is a whole one and ends
there, and the salvage scan finds no message that can be read in what would be cut.
"""

from __future__ import annotations

import logging
import os

import numpy as np

from dboxfs.dbox import FileHeader, ForwardParser, NeedMore, next_record, parse_file_header
from dboxfs.errors import DboxfsError, FormatError
from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.salvage import Found, Place, Trust, open_window, scan_file
from dboxfs.store.salvage.window import SPARSE_CHUNK
from dboxfs.store.writing.disk import AppendFile
from dboxfs.store.writing.repair import read_record
from dboxfs.store.writing.work import Work, message_number

log = logging.getLogger(__name__)

_WINDOW = 1 << 20
_LONGEST = 64 << 20


async def cut_torn_records(work: Work) -> int:
    """Cut the ends of all files that have a torn one; gives their number.  A broken map is repaired."""
    storage = work.location.storage
    if not await work.disk.exists(work.map.log_path):
        return 0
    async with work.locked_map() as mapping:
        ends = _ends(mapping)
    names = [entry.name for entry in await work.disk.listdir(storage) if message_number(entry.name, "m")]
    answers = await work.disk.run_all([ops.Stat(os.path.join(storage, name)) for name in names])
    cut = 0
    for name, answer in zip(names, answers, strict=True):
        end = ends.get(message_number(name, "m"))
        if not isinstance(answer, OSError) and end is not None and answer.st_size > end:
            cut += await _look_at(work, os.path.join(storage, name))
    return cut


def _ends(mapping: MapIndex) -> dict[int, int]:
    """Where each file ends by the map; without those that have a record of 4 GiB or more."""
    file_ids, number = np.unique(mapping.file_ids, return_inverse=True)
    sums = np.where(mapping.sizes == 0, np.int64(1) << 62, mapping.offsets.astype(np.int64) + mapping.sizes)
    last = np.zeros(len(file_ids), np.int64)
    np.maximum.at(last, number, sums)
    return dict(zip(file_ids.tolist(), last.tolist(), strict=True))


async def _look_at(work: Work, path: str) -> bool:
    """Cut one file, if nobody is appending to it and its end is torn indeed."""
    try:
        file = await work.disk.open(path)
    except FileNotFoundError:
        return False
    holder = object()
    try:
        if not work.fs.locks.acquire(holder, [path, file.identity]):
            return False
        if not await file.try_lock(LockKind.FLOCK):
            return False
        async with work.locked_map() as mapping:
            now = await work.disk.stat(path)
            end = _ends(mapping).get(message_number(os.path.basename(path), "m"))
            if now is None or end is None or (now.st_dev, now.st_ino) != file.identity:
                return False
            file.size = now.st_size
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
            return cut
    finally:
        work.fs.locks.release(holder)
        await file.close()


async def _is_nobodys(work: Work, path: str, mapping: MapIndex, start: int) -> bool:
    """Whether a dead writer was to save all that begins at *start*, as its ``notes`` say."""
    if not work.never_acknowledged:
        return False
    known = _places(mapping, path)
    async with open_window(work.fs, path, SPARSE_CHUNK) as window:
        items = [item async for item in scan_file(window, known, texts=False)]
    behind = [item for item in items if item.offset >= start]
    return bool(behind) and all(
        isinstance(item, Found) and item.guid in work.never_acknowledged for item in behind
    )


def _places(mapping: MapIndex, path: str) -> list[Place]:
    rows = np.flatnonzero(mapping.file_ids == message_number(os.path.basename(path), "m"))
    places = sorted(zip(mapping.offsets[rows].tolist(), mapping.sizes[rows].tolist(), strict=True))
    return [Place(offset, size) for offset, size in places]


async def _is_torn(work: Work, path: str, mapping: MapIndex, start: int) -> bool:
    """Whether the file is what the map says, and what begins at *start* no message that can be read."""
    file_id = message_number(os.path.basename(path), "m")
    rows = np.flatnonzero(mapping.file_ids == file_id)
    last = mapping.lookup(int(mapping.map_uids[rows[int(np.argmax(mapping.offsets[rows]))]]))
    assert last is not None
    try:
        await read_record(work, last)
    except (DboxfsError, FileNotFoundError):
        return False
    async with open_window(work.fs, path, SPARSE_CHUNK) as window:
        # whoever died in the metadata has not written the empty line at their end
        unended = await window.read(window.size - 2, 2) != b"\n\n"
        async for item in scan_file(window, _places(mapping, path), texts=False):
            if not isinstance(item, Found) or item.offset < start or item.trust is Trust.DAMAGED:
                continue
            if item.offset > start or item.version != 2 or not unended:
                return False
    return True


async def _end_of_whole_records(file: AppendFile, end: int) -> int | None:
    """Where the last whole record ends, from *end* on; None: it can't be told."""
    try:
        header = parse_file_header(await file.read(64, 0))
        if not isinstance(header, FileHeader):
            return None
        if header.version == 3:
            return await _end_of_whole_records3(file, end)
        while end < file.size:
            window = min(_WINDOW, file.size - end)
            while True:
                found = next_record(await file.read(window, end), 0, header, base=end)
                if not isinstance(found, NeedMore):
                    break
                if found.size > file.size - end:
                    return end
                if found.size > _LONGEST:
                    return None
                window = min(max(found.size, 2 * window), file.size - end)
            end += found.size
    except FormatError:
        return end
    return end


async def _end_of_whole_records3(file: AppendFile, end: int) -> int:
    """The same for a file of format 3, whose records are read forward, whatever their size."""
    while end < file.size:
        parser, at = ForwardParser(end), end
        try:
            while parser.record is None:
                piece = await file.read(_WINDOW, at)
                at += len(piece)
                if piece:
                    parser.feed(piece)
                else:
                    parser.finish()
        except FormatError:
            return end
        end = parser.record.end
    return end
