"""One index under its lock: the state as it is, and transactions appended to its log.

::

    async with index.locked():
        uid = index.state.next_uid
        await index.append([...records...], durable=True)

:meth:`IndexLog.locked` takes the log's lock, reads the log to its end through the locked descriptor, and cuts
off what a crashed writer left behind the last whole transaction; only then the body runs.  ``state`` is
valid inside of the body alone.

The state is that of an :class:`~dboxfs.store.indexes.follow.IndexFiles`: the reader's, where this process
reads the index too.  The lock's holder proves it (``unlocked``), so that only what is new is read.

:meth:`IndexLog.append` writes one transaction with one write.  What was written is replayed into the state
by the code that replays everybody's records, so the state can't differ from the log; readers of this process
see it at once, and read nothing.

Concurrency: a lock in memory (tasks of this process, first come first served), then the file's lock.  The
body hears no cancellation.  Errors while writing leave the log as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio

from dboxfs.errors import CorruptFile, FormatError, NoSuchMailbox
from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import OpenedFile
from dboxfs.index.base import parse_index
from dboxfs.index.log import (
    LogHeader,
    RecordType,
    encode_log_header,
    encode_record,
    encode_transaction,
    is_cut_short,
    parse_log_header,
)
from dboxfs.index.payload import tail_update
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from dboxfs.store.disk import AppendFile, Disk, check_appended
from dboxfs.store.indexes.follow import START, IndexFiles
from dboxfs.store.indexes.in_turn import LogWrite, LogWritten, run_in_turn
from dboxfs.store.indexes.locks import (
    DOTLOCK_STALE,
    link_exclusive,
    lock_in_turn,
    lock_kind,
    lock_log,
    unlock_log,
)
from dboxfs.util.lock import Lock

F = TypeVar("F")

_IN_THREAD = 1 << 20


class IndexLog:
    """The index files *stem* in *directory*, for writing.

    :param what: what it is the index of, for errors.
    :param view: gives who reads this index in this process; None: nobody does.
    :ivar directory: where it lies.
    :ivar mutex: in front of the log's lock.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        stem: str,
        what: str,
        view: Callable[[], IndexFiles | None] = lambda: None,
    ) -> None:
        self.disk = disk
        self.directory = directory
        self.what = what
        self.base_path = os.path.join(directory, stem)
        self.log_path = self.base_path + ".log"
        self.header = LogHeader(1, 1)
        self.mutex = Lock()
        self._find_view = view
        self._own = IndexFiles(disk.fs, directory, stem)
        self._view = self._own
        self._forgotten = False
        self._file: AppendFile | None = None
        self._ahead: AppendFile | None = None
        self._held: AppendFile

    @property
    def state(self) -> IndexState:
        """The index as it is; only while it is locked."""
        assert self._file is not None
        assert self._view.state is not None
        return self._view.state

    @property
    def file(self) -> AppendFile:
        """The log; only while it is locked."""
        assert self._file is not None
        return self._file

    @property
    def busy(self) -> bool:
        """Whether a task of this process holds it or waits for it."""
        return self.mutex.locked()

    @property
    def known(self) -> IndexState | None:
        """The index as of the last lock: not what it is now, unless the log ends where it did."""
        return None if self._forgotten else self._view.state

    @property
    def snapshot_head(self) -> tuple[int, int]:
        """The log (file_seq) and its offset that the snapshot reaches to; zeros: not known."""
        return self._view.snapshot_head

    @snapshot_head.setter
    def snapshot_head(self, head: tuple[int, int]) -> None:
        self._view.snapshot_head = head

    def forget(self) -> None:
        """Keep no state; the next lock reads everything.  Who holds it now goes on with what was read."""
        self._forgotten = True

    @asynccontextmanager
    async def locked(self, *, deleted_ok: bool = False) -> AsyncIterator[IndexLog]:
        """Hold the lock of the log, with the state as the log has it.

        :param deleted_ok: give a mailbox that is marked as deleted too.
        :raises NoSuchMailbox: the mailbox is gone (or marked as deleted).
        :raises FileNotFoundError: there is no log.
        :raises CorruptFile: log or snapshot are damaged; nothing was changed.
        :raises StoreBusy: another program holds the lock.
        """
        async with self._alone():
            file, self._ahead = self._ahead, None
            if file is None:
                file = await lock_log(self.disk, self.log_path)
            self._held = file
            try:
                with trio.CancelScope(shield=True):
                    self._file = file
                    await self._catch_up(file)
                    if self.state.deleted and not deleted_ok:
                        raise NoSuchMailbox(f"{self.what}: the mailbox is deleted")
                    yield self
            finally:
                self._file = None
                self._view.let_go()
                await unlock_log(self._held)

    @property
    def is_held(self) -> bool:
        """Whether the log's lock is held still: a job may have given it back already."""
        return self._file is not None and self._file.is_open

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold ``mutex``, or have it already: by :func:`locked_ahead`."""
        if self.mutex.is_mine:
            yield
            return
        async with self.mutex:
            yield

    async def peek(self) -> IndexState:
        """The index as it was a moment ago, without a lock.

        :raises CorruptFile, OSError: it can't be read.
        """
        view = self._find_view() or self._own
        await view.look()
        if view.state is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.log_path)
        return view.state

    @property
    def known_uid_validity(self) -> int:
        """uid_validity as of the last lock; 0: not known."""
        return self.known.uid_validity if self.known is not None else 0

    # -- reading -----------------------------------------------------------------------------------------

    async def _catch_up(self, file: AppendFile) -> None:
        self._view = self._find_view() or self._own
        try:
            start = file.head or await file.read(START, 0)
            self.header = parse_log_header(start)
            if self.header.marked_corrupted:
                raise FormatError(4, "marked as corrupted; let Dovecot repair it (doveadm force-resync)")
            if not await self._prove(file, start):
                await self._load(file, start)
        except FormatError as exc:
            raise CorruptFile(self.log_path, exc.offset, exc.reason) from exc
        self._forgotten = False
        if file.size > self.state.head_offset:
            await self._cut_unfinished(file, self.state.head_offset)

    async def _cut_unfinished(self, file: AppendFile, end: int) -> None:
        """Cut off what a writer left who died in its write; nothing else that can't be read.

        :raises CorruptFile: there are whole transactions behind it: they count, once the log is repaired.
        """
        rest = await file.read(file.size - end, end)
        whole = (
            is_cut_short(rest)
            if len(rest) < _IN_THREAD
            else await trio.to_thread.run_sync(is_cut_short, rest)
        )
        if not whole:
            self.forget()
            reason = (
                "the size of a record is damaged, whole ones are behind it; dboxfs rescue keeps the messages"
            )
            raise CorruptFile(self.log_path, end, reason)
        await file.cut(end)

    async def _prove(self, file: AppendFile, start: bytes) -> bool:
        """Go on with the state that is known; False: it is not, or is not what the log says."""
        known = None
        if not self._forgotten:
            known = self._view.unproved_from(file.identity, self.header, start)
        if known is None or known > file.size:
            return False
        new = await file.read(file.size - known, known)
        return self._view.take_over(new)

    async def _load(self, file: AppendFile, start: bytes) -> None:
        base_data = await self.disk.read_whole(self.base_path)
        data = await file.read(file.size, 0)
        base = parse_index(base_data) if base_data is not None else None
        head = (base.log_file_seq, base.head_offset) if base is not None else (0, 0)
        plan = decide(base, self.header, log_size=len(data))
        older: bytes | None = None
        if plan.action is Action.NEED_LOG2:
            older = await self.disk.read_whole(self.log_path + ".2")
            older_header = parse_log_header(older) if older is not None else None
            plan = decide(base, self.header, older_header, log_size=len(data), log2_read=True)
        if len(data) + len(older or b"") < _IN_THREAD:
            state = load(plan, base, data, older)
        else:
            state = await trio.to_thread.run_sync(load, plan, base, data, older)
        self._view.adopt(state, file.stat, start, head)

    # -- writing -----------------------------------------------------------------------------------------

    async def append(
        self,
        records: Sequence[bytes],
        *,
        tail: bool = False,
        durable: bool = False,
        unlink: Sequence[str] = (),
    ) -> None:
        """Append one transaction; with *tail* also say that everything before is done.

        :param durable: wait for the disk, if commits do.
        :param unlink: notes that are done with, once this has worked.
        :raises OSError: the log is as it was (write error), or has the records but may lose them (sync
            error: then ``state`` has them too).
        """
        write = self.plan(records, tail=tail, durable=durable, unlink=unlink)
        if not write.data:
            return
        done = await run_in_turn(self.disk, [write])
        await self.settle(write, done.begun[0])

    def plan(
        self,
        records: Sequence[bytes],
        *,
        tail: bool = False,
        durable: bool = False,
        unlink: Sequence[str] = (),
        behind: LogWrite | None = None,
    ) -> LogWrite:
        """A transaction that :func:`~dboxfs.store.indexes.in_turn.run_in_turn` appends; see :meth:`append`.

        :param behind: a transaction of the same log that comes first.
        """
        end = self.state.head_offset if behind is None else behind.end + len(behind.data)
        data = encode_transaction(records)
        if tail:
            update = tail_update(end + len(data))
            data += encode_record(RecordType.HEADER_UPDATE, update, external=True)
        return LogWrite(self.file, data, end, durable, unlink)

    async def settle(self, write: LogWrite, written: LogWritten) -> None:
        """Take over what a planned transaction has come to.

        :raises OSError: as :meth:`append`.
        """
        try:
            check_appended(written.appended, len(write.data), self.log_path)
        except OSError:
            await self._cut_back()
            raise
        self._view.feed(write.data, self.file.stat.st_mtime_ns)
        assert self.state.head_offset == write.end + len(write.data), "a reader refuses what was just written"
        if written.unsynced is not None:
            raise written.unsynced

    def take_ahead(self, file: AppendFile) -> None:
        """The locked log, which the next :meth:`locked` takes."""
        self._ahead = file

    async def drop_ahead(self) -> None:
        """Nobody has taken it."""
        file, self._ahead = self._ahead, None
        if file is not None:
            await file.close()

    async def follow_rotation(self, file: AppendFile, header: LogHeader) -> None:
        """Go on with a new log that has taken this one's name; it is locked, the old one is given back.

        :raises OSError: the new one can't be read; it is given back with this lock, as ever.
        """
        old, self._file, self._held = self.file, file, file
        file.path = self.log_path
        try:
            start = await file.read(START, 0)
        except OSError:
            self.forget()
            raise
        finally:
            await old.close()
        self.header = header
        self._view.follow_rotation(header, file.identity, start)

    async def _cut_back(self) -> None:
        try:
            await self.file.cut(self.state.head_offset)
        except OSError:
            self.disk.lost_errors += 1  # the next who locks cuts it off

    @property
    def tail_is_head(self) -> bool:
        """Whether every change was carried out to its end (mdbox-map, "the tail rule")."""
        return self.state.tail_offset == self.state.head_offset


def locked_ahead(indexes: Sequence[IndexLog]) -> AbstractAsyncContextManager[None]:
    """Take the locks of several logs in this order with one hop to a worker, as far as they are free.

    :meth:`IndexLog.locked`, by the same task and inside of this, then finds them taken; what was not free it
    waits for as ever.  The order is the one in which the caller enters them (PROTOCOL section 2).
    """
    return locked_behind(indexes, _nothing, lambda _: True)


def _nothing() -> Steps[None]:
    yield from ()


@asynccontextmanager
async def locked_behind(
    indexes: Sequence[IndexLog], first: Callable[[], Steps[F]], went_well: Callable[[F], bool]
) -> AsyncIterator[F]:
    """:func:`locked_ahead` of *indexes* behind *first*, in the same job; gives what *first* has come to.

    :param went_well: whether the locks are to be taken then.
    :raises OSError: of *first*; no lock was taken.
    """
    disk = indexes[0].disk
    kind = lock_kind(disk.options.lock_method)
    free: list[IndexLog] = []
    for index in indexes:
        if kind is None or index.busy:
            break
        index.mutex.acquire_nowait()
        free.append(index)
    paths = [index.log_path for index in free]

    def program() -> Steps[tuple[F, list[tuple[OpenedFile, os.stat_result, bytes]]]]:
        done = yield from first()
        if kind is None or not went_well(done):
            return done, []
        return done, (yield from lock_in_turn(paths, kind, START))

    try:
        done, found = await disk.chain(program)
        for index, (opened, now, start) in zip(free, found, strict=False):
            file = AppendFile(disk, index.log_path, opened)
            file.stat, file.size, file.head = now, now.st_size, start
            index.take_ahead(file)
        yield done
    finally:
        for index in reversed(free):
            await index.drop_ahead()
            index.mutex.release()


async def new_log(disk: Disk, index: IndexLog, header: LogHeader, records: bytes, *, contended: bool) -> bool:
    """Make a log with its first records; nobody ever sees a part of it.  False: there is one already.

    It is written under a temporary name and linked to its own.

    :param contended: others may be about to make it too: hold Dovecot's lock for that, ``.newlock``.
    """
    file = await disk.create_temporary(index.directory)
    names = [file.path]
    try:
        await file.append(encode_log_header(header) + records)
        await file.sync()
        if contended:
            await link_exclusive(disk, file.path, index.log_path + ".newlock", DOTLOCK_STALE)
            names.insert(0, index.log_path + ".newlock")
        try:
            await disk.run(ops.Link(file.path, index.log_path))
        except FileExistsError:
            return False
    finally:
        await file.close()
        await disk.discard(names)
    await disk.sync_dir(index.directory)
    return True
