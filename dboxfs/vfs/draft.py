"""A file being written: bytes that are no message yet.

An :class:`Upload` only ever grows at its end, or begins again from nothing.  Its bytes are in memory as long
as it is small and all uploads together are (:class:`Budget`), then in a temporary file of the store's
(:class:`~dboxfs.store.write.Spool`), which becomes the message or goes away with the upload.

Opened on a message that exists (*base*), it may be written

* at the end: the message's bytes come first, then those that are written;
* from offset 0 on, as ``rsync --inplace`` does: the message is written again.  This has to reach the old end,
  or to set its own with ftruncate; a commit before that is refused, and changes nothing.

A temporary whose name begins with a dot may be written anywhere while it is in memory: editors keep their
swap files so.  :meth:`Upload.sync` then makes a copy of it durable, and it stays in memory.  Anything else is
EOPNOTSUPP.  After an error nothing of it is ever committed (``failed``).

The first bytes may be those of a message, with more behind them (``based``): an append.  If that message is
another one by the time of the commit, because somebody else has appended to it, :meth:`Upload.rebase` puts
what was appended here behind that.

Concurrency: whoever changes an upload holds ``lock``.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

import trio
from pyfuse3 import FUSEError

from dboxfs.store import Body, Folder
from dboxfs.store.write import BytesSource, Source, Spool

EACH = 256 << 10
"""Bytes that one upload may have in memory."""

ALL = 16 << 20
"""Bytes that all uploads together may have in memory."""

_PIECE = 1 << 20


class Budget:
    """Memory of all uploads together (bytes)."""

    def __init__(self, limit: int = ALL) -> None:
        self.used = 0
        self._limit = limit

    def take(self, size: int) -> bool:
        """Take *size* bytes; False: there are not so many left."""
        if self.used + size > self._limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give *size* bytes back."""
        self.used -= size


class Upload:
    """See the module.

    :ivar inode: the number under which the kernel knows it.
    :ivar name: the name of the message to be, or of the temporary.
    :ivar received: seconds since the epoch; None: the time of the commit.
    :ivar uid: the message that it is, or takes the place of; None: none yet.
    :ivar dirty: it has bytes that no commit has had.
    :ivar failed: the errno that a write or a commit has reported; 0: none.
    :ivar creator: the process that opened it first.
    :ivar closed: who opened it has closed it, and was told that its bytes are safe; others hold it still.
    :ivar written: when bytes last came (``trio.current_time``).
    :ivar guid: of the mailbox that it was opened in; None: not known.
    :ivar based: how many of its first bytes are those of the message that it is or appends to; None: all are
        its own, and take the place of that message as a whole.
    :ivar exclusive: made with O_EXCL: it takes no message's place.
    :ivar renamed: it was given its name by a rename: it takes the place of whatever message has it.
    :ivar unnamed: another file was given its name meanwhile.
    """

    def __init__(
        self, spool: Callable[[Folder], Spool], budget: Budget, inode: int, folder: Folder, name: bytes
    ) -> None:
        self.inode = inode
        self.folder = folder
        self.name = name
        self.received: int | None = None
        self.flags = 0
        self.keywords: tuple[str, ...] = ()
        self.uid: int | None = None
        self.base: Body | None = None
        self.dirty = False
        self.failed = 0
        self.discarded = False
        self.handles = 0
        self.creator = 0
        self.closed = False
        self.written = 0.0
        self.guid = folder.mailbox.guid if folder.mailbox is not None else None
        self.based: int | None = None
        self.exclusive = False
        self.renamed = False
        self.unnamed = False
        self.created = int(time.time())
        self.lock = trio.Lock()
        self._new_spool = spool
        self._budget = budget
        self._written = 0
        self._memory = bytearray()
        self._spool: Spool | None = None
        self._copy: Spool | None = None
        self._synced = True
        self._started = False
        self._rewriting = False

    @property
    def temporary(self) -> bool:
        """Its name begins with a dot, and it is no message: it becomes one when it is renamed."""
        return self.uid is None and self.name.startswith(b".")

    @property
    def taken(self) -> bool:
        """Its temporary file was handed over to a commit."""
        return self._spool is not None and self._spool.taken

    @property
    def size(self) -> int:
        """Bytes that reading it gives."""
        if self.base is not None and not self._started:
            return self.base.size
        return self._written

    # -- writing -------------------------------------------------------------------------------

    async def write(self, data: bytes, offset: int | None) -> int:
        """Append *data*, which the writer wants at *offset* (None: at the end, wherever that is).

        :raises FUSEError: EOPNOTSUPP: that is not the end; the error of an earlier write.
        :raises OSError: the temporary file can't be written.
        """
        self.check()
        self._synced = False
        self.written = trio.current_time()
        try:
            if offset is not None and self._scratch(data, offset):
                return len(data)
            await self._start(offset)
            await self._append(data)
        except FUSEError as exc:
            self.failed = exc.errno
            raise
        except OSError as exc:
            self.failed = exc.errno or errno.EIO
            raise
        self.dirty = True
        return len(data)

    def _scratch(self, data: bytes, offset: int) -> bool:
        """Write anywhere in a temporary that is in memory; False: it isn't, or that is its end."""
        end = max(offset + len(data), len(self._memory))
        if not self._may_scratch() or end > EACH:
            return False
        if offset == len(self._memory) or not self._budget.take(end - len(self._memory)):
            return False
        self._memory += bytes(max(offset - len(self._memory), 0))
        self._memory[offset : offset + len(data)] = data
        self._written = len(self._memory)
        self.dirty = True
        return True

    def _may_scratch(self) -> bool:
        return self.temporary and self.base is None and self._spool is None

    async def _start(self, offset: int | None) -> None:
        if not self._started and self.base is not None:
            if offset is None or offset == self.base.size:
                await self._copy_in(self.base)
                self.based = self.base.size
            elif offset == 0:
                self._rewriting = True
            else:
                raise FUSEError(errno.EOPNOTSUPP)
        elif offset is not None and offset != self._written:
            raise FUSEError(errno.EOPNOTSUPP)
        self._started = True

    async def _copy_in(self, body: Body) -> None:
        at = 0
        while at < body.size:
            piece = await body.read(_PIECE, at)
            if not piece:
                raise OSError(errno.EIO, "the message ends early")
            await self._append(piece)
            at += len(piece)

    async def rebase(self, body: Body) -> None:
        """Have the bytes of *body* in front of those that were appended.

        :raises OSError: it can't be read, or the temporary file not be written.
        """
        memory, spool, end, at = self._memory, self._spool, self._written, self.based or 0
        self._memory, self._spool, self._written = bytearray(), None, 0
        self._drop_copy()
        try:
            await self._copy_in(body)
            while at < end:
                piece = bytes(memory[at : at + _PIECE]) if spool is None else await spool.read(_PIECE, at)
                if not piece:
                    raise OSError(errno.EIO, "the temporary file ends early")
                await self._append(piece)
                at += len(piece)
        finally:
            self._budget.give(len(memory))
            if spool is not None:
                spool.close()
        self.based, self._synced = body.size, False

    async def _append(self, data: bytes) -> None:
        if self._spool is None and len(self._memory) + len(data) <= EACH and self._budget.take(len(data)):
            self._memory += data
        else:
            await (await self._spill()).write_all(data)
        self._written += len(data)

    async def _spill(self) -> Spool:
        """The temporary file; what is in memory goes there."""
        if self._spool is None:
            self._spool = self._new_spool(self.folder)
            await self._spool.write_all(bytes(self._memory))
            self._forget_memory()
            self._drop_copy()
        else:
            await self.renew()
        return self._spool

    async def renew(self) -> None:
        """Have a temporary file of its own again, if a commit has taken it: what comes is another message.

        :raises OSError: it can't be written.
        """
        if self._spool is not None and self._spool.taken:
            old, self._spool = self._spool, self._new_spool(self.folder)
            try:
                await _transfer(old, self._spool)
            finally:
                old.close()

    def truncate(self, size: int) -> None:
        """ftruncate: to nothing, or to the size that it has.

        :raises FUSEError: EOPNOTSUPP: to any other size.
        """
        self.check()
        if size == 0:
            self._forget_memory()
            if self._spool is not None and self.taken:
                self._spool.close()
                self._spool = None
            if self._spool is not None:
                self._spool.rollback()
            self._written = 0
            self._started = True
            self._rewriting = False
            self.dirty = False
            self.based = None
        elif size == self.size:
            self._rewriting = False
        else:
            self.failed = errno.EOPNOTSUPP
            raise FUSEError(errno.EOPNOTSUPP)

    def check(self) -> None:
        """
        :raises FUSEError: an earlier write or commit has failed.
        """
        if self.failed:
            raise FUSEError(self.failed)

    # -- reading and the end -------------------------------------------------------------------

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* at the end."""
        if self.base is not None and not self._started:
            return await self.base.read(size, offset)
        if self._spool is not None:
            return await self._spool.read(size, offset)
        return bytes(self._memory[offset : offset + size])

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known.

        :raises OSError: it can't be written.
        """
        if self._spool is not None:
            await self._done(self._spool.settle())

    async def sync(self) -> None:
        """Make the bytes durable, in a temporary file, if commits are; :meth:`settle` included.

        :raises OSError: they are not.
        """
        if self._synced or self.taken:
            return
        await self._done(self._sync())
        self._synced = True

    async def _sync(self) -> None:
        if self._spool is not None or not self._may_scratch():
            await (await self._spill()).sync()
            return
        if self._copy is None:
            self._copy = self._new_spool(self.folder)
        self._copy.rollback()
        await self._copy.write_all(bytes(self._memory))
        await self._copy.sync()

    async def _done(self, work: Awaitable[object]) -> None:
        """After an error the bytes may be lost, whatever the kernel says next time."""
        try:
            await work
        except OSError as exc:
            self.failed = exc.errno or errno.EIO
            raise

    def source(self) -> Source:
        """The bytes, for a save.

        :raises FUSEError: EOPNOTSUPP: only the beginning of a message was written over.
        """
        self.check()
        if self._rewriting and self.base is not None and self._written < self.base.size:
            self.failed = errno.EOPNOTSUPP
            raise FUSEError(errno.EOPNOTSUPP)
        return BytesSource(bytes(self._memory)) if self._spool is None else self._spool

    def committed(self, uid: int) -> None:
        """It is this message now, with all its bytes."""
        self.uid, self.dirty, self.based = uid, False, self._written

    def _forget_memory(self) -> None:
        self._budget.give(len(self._memory))
        self._memory = bytearray()

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def close(self) -> None:
        """Forget everything; the temporary file is deleted."""
        self.discarded = True
        self._forget_memory()
        self._drop_copy()
        if self._spool is not None:
            self._spool.close()
        if self.base is not None:
            self.base.close()
            self.base = None


async def _transfer(old: Spool, new: Spool) -> None:
    at = 0
    while piece := await old.read(_PIECE, at):
        await new.write_all(piece)
        at += len(piece)
