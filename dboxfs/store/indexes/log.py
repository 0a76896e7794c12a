"""One index under its lock: the state as it is, and transactions appended to its log.

::

    async with index.locked():
        uid = index.state.next_uid
        await index.append([...records...], durable=True)

:meth:`IndexLog.locked` takes the log's lock, reads the log to its end through the locked descriptor, and cuts
off what a crashed writer left behind the last whole transaction; only then the body runs.  ``state`` is
valid inside of the body alone.  It is kept between two locks and followed, so that the next lock reads only
what is new.

:meth:`IndexLog.append` writes one transaction with one write.  What was written is replayed into the state
by the code that replays everybody's records, so the state can't differ from the log.

Concurrency: a ``trio.Lock`` (tasks of this process, first come first served), then the file's lock.  The
body hears no cancellation.  Errors while writing leave the log as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from dboxfs.errors import CorruptFile, FormatError, NoSuchMailbox
from dboxfs.fsapi import ops
from dboxfs.index.base import parse_index
from dboxfs.index.log import (
    HEADER_SIZE,
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
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.indexes.locks import DOTLOCK_STALE, link_exclusive, lock_log, unlock_log

_IN_THREAD = 1 << 20


class IndexLog:
    """The index files *stem* in *directory*, for writing.

    :param what: what it is the index of, for errors.
    :ivar directory: where it lies.
    :ivar mutex: in front of the log's lock.
    """

    def __init__(self, disk: Disk, directory: str, stem: str, what: str) -> None:
        self.disk = disk
        self.directory = directory
        self.what = what
        self.base_path = os.path.join(directory, stem)
        self.log_path = self.base_path + ".log"
        self.header = LogHeader(1, 1)
        self.snapshot_head = (0, 0)
        self.mutex = trio.Lock()
        self._state: IndexState | None = None
        self._forgotten = False
        self._identity: tuple[int, int] | None = None
        self._file: AppendFile | None = None
        self._held: AppendFile

    @property
    def state(self) -> IndexState:
        """The index as it is; only while it is locked."""
        assert self._state is not None
        assert self._file is not None
        return self._state

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
        return None if self._forgotten else self._state

    def forget(self) -> None:
        """Keep no state; the next lock reads everything.  Who holds it now goes on with what was read."""
        self._forgotten = True

    @asynccontextmanager
    async def locked(self, *, deleted_ok: bool = False) -> AsyncIterator[IndexLog]:
        """Hold the lock; see the module.

        :param deleted_ok: give a mailbox that is marked as deleted too.
        :raises NoSuchMailbox: the mailbox is gone (or marked as deleted).
        :raises FileNotFoundError: there is no log.
        :raises CorruptFile: log or snapshot are damaged; nothing was changed.
        :raises StoreBusy: another program holds the lock.
        """
        async with self.mutex:
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
                await unlock_log(self._held)

    async def peek(self) -> IndexState:
        """The index as it was a moment ago, without a lock.

        :raises CorruptFile, OSError: it can't be read.
        """
        reader = IndexFiles(self.disk.fs, self.directory, os.path.basename(self.base_path))
        await reader.refresh()
        if reader.state is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.log_path)
        return reader.state

    @property
    def known_uid_validity(self) -> int:
        """uid_validity as of the last lock; 0: not known."""
        return self.known.uid_validity if self.known is not None else 0

    # -- reading -----------------------------------------------------------------------------------------

    async def _catch_up(self, file: AppendFile) -> None:
        try:
            head = await file.read(HEADER_SIZE, 0)
            self.header = parse_log_header(head)
            if self.header.marked_corrupted:
                raise FormatError(4, "marked as corrupted; let Dovecot repair it (doveadm force-resync)")
            await self._follow(file)
        except FormatError as exc:
            self._state = None
            raise CorruptFile(self.log_path, exc.offset, exc.reason) from exc
        except BaseException:
            self._state = None
            raise
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
            self._state = None
            reason = (
                "the size of a record is damaged, whole ones are behind it; dboxfs rescue keeps the messages"
            )
            raise CorruptFile(self.log_path, end, reason)
        await file.cut(end)

    async def _follow(self, file: AppendFile) -> None:
        if self._forgotten:
            self._state, self._forgotten = None, False
        state = self._state
        same = state is not None and self._identity == file.identity
        if state is None or not same or not self._continues(state):
            self._state = None
            self._state = await self._load(file)
            self._identity = file.identity
            return
        if file.size < state.head_offset:
            self._state = None
            await self._follow(file)
            return
        new = await file.read(file.size - state.head_offset, state.head_offset)
        state.apply_log(new, state.head_offset)

    def _continues(self, state: IndexState) -> bool:
        """Whether the log is the one that *state* was at; an inode number may be used again."""
        return (state.indexid, state.log_file_seq) == (self.header.indexid, self.header.file_seq)

    async def _load(self, file: AppendFile) -> IndexState:
        base_data = await self.disk.read_whole(self.base_path)
        data = await file.read(file.size, 0)
        base = parse_index(base_data) if base_data is not None else None
        self.snapshot_head = (base.log_file_seq, base.head_offset) if base is not None else (0, 0)
        plan = decide(base, self.header, log_size=len(data))
        older: bytes | None = None
        if plan.action is Action.NEED_LOG2:
            older = await self.disk.read_whole(self.log_path + ".2")
            older_header = parse_log_header(older) if older is not None else None
            plan = decide(base, self.header, older_header, log_size=len(data), log2_read=True)
        if len(data) + len(older or b"") < _IN_THREAD:
            return load(plan, base, data, older)
        return await trio.to_thread.run_sync(load, plan, base, data, older)

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
        state = self.state
        data = encode_transaction(records)
        if tail:
            where = state.head_offset + len(data)
            data += encode_record(RecordType.HEADER_UPDATE, tail_update(where), external=True)
        if not data:
            return
        error = None
        try:
            error = await self.file.append_durably(data, sync=durable, unlink=unlink)
        except OSError:
            await self._cut_back()
            raise
        state.apply_log(data, state.head_offset)
        assert state.head_offset == self.file.size, "a reader does not accept what was just written"
        if error is not None:
            raise error

    async def follow_rotation(self, file: AppendFile, header: LogHeader) -> None:
        """Go on with a new log that has taken this one's name; it is locked, the old one is given back."""
        old, self._file = self.file, file
        file.path = self.log_path
        self.header = header
        self._identity = file.identity
        self.state.follow_rotation(header)
        self._held = file
        await old.close()

    async def _cut_back(self) -> None:
        try:
            await self.file.cut(self.state.head_offset)
        except OSError:
            self.disk.lost_errors += 1  # the next who locks cuts it off

    @property
    def tail_is_head(self) -> bool:
        """Whether every change was carried out to its end (mdbox-map, "the tail rule")."""
        return self.state.tail_offset == self.state.head_offset


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
