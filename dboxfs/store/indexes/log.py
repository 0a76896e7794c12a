"""One index under its lock: the current state, and transactions that are appended to its log.

::

    async with index.locked():
        uid = index.state.next_uid
        await index.append([...records...], durable=True)

:meth:`IndexLog.locked` takes the log's lock, reads the log to its end through the locked descriptor, and cuts
off bytes that a crashed writer left behind the last whole transaction; only then the body runs.  ``state`` is
valid only inside the body.

The state is that of an :class:`~dboxfs.store.indexes.follow.IndexFiles`: the reader's, if this process reads
the index, too.  The lock's holder proves it (``unlocked``), so that only new bytes are read.

:meth:`IndexLog.append` writes one transaction with one write.  The written records are replayed into the
state by the same code as those of other writers, so the state can't differ from the log; readers of this
process see them at once, without a read.

Concurrency: a lock in memory (tasks of this process, first come first served), then the file's lock.  The
body is shielded from cancellation.  A write error leaves the log unchanged.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
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

    :param what: the mailbox or map of this index, for errors.
    :param view: gives the reader of this index in this process; None: there is none.
    :ivar directory: its directory.
    :ivar mutex: taken before the log's lock.
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
        """The current state of the index; only while it is locked."""
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
        """Whether a task of this process holds the lock or waits for it."""
        return self.mutex.locked()

    @property
    def known(self) -> IndexState | None:
        """The state at the last lock: the current one only if the log still has the same end."""
        return None if self._forgotten else self._view.state

    @property
    def snapshot_head(self) -> tuple[int, int]:
        """The log (file_seq) and the offset in it up to which the snapshot goes; zeros: unknown."""
        return self._view.snapshot_head

    @snapshot_head.setter
    def snapshot_head(self, head: tuple[int, int]) -> None:
        self._view.snapshot_head = head

    def forget(self) -> None:
        """Drop the state, so that the next lock reads all of the index.  A task that holds the lock now keeps
        the state.
        """
        self._forgotten = True

    @asynccontextmanager
    async def locked(self, *, deleted_ok: bool = False) -> AsyncIterator[IndexLog]:
        """Hold the lock of the log, with the state of the log.

        :param deleted_ok: also lock a mailbox that is marked as deleted.
        :raises NoSuchMailbox: the mailbox is gone (or marked as deleted).
        :raises FileNotFoundError: there is no log.
        :raises CorruptFile: log or snapshot are damaged; nothing was changed.
        :raises StoreBusy: another program holds the lock.
        """
        has_mutex = self.mutex.is_mine  # by locked_ahead()
        if not has_mutex:
            await self.mutex.acquire()
        try:
            file, self._ahead = self._ahead, None
            if file is None:
                file = await lock_log(self.disk, self.log_path)
            self._held = file
            try:
                # who has taken the lock ahead is shielded already
                with nullcontext() if has_mutex else trio.CancelScope(shield=True):
                    self._file = file
                    await self._catch_up(file)
                    if self.state.deleted and not deleted_ok:
                        raise NoSuchMailbox(f"{self.what}: the mailbox is deleted")
                    yield self
            finally:
                self._file = None
                self._view.let_go()
                await unlock_log(self._held)
        finally:
            if not has_mutex:
                self.mutex.release()

    @property
    def is_held(self) -> bool:
        """Whether the log's lock is still held: a job may have released it already."""
        return self._file is not None and self._file.is_open

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
        """uid_validity at the last lock; 0: unknown."""
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
        """Cut off the bytes of a writer that died during its write, but no other unreadable bytes.

        :raises CorruptFile: there are whole transactions behind the damage: they count once the log is
            repaired.
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
        """Continue with the known state; False: there is none, or it differs from the log."""
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
        """Append one transaction; with *tail* also move the tail: all changes before are done.

        :param durable: sync the log, if commits are durable.
        :param unlink: notes to remove after the write.
        :raises OSError: the log is unchanged (write error), or has the records but may lose them (sync error:
            then ``state`` has them, too).
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
        """Take over the result of a planned transaction.

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
        """Keep the locked log for the next :meth:`locked`."""
        self._ahead = file

    async def drop_ahead(self) -> None:
        """Close the log of :meth:`take_ahead`, if it was not used."""
        file, self._ahead = self._ahead, None
        if file is not None:
            await file.close()

    async def follow_rotation(self, file: AppendFile, header: LogHeader) -> None:
        """Continue with a new, locked log that has taken this one's name; the old one is closed.

        :raises OSError: the new log can't be read; it is closed with this lock as usual.
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
            self.disk.lost_errors += 1  # the next task that locks the log cuts it

    @property
    def tail_is_head(self) -> bool:
        """Whether all changes were finished (mdbox-map, "the tail rule")."""
        return self.state.tail_offset == self.state.head_offset


def locked_ahead(indexes: Sequence[IndexLog]) -> AbstractAsyncContextManager[None]:
    """Take those locks of several logs that are free, in this order, with one hop to a worker.

    Inside this context :meth:`IndexLog.locked` of the same task uses these locks, and waits for the others as
    usual.  The order is that in which the caller then locks them (PROTOCOL section 2).  The caller has
    shielded itself from cancellation.
    """
    return locked_behind(indexes, _nothing, lambda _: True)


def _nothing() -> Steps[None]:
    yield from ()


@asynccontextmanager
async def locked_behind(
    indexes: Sequence[IndexLog], first: Callable[[], Steps[F]], went_well: Callable[[F], bool]
) -> AsyncIterator[F]:
    """:func:`locked_ahead` of *indexes* after *first*, in the same job; gives the result of *first*.

    :param went_well: whether, by that result, the locks are to be taken.
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
    """Make a log with its first records; no process ever sees a part of it.  False: there is one already.

    It is written under a temporary name and linked to its final name.

    :param contended: other processes may make it, too: hold Dovecot's lock for that, ``.newlock``.
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
