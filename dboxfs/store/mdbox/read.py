"""multi-dbox: many messages in each ``storage/m.<file_id>``, found through the map (mdbox-map).

mailbox record -> ``map_uid`` -> map record -> (file_id, offset, size) -> ``m.<file_id>`` in the storage,
else in the alternative storage.  A purge writes the live messages of a file into another one, changes the
map and unlinks the file: whoever finds file or record missing reads the map again and tries once more.  An
open handle goes on reading the old file, whose bytes don't change.

The map is read after the mailbox (a map uid that is not there yet may just be newer than our map), lazily:
a change of the map only sets a flag.

Handles of ``m.N`` files are shared between the messages that are open in them, and the last few are kept
open.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from dboxfs.dbox import (
    TRAILER_HEAD_SIZE,
    FileHeader,
    MessageHeader,
    begins_trailer,
    parse_message_header,
    separator_of,
)
from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import FileSystem, Handle, Peek, PeekResult
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.attrs import DAMAGED, Facts, Marks, Uids
from dboxfs.store.backend import Marked, Opened, Scanned, odd_file, scanned
from dboxfs.store.indexes.follow import Delta, IndexFiles
from dboxfs.store.location import Location
from dboxfs.store.plain import PlainBody
from dboxfs.store.record import (
    FILE_HEAD,
    LOST_HEADER,
    RECORD_HEAD,
    TAIL,
    NeedRange,
    Record,
    damaged_facts,
    file_header,
    parse_record,
)
from dboxfs.store.size_format import generation_of, marks_of

KEEP_OPEN = 32
"""How many ``m.N`` files stay open without an open message in them."""

_GAP = 64 << 10

MapUids = Callable[[Uids], tuple[np.ndarray, np.ndarray]]
"""uids of a mailbox -> (map_uid, save_date) of each; 0 where the mailbox has none."""

Guids = Callable[[Uids], npt.NDArray[np.uint8]]
"""uids of a mailbox -> the GUID of each, uint8[n, 16]; zeros where the mailbox has none."""


@dataclass(slots=True)
class _Container:
    """One open ``m.N`` and how many messages are open in it.  ``damage``: of its header line."""

    path: str
    handle: Handle
    header: FileHeader
    damage: FormatError | None
    users: int = 0
    stale: bool = False


class MdboxStorage:
    """The storage that all mailboxes of an mdbox store share: the map and the ``m.N`` files."""

    def __init__(self, fs: FileSystem, location: Location) -> None:
        self.fs = fs
        self.location = location
        self.index = IndexFiles(fs, location.map_dir, "dovecot.map.index")
        self.changed = True
        self.index.changed = self._fed
        self._map: MapIndex | None = None
        self._open: OrderedDict[int, _Container] = OrderedDict()

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
        """A writer of this process has changed the map, or read it."""
        if self._map is not None and self.index.state is not None:
            self._take(delta)

    def _take(self, delta: Delta) -> None:
        assert self.index.state is not None
        if self._map is None or self._map.state is not self.index.state:
            self._map = MapIndex(self.index.state)
        if delta.reloaded or len(delta.expunged) or len(delta.updated):
            self._drop_purged(self._map)

    def _drop_purged(self, mapping: MapIndex) -> None:
        """Give back the files that a purge has taken out of the map: they hold disk space."""
        if self._open:
            named = set(np.unique(mapping.file_ids).tolist())
            for file_id in [file_id for file_id in self._open if file_id not in named]:
                self.drop(file_id)

    def place_now(self, map_uid: int) -> MapRecord | None:
        """Where *map_uid* lies, by the map as it was read last; None when it has to be read again."""
        return None if self.changed or self._map is None else self._map.lookup(map_uid)

    def container_now(self, file_id: int) -> _Container | None:
        """``m.<file_id>`` if it is open."""
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
        """Where ``m.<file_id>`` may be, in the order of looking."""
        name = f"m.{file_id}"
        paths = [os.path.join(self.location.storage, name)]
        if self.location.alt_storage is not None:
            paths.append(os.path.join(self.location.alt_storage, name))
        return paths

    async def container(self, file_id: int) -> _Container:
        """``m.<file_id>``, open; give it back with :meth:`release`.

        :raises FileNotFoundError: in neither storage.
        """
        found = self._open.get(file_id)
        if found is None or found.stale:
            found = await self._open_container(file_id)
            other = self._open.get(file_id)
            if other is not None and not other.stale:  # somebody else opened it meanwhile
                found.handle.close()
                found = other
            else:
                self._open[file_id] = found
        found.users += 1
        self._open.move_to_end(file_id)
        self._trim()
        return found

    async def _open_container(self, file_id: int) -> _Container:
        for path in self.paths(file_id):
            handle = self.fs.open(path, nofollow=True)
            try:
                await handle.wait_open()
                return _Container(path, handle, *_header(await handle.read(FILE_HEAD, 0)))
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
        """The record of a message, as the map knows its place.

        :raises CorruptFile: it is damaged.
        :raises FileNotFoundError: its file is in neither storage.
        """
        container = await self.container(place.file_id)
        try:
            return await _read_record(container, place)
        finally:
            self.release(place.file_id, container)

    def release(self, file_id: int, container: _Container) -> None:
        """Give *container* back."""
        container.users -= 1
        if container.users == 0 and self._open.get(file_id) is not container:
            container.handle.close()
        else:
            self._trim()

    def drop(self, file_id: int) -> None:
        """Open ``m.<file_id>`` anew next time: its name may mean another file now."""
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

    def close(self) -> None:
        """Close every file that no message is open in; the others close with their messages."""
        for file_id in list(self._open):
            self.drop(file_id)


class MdboxFiles:
    """The messages of one mailbox in the storage.

    :param map_uids: gives map uid and saved date for uids of the mailbox.
    :param map_uid: gives the map uid of one uid, 0 where there is none.
    :param guids: gives the GUIDs of messages as the mailbox's index has them.
    """

    marks_at_once = 16384

    def __init__(
        self, storage: MdboxStorage, map_uids: MapUids, map_uid: Callable[[int], int], guids: Guids
    ) -> None:
        self._storage = storage
        self._map_uids = map_uids
        self._map_uid = map_uid
        self._guids = guids
        self.ahead_pays = True  # what is in memory already is found out a range at a time, which costs little

    # -- marks ---------------------------------------------------------------------------------

    async def generation(self) -> bytes | None:
        """Changes when Dovecot has rebuilt the storage or made the map anew."""
        mapping = await self._storage.map()
        return generation_of(mapping.state.indexid, mapping.uid_validity, mapping.rebuild_count)

    async def marks(self, uids: Uids) -> Marked:
        """What is stored for *uids* at present, by index and map; no message is read."""
        mapping = await self._storage.map()
        map_uids, saved = self._map_uids(uids)
        return Marked(_marks(mapping, map_uids, self._guids(uids)), saved.astype(np.int64))

    # -- scanning ------------------------------------------------------------------------------

    async def scan(self, uids: Uids) -> list[Scanned]:
        """Read what a listing needs of *uids*, in one batch: neighbours in a file share a read."""
        answers = await self._scan_once(uids, fresh=False)
        again = [
            i for i, answer in enumerate(answers) if isinstance(answer.error, CorruptFile | NoSuchMessage)
        ]
        if again:  # the map may have changed between looking and reading
            for i, answer in zip(again, await self._scan_once(uids[again], fresh=True), strict=True):
                answers[i] = answer
        return answers

    async def _scan_once(self, uids: Uids, *, fresh: bool) -> list[Scanned]:
        mapping = await self._storage.map(fresh=fresh)
        map_uids, saved = self._map_uids(uids)
        guids = self._guids(uids)
        marks = _marks(mapping, map_uids, guids).tolist()
        wanted: list[_Wanted] = []
        answers: dict[int, Scanned] = {}
        columns = zip(uids.tolist(), map_uids.tolist(), saved.tolist(), marks, guids, strict=True)
        for uid, map_uid, when, mark, guid in columns:
            place = mapping.lookup(map_uid)
            if place is None:
                answers[uid] = Scanned(uid, None, None, self._unmapped(uid, map_uid))
            else:
                wanted.append(_Wanted(uid, when, place, guid.tobytes(), mark))
        wanted.sort(key=lambda want: (want.place.file_id, want.place.offset))
        for one in await self._read(wanted):
            answers[one.uid] = one
        return [answers[uid] for uid in uids.tolist()]

    def _unmapped(self, uid: int, map_uid: int) -> CorruptFile:
        return CorruptFile(
            self._storage.index.log_path,
            0,
            f"uid {uid} refers to map uid {map_uid}, which the map doesn't have",
        )

    async def _read(self, wanted: list[_Wanted]) -> list[Scanned]:
        groups: dict[int, list[_Wanted]] = {}
        for want in wanted:
            groups.setdefault(want.place.file_id, []).append(want)
        files = list(groups.items())
        found = await self._peek([(self._storage.paths(file_id)[0], group) for file_id, group in files])
        if self._storage.location.alt is not None:
            missing = [i for i, peek in enumerate(found) if isinstance(peek, FileNotFoundError)]
            elsewhere = [(self._storage.paths(files[i][0])[1], files[i][1]) for i in missing]
            for i, peek in zip(missing, await self._peek(elsewhere), strict=True):
                found[i] = peek
        answers: list[Scanned] = []
        for (file_id, group), peek in zip(files, found, strict=True):
            answers += await self._understand(self._storage.paths(file_id)[0], group, peek)
        return answers

    async def _peek(self, files: list[tuple[str, list[_Wanted]]]) -> list[PeekResult | OSError]:
        return (
            await self._storage.fs.peek([Peek(path, _ranges(group), nofollow=True) for path, group in files])
            if files
            else []
        )

    async def _understand(self, path: str, group: list[_Wanted], peek: PeekResult | OSError) -> list[Scanned]:
        if isinstance(peek, FileNotFoundError):
            error: CorruptFile | OSError = CorruptFile(path, 0, "the map names this file, but it is missing")
            return [Scanned(want.uid, None, None, error) for want in group]
        if isinstance(peek, OSError):
            odd = odd_file(peek, path)
            facts = [None if odd is None else Facts(DAMAGED, 0, 0, want.saved) for want in group]
            return [Scanned(w.uid, f, None, odd or peek) for w, f in zip(group, facts, strict=True)]
        header, damage = _header(peek.chunks[0])
        chunks = dict(zip([at for at, _ in _ranges(group)], peek.chunks, strict=True))
        pieces = _Pieces(chunks)
        found = [await self._one(path, want, header, pieces, peek.stat.st_size) for want in group]
        if damage is not None:
            error = CorruptFile(path, damage.offset, damage.reason)
            return [one if one.record is not None else Scanned(one.uid, None, None, error) for one in found]
        return found

    async def _one(
        self, path: str, want: _Wanted, header: FileHeader, pieces: _Pieces, file_size: int
    ) -> Scanned:
        place = want.place
        end = place.offset + place.size if place.size else file_size
        head = pieces.get(place.offset, RECORD_HEAD)
        tail_offset = max(place.offset, end - TAIL)
        tail = pieces.get(tail_offset, end - tail_offset)
        if place.size == 0:  # larger than the map can say: its end is the end of the file
            tail_offset, tail = end, memoryview(b"")
        try:
            if end > file_size:
                raise FormatError(
                    file_size, f"the file ends here, the map says that a message reaches to {end}"
                )
            found = parse_record(head, tail, tail_offset, place.offset, end, header=header, whole=True)
            while isinstance(found, NeedRange):
                (again,) = await self._storage.fs.peek(
                    [Peek(path, ((found.offset, found.end - found.offset),), nofollow=True)]
                )
                if isinstance(again, OSError):
                    return Scanned(want.uid, None, None, again)
                tail, tail_offset = memoryview(again.chunks[0]), found.offset
                found = parse_record(head, tail, tail_offset, place.offset, end, header=header, whole=True)
            mark = want.mark if found.metadata.guid128 == want.guid else 0
            return scanned(want.uid, found, path, want.saved, mark)
        except FormatError as exc:
            guess = damaged_facts(head, tail, place.offset, end, header, want.saved)
            return Scanned(want.uid, guess, None, CorruptFile(path, exc.offset, exc.reason))

    # -- opening -------------------------------------------------------------------------------

    async def open(self, uid: int) -> Opened:
        """Open the file that holds *uid* and find its record; looks into a fresh map before it gives up."""
        try:
            return await self._open_once(uid, fresh=False)
        except (CorruptFile, FileNotFoundError, NoSuchMessage):
            return await self._open_again(uid)

    async def _open_again(self, uid: int) -> Opened:
        try:
            return await self._open_once(uid, fresh=True)
        except FileNotFoundError as exc:
            raise CorruptFile(str(exc.filename), 0, "the map names this file, but it is missing") from exc

    async def _open_once(self, uid: int, *, fresh: bool) -> Opened:
        mapping = await self._storage.map(fresh=fresh)
        map_uids, _ = self._map_uids(np.array([uid], np.uint32))
        map_uid = int(map_uids[0])
        if map_uid == 0:
            raise NoSuchMessage(f"uid {uid}: not in the mailbox")
        place = mapping.lookup(map_uid)
        if place is None:
            raise self._unmapped(uid, map_uid)
        if fresh:
            self._storage.drop(place.file_id)
        container = await self._storage.container(place.file_id)
        try:
            record = await _read_record(container, place)
        except BaseException:
            self._storage.release(place.file_id, container)
            raise
        return Opened(
            container.handle, container.path, record, lambda: self._storage.release(place.file_id, container)
        )

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, known to be plain and of *size* bytes, if its ``m.N`` is open and its header in memory."""
        place = self._storage.place_now(self._map_uid(uid))
        container = self._storage.container_now(place.file_id) if place is not None else None
        if place is None or container is None:
            return None
        header_size = container.header.message_header_size
        try:
            head = container.handle.pread_now(header_size, place.offset)
            if head is None:
                return None
            if container.header.version != 3:
                message = parse_message_header(head, header_size)
                if not isinstance(message, MessageHeader) or message.body_size != size:
                    return None
            elif not _has_size3(container, head, place.offset, size):
                return None
        except (FormatError, OSError):
            return None
        container.users += 1
        release = partial(self._storage.release, place.file_id, container)
        return PlainBody(container.handle, container.path, place.offset + header_size, size, release)

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """(file_id, offset) of *uid*, if the map is up to date."""
        place = self._storage.place_now(self._map_uid(uid))
        return None if place is None else (place.file_id, place.offset)

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """Ask for the records of *uids* in as few ranges of their files as possible."""
        map_uids, _ = self._map_uids(uids)
        for file_id, start, end in self._storage.ranges_now(map_uids):
            container = self._storage.container_now(file_id)
            if container is not None:
                container.handle.willneed(start, end - start)

    def where(self, opened: Opened) -> str:
        """``<path below the root> <offset> <bytes>``: where the record lies, for people."""
        path = os.path.relpath(opened.path, self._storage.location.root)
        return f"{path} {opened.record.offset} {opened.record.end - opened.record.offset}"

    def forget(self) -> None:
        """Look into the map again before the next message is located."""
        self._storage.changed = True


def _header(head: bytes) -> tuple[FileHeader, FormatError | None]:
    """The header line of an ``m.N``, and what is wrong with it."""
    try:
        return file_header(head), None
    except FormatError as exc:
        return LOST_HEADER, exc


def _has_size3(container: _Container, head: bytes, offset: int, size: int) -> bool:
    """Whether the body of the format 3 record at *offset* has *size* bytes, by what is in memory.

    :raises FormatError, OSError: it is damaged, or can't be read.
    """
    separator = separator_of(head)
    behind = offset + container.header.message_header_size + size
    trailer = container.handle.pread_now(TRAILER_HEAD_SIZE, behind)
    return trailer is not None and isinstance(separator, bytes) and begins_trailer(trailer, separator, size)


async def _read_record(container: _Container, place: MapRecord) -> Record:
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    uid: int
    saved: int
    place: MapRecord
    guid: bytes
    mark: int


def _marks(mapping: MapIndex, map_uids: np.ndarray, guids: npt.NDArray[np.uint8]) -> Marks:
    """The marks of messages; 0 for those that have no GUID, or no record of known size in the map."""
    rows = mapping.rows_of(map_uids)
    sizes = np.where(rows >= 0, mapping.sizes[rows], 0) if len(mapping) else np.zeros(len(rows), np.uint32)
    halves = np.ascontiguousarray(guids).view("<u8").astype(np.uint64, copy=False)
    marks = marks_of(halves[:, 0], halves[:, 1], map_uids.astype(np.uint64), sizes.astype(np.uint64))
    marks[(sizes == 0) | ~halves.any(axis=1)] = 0
    return marks


class _Pieces:
    """Ranges that were read of one file, found again by offset."""

    def __init__(self, chunks: dict[int, bytes]) -> None:
        self._starts = sorted(chunks)
        self._chunks = chunks

    def get(self, offset: int, size: int) -> memoryview:
        """Up to *size* bytes from *offset* on, as far as they were read in one piece."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0:
            return memoryview(b"")
        start = self._starts[at]
        return memoryview(self._chunks[start])[offset - start : offset - start + size]


def _ranges(group: list[_Wanted]) -> tuple[tuple[int, int | None], ...]:
    """What to read of one file for *group* (ascending by offset): its header line, the ends of each record.

    The tail of one record and the head of the next are one range where they touch.
    """
    parts: list[tuple[int, int]] = []
    for want in group:
        place = want.place
        end = place.offset + place.size
        parts.append((place.offset, place.offset + RECORD_HEAD))
        if place.size:
            parts.append((max(place.offset, end - TAIL), end))
    ranges: list[list[int]] = [[0, FILE_HEAD]]
    for start, stop in sorted(parts):
        if start <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], stop)
        else:
            ranges.append([start, stop])
    return tuple((start, stop - start) for start, stop in ranges)
