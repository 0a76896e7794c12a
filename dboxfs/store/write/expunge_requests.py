"""Requests to expunge, one message after the other, with a log that stays open (PROTOCOL section 8).

The daemon answers an unlink(2) when its record is in the log.  ``rm -r`` sends thousands of them, each after
the answer to the one before.  :class:`Asking` writes such a record with one job of a worker: lock the log,
check that it is the same file with the same end, append, unlock.  If that fails (another process holds the
lock, or the log has grown or was rotated), the request is written like that of :meth:`StoreWriter.expunge`,
which reads the new records; after that the log is known again.

These records are not replayed into the index's state: the next task that locks the index reads them like the
records of any other process.

Nothing is synced here: :meth:`StoreWriter.carry_out` syncs all requests.

Concurrency: each of these jobs holds the index's mutex.
"""

from __future__ import annotations

from contextlib import suppress

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended, AppendLocked, LockKind, TryLock, Unlock
from dboxfs.store.disk import AppendFile, check_appended
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write import log_records
from dboxfs.store.write.meaning import meant
from dboxfs.store.write.session import Work, visible
from dboxfs.store.write_options import LockMethod

_LOCKS = {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}


class Asking:
    """Requests expunges in one mailbox."""

    def __init__(self, work: Work, name: str) -> None:
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
        return await self._ask_soon(uid) or await self._ask_again(uid)

    async def close(self) -> None:
        """Close the log; the next request opens it again."""
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
        mutex = self._index.mutex
        if self._file is None or mutex.locked() or not self._is_meant:
            return False
        mutex.acquire_nowait()
        try:
            return await self._append(self._file, uid)
        except OSError:  # perhaps the lock could not be given back: it ends with the open file
            file, self._file = self._file, None
            await file.close()
            raise
        finally:
            mutex.release()

    async def _append(self, file: AppendFile, uid: int) -> bool:
        state = self._index.known
        kind = _LOCKS.get(self._work.options.lock_method)
        if kind is None or state is None or state.row_of(uid) < 0:
            return False
        data, end = log_records.ask_for_expunge(state, uid), self._end
        at_once = AppendLocked(file.fd, file.path, file.identity, end, data, kind)
        answer = await self._work.fs.run_chain_soon(lambda: append_under_lock(at_once), at_once)
        if answer is None:
            return False
        check_appended(answer, len(data), file.path)
        self._end += len(data)
        self._asked.add(uid)
        return True

    async def _ask_again(self, uid: int) -> bool:
        """Read the new records, write the request, and remember the log as it is now."""
        await self.close()
        async with self._work.mailbox(self._name) as index:
            self._index, state = index, index.state
            asked = set(state.pending_expunges.tolist()) if state.has_pending_requests else set()
            wanted = visible(state, [uid])
            if wanted:
                await index.append([log_records.ask_for_expunge(state, uid)])
            await self._remember(index, {*asked, *wanted})
        return bool(wanted)

    async def _remember(self, index: IndexLog, asked: set[int]) -> None:
        with suppress(OSError):  # then the next request is written like this too
            file = await self._work.disk.open(index.log_path)
            if file.identity != index.file.identity:
                await file.close()
                return
            self._file, self._end, self._asked = file, index.state.head_offset, asked
            self._guid = self._work.header(index).guid


def append_under_lock(asked: AppendLocked) -> Steps[Appended | None]:
    """The steps of one request.  None: the log has changed or is locked."""
    fd, end = asked.fd, asked.end
    if not (yield TryLock(fd, asked.lock)):
        return None
    answer: Appended | None = None
    try:
        now = yield ops.Stat(asked.path, follow=False)
        if (now.st_dev, now.st_ino) == asked.identity and now.st_size == end:
            answer = yield ops.Append(fd, (asked.data,))
    except FileNotFoundError:
        pass  # the next look at the log raises the error
    except OSError as error:
        answer = Appended(0, error)
    if answer is not None and answer.written not in (0, len(asked.data)):
        with suppress(OSError):  # else the next task that locks it does
            yield ops.Truncate(fd, end, end + answer.written)
    yield Unlock(fd, asked.lock)
    return answer
