"""Reading the files of names: see :mod:`dboxfs.store.names.files`."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Callable

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.fsapi import Peek, PeekResult
from dboxfs.fsapi.temporary import Process, lives
from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.location import WRITTEN_NAMES
from dboxfs.store.names.codec import Line, decode_lines
from dboxfs.store.names.table import WrittenNames
from dboxfs.util.coalesce import CoalescedRuns
from dboxfs.util.lock import Lock

log = logging.getLogger(__name__)

DIRECTORY = WRITTEN_NAMES
"""The directory with one file a mailbox."""

_MOST = 1 << 30
_LINE_KEPT = 1 << 10  # bytes that are remembered of a line: more than any valid one has
_GUID = re.compile("[0-9a-f]{32}")
_LOOKS = 3
_REMEMBERED = 0.005
"""Seconds for which a process counts as running without another check."""

QUIET_SECONDS = 0.05
"""Seconds after a line of this process in which its file is not read for lines of other mounts."""


class Seen(Struct, frozen=True):
    """The part of a file that was read: device and inode, the end of the last whole line, and that line.

    A rewritten file may have the inode number of the one before.  So it counts as the same file only if it
    has the same line in the same place.
    """

    identity: tuple[int, int] | None = None
    end: int = 0
    last: bytes = b""

    @property
    def start(self) -> int:
        """The offset of the last line: the next read begins there."""
        return self.end - len(self.last)

    def behind(self, status: os.stat_result, data: bytes) -> bytes | None:
        """The bytes of a file behind the part that was read; None: it is another file.

        :param data: the bytes of the file from ``start`` on.
        """
        same = self.end and (status.st_dev, status.st_ino) == self.identity and data.startswith(self.last)
        return data[len(self.last) :] if same else None

    def after(self, data: bytes) -> Seen:
        """This, extended by the whole lines of *data*, which follow it."""
        whole = data.rfind(b"\n") + 1
        if not whole:
            return self
        begin = data.rfind(b"\n", 0, whole - 1) + 1
        return replace(self, end=self.end + whole, last=data[max(begin, whole - _LINE_KEPT) : whole])

    def has_grown(self, now: Seen) -> bool:
        """Whether more was read since, or another file."""
        return now.end != self.end or (bool(self.end) and now != self)


NOTHING_SEEN = Seen()
"""No file, or no part of it."""


class ReadSoFar(Struct):
    """The state of reading a file.

    ``skipped``: invalid lines in it.  ``looks``: coalesces tasks that wait until it was read again.
    ``is_told``: an error of reading it was logged, and no read has succeeded since.  ``quiet_until``: this
    process has just written it, and each of its writes also reads other mounts' lines.
    """

    lock: Lock
    looks: CoalescedRuns
    seen: Seen = NOTHING_SEEN
    skipped: int = 0
    is_told: bool = False
    quiet_until: float = 0.0

    def anew(self) -> None:
        """Let the next read begin at the start of the file."""
        self.seen = Seen(self.seen.identity)


Changed = Callable[[Folder, set[bytes]], None]


def _nobody(folder: Folder, names: set[bytes]) -> None:
    """Do nothing: no listener was set."""


class Writers:
    """Finds out which writers of names still run.

    :ivar token: the token of this process.
    """

    def __init__(self) -> None:
        self._here = Process.this()
        self.token = self._here.token
        self._seen: dict[str, float] = {}

    def lives(self, token: str) -> bool:
        """Whether the process with this token still runs."""
        if token == self.token:
            return True
        now = trio.current_time()
        if now - self._seen.get(token, -1.0) < _REMEMBERED:
            return True
        if token in self._seen and self._seen[token] < 0:
            return False
        self._seen[token] = now if lives(token, self._here) else -1.0
        return self._seen[token] >= 0


class NameReader:
    """Reads the files of one store into ``names``.

    :ivar changed: called with the names in a folder that may have another meaning, since another mount has
        written.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.writers = Writers()
        self.names = WrittenNames(self.writers.lives)
        self.changed: Changed = _nobody
        self.directory = os.path.join(store.location.control_dir, DIRECTORY)
        self._places: dict[bytes, ReadSoFar] = {}
        self._behind: dict[bytes, int] = {}
        self._notes = itertools.count()

    @property
    def skipped(self) -> int:
        """Number of invalid lines in all files."""
        return sum(place.skipped for place in self._places.values())

    def path(self, box: Mailbox) -> str:
        """The file of a mailbox."""
        return os.path.join(self.directory, (box.guid or b"").hex())

    def place(self, box: Mailbox) -> ReadSoFar:
        """The state of reading the file of a mailbox."""
        assert box.guid is not None
        found = self._places.get(box.guid)
        if found is None:
            found = self._places[box.guid] = ReadSoFar(Lock(), CoalescedRuns())
        return found

    def is_quiet(self, guid: str) -> bool:
        """Whether the file of the mailbox with this guid (hex) needs no read at the moment."""
        place = self._places.get(bytes.fromhex(guid))
        return place is not None and place.quiet_until > trio.current_time()

    def folder(self, guid: str) -> Folder | None:
        """The folder of a mailbox."""
        for folder in self.store.folders.values():
            if folder.mailbox is not None and (folder.mailbox.guid or b"").hex() == guid:
                return folder
        return None

    async def load(self) -> None:
        """Read the names of all mailboxes.

        :raises OSError: the directory or a file exists, but can't be read.
        """
        try:
            entries = await self.store.fs.listdir(self.directory)
        except FileNotFoundError:
            return
        there = {entry.name for entry in entries if _GUID.fullmatch(entry.name)}
        for folder in list(self.store.folders.values()):
            box = folder.mailbox
            if box is not None and box.guid is not None and box.guid.hex() in there:
                await self.look(folder)

    def is_behind(self, box: Mailbox) -> None:
        """Note that the index has got or lost messages whose names may be in the file.

        This holds until a read of the file that began after the note has ended: a task that comes while
        another one reads waits, too.
        """
        if box.guid is not None:
            self._behind[box.guid] = next(self._notes)

    async def catch_up(self, folder: Folder) -> None:
        """Read the file of a mailbox, if the index was read after it.

        An error is logged, and the next call reads again; until then the known names stay.
        """
        box = folder.mailbox
        if not self._behind or box is None or box.guid not in self._behind:
            return
        try:
            for _ in range(_LOOKS):  # the index may be read again meanwhile
                if box.guid in self._behind:
                    await self.place(box).looks.run(lambda: self._catch_up(folder, box))
        except OSError as exc:
            self.tell(folder, box, exc)

    async def be_sure(self, folder: Folder) -> None:
        """Read the file of a mailbox up to the state of its index, before a message counts as gone.

        The heir of a message is announced before that message is expunged (:mod:`dboxfs.store.names.files`).
        So a caller that knows that it is gone, and then reads the names, finds its heir.

        :raises OSError: as :meth:`look`.
        """
        box = folder.mailbox
        for _ in range(_LOOKS):
            await self._look_behind(folder, box)
            if box is None or box.guid not in self._behind:
                break

    def tell(self, folder: Folder, box: Mailbox, error: OSError) -> None:
        """Log that the file of a mailbox can't be read: once, and not if the whole store is gone."""
        place = self.place(box)
        if not place.is_told and not isinstance(error, FileNotFoundError):
            log.warning("%s: the names that were written can't be read: %s", folder, error.strerror)
            place.is_told = True

    async def _catch_up(self, folder: Folder, box: Mailbox) -> None:
        if box.guid in self._behind:  # else another task has read it meanwhile
            await self._look_behind(folder, box)

    async def _look_behind(self, folder: Folder, box: Mailbox | None) -> None:
        """Read the new lines, and forget the note that there may be some; one made meanwhile stays."""
        guid = box.guid or b"" if box is not None else b""
        note = self._behind.get(guid)
        await self.look(folder)
        if note is not None and self._behind.get(guid) == note:
            del self._behind[guid]

    async def look(self, folder: Folder, *, anew: bool = False) -> None:
        """Read the new lines in the file of a mailbox.

        :param anew: read the whole file.
        :raises FileNotFoundError: the store is gone.  Known names stay, and the file is read again when it is
            back.
        :raises OSError: the file exists, but can't be read; with the same effect.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        try:
            async with self.place(box).lock:
                if anew:
                    self.place(box).anew()
                await self._look(folder, box)
        except OSError:
            self.is_behind(box)
            raise

    async def _look(self, folder: Folder, box: Mailbox) -> None:
        place, path = self.place(box), self.path(box)
        found = await self._peek(path, place.seen.start)
        data = place.seen.behind(found.stat, found.chunks[0]) if found is not None else None
        if data is None and place.seen.end and found is not None:
            place.anew()
            found = await self._peek(path, 0)
        if (
            found is None and place.seen.identity is not None
        ):  # it was there: it is gone, or the whole store is
            await self.store.fs.stat(os.path.dirname(self.directory))
            place.anew()
            found = await self._peek(path, 0)
        place.is_told = False
        if found is None:
            place.seen = NOTHING_SEEN
            self.changed(folder, self.names.clear(box))
        else:
            self.take(folder, box, found.stat, data if data is not None else found.chunks[0])

    async def look_anew(self) -> None:
        """Read the whole files of all mailboxes; errors are logged."""
        for folder in list(self.store.folders.values()):
            try:
                await self.look(folder, anew=True)
            except OSError as exc:
                log.warning("%s: the names that were written can't be read: %s", folder, exc.strerror)

    async def _peek(self, path: str, offset: int) -> PeekResult | None:
        (found,) = await self.store.fs.peek([Peek(path, ((offset, None),), limit=_MOST, nofollow=True)])
        if isinstance(found, FileNotFoundError):
            return None
        if isinstance(found, OSError):
            raise found
        return found

    def take(self, folder: Folder, box: Mailbox, status: os.stat_result, data: bytes) -> None:
        """Take over *data*, the bytes of the file behind the part that was read."""
        place = self.place(box)
        changed = set() if place.seen.end else self.names.clear(box)
        place.seen = replace(place.seen, identity=(status.st_dev, status.st_ino))
        changed |= self.names.take(box, self.lines(box, data))
        if changed:
            self.changed(folder, changed)

    def wrote(self, box: Mailbox, data: bytes) -> None:
        """*data*, lines that this process has just appended, count as read now."""
        place = self.place(box)
        place.skipped = place.skipped if place.seen.end else 0
        place.seen = place.seen.after(data)

    def lines(self, box: Mailbox, data: bytes) -> list[Line | None]:
        """The whole lines of *data*, which count as read now; None for an invalid line."""
        place = self.place(box)
        found = [line for _, line in decode_lines(data)]
        if not place.seen.end:
            place.skipped = 0
        skipped = found.count(None)
        if skipped:
            log.warning("%s: %d lines that can't be are skipped", self.path(box), skipped)
        place.skipped += skipped
        place.seen = place.seen.after(data)
        return found
