"""Requests to expunge, one message after the other, with a log that stays open (PROTOCOL section 8).

The daemon answers an unlink(2) when its record is in the log.  ``rm -r`` sends thousands of them, each after
the answer to the one before.  :class:`Asking` writes such a record with one job of a worker: lock the log,
check that it is the same file with the same end, append, unlock.  If the program has named the message, the
file of names has to be the same, too.  If that fails (another process holds the lock, or a file has grown or
was replaced), the request is written like that of :meth:`StoreWriter.expunge`, which reads the new records;
after that the log is known again.

These records are not replayed into the index's state: the next task that locks the index reads them like the
records of any other process.

Before the answer each request is noted, too (``promises``): behind the log, so that a crash between leaves a
removal that is only requested and was not answered.  If the note can't be written, the removal is executed at
once.

Nothing is synced here: :meth:`StoreWriter.carry_out` syncs all requests.

Concurrency: each of these jobs holds the index's mutex.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended, AppendLocked, FileAsSeen, LockKind, TryLock, Unlock
from dboxfs.store.disk import AppendFile, check_appended
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write import log_records
from dboxfs.store.write.meaning import called_message, meant
from dboxfs.store.write.notes import promise
from dboxfs.store.write.promises import Expunge, Promises, keep
from dboxfs.store.write.session import Work, visible
from dboxfs.store.write_options import LockMethod

log = logging.getLogger(__name__)

_LOCKS = {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}


class Asking:
    """Requests expunges in one mailbox.

    :param expunge: executes an expunge.
    :ivar promises: notes of the requests so far; the last one may be open.
    """

    def __init__(self, work: Work, name: str, expunge: Expunge) -> None:
        self.promises: list[Promises] = []
        self._expunge = expunge
        self._unnoted: set[int] = set()
        self._work = work
        self._name = name
        self._index = work.index(name)
        self._file: AppendFile | None = None
        self._end = 0
        self._asked: set[int] = set()
        self._guid = b""

    async def ask(self, uid: int) -> bool:
        """Put a request for *uid* into the log; False: the message is gone, or its expunge was requested
        already.

        :raises OSError: the log is unchanged.
        :raises NoSuchMailbox, CorruptFile, StoreBusy: as :meth:`Work.mailbox`.
        """
        if uid in self._asked and self._is_meant:
            return False
        asked = await self._ask_soon(uid) or await self._ask_again(uid)
        if uid in self._unnoted:
            self._unnoted.discard(uid)
            await self._expunge(self._name, [uid])
        return asked

    async def close(self) -> None:
        """Close the log and the note; the next request begins anew."""
        await self._close_log()
        if self.promises:
            await self.promises[-1].close()

    async def _close_log(self) -> None:
        async with self._index.mutex:
            file, self._file = self._file, None
            self._asked = set()
        if file is not None:
            await file.close()

    # -- inside ------------------------------------------------------------------------------------------

    @property
    def _is_meant(self) -> bool:
        """Whether the open log belongs to the mailbox that the caller means."""
        return meant().get(self._name, self._guid) == self._guid

    async def _ask_soon(self, uid: int) -> bool:
        """Append the request with one job; False: the log has changed or is locked."""
        mutex, promises = self._index.mutex, self.promises[-1] if self.promises else None
        if self._file is None or mutex.locked() or not self._is_meant or promises is None:
            return False
        mutex.acquire_nowait()
        try:
            return await self._append(self._file, uid, promises)
        except OSError:  # perhaps the lock could not be given back: it ends with the open file
            file, self._file = self._file, None
            await file.close()
            raise
        finally:
            mutex.release()

    async def _append(self, file: AppendFile, uid: int, promises: Promises) -> bool:
        state = self._index.known
        kind = _LOCKS.get(self._work.options.lock_method)
        note = promises.file
        if kind is None or state is None or note is None or state.row_of(uid) < 0:
            return False
        asked, seen = called_message(), [FileAsSeen(file.path, file.identity, self._end)]
        if self._work.namer is not None and asked is not None:
            known = self._work.namer.name_as_seen(self._name, uid)
            if known is None or known[0] != asked.name:
                return False
            seen.append(known[1])
        request = log_records.request(state, uid)
        data, line = log_records.ask_for_expunge(request), promise(request)
        at_once = AppendLocked(file.fd, tuple(seen), data, kind, note.fd, line)
        answer = await self._work.fs.run_chain_soon(lambda: append_under_lock(at_once), at_once)
        if answer is None:
            return False
        if answer.written < len(data):
            check_appended(answer, len(data), file.path)
        self._end += len(data)
        self._asked.add(uid)
        if answer.error is None:
            promises.added(request)
        else:
            log.warning("%s: removals can't be noted: %s", promises.path, answer.error)
            self._unnoted.add(uid)
            await promises.close()
        return True

    async def _ask_again(self, uid: int) -> bool:
        """Read the new records, write the request, and remember the log as it is now."""
        await self._close_log()
        async with self._work.mailbox(self._name) as index:
            self._index, state = index, index.state
            asked = set(state.pending_expunges.tolist()) if state.has_pending_requests else set()
            wanted = visible(state, [uid])
            if wanted:
                request = log_records.request(state, uid)
                await index.append([log_records.ask_for_expunge(request)])
                if not await self._note(index, request):
                    self._unnoted.add(uid)
            await self._remember(index, {*asked, *wanted})
        return bool(wanted)

    async def _note(self, index: IndexLog, request: bytes) -> bool:
        """Note a removal; False: that failed."""
        last = self.promises[-1] if self.promises else None
        if last is not None and last.file is not None and last.guid == self._work.header(index).guid.hex():
            return await last.add(request)
        if last is not None:
            await last.close()
        promises = Promises(self._work, self._name, index)
        if not await promises.begin(request):
            return False
        self.promises.append(promises)
        return True

    async def _remember(self, index: IndexLog, asked: set[int]) -> None:
        with suppress(OSError):  # then the next request is written like this too
            file = await self._work.disk.open(index.log_path)
            if file.identity != index.file.identity:
                await file.close()
                return
            self._file, self._end, self._asked = file, index.state.head_offset, asked
            self._guid = self._work.header(index).guid


class Requests:
    """The requests of one writer, and the notes of its rows that are not executed yet.

    :param expunge: executes expunges; it succeeds once the messages are gone, even if a later step fails.
    :param execute: executes expunges and all requests of the mailbox.
    """

    def __init__(
        self, work: Work, expunge: Expunge, execute: Callable[[str, Sequence[int]], Awaitable[object]]
    ) -> None:
        self._work = work
        self._expunge = expunge
        self._execute = execute
        self._asking: dict[str, Asking] = {}
        self._left: dict[str, list[Promises]] = {}

    async def ask(self, name: str, uid: int) -> bool:
        """:meth:`Asking.ask`."""
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = Asking(self._work, name, self._expunge)
        try:
            return await asking.ask(uid)
        finally:
            if self._asking.get(name) is not asking:  # closed meanwhile, but it may have begun a note
                await self._close(name, asking)

    async def carry_out(self, name: str) -> None:
        """Make the requests durable; execute them if there is no Dovecot.

        :raises OSError, DboxfsError: that failed; the requests are still in the log, and noted.
        """
        asking = self._asking.pop(name, None)
        if asking is None:
            return
        await self._close(name, asking)
        if self._work.options.alone:
            await self._execute(name, [])
            await self.keep(name)  # nothing is left of it
        elif self._work.options.durable:
            async with self._work.mailbox(name) as index:
                await index.file.sync()

    async def _close(self, name: str, asking: Asking) -> None:
        await asking.close()
        self._left.setdefault(name, []).extend(asking.promises)
        asking.promises.clear()

    async def forget(self, name: str, guid: bytes | None) -> None:
        """Drop the notes of a mailbox that this writer has deleted.

        :param guid: of the mailbox; notes of others, which had its name before, stay.  None: not known.
        """
        asking = self._asking.pop(name, None)
        if asking is not None:
            await self._close(name, asking)
        left = self._left.pop(name, [])
        gone = [promises for promises in left if guid is not None and promises.guid == guid.hex()]
        await self._work.notes.drop([promises.path for promises in gone])
        if others := [promises for promises in left if promises not in gone]:
            self._left[name] = others

    async def keep(self, name: str | None = None) -> None:
        """Execute what :meth:`carry_out` has left (in one mailbox), and drop the notes.

        :raises OSError, DboxfsError: a part of it is not done: its note stays, for the next call or, after
            the end of this process, for the next writable mount.
        """
        for box in list(self._asking) if name is None else []:
            await self._close(box, self._asking.pop(box))
        for box in list(self._left) if name is None else [name]:
            left = self._left.pop(box, [])
            try:
                while left:
                    await keep(self._work, left[0].note, self._expunge)
                    await self._work.notes.drop([left.pop(0).path])
            finally:
                if left:
                    self._left.setdefault(box, [])[:0] = left


def _is_as_seen(seen: FileAsSeen) -> Steps[bool]:
    try:
        return seen.is_like((yield ops.Stat(seen.path, follow=False)))
    except FileNotFoundError:
        return seen.is_like(None)


def append_under_lock(asked: AppendLocked) -> Steps[Appended | None]:
    """The steps of one request.  None: a file has changed, or the log is locked."""
    fd, end = asked.fd, asked.end
    if not (yield TryLock(fd, asked.lock)):
        return None
    answer: Appended | None = None
    try:
        for seen in asked.seen:
            if not (yield from _is_as_seen(seen)):
                break
        else:
            answer = yield ops.Append(fd, (asked.data,))
            if answer.written == len(asked.data) and answer.error is None:
                noted = yield ops.Append(asked.note_fd, (asked.note,))
                answer = Appended(answer.written, noted.error)
    except OSError as error:
        answer = Appended(0, error)
    if answer is not None and answer.written not in (0, len(asked.data)):
        with suppress(OSError):  # else the next task that locks it does
            yield ops.Truncate(fd, end, end + answer.written)
    yield Unlock(fd, asked.lock)
    return answer
