"""multi-dbox: the messages of one mailbox in the storage.

mailbox record -> ``map_uid`` -> map record -> (file_id, offset, size) -> ``m.<file_id>``: the first two steps
are in the index and the map, the last ones in the files (:mod:`dboxfs.store.mdbox.storage`).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import suppress
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import trio
from msgspec import Struct

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE,
    TRAILER_HEAD_SIZE,
    FileHeader,
    MessageHeader,
    begins_trailer,
    guid128_of,
    parse_message_header,
    separator_of,
)
from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import Peek, PeekResult
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.attrs import DAMAGED, Facts, FactTable, Marks, Uids
from dboxfs.store.backend import DepartedFiles, Marked, MessageFiles, OpenRecord, Scanned, StateOf, scanned
from dboxfs.store.body_plain import PlainBody
from dboxfs.store.mdbox.departed import DepartedPlaces
from dboxfs.store.mdbox.read_many import read_run, runs
from dboxfs.store.mdbox.storage import MailboxColumns, MdboxStorage, OpenContainer, read_record, split_header
from dboxfs.store.odd_files import odd_file
from dboxfs.store.saved_dates import CachePlaces, SavedDates
from dboxfs.store.size_format import generation_of, marks_of_records
from dboxfs.store.stale import looks_again
from dboxfs.store.stored_record import (
    FILE_HEAD,
    RECORD_HEAD,
    TAIL,
    NeedRange,
    Record,
    damaged_facts,
    parse_record,
)
from dboxfs.store.usual_record import usual_message

_Ranges = tuple[tuple[int, int | None], ...]
"""(offset, bytes) of the parts of a file that are read."""


class MdboxBackend:
    """The message files of an mdbox store: all mailboxes share its storage."""

    def __init__(self, storage: MdboxStorage) -> None:
        self._storage = storage

    def mailbox(self, name: str, state: StateOf) -> MessageFiles:
        """The messages of a mailbox."""
        return MdboxFiles(self._storage, MailboxColumns(state))

    def map_changed(self) -> None:
        """From now on the map counts as changed: it is read again before the next message is located."""
        self._storage.changed = True

    def read_anew(self) -> None:
        """Map and files are read again before the next message is located."""
        self._storage.read_anew()

    def keep_departed(self) -> None:
        """From now on expunged messages stay readable."""
        self._storage.keeps_departed = True

    def close(self) -> None:
        """Close the files in which no message is open."""
        self._storage.close()


class MdboxFiles:
    """The messages of one mailbox in the storage.

    :param columns: of the mailbox's index.
    """

    marks_at_once = 16384
    flags_tell_moves = False  # the map says where a message is

    def __init__(self, storage: MdboxStorage, columns: MailboxColumns) -> None:
        self._storage = storage
        self._columns = columns
        self.departed: DepartedFiles = DepartedPlaces(storage, columns)
        self.ahead_pays = True  # one check for each range shows whether it is in memory: it costs little

    # -- marks ---------------------------------------------------------------------------------

    async def generation(self) -> bytes | None:
        """A value that changes when Dovecot has rebuilt the storage or created a new map."""
        mapping = await self._storage.map()
        return generation_of(*mapping.identity)

    async def marks(self, uids: Uids) -> Marked:
        """The marks and saved dates of *uids* at present, by index and map; no message is read."""
        mapping = await self._storage.map()
        map_uids, saved = self._columns.map_uids(uids)
        return Marked(_marks(mapping, map_uids, self._columns.guids(uids)), saved.astype(np.int64))

    # -- scanning ------------------------------------------------------------------------------

    async def scan(self, uids: Uids, *, records: bool = True) -> list[Scanned]:
        """Read the attributes of *uids* that a listing needs, in one batch; neighbours in a file share a
        read.
        """
        answers = await self._scan_once(uids, fresh=False, records=records)
        for wait in chain((0.0,), looks_again(self._storage.location.storage)):
            kinds = CorruptFile if wait else CorruptFile | NoSuchMessage
            again = [i for i, answer in enumerate(answers) if isinstance(answer.error, kinds)]
            if not again:
                break
            if wait:
                await trio.sleep(wait)
            # the map may have changed between looking and reading
            found = await self._scan_once(uids[again], fresh=True, records=records)
            for i, answer in zip(again, found, strict=True):
                answers[i] = answer
        return answers

    async def _scan_once(self, uids: Uids, *, fresh: bool, records: bool) -> list[Scanned]:
        mapping = await self._storage.map(fresh=fresh)
        map_uids, saved = self._columns.map_uids(uids)
        guids = self._columns.guids(uids)
        marks = _marks(mapping, map_uids, guids).tolist()
        wanted: list[_Wanted] = []
        answers: dict[int, Scanned] = {}
        places, flat = mapping.lookup_many(map_uids), guids.tobytes()
        columns = zip(uids.tolist(), map_uids.tolist(), saved.tolist(), marks, places, strict=True)
        for number, (uid, map_uid, when, mark, place) in enumerate(columns):
            if place is None:
                answers[uid] = Scanned(uid, None, None, self._unmapped(uid, map_uid))
            else:
                wanted.append(_Wanted(uid, when, place, flat[number * 16 : number * 16 + 16], mark))
        wanted.sort(key=lambda want: (want.place.file_id, want.place.offset))
        for one in await self._read(wanted, records=records):
            answers[one.uid] = one
        return [answers[uid] for uid in uids.tolist()]

    def _unmapped(self, uid: int, map_uid: int) -> CorruptFile:
        return CorruptFile(
            self._storage.index.log_path,
            0,
            f"uid {uid} refers to map uid {map_uid}, which the map doesn't have",
        )

    async def _read(self, wanted: list[_Wanted], *, records: bool) -> list[Scanned]:
        groups: dict[int, list[_Wanted]] = {}
        for want in wanted:
            groups.setdefault(want.place.file_id, []).append(want)
        files = list(groups.items())
        ranges = [_ranges(group) for _, group in files]
        paths = [self._storage.paths(file_id)[0] for file_id, _ in files]
        found = await self._peek(list(zip(paths, ranges, strict=True)))
        if self._storage.location.alt is not None:
            missing = [i for i, peek in enumerate(found) if isinstance(peek, FileNotFoundError)]
            elsewhere = [(self._storage.paths(files[i][0])[1], ranges[i]) for i in missing]
            for i, peek in zip(missing, await self._peek(elsewhere), strict=True):
                found[i] = peek
        answers: list[Scanned] = []
        for path, (_, group), some, peek in zip(paths, files, ranges, found, strict=True):
            answers += await self._understand(path, group, some, peek, records=records)
        return answers

    async def _peek(self, files: list[tuple[str, _Ranges]]) -> list[PeekResult | OSError]:
        if not files:
            return []
        return await self._storage.fs.peek([Peek(path, ranges, nofollow=True) for path, ranges in files])

    async def _understand(
        self, path: str, group: list[_Wanted], ranges: _Ranges, peek: PeekResult | OSError, *, records: bool
    ) -> list[Scanned]:
        if isinstance(peek, FileNotFoundError):
            error: CorruptFile | OSError = CorruptFile(path, 0, "the map names this file, but it is missing")
            return [Scanned(want.uid, None, None, error) for want in group]
        if isinstance(peek, OSError):
            odd = odd_file(peek, path)
            facts = [None if odd is None else Facts(DAMAGED, 0, 0, want.saved) for want in group]
            return [Scanned(w.uid, f, None, odd or peek) for w, f in zip(group, facts, strict=True)]
        header, damage = split_header(peek.chunks[0])
        pieces = _Pieces(dict(zip([at for at, _ in ranges], peek.chunks, strict=True)))
        size = peek.stat.st_size
        usual = not records and damage is None and header.version != 3
        usual = usual and header.message_header_size == MESSAGE_HEADER_SIZE
        found = [
            (_usual(want, pieces, size) if usual else None)
            or await self._one(path, want, header, pieces, size)
            for want in group
        ]
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

    async def open(self, uid: int) -> OpenRecord:
        """Open the file that holds *uid* and find its record; on a failure the map is read again, and it is
        tried once more.
        """
        try:
            return await self._open_once(uid, fresh=False)
        except (CorruptFile, FileNotFoundError, NoSuchMessage):
            pass
        for wait in looks_again(self._storage.location.storage):
            with suppress(CorruptFile):
                return await self._open_again(uid)
            await trio.sleep(wait)
        return await self._open_again(uid)

    async def _open_again(self, uid: int) -> OpenRecord:
        try:
            return await self._open_once(uid, fresh=True)
        except FileNotFoundError as exc:
            raise CorruptFile(str(exc.filename), 0, "the map names this file, but it is missing") from exc

    async def _open_once(self, uid: int, *, fresh: bool) -> OpenRecord:
        mapping = await self._storage.map(fresh=fresh)
        map_uids, _ = self._columns.map_uids(np.array([uid], np.uint32))
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
            record = await read_record(container, place)
        except BaseException:
            self._storage.release(place.file_id, container)
            raise
        return OpenRecord(
            container.handle, container.path, record, lambda: self._storage.release(place.file_id, container)
        )

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, known to be plain and of *size* bytes, if its ``m.N`` is open and its header in memory."""
        place = self._storage.place_now(self._columns.map_uid(uid))
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

    async def read_many(self, uids: Uids, sizes: list[int]) -> list[bytes | memoryview | None]:
        """Read messages: neighbours in a file share one large read."""
        mapping = await self._storage.map()
        map_uids, _ = self._columns.map_uids(uids)
        found: list[bytes | memoryview | None] = [None] * len(uids)
        for file_id, run in runs(mapping, mapping.rows_of(map_uids)).items():
            try:
                container = await self._storage.container(file_id)
            except (OSError, CorruptFile):
                continue
            try:
                bodies = await read_run(container.handle, container.header, run, sizes)
            finally:
                self._storage.release(file_id, container)
            for number, body in bodies:
                found[number] = body
        return found

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """(file_id, offset) of *uid*, if the map is up to date."""
        place = self._storage.place_now(self._columns.map_uid(uid))
        return None if place is None else (place.file_id, place.offset)

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """Ask for the records of *uids* in as few ranges of their files as possible."""
        map_uids, _ = self._columns.map_uids(uids)
        for file_id, start, end in self._storage.ranges_now(map_uids):
            container = self._storage.container_now(file_id)
            if container is not None:
                container.handle.willneed(start, end - start)

    async def saved_dates(self, uids: Uids, limit: int) -> SavedDates | None:
        """None: the index itself has the saved dates."""
        return None

    async def look_again_for_dates(self, facts: FactTable) -> Uids:
        """Empty: the dates in the index don't change."""
        return np.empty(0, np.uint32)

    def cache_places(self) -> CachePlaces | None:
        """None: the cache file is not needed."""
        return None

    def attachment_suffix(self, uid: int) -> str:
        """Empty: the metadata have the whole name."""
        return ""

    def where(self, path: str, record: Record) -> str:
        """``<path below the root> <offset> <bytes>``: the place of a record, for people."""
        below = os.path.relpath(path, self._storage.location.root)
        return f"{below} {record.offset} {record.end - record.offset}"

    def forget(self) -> None:
        """Have the map read again before the next message is located."""
        self._storage.changed = True


def _has_size3(container: OpenContainer, head: bytes, offset: int, size: int) -> bool:
    """Whether the body of the format 3 record at *offset* has *size* bytes; False if the bytes are not in
    memory.

    :raises FormatError, OSError: it is damaged, or can't be read.
    """
    separator = separator_of(head)
    behind = offset + container.header.message_header_size + size
    trailer = container.handle.pread_now(TRAILER_HEAD_SIZE, behind)
    return trailer is not None and isinstance(separator, bytes) and begins_trailer(trailer, separator, size)


class _Wanted(Struct, frozen=True):
    uid: int
    saved: int
    place: MapRecord
    guid: bytes
    mark: int


def _usual(want: _Wanted, pieces: _Pieces, file_size: int) -> Scanned | None:
    """The answer for a usual message, without its record; None: it is not usual, or can't be read."""
    offset, end = want.place.offset, want.place.offset + want.place.size
    if not want.place.size or end > file_size:
        return None
    tail_offset = max(offset, end - TAIL)
    head, tail = pieces.get(offset, RECORD_HEAD), pieces.get(tail_offset, end - tail_offset)
    found = usual_message(head, tail, tail_offset, offset, end, want.saved, whole=True)
    if found is None:
        return None
    return Scanned(want.uid, found.facts, None, None, want.mark if guid128_of(found.guid) == want.guid else 0)


def _marks(mapping: MapIndex, map_uids: np.ndarray, guids: npt.NDArray[np.uint8]) -> Marks:
    """The marks of messages; 0 for those that have no GUID, or no record of known size in the map."""
    rows = mapping.rows_of(map_uids)
    sizes = np.where(rows >= 0, mapping.sizes[rows], 0) if len(mapping) else np.zeros(len(rows), np.uint32)
    return marks_of_records(guids, map_uids, sizes)


class _Pieces:
    """The ranges that were read of one file, looked up by offset."""

    def __init__(self, chunks: dict[int, bytes]) -> None:
        self._starts = sorted(chunks)
        self._chunks = chunks

    def get(self, offset: int, size: int) -> memoryview:
        """Up to *size* bytes from *offset* on, as far as one range has them."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0:
            return memoryview(b"")
        start = self._starts[at]
        return memoryview(self._chunks[start])[offset - start : offset - start + size]


def _ranges(group: list[_Wanted]) -> _Ranges:
    """The ranges to read of one file for *group* (ascending by offset): its header line and both ends of each
    record.

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
