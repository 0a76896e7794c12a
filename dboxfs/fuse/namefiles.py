"""Where written names are kept, so that they outlast a mount: in files that Dovecot doesn't look at.

``<control directory>/dboxfs-names/<mailbox guid, 32 hex digits>``, one file a mailbox (mailboxes lie in a
directory of their own beside it).  What is in them: :mod:`dboxfs.fuse.names`.

Several mounts may write one file: a writer holds its lock (as on a log: ``lock_method``), reads what others
have appended, cuts off a torn end, and appends; when most lines mean nothing any more it writes the file
anew, under the lock of the old one.  Readers take no lock.

==  ====================================  ===================================================================
 1  create the file, sync its directory   an empty file: no names
 2  append the lines, sync                whole, or a torn end, which nobody reads and the next writer cuts
 3  or: ``.temp.*`` with all lines, sync  a temporary file, which the next writable mount removes
 4  rename it over the file, sync         the old file or the new one
==  ====================================  ===================================================================

A name is recorded after its message: a crash between the two leaves the message as ``<uid>.eml``; a message
that replaces another one by a rename has its line before (:class:`~dboxfs.fuse.names.Line`, ``after``).  A
line whose writer died before that means nothing, and the next writable mount takes it out.

:mod:`dboxfs.fuse.namefollower` watches the directories, so that a mount shows the names that another gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from dboxfs.fsapi import Peek, PeekResult, ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import LockKind, Opened, OpenShared, TryLock
from dboxfs.fuse.names import Line, WrittenNames, decode_lines, encode_line
from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.writing.disk import AppendFile, Disk, check_appended
from dboxfs.store.writing.group import GroupCommit, Request
from dboxfs.store.writing.locks import lock_log, unlock_log
from dboxfs.store.writing.options import LockMethod, WriteOptions

_LOCKS = {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}

DIRECTORY = "dboxfs-names"
"""The directory with one file a mailbox."""

_MOST = 1 << 30
_GUID = re.compile("[0-9a-f]{32}")


@dataclass(slots=True)
class _Place:
    """How far a file was read: which one (device, inode), and the end of the last whole line."""

    lock: trio.Lock
    identity: tuple[int, int] | None = None
    end: int = 0

    def continues(self, status: os.stat_result) -> bool:
        """Whether the file with this status is the one that was read, and has what was read of it."""
        return (status.st_dev, status.st_ino) == self.identity and status.st_size >= self.end


Changed = Callable[[Folder, set[bytes]], None]


def _nobody(folder: Folder, names: set[bytes]) -> None:
    """Nobody needs to know."""


class NameReader:
    """Reads the files of one store into ``names``.

    :ivar changed: told which names in a folder may mean something else, since another mount has written.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = WrittenNames()
        self.changed: Changed = _nobody
        self.directory = os.path.join(store.location.control_dir, DIRECTORY)
        self._places: dict[bytes, _Place] = {}

    def path(self, box: Mailbox) -> str:
        """The file of a mailbox."""
        return os.path.join(self.directory, (box.guid or b"").hex())

    def place(self, box: Mailbox) -> _Place:
        """How far the file of a mailbox was read."""
        assert box.guid is not None
        return self._places.setdefault(box.guid, _Place(trio.Lock()))

    def folder(self, guid: str) -> Folder | None:
        """The folder of a mailbox."""
        for folder in self.store.folders.values():
            if folder.mailbox is not None and (folder.mailbox.guid or b"").hex() == guid:
                return folder
        return None

    async def load(self) -> None:
        """The names of all mailboxes, as the files have them.

        :raises OSError: the directory or a file is there, but can't be read.
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

    async def look(self, folder: Folder) -> None:
        """Read what is new in the file of a mailbox.

        :raises OSError: it is there, but can't be read.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        place, path = self.place(box), self.path(box)
        async with place.lock:
            found = await self._peek(path, place.end)
            if found is not None and place.end and not place.continues(found.stat):
                place.end = 0
                found = await self._peek(path, 0)
            if found is None:
                place.end = 0
                self.changed(folder, self.names.clear(box))
            else:
                self.take(folder, box, found.stat, found.chunks[0])

    async def _peek(self, path: str, offset: int) -> PeekResult | None:
        (found,) = await self.store.fs.peek([Peek(path, ((offset, None),), limit=_MOST, nofollow=True)])
        if isinstance(found, FileNotFoundError):
            return None
        if isinstance(found, OSError):
            raise found
        return found

    def take(self, folder: Folder, box: Mailbox, status: os.stat_result, data: bytes) -> None:
        """Take over *data*, what the file has behind what was read of it."""
        place = self.place(box)
        changed = set() if place.end else self.names.clear(box)
        place.identity = (status.st_dev, status.st_ino)
        changed |= self.names.take(box, self.lines(place, data))
        if changed:
            self.changed(folder, changed)

    @staticmethod
    def lines(place: _Place, data: bytes) -> list[Line]:
        """The whole lines of *data*, which are read now."""
        found, whole = [], 0
        for end, line in decode_lines(data):
            found.append(line)
            whole = end
        place.end += whole
        return found


@dataclass(frozen=True, slots=True)
class Appended:
    """What :func:`append_steps` has met: the file, and what it had behind ``start`` already."""

    status: os.stat_result
    start: int
    before: bytes


def append_steps(
    path: str, kind: LockKind, identity: tuple[int, int] | None, end: int, data: bytes, durable: bool
) -> Steps[Appended | None]:
    """Lock the file, read what is new, cut off a torn end, append *data*, sync; None: it is locked.

    :param identity: device and inode of the file of which *end* bytes were read.
    :raises FileNotFoundError: there is none.
    :raises OSError: the file is as it was, but for a torn end.
    """
    opened: Opened = yield OpenShared(path)
    fd = opened.fd
    try:
        if not (yield TryLock(fd, kind)):
            return None
        status: os.stat_result = yield ops.Stat(path, follow=False)
        if (status.st_dev, status.st_ino) != (opened.stat.st_dev, opened.stat.st_ino):
            return None
        size = status.st_size
        start = end if (status.st_dev, status.st_ino) == identity and size >= end else 0
        before: bytes = (yield ops.Read(fd, size - start, start)) if size > start else b""
        whole = start + max((at for at, _ in decode_lines(before)), default=0)
        if start + len(before) < size:
            return None
        if size > whole:
            yield ops.Truncate(fd, whole, size)
        written = 0
        try:
            answer: ops.Appended = yield ops.Append(fd, (data,))
            written = answer.written
            check_appended(answer, len(data), path)
            if durable:
                yield ops.Sync(fd, whole + len(data))
        except OSError:
            yield ops.Truncate(fd, whole, whole + written)
            raise
        return Appended(status, start, before)
    finally:
        yield ops.Close(fd)


@dataclass(frozen=True, slots=True)
class _Naming:
    folder: Folder
    uid: int
    name: bytes
    after: int


_Request = Request[_Naming, bool]


class NameFiles:
    """Records names; those that come together are one write."""

    def __init__(self, reader: NameReader, options: WriteOptions) -> None:
        self._reader = reader
        self._names = reader.names
        self._disk = Disk(reader.store.fs, reader.store.owner, options, reader.store.location.root)
        self._queues: dict[bytes, GroupCommit[_Naming, bool]] = {}

    async def record(self, folder: Folder, uid: int, name: bytes, *, after: int = 0) -> None:
        """From now on, or when *after* is gone, *uid* has this name.  Returns when that is durable.

        :raises OSError, StoreBusy: it can't be written, and the names are as they were.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        self._names.of(box).set(uid, name, after)
        queue = self._queues.get(box.guid)
        if queue is None:
            queue = self._queues[box.guid] = GroupCommit(self._commit)
        await queue.run(Request(_Naming(folder, uid, name, after)))

    async def mend(self) -> None:
        """Take out what a crash has left: lines that wait for a rename which never came.

        :raises OSError, StoreBusy: a file can't be written.
        """
        for folder in list(self._reader.store.folders.values()):
            box = folder.mailbox
            if box is not None and self._names.are_waiting(box):
                async with self._locked(folder, box) as file:
                    self._names.of(box).waiting.clear()
                    await self._rewrite(box, file)

    async def _commit(self, group: Sequence[_Request]) -> None:
        folder = group[0].what.folder
        box = folder.mailbox
        assert box is not None
        wanted = [request.what for request in group]
        lines = [Line(box.uid_validity, some.uid, some.name, some.after) for some in wanted]
        data = b"".join(map(encode_line, lines))
        try:
            if not await self._append_at_once(folder, box, data):
                async with self._locked(folder, box) as file:
                    await self._append(box, file, data)
        except BaseException:
            self._reader.place(box).end = 0
            await self._disk.attempt(self._reader.look(folder))
            raise
        if self._names.of(box).has_grown:
            async with self._locked(folder, box) as file:
                await self._rewrite(box, file)
        for request in group:
            request.result = True

    async def _append(self, box: Mailbox, file: AppendFile, data: bytes) -> None:
        place = self._reader.place(box)
        try:
            await file.append(data)
            await file.sync()
        except OSError:
            await self._disk.attempt(file.cut(place.end))
            raise
        self._names.take(box, self._reader.lines(place, data))

    async def _append_at_once(self, folder: Folder, box: Mailbox, data: bytes) -> bool:
        """All of it with one hop to a worker; False: there is no file, or it is locked."""
        kind = _LOCKS.get(self._disk.options.lock_method)
        place, path = self._reader.place(box), self._reader.path(box)
        if kind is None:
            return False
        async with place.lock:
            program = partial(
                append_steps, path, kind, place.identity, place.end, data, self._disk.options.durable
            )
            try:
                done = await self._disk.chain(program)
            except FileNotFoundError:
                return False
            if done is None:
                return False
            place.end = done.start
            self._reader.take(folder, box, done.status, done.before)
            self._names.take(box, self._reader.lines(place, data))
            return True

    @asynccontextmanager
    async def _locked(self, folder: Folder, box: Mailbox) -> AsyncIterator[AppendFile]:
        """The file of a mailbox, locked and read to its end."""
        place = self._reader.place(box)
        async with place.lock:
            file = await self._open(self._reader.path(box))
            try:
                if not place.continues(file.stat):
                    place.end = 0
                data = await file.read(file.size - place.end, place.end)
                self._reader.take(folder, box, file.stat, data)
                if file.size > place.end:
                    await file.cut(place.end)
                yield file
            finally:
                await unlock_log(file)

    async def _open(self, path: str) -> AppendFile:
        while True:
            try:
                return await lock_log(self._disk, path)
            except FileNotFoundError:
                await self._create(path)

    async def _create(self, path: str) -> None:
        directory = os.path.dirname(path)
        await self._disk.make_dirs(directory)
        try:
            file = await self._disk.create(path)
        except FileExistsError:
            return
        await file.close()
        await self._disk.sync_dir(directory)
        await self._disk.sync_dir(os.path.dirname(directory))

    async def _rewrite(self, box: Mailbox, file: AppendFile) -> None:
        """Write the file anew; it is locked."""
        names, place = self._names.of(box), self._reader.place(box)
        lines = [Line(names.validity, uid, name) for uid, name in sorted(names.by_uid.items())]
        lines += [Line(names.validity, uid, name, old) for old, (uid, name) in sorted(names.waiting.items())]
        data = b"".join(map(encode_line, lines))
        await self._disk.replace(file.path, data)
        await self._disk.sync_dir(os.path.dirname(file.path))
        names.lines, place.end = len(lines), len(data)
        found = await self._disk.stat(file.path)
        place.identity = (found.st_dev, found.st_ino) if found is not None else None
