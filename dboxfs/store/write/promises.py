"""Removals that were answered when they were only requested (PROTOCOL section 8).

The daemon answers each unlink(2) of a long row when the request is in the mailbox's log.  Dovecot forgets
such a request if it rebuilds the mailbox before any program has executed it.  So the writer notes each
request before the answer (:class:`Promises`), executes all of them when the row has ended, and then drops the
note.  If the process dies before that, the next writable mount executes what the note names.

Only the message that was meant is expunged: the same uid and guid, in the mailbox with the same guid and
UIDVALIDITY, whatever its name is by then.

In an sdbox only Dovecot may know where the attachments of a message are.  Then the removal stays a request,
which is noted, too (:class:`LeftToDovecot`).

Concurrency: the note of a row is written under the lock of the mailbox, like the request that it names.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec.structs import replace

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.index.expunges import is_left_by_expunge
from dboxfs.index.mailbox import guids, mailbox_header
from dboxfs.index.state import IndexState
from dboxfs.store.disk import AppendFile, check_appended
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.repair import selectable
from dboxfs.store.write.log_records import NO_GUID
from dboxfs.store.write.meaning import meaning
from dboxfs.store.write.notes import Note, parse_request, promise
from dboxfs.store.write.proof import expunges_of
from dboxfs.store.write.session import Work, present

log = logging.getLogger(__name__)

UNDER_ONE_LOCK = 200
"""Messages that are expunged under one lock of their mailbox."""

RENAMED_MEANWHILE = 3
"""So often a mailbox is looked for that is renamed again and again."""

Expunge = Callable[[str, Iterable[int]], Awaitable[object]]


class Promises:
    """The note of a row of removals in one mailbox: it grows.

    :ivar path: of the note.
    :ivar file: the open note; None: it is closed, or can't be written.
    """

    def __init__(self, work: Work, name: str, index: IndexLog) -> None:
        self.path = work.notes.path()
        self.file: AppendFile | None = None
        self._work = work
        self._note = Note(name, work.header(index).guid.hex(), uid_validity=index.state.uid_validity)
        self._requests: list[bytes] = []

    @property
    def guid(self) -> str:
        """The mailbox's, hex."""
        return self._note.guid

    @property
    def note(self) -> Note:
        """What the note names."""
        return replace(self._note, promised=tuple(map(parse_request, self._requests)))

    def added(self, request: bytes) -> None:
        """The note names one more removal."""
        self._requests.append(request)

    async def begin(self, request: bytes) -> bool:
        """Make the note, with its first removal; False: that failed, and there is no note."""
        disk, notes = self._work.disk, self._work.notes
        try:
            await notes.prepare()
            self.file = await disk.create(self.path)
            await self.file.append(self._note.encode() + promise(request))
        except OSError as error:
            log.warning("%s: removals can't be noted: %s", self.path, error)
            await self.close()
            await notes.drop([self.path])
            return False
        self.added(request)
        return True

    async def add(self, request: bytes) -> bool:
        """Note one more removal; False: that failed, and the note is closed."""
        if self.file is None:
            return False
        line, fd, path = promise(request), self.file.fd, self.path

        def append() -> Steps[None]:
            check_appended((yield ops.Append(fd, (line,))), len(line), path)

        try:
            await self._work.fs.run_chain_soon(append)
        except OSError as error:
            log.warning("%s: removals can't be noted: %s", self.path, error)
            await self.close()
            return False
        self.added(request)
        return True

    async def close(self) -> None:
        """Close the note, which stays."""
        file, self.file = self.file, None
        if file is not None:
            await file.close()


async def keep(work: Work, note: Note, expunge: Expunge) -> None:
    """Expunge the messages that a note names, as far as they are still there.

    :raises DboxfsError, OSError: a part of them is not expunged.
    """
    for look in range(RENAMED_MEANWHILE):
        name = await _where(work, note)
        if name is None:
            return  # the messages are gone with their mailbox
        try:
            with meaning((name, bytes.fromhex(note.guid))):
                await _expunge(work, name, note, expunge)
            return
        except NoSuchMailbox:
            if look == RENAMED_MEANWHILE - 1:
                raise


async def keep_after_death(work: Work, path: str, note: Note, expunge: Expunge) -> None:
    """:func:`keep` for the note of a dead writer, which may also have died between the expunge of a message
    and the removal of its file.

    :param path: of the note.
    :raises DboxfsError, OSError: a part of it is not done.
    """
    name = None if work.mdbox else await _where(work, note)
    written = await work.disk.stat(path)
    if name is not None and written is not None:
        with meaning((name, bytes.fromhex(note.guid))):
            async with work.mailbox(name) as index:
                await _unlink_expunged(work, name, index, note, written.st_mtime_ns)
    await keep(work, note, expunge)


async def _unlink_expunged(work: Work, name: str, index: IndexLog, note: Note, written: int) -> None:
    """Remove files that an expunge has left: the message was promised, has no record, the log shows its
    expunge, and the file was not changed since its removal was promised.

    :param written: when the last line of the note was written (ns).
    """
    gone = [uid for uid, _ in note.promised if index.state.row_of(uid) < 0]
    expunged = dict.fromkeys(await expunges_of(index, gone), written + 1)
    for uid in sorted(expunged):
        for path in work.message_paths(name, uid):
            if is_left_by_expunge(await work.disk.stat(path), uid, expunged):
                await work.disk.unlink(path)
                log.info("%s: a removal that was interrupted is finished", path)


async def _where(work: Work, note: Note) -> str | None:
    """The storage name that the mailbox of a note has now; None: it is gone.

    :raises DboxfsError, OSError: a mailbox can't be read.
    """
    await work.locate()
    if await _is(work, note.mailbox, note):
        return note.mailbox
    for name in await selectable(work):
        if await _is(work, name, note):
            return name
    return None


async def _is(work: Work, name: str, note: Note) -> bool:
    try:
        state = await work.new_index(name).peek()
    except (FileNotFoundError, NoSuchMailbox):
        return False
    header = mailbox_header(state)
    return header is not None and (header.guid.hex(), state.uid_validity) == (note.guid, note.uid_validity)


async def _expunge(work: Work, name: str, note: Note, expunge: Expunge) -> None:
    for start in range(0, len(note.promised), UNDER_ONE_LOCK):
        async with work.mailbox(name) as index:
            uids = _still_there(index.state, note.promised[start : start + UNDER_ONE_LOCK])
        if uids:
            await expunge(name, uids)


def _still_there(state: IndexState, promised: Sequence[tuple[int, bytes]]) -> list[int]:
    """The uids of those messages that the index has, with the same guid where both know one; ascending."""
    wanted, column = dict(promised), guids(state)
    uids = present(state, wanted)
    if column is None:
        return uids
    rows = state.rows_of(uids).tolist()
    return [
        uid
        for uid, row in zip(uids, rows, strict=True)
        if wanted[uid] == NO_GUID or column[row].tobytes() == wanted[uid]
    ]


class LeftToDovecot:
    """Notes of the removals of an sdbox that only Dovecot can execute, since it alone knows where attachments
    are: one for each mailbox, until this process ends.  The next writable mount asks Dovecot again for those
    that a rebuild has brought back.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._paths: dict[tuple[bytes, int], str] = {}

    async def note(self, name: str, index: IndexLog, uids: Sequence[int]) -> None:
        """Note messages whose expunge is in the log as a request.  Never fails: without a note a rebuild
        brings them back.
        """
        guid, uid_validity = self._work.header(index).guid, index.state.uid_validity
        note = Note(
            name, guid.hex(), uid_validity=uid_validity, promised=tuple((uid, NO_GUID) for uid in uids)
        )
        path = self._paths.get((guid, uid_validity))
        try:
            if path is None:
                self._paths[guid, uid_validity] = await self._work.notes.put(note)
                return
            file = await self._work.disk.open(path)
            try:
                await file.append(note.promises())
            finally:
                await file.close()
        except OSError as error:
            log.warning("%s: removals can't be noted: %s", self._work.shown(name), error)
