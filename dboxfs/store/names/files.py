"""Files that keep written names beyond a mount, which Dovecot ignores.

``<control directory>/dboxfs-names/<mailbox guid, 32 hex digits>``, one file a mailbox (mailboxes lie in
another directory beside it).  Their format: :mod:`dboxfs.store.names.codec`.

Several mounts may write one file.  A writer holds its lock (``lock_method``, as with a log), reads the lines
that others have appended, cuts off a torn end, and appends.  When most lines have no effect any more, it
rewrites the file, under the lock of the old one.  Readers take no lock.

==  ====================================  ===================================================================
 1  create the file, sync its directory   an empty file: no names
 2  append the lines, sync                whole, or a torn end, which is never read; the next writer cuts it
 3  or: ``.temp.*`` with all lines, sync  a temporary file, which the next writable mount removes
 4  rename it over the file, sync         the old file or the new one
==  ====================================  ===================================================================

The name of a new message is written twice.  :meth:`NameFiles.begin` announces it under the lock of the
mailbox, before the message is written, without a sync: every mount shows the message under its name from the
first moment on, and two mounts that give the same name do so one after the other.  :meth:`NameFiles.record`
confirms it when the message is durable: a crash between the two leaves the message as ``<uid>.eml``.  Mostly
the job that makes the message durable has done so at its end (:meth:`NameFiles.confirming`).  If that is its
announced name, it needs no confirmation, which costs a sync (``BoxNames.confirmation``).  For a
message that replaces another one by a rename, the line is written and synced before.  If its writer dies
before the rename, the line has no effect, and the next writable mount removes it.

A writer decides on its lines by the lines that were read so far.  If any task of this process has read more
since, or there is more under the lock, it decides again (:class:`~dboxfs.store.names.read.Seen`).  A file
that is rewritten also has the names of the last replaced messages and their successors: a mount that has not
read the index yet still shows the old ones.

Order of locks: the lock of a mailbox, then that of its file of names (:class:`_Place`, then the file's own).

:mod:`dboxfs.store.names.follow` watches the directories, so that a mount shows the names that another gives.
If the index has new messages without a known name, a task that asks for a name first reads the file
(:meth:`NameReader.catch_up`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Literal

import trio
from msgspec import Struct

from dboxfs.errors import DboxfsError, NoSuchMessage
from dboxfs.fsapi.ops import FileAsSeen, LockKind
from dboxfs.store import Folder, Mailbox
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.indexes.in_turn import Afterwards
from dboxfs.store.indexes.locks import lock_log, unlock_log
from dboxfs.store.names.appending import LinesAppended, append_steps
from dboxfs.store.names.codec import Line, LineKind, encode_line
from dboxfs.store.names.of_mailbox import NOBODY, There
from dboxfs.store.names.read import QUIET_SECONDS, NameReader, Seen
from dboxfs.store.write import LockMethod, Superseded, Wanted, WriteOptions
from dboxfs.store.write.group_commit import GroupCommit, Request

_LOCKS = {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}


class _Naming(Struct, frozen=True):
    folder: Folder
    uid: int
    name: bytes


_Request = Request[_Naming, bool]


class NameFiles:
    """Writes names; names that are given at the same time share one write."""

    def __init__(self, reader: NameReader, options: WriteOptions) -> None:
        self._reader = reader
        self._names = reader.names
        self._disk = Disk(reader.store.fs, reader.store.owner, options, reader.store.location.root)
        self._queues: dict[bytes, GroupCommit[_Naming, bool]] = {}

    @property
    def directory(self) -> str:
        """The directory of the files."""
        return self._reader.directory

    # -- names of messages that come -----------------------------------------------------------

    async def begin(self, mailbox: str, wanted: Sequence[Wanted], there: There) -> list[DboxfsError | None]:
        """Announce the names of messages, while the lock of the mailbox is held: see
        :class:`~dboxfs.store.write.naming.Namer`.

        :raises OSError, StoreBusy: the file can't be written; nothing is announced.
        """
        folder = self._reader.store.folders.get(mailbox)
        if folder is None or folder.mailbox is None:
            return [None] * len(wanted)
        if folder.mailbox.guid is None:  # it is new, and its index was not read yet
            await self._reader.store.refresh_mailbox(folder)
        box = folder.mailbox
        if box is None or box.guid is None:
            return [None] * len(wanted)
        while True:
            refused = self._refuse(folder, box, wanted, there)
            for some, error in zip(wanted, refused, strict=True):
                some.uid = some.uid if error is None else 0
            fine = [some for some, error in zip(wanted, refused, strict=True) if error is None]
            lines = [self._announcement(box, some, there) for some in fine]
            durable = self._disk.options.durable and any(line.kind is LineKind.PLACED for line in lines)
            if not lines or await self._append(folder, box, lines, durable=durable):
                return refused

    def _refuse(
        self, folder: Folder, box: Mailbox, wanted: Sequence[Wanted], there: There
    ) -> list[DboxfsError | None]:
        """The error of each name, by the lines read so far; None: it is free."""
        names, seen = self._names.of(box), set()
        refused: list[DboxfsError | None] = []
        for some in wanted:
            holder = names.holder(some.name, there)
            is_free = holder in (None, some.uid, some.holder) and some.name not in seen
            if some.holder is not None:
                is_free &= bool(there([some.holder])) and self._names.name(folder, some.holder) == some.name
            seen.add(some.name)
            if is_free:
                refused.append(None)
            else:
                refused.append(Superseded(f"{folder}: {some.name!r} is the name of another message by now"))
        return refused

    def _announcement(self, box: Mailbox, some: Wanted, there: There) -> Line:
        kind = LineKind.PLACED if there([some.uid]) else LineKind.ANNOUNCED
        return Line(box.uid_validity, some.uid, some.name, some.holder or 0, kind, self._token)

    @property
    def _token(self) -> str:
        return self._reader.writers.token

    def _known(self, mailbox: str) -> tuple[Folder, Mailbox] | None:
        folder = self._reader.store.folders.get(mailbox)
        if folder is None or folder.mailbox is None or folder.mailbox.guid is None:
            return None
        return folder, folder.mailbox

    async def name_of(self, mailbox: str, uid: int, there: There) -> bytes | None:
        """Its name: see :class:`~dboxfs.store.write.naming.Namer`; if it can't be read, the known one."""
        known = self._known(mailbox)
        if known is None:
            return None
        folder, box = known
        try:
            await self._reader.look(folder)
        except OSError as exc:
            self._reader.tell(folder, box, exc)
        return self._names.of(box).name_by_now(uid, there, folder.children)

    def name_as_seen(self, mailbox: str, uid: int) -> tuple[bytes, FileAsSeen] | None:
        """Its name as it was read last: see :class:`~dboxfs.store.write.naming.Namer`."""
        known = self._known(mailbox)
        if known is None:
            return None
        folder, box = known
        seen = self._seen(box)
        return self._names.name(folder, uid), FileAsSeen(self._reader.path(box), seen.identity, seen.end)

    async def withdraw(self, folder: Folder, wanted: Wanted) -> None:
        """Take back an announced name whose message was not written.

        :raises OSError, StoreBusy: the file can't be written, and the line counts until this process ends.
        """
        box = folder.mailbox
        if not wanted.uid or box is None or box.guid is None or wanted.uid in box:
            return
        while True:
            line = self._names.of(box).pending_of.get(wanted.uid)
            if line is None or (line.name, line.writer) != (wanted.name, self._token):
                return
            back = Line(line.validity, line.uid, line.name, 0, LineKind.ANNOUNCED, NOBODY)
            if await self._append(folder, box, [back], durable=False):
                return

    async def keep(self, folder: Folder, over: int, named: Wanted) -> None:
        """Take back that an existing message replaces *over*: it keeps the name that it had.

        :raises OSError, StoreBusy: the file can't be written, and the line still counts.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        durable = self._disk.options.durable
        while True:
            names = self._names.of(box)
            line = names.pending_of.get(named.uid)
            if line is None or (line.after, line.name, line.writer) != (over, named.name, self._token):
                return
            # A later line about the message: also for mounts that read this when the other one is gone.
            said = Line(line.validity, line.uid, names.name(line.uid))
            if await self._append(folder, box, [said], durable=durable):
                return

    @contextmanager
    def confirming(self, mailbox: str, wanted: Sequence[Wanted]) -> Iterator[Afterwards | None]:
        """Steps that confirm the announced names of messages: see
        :class:`~dboxfs.store.write.naming.Namer`.  Their file's place is locked until the job is over.
        """
        known, kind = self._known(mailbox), _LOCKS.get(self._disk.options.lock_method)
        if known is None or kind is None:
            yield None
            return
        folder, box = known
        place, names = self._reader.place(box), self._names.of(box)
        found = [(some, names.confirmation_ahead(some.uid, some.name)) for some in wanted]
        lines = [line for _, more in found for line in more]
        if not lines or place.lock.locked():
            yield None
            return
        data, durable = b"".join(map(encode_line, lines)), self._disk.options.durable

        def over(done: object) -> None:
            if not isinstance(done, LinesAppended):
                return
            changed = self._took(folder, box, lines, data, done)
            for some, more in found if changed is not False else ():
                some.confirmed = bool(more)
            if changed:
                self._reader.changed(folder, changed)

        place.lock.acquire_nowait()
        try:
            seen, path = place.seen, self._reader.path(box)
            place.quiet_until = trio.current_time() + QUIET_SECONDS
            yield Afterwards(partial(append_steps, path, kind, seen, seen, data, durable=durable), over)
        finally:
            place.lock.release()

    # -- names of messages that are there ------------------------------------------------------

    async def confirm(self, folder: Folder, uid: int, wanted: Wanted) -> None:
        """:meth:`record` the name of a message, unless the job that has written it has done so."""
        if not wanted.confirmed:
            await self.record(folder, uid, wanted.name)
        elif folder.mailbox is not None and folder.mailbox.guid is not None:
            await self._shorten(folder, folder.mailbox)

    async def record(self, folder: Folder, uid: int, name: bytes) -> None:
        """Confirm the announced name of a message that is durable: it keeps the name when this process ends.
        Returns when the line is durable.  If another mount has renamed or replaced the message since, that
        stays.

        :raises OSError, StoreBusy: the file can't be written; the names are unchanged.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        queue = self._queues.get(box.guid)
        if queue is None:
            queue = self._queues[box.guid] = GroupCommit(self._commit)
        await queue.run(Request(_Naming(folder, uid, name)))

    async def rename(self, folder: Folder, uid: int, name: bytes, there: There) -> None:
        """Give *uid* a name that no message has; the lock of the mailbox is held.  Returns when that is
        durable.

        :param there: a function that gives those of some uids that the mailbox has.
        :raises Superseded: a message has the name.
        :raises NoSuchMessage: *uid* is gone.
        """
        box = folder.mailbox
        if box is None or box.guid is None:
            return
        line, wanted = Line(box.uid_validity, uid, name), Wanted(name, None, uid)
        durable = self._disk.options.durable
        while True:
            (error,) = self._refuse(folder, box, [wanted], there)
            if error is not None:
                raise error
            if not there([uid]):
                raise NoSuchMessage(f"{folder}: no message with uid {uid}")
            if await self._append(folder, box, [line], durable=durable):
                break
        await self._shorten(folder, box)

    async def mend(self) -> None:
        """Remove lines that a crash has left: of a rename, or a message, that never happened.

        :raises OSError, StoreBusy: a file can't be written.
        """
        for folder in list(self._reader.store.folders.values()):
            box = folder.mailbox
            if box is None or not self._names.are_waiting(box):
                continue
            async with self._locked(folder, box) as file:
                await self._reader.store.refresh_mailbox(folder)
                if self._names.of(box).mend():
                    await self._rewrite(box, file)

    async def _commit(self, group: Sequence[_Request]) -> None:
        folder = group[0].what.folder
        box = folder.mailbox
        assert box is not None
        while True:
            names = self._names.of(box)
            lines = [line for r in group for line in names.confirmation(r.what.uid, r.what.name)]
            durable = self._disk.options.durable
            if not lines or await self._append(folder, box, lines, durable=durable):
                break
        await self._shorten(folder, box)
        for request in group:
            request.result = True

    async def _shorten(self, folder: Folder, box: Mailbox) -> None:
        if self._names.of(box).has_grown:
            async with self._locked(folder, box) as file:
                await self._rewrite(box, file)

    # -- the file ------------------------------------------------------------------------------

    def _seen(self, box: Mailbox) -> Seen:
        """The part of a mailbox's file that was read."""
        return self._reader.place(box).seen

    async def _append(self, folder: Folder, box: Mailbox, lines: Sequence[Line], *, durable: bool) -> bool:
        """Append lines that were decided on just now, and take them over; False: more of the file was read
        since, and nothing was appended.

        The kernel gets notices of names that have another meaning now, but not of the names in its own
        request.
        """
        known = self._seen(box)  # before any wait: other tasks read meanwhile
        own = {name for line in lines for name in (line.name, self._names.name(folder, line.uid))}
        try:
            done = await self._append_at_once(folder, box, known, lines, durable=durable)
            if done is None:
                done = await self._append_locked(folder, box, known, lines, durable=durable)
        except BaseException:
            await self._disk.attempt(self._reader.look(folder, anew=True))
            raise
        if done and (changed := done - own):
            self._reader.changed(folder, changed)
        return done is not False

    async def _append_locked(
        self, folder: Folder, box: Mailbox, known: Seen, lines: Sequence[Line], *, durable: bool
    ) -> set[bytes] | Literal[False]:
        """Wait for the file's lock, and append; gives the names that have another meaning now."""
        data = b"".join(map(encode_line, lines))
        async with self._locked(folder, box) as file:
            if known.has_grown(self._seen(box)):
                return False
            place = self._reader.place(box)
            try:
                await file.append(data)
                if durable:
                    await file.sync()
            except OSError:
                await self._disk.attempt(file.cut(place.seen.end))
                raise
            self._reader.wrote(box, data)
            return self._names.take(box, lines)

    async def _append_at_once(
        self, folder: Folder, box: Mailbox, known: Seen, lines: Sequence[Line], *, durable: bool
    ) -> set[bytes] | Literal[False] | None:
        """:meth:`_append_locked` with one hop to a worker; None: there is no file, or it is locked.

        Without a sync the loop waits for it (:mod:`dboxfs.fsapi.drivers.lane`).
        """
        kind = _LOCKS.get(self._disk.options.lock_method)
        place, path = self._reader.place(box), self._reader.path(box)
        if kind is None:
            return None
        async with place.lock:
            place.quiet_until = trio.current_time() + QUIET_SECONDS
            data = b"".join(map(encode_line, lines))
            program = partial(append_steps, path, kind, self._seen(box), known, data, durable=durable)
            run = self._disk.chain if durable else self._disk.fs.run_chain_soon
            try:
                done = await run(program)
            except FileNotFoundError:
                return None
            return self._took(folder, box, lines, data, done) if done is not None else None

    def _took(
        self, folder: Folder, box: Mailbox, lines: Sequence[Line], data: bytes, done: LinesAppended
    ) -> set[bytes] | Literal[False]:
        """Take over what a job has read and appended (*data*: the lines); gives the names that have another
        meaning now, or False: it has appended nothing.
        """
        place = self._reader.place(box)
        place.seen, place.quiet_until = done.seen, trio.current_time() + QUIET_SECONDS
        self._reader.take(folder, box, done.status, done.before)
        if not done.appended:
            return False
        self._reader.wrote(box, data)
        return self._names.take(box, lines)

    @asynccontextmanager
    async def _locked(self, folder: Folder, box: Mailbox) -> AsyncIterator[AppendFile]:
        """The file of a mailbox, locked and read to its end."""
        place = self._reader.place(box)
        async with place.lock:
            file = await self._open(self._reader.path(box))
            try:
                data = None
                if 0 < place.seen.end <= file.size:
                    start = place.seen.start
                    data = place.seen.behind(file.stat, await file.read(file.size - start, start))
                if data is None:
                    place.anew()
                    data = await file.read(file.size, 0)
                self._reader.take(folder, box, file.stat, data)
                if file.size > place.seen.end:
                    await file.cut(place.seen.end)
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
        """Rewrite the file; it is locked."""
        names, place = self._names.of(box), self._reader.place(box)
        data = b"".join(map(encode_line, lines := names.all_lines()))
        await self._disk.replace(file.path, data)
        await self._disk.sync_dir(os.path.dirname(file.path))
        names.lines, place.skipped = len(lines), 0
        found = await self._disk.stat(file.path)
        place.seen = Seen((found.st_dev, found.st_ino) if found is not None else None).after(data)
