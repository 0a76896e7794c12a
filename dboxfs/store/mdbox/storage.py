"""multi-dbox: where messages are: a mailbox's map uids, the map, the open ``m.<file_id>`` (mdbox-map).

A message is in ``m.<file_id>`` in the storage, else in the alternative storage.  A purge writes the live
messages of a file into another one, changes the map and unlinks the file.  So a reader that finds a file or
record missing reads the map again and tries once more.  An open handle can still read the old file, whose
bytes don't change.

The map is read after the mailbox, since a missing map uid may be newer than the map that was read.  It is
read lazily: a change of the map only sets a flag (``MdboxStorage.changed``).

The messages that are open in an ``m.N`` share one handle, and the last few handles stay open.  Where this
process keeps the pages and not the kernel, a file is opened again when the map names new records in it.  All
of this runs on the event loop's thread.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.dbox import FileHeader
from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Handle
from dboxfs.index import mailbox
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.attrs import Uids
from dboxfs.store.backend import Places, StateOf
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Location
from dboxfs.store.odd_files import odd_file
from dboxfs.store.stored_record import (
    FILE_HEAD,
    LOST_HEADER,
    RECORD_HEAD,
    TAIL,
    Record,
    file_header,
    parse_record,
)

KEEP_OPEN = 32
"""``m.N`` files that stay open at most, unless more have an open message."""

_GAP = 64 << 10


class OpenContainer(Struct):
    """One open ``m.N``; ``users``: the messages that are open in it.  ``damage``: of its header line."""

    path: str
    handle: Handle
    header: FileHeader
    damage: FormatError | None
    users: int = 0
    stale: bool = False


class MdboxStorage:
    """The storage that all mailboxes of an mdbox store share: the map and the ``m.N`` files.

    :ivar changed: the map is read again before the next message is located.
    :ivar keeps_departed: see :mod:`dboxfs.store.mdbox.departed`.
    """

    def __init__(self, fs: FileSystem, location: Location) -> None:
        self.fs = fs
        self.location = location
        self.index = IndexFiles(fs, location.map_dir, "dovecot.map.index")
        self.changed = True
        self.keeps_departed = False
        self.index.changed = self._fed
        self._map: MapIndex | None = None
        self._open: OrderedDict[int, OpenContainer] = OrderedDict()

    async def map(self, *, fresh: bool = False) -> MapIndex:
        """The map, read again when it changed (or when *fresh*).

        :raises CorruptFile: the map is damaged or gone.
        """
        if self._map is None or self.changed or fresh:
            self.changed = False
            try:
                delta = await self.index.refresh()
            except BaseException:
                self.changed = True
                raise
            if self.index.state is None:
                raise CorruptFile(
                    self.index.log_path, 0, "the map of the storage is missing; messages can't be found"
                )
            if delta or self._map is None:
                self._take(delta)
            assert self._map is not None
        return self._map

    def _fed(self, delta: Delta) -> None:
        """Take over the map that a writer of this process has changed or read."""
        if self._map is not None and self.index.state is not None:
            self._take(delta)

    def _take(self, delta: Delta) -> None:
        assert self.index.state is not None
        if self._map is None or self._map.state is not self.index.state:
            self._map = MapIndex(self.index.state)
        if delta.reloaded or len(delta.expunged) or len(delta.updated):
            self._drop_purged(self._map)
        if self._open:
            self._drop_grown(self._map, delta)

    def _drop_grown(self, mapping: MapIndex, delta: Delta) -> None:
        """Open files again that have new records, if their pages are kept here and not by the kernel: a page
        may have been read with a record at the same place that its writer took back.
        """
        kept = [file_id for file_id, some in self._open.items() if not some.handle.asks_kernel]
        if not kept:
            return
        rows = mapping.rows_of(np.concatenate((delta.appended, delta.updated)))
        grown = set(mapping.file_ids[rows[rows >= 0]].tolist())
        for file_id in kept:
            if delta.reloaded or file_id in grown:
                self.drop(file_id)

    def _drop_purged(self, mapping: MapIndex) -> None:
        """Close the files that a purge has taken out of the map: open files hold disk space."""
        if self._open:
            named = set(np.unique(mapping.file_ids).tolist())
            for file_id in [file_id for file_id in self._open if file_id not in named]:
                self.drop(file_id)

    def place_before(self, map_uid: int) -> MapRecord | None:
        """The place of *map_uid* by the map as it was read last, even if it has changed since."""
        return None if self._map is None else self._map.lookup(map_uid)

    def place_now(self, map_uid: int) -> MapRecord | None:
        """The place of *map_uid*; None if the map has to be read again."""
        return None if self.changed or self._map is None else self._map.lookup(map_uid)

    def container_now(self, file_id: int) -> OpenContainer | None:
        """``m.<file_id>``, if it is open; else None."""
        container = self._open.get(file_id)
        return None if container is None or container.stale else container

    def ranges_now(self, map_uids: np.ndarray) -> list[tuple[int, int, int]]:
        """(file_id, start, end) of the records of *map_uids*, neighbours in one range."""
        mapping = self._map
        if mapping is None or self.changed:
            return []
        rows = mapping.rows_of(map_uids)
        rows = rows[rows >= 0]
        places = zip(
            mapping.file_ids[rows].tolist(),
            mapping.offsets[rows].tolist(),
            mapping.sizes[rows].tolist(),
            strict=True,
        )
        ranges: list[tuple[int, int, int]] = []
        for file_id, offset, size in places:
            if ranges and ranges[-1][0] == file_id and ranges[-1][2] <= offset <= ranges[-1][2] + _GAP:
                ranges[-1] = (file_id, ranges[-1][1], offset + size)
            else:
                ranges.append((file_id, offset, offset + size))
        return ranges

    def paths(self, file_id: int) -> list[str]:
        """The paths where ``m.<file_id>`` may be, in the order of the search."""
        name = f"m.{file_id}"
        paths = [os.path.join(self.location.storage, name)]
        if self.location.alt_storage is not None:
            paths.append(os.path.join(self.location.alt_storage, name))
        return paths

    async def container(self, file_id: int) -> OpenContainer:
        """``m.<file_id>``, open; give it back with :meth:`release`.

        :raises FileNotFoundError: in neither storage.
        """
        found = self._open.get(file_id)
        if found is None or found.stale:
            found = await self._open_container(file_id)
            other = self._open.get(file_id)
            if other is not None and not other.stale:  # another task has opened it meanwhile
                found.handle.close()
                found = other
            else:
                self._open[file_id] = found
        found.users += 1
        self._open.move_to_end(file_id)
        self._trim()
        return found

    async def _open_container(self, file_id: int) -> OpenContainer:
        for path in self.paths(file_id):
            handle = self.fs.open(path, nofollow=True)
            try:
                await handle.wait_open()
                return OpenContainer(path, handle, *split_header(await handle.read(FILE_HEAD, 0)))
            except FileNotFoundError:
                handle.close()
            except OSError as exc:
                handle.close()
                raise odd_file(exc, path) or exc from exc
            except BaseException:
                handle.close()
                raise
        raise FileNotFoundError(2, os.strerror(2), self.paths(file_id)[0])

    async def record(self, place: MapRecord) -> Record:
        """The record of a message at its place by the map.

        :raises CorruptFile: it is damaged.
        :raises FileNotFoundError: its file is in neither storage.
        """
        container = await self.container(place.file_id)
        try:
            return await read_record(container, place)
        finally:
            self.release(place.file_id, container)

    def release(self, file_id: int, container: OpenContainer) -> None:
        """Give *container* back."""
        container.users -= 1
        if container.users == 0 and self._open.get(file_id) is not container:
            container.handle.close()
        else:
            self._trim()

    def drop(self, file_id: int) -> None:
        """Forget the open ``m.<file_id>``: its name may mean another file now, so it is opened again next
        time.
        """
        container = self._open.pop(file_id, None)
        if container is not None:
            container.stale = True
            if container.users == 0:
                container.handle.close()

    def _trim(self) -> None:
        if len(self._open) <= KEEP_OPEN:
            return
        for file_id, container in list(self._open.items()):
            if len(self._open) <= KEEP_OPEN:
                break
            if container.users == 0:
                del self._open[file_id]
                container.handle.close()

    def read_anew(self) -> None:
        """Read map and files again, since the known state may be wrong."""
        self.index.read_anew()
        self.changed = True
        self.close()

    def close(self) -> None:
        """Close every file in which no message is open; the others close with their messages."""
        for file_id in list(self._open):
            self.drop(file_id)


class MailboxColumns:
    """Map uids, saved dates and GUIDs of one mailbox's messages, as its index has them now.

    :param state: gives the state of the index.
    """

    def __init__(self, state: StateOf) -> None:
        self._state = state

    def all_map_uids(self) -> Places | None:
        """The uids of the mailbox and the map uid of each, as the index has them now; None: the index has no
        map uids.  The arrays stay as they are: an expunge makes new ones.
        """
        state = self._state()
        column = mailbox.map_uids(state) if state is not None else None
        return None if state is None or column is None else (state.uids, column)

    def map_uids(self, uids: Uids) -> tuple[np.ndarray, np.ndarray]:
        """(map_uid, save_date) of *uids*, uint32[n] each; zeros for those that the index doesn't have."""
        numbers, dates = np.zeros(len(uids), np.uint32), np.zeros(len(uids), np.uint32)
        state = self._state()
        if (
            state is not None
            and (of_row := mailbox.map_uids(state)) is not None
            and (saved := mailbox.save_dates(state)) is not None
        ):
            rows = state.rows_of(uids)
            found = rows >= 0
            numbers[found] = of_row[rows[found]]
            dates[found] = saved[rows[found]]
        return numbers, dates

    def map_uid(self, uid: int) -> int:
        """The map uid of *uid*; 0 if the index has none."""
        state = self._state()
        row = state.row_of(uid) if state is not None else -1
        return mailbox.map_uid(state, row) if state is not None and row >= 0 else 0

    def guids(self, uids: Uids) -> npt.NDArray[np.uint8]:
        """The GUIDs of *uids* in the index, uint8[n, 16]; zeros for those without one."""
        found, state = np.zeros((len(uids), 16), np.uint8), self._state()
        column = mailbox.guids(state) if state is not None else None
        if state is not None and column is not None:
            rows = state.rows_of(uids)
            found[rows >= 0] = column[rows[rows >= 0]]
        return found


def split_header(head: bytes) -> tuple[FileHeader, FormatError | None]:
    """The header line of an ``m.N``, and the error in it, if there is one."""
    try:
        return file_header(head), None
    except FormatError as exc:
        return LOST_HEADER, exc


async def read_record(container: OpenContainer, place: MapRecord) -> Record:
    handle, header = container.handle, container.header
    end = place.offset + place.size if place.size else (await handle.wait_open()).st_size
    tail_offset = max(place.offset, end - TAIL) if place.size else end
    try:
        head = memoryview(await handle.read(max(RECORD_HEAD, header.message_header_size + 15), place.offset))
        while True:
            tail = await handle.read(end - tail_offset, tail_offset) if tail_offset < end else b""
            if len(tail) < end - tail_offset:
                raise FormatError(
                    tail_offset + len(tail),
                    f"the file ends here, the map says that a message reaches to {end}",
                )
            found = parse_record(
                head, memoryview(tail), tail_offset, place.offset, end, header=header, whole=True
            )
            if isinstance(found, Record):
                return found
            tail_offset = found.offset
    except FormatError as exc:
        wrong = container.damage or exc
        raise CorruptFile(container.path, wrong.offset, wrong.reason) from exc
