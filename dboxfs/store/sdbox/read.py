"""single-dbox: each message is one file ``u.<uid>`` in its mailbox's directory (dbox-files section 5).

A message file is looked for in the mailbox directory, then in the alternative storage (dbox-files section
4).  It never changes once it has its name; Dovecot's repair replaces it by rename.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from dboxfs.dbox import (
    TRAILER_HEAD_SIZE,
    MessageHeader,
    NeedMore,
    begins_trailer,
    is_encrypted,
    parse_message_header,
    separator_of,
)
from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import FileSystem, Handle, Peek, PeekResult
from dboxfs.index.mailbox import MailboxHeader, mailbox_header
from dboxfs.store.attrs import DAMAGED, Facts, FactTable, Marks, Uids
from dboxfs.store.backend import DepartedFiles, Marked, MessageFiles, OpenRecord, Scanned, StateOf, scanned
from dboxfs.store.body_plain import PlainBody
from dboxfs.store.location import Location
from dboxfs.store.odd_files import odd_file
from dboxfs.store.prefetch import AheadFiles
from dboxfs.store.saved_dates import (
    READ_FOR_ALL,
    CachePlaces,
    SavedDates,
    cache_seq,
    load_saved_dates,
    look_again,
    offsets_of,
)
from dboxfs.store.sdbox.departed import DepartedHeldFiles, HeldFiles, read_record
from dboxfs.store.size_format import generation_of, marks_of_files
from dboxfs.store.stored_record import HEAD, TAIL, NeedRange, Record, damaged_facts, file_header, parse_record
from dboxfs.store.usual_record import usual_body, usual_message

_RANGES = ((0, HEAD), (-TAIL, None))


class SdboxBackend:
    """The message files of an sdbox store: each mailbox has its own."""

    def __init__(self, fs: FileSystem, location: Location, ahead: AheadFiles) -> None:
        self._fs = fs
        self._location = location
        self._ahead = ahead
        self._held = HeldFiles(fs)

    def mailbox(self, name: str, state: StateOf) -> MessageFiles:
        """The message files of a mailbox."""
        return SdboxFiles(self._fs, self._location, name, self._ahead, state, self._held)

    def map_changed(self) -> None:
        """An sdbox has no map."""

    def read_anew(self) -> None:
        """Mailboxes of an sdbox share no file."""

    def keep_departed(self) -> None:
        """From now on an expunged message stays readable if a program was about to open it."""
        self._held.wanted = True

    def close(self) -> None:
        """Close the files that are held."""
        self._held.close()


def _no_index() -> None:
    """There is no index, or the caller does not need it."""


class SdboxFiles:
    """The ``u.N`` files of one mailbox.  The saved date of a message is the ctime of its file, unless Dovecot
    remembers another one (``saved_dates.py``).

    :param state: gives the state of the mailbox's index.
    """

    marks_at_once = 1024
    flags_tell_moves = True  # an altmove is an update of the message's flags

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        name: str,
        ahead: AheadFiles | None = None,
        state: StateOf = _no_index,
        held: HeldFiles | None = None,
    ) -> None:
        self._fs = fs
        self._root = location.root
        self._dir = location.mailbox_path(name)
        self._prefix = os.path.join(self._dir, "u.")
        self._alt = location.alt_mailbox_path(name)
        self.ahead_pays = False
        self._ahead = ahead if ahead is not None else AheadFiles(fs)
        self._state = state
        self._cache_path = location.cache_path(name)
        self.departed: DepartedFiles = DepartedHeldFiles(
            held if held is not None else HeldFiles(fs), self._paths
        )

    async def generation(self) -> bytes | None:
        """A value that changes when Dovecot has rebuilt the mailbox."""
        header = self._header()
        return generation_of(header.rebuild_count if header is not None else 0)

    def _header(self) -> MailboxHeader | None:
        state = self._state()
        return mailbox_header(state) if state is not None else None

    async def marks(self, uids: Uids) -> Marked:
        """The marks of the files of *uids* at present; the saved dates are their ctimes."""
        _, found = await self._peek(uids.tolist(), ())
        saved = [int(peek.stat.st_ctime) if isinstance(peek, PeekResult) else 0 for peek in found]
        return Marked(_marks(found), np.array(saved, np.int64))

    def _paths(self, uid: int) -> list[str]:
        paths = [f"{self._prefix}{uid}"]
        if self._alt is not None:
            paths.append(os.path.join(self._alt, f"u.{uid}"))
        return paths

    async def scan(self, uids: Uids, *, records: bool = True) -> list[Scanned]:
        """Read the attributes of *uids* that a listing needs, in one batch."""
        wanted = uids.tolist()
        paths, found = await self._peek(wanted, _RANGES)
        marks = _marks(found).tolist()
        return [
            (None if records else _usual(uid, peek, mark)) or await self._understand(uid, path, peek, mark)
            for uid, path, peek, mark in zip(wanted, paths, found, marks, strict=True)
        ]

    async def _peek(
        self, uids: list[int], ranges: tuple[tuple[int, int | None], ...]
    ) -> tuple[list[str], list[PeekResult | OSError]]:
        """For each message: the path where it was found or looked for first, and the result of the read."""
        paths = [f"{self._prefix}{uid}" for uid in uids]
        found = await self._fs.peek([Peek(path, ranges, nofollow=True) for path in paths])
        if self._alt is not None:
            missing = [i for i, peek in enumerate(found) if isinstance(peek, FileNotFoundError)]
            elsewhere = [self._paths(uids[i])[1] for i in missing]
            again = await self._fs.peek([Peek(path, ranges, nofollow=True) for path in elsewhere])
            for i, path, peek in zip(missing, elsewhere, again, strict=True):
                if not isinstance(peek, FileNotFoundError):
                    found[i], paths[i] = peek, path
        return paths, found

    async def _understand(self, uid: int, path: str, peek: PeekResult | OSError, mark: int) -> Scanned:
        if isinstance(peek, FileNotFoundError):
            return Scanned(
                uid, None, None, CorruptFile(path, 0, "the index names this message, but its file is missing")
            )
        if isinstance(peek, OSError):
            odd = odd_file(peek, path)
            return Scanned(uid, None if odd is None else Facts(DAMAGED, 0, 0, 0), None, odd or peek)
        saved = int(peek.stat.st_ctime)
        try:
            record = await self._record(path, peek)
            return scanned(uid, record, path, saved, mark)
        except FormatError as exc:
            return Scanned(uid, self._guess(peek, saved), None, CorruptFile(path, exc.offset, exc.reason))
        except OSError as exc:
            return Scanned(uid, None, None, exc)

    async def _record(self, path: str, peek: PeekResult) -> Record:
        head, tail = memoryview(peek.chunks[0]), memoryview(peek.chunks[1])
        size = peek.stat.st_size
        header = file_header(head)
        if len(head) < header.size + header.message_header_size and size > len(head):
            (peek,) = _good(
                await self._fs.peek([Peek(path, ((0, header.size + HEAD), (-TAIL, None)), nofollow=True)])
            )
            head, tail = memoryview(peek.chunks[0]), memoryview(peek.chunks[1])
        tail_offset = size - len(tail)
        while True:
            found = parse_record(
                head[header.size :], tail, tail_offset, header.size, size, header=header, whole=False
            )
            if isinstance(found, Record):
                return found
            (again,) = _good(await self._fs.peek([Peek(path, (_range(found),), nofollow=True)]))
            tail, tail_offset = memoryview(again.chunks[0]), found.offset

    @staticmethod
    def _guess(peek: PeekResult, saved: int) -> Facts:
        head, tail = memoryview(peek.chunks[0]), memoryview(peek.chunks[1])
        try:
            header = file_header(head)
        except FormatError:
            return Facts(DAMAGED, 0, 0, saved)
        return damaged_facts(head[header.size :], tail, header.size, peek.stat.st_size, header, saved)

    async def open(self, uid: int) -> OpenRecord:
        """Open the file of *uid* and find its record.

        :raises NoSuchMessage: there is no such file.
        :raises CorruptFile: it is damaged.
        """
        for path in self._paths(uid):
            handle = self._ahead.take(path)[1] or self._fs.open(path, nofollow=True)
            try:
                return OpenRecord(handle, path, await read_record(handle, path), handle.close)
            except FileNotFoundError:
                handle.close()
            except OSError as exc:
                handle.close()
                raise odd_file(exc, path) or exc from exc
            except BaseException:
                handle.close()
                raise
        raise NoSuchMessage(f"{self._paths(uid)[0]}: no such file")

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, known to be plain and of *size* bytes, if its file can be opened without waiting."""
        path = self._paths(uid)[0]
        brought, ahead = self._ahead.take(path)
        handle = ahead if ahead is not None else self._fs.open(path, nofollow=True)
        base, here = None, True
        try:
            base = _body_now(handle, size)
        except OSError:
            here = False
        except FormatError:
            pass  # open(), which may wait, reports the error
        self.ahead_pays = brought or not here
        if not here and handle.error is None:  # on its way: open() takes it from there
            self._ahead.put(path, handle)
            return None
        if base is not None:
            return PlainBody(handle, path, base, size, handle.close)
        handle.close()
        return None

    async def read_many(self, uids: Uids, sizes: list[int]) -> list[bytes | memoryview | None]:
        """Read the files of messages in one batch, spread over the workers."""
        wanted = [
            Peek(f"{self._prefix}{uid}", ((0, size + HEAD),), nofollow=True)
            for uid, size in zip(uids.tolist(), sizes, strict=True)
        ]
        found = await self._fs.peek(wanted)
        return [
            _body_in(peek.chunks[0], size) if isinstance(peek, PeekResult) else None
            for peek, size in zip(found, sizes, strict=True)
        ]

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """Empty: the uid is the place; a move of the file to the alternative storage changes the index."""
        return ()

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """Open the files of *uids*, in the background, and ask for their bytes."""
        wanted = zip(uids.tolist(), sizes, strict=True)
        self._ahead.bring([(f"{self._prefix}{uid}", size + HEAD + TAIL) for uid, size in wanted])

    async def saved_dates(self, uids: Uids, limit: int) -> SavedDates | None:
        """The saved dates of *uids* that ``dovecot.index.cache`` has."""
        state = self._state()
        if state is None:
            return None
        return await load_saved_dates(self._fs, self._cache_path, state, uids, limit)

    async def look_again_for_dates(self, facts: FactTable) -> Uids:
        """Dovecot may have cached saved dates since *facts* were read.  The uids whose date changed."""
        state = self._state()
        if state is None:
            return np.empty(0, np.uint32)
        return await look_again(self._fs, self._cache_path, state, facts)

    def cache_places(self) -> CachePlaces | None:
        """Where the cache file has messages."""
        state = self._state()
        if state is None:
            return None
        return CachePlaces(
            partial(offsets_of, state), cache_seq(state), lambda uids: self.saved_dates(uids, READ_FOR_ALL)
        )

    def attachment_suffix(self, uid: int) -> str:
        """``-<mailbox guid>-<uid>`` (dbox-files section 8)."""
        header = self._header()
        return f"-{header.guid.hex()}-{uid}" if header is not None else ""

    def where(self, path: str, record: Record) -> str:
        """``<path below the root> <offset> <bytes>``: the place of a record, for people."""
        return f"{os.path.relpath(path, self._root)} {record.offset} {record.end - record.offset}"

    def forget(self) -> None:
        """Close the files that were opened ahead."""
        self._ahead.drop(self._dir)


def _usual(uid: int, peek: PeekResult | OSError, mark: int) -> Scanned | None:
    """The answer for a usual message, without its record; None: it is not usual, or can't be read."""
    if isinstance(peek, OSError):
        return None
    head, tail = peek.chunks
    size = peek.stat.st_size
    found = usual_message(head, tail, size - len(tail), 0, size, int(peek.stat.st_ctime), whole=False)
    return None if found is None else Scanned(uid, found.facts, None, None, mark)


def _marks(found: list[PeekResult | OSError]) -> Marks:
    """The mark of each file, 0 for one that isn't there."""
    marks = np.zeros(len(found), np.uint64)
    there = [i for i, peek in enumerate(found) if isinstance(peek, PeekResult)]
    marks[there] = marks_of_files([peek.stat for peek in found if isinstance(peek, PeekResult)])
    return marks


def _body_in(data: bytes, size: int) -> memoryview | None:
    """The body of *size* bytes in the first bytes of a file; None: it isn't there."""
    try:
        base = usual_body(data, size) or _body_base(memoryview(data), size)
    except FormatError:
        return None
    return None if base is None or base + size > len(data) else memoryview(data)[base : base + size]


def _body_base(data: memoryview, size: int) -> int | None:
    """Where the body of *size* bytes begins, by the first bytes of its file; in format 3 also by the bytes
    behind the body.

    :raises FormatError: the file is damaged.
    """
    header = file_header(data)
    base = header.size + header.message_header_size
    head = data[header.size :]
    if header.version != 3:
        message = parse_message_header(head, header.message_header_size)
        plain = isinstance(message, MessageHeader) and message.body_size == size
        return base if plain and not is_encrypted(head[header.message_header_size :]) else None
    separator = separator_of(head)
    behind = data[base + size : base + size + TRAILER_HEAD_SIZE]
    good = isinstance(separator, bytes) and begins_trailer(behind, separator, size)
    return base if good else None


def _body_now(handle: Handle, size: int) -> int | None:
    """Where the body begins in a file whose message is stored in *size* bytes; None: the message is stored
    otherwise.

    :raises BlockingIOError: the bytes can't be read without waiting.
    :raises OSError, FormatError: the file can't be read, or is damaged.
    """
    head = _now(handle, HEAD, 0)
    header = file_header(head)
    base = header.size + header.message_header_size
    view = memoryview(head)[header.size :]
    if header.version != 3:
        message = parse_message_header(view, header.message_header_size)
        plain = isinstance(message, MessageHeader) and message.body_size == size
        return base if plain and not is_encrypted(view[header.message_header_size :]) else None
    separator = separator_of(view)
    if isinstance(separator, NeedMore):
        return None
    return base if begins_trailer(_now(handle, TRAILER_HEAD_SIZE, base + size), separator, size) else None


def _now(handle: Handle, size: int, offset: int) -> bytes:
    data = handle.pread_now(size, offset)
    if data is None:
        raise BlockingIOError
    return data


def _range(need: NeedRange) -> tuple[int, int]:
    return need.offset, need.end - need.offset


def _good(results: list[PeekResult | OSError]) -> list[PeekResult]:
    for result in results:
        if isinstance(result, OSError):
            raise result
    return [result for result in results if isinstance(result, PeekResult)]
