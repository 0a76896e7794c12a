"""The bytes of a draft: in memory as long as they are few, then in a temporary file of the store's.

They only ever grow at their end, or begin again from nothing.  They are in memory as long as the draft is
small (:data:`EACH`) and all drafts together are (:class:`Budget`), then in a
:class:`~dboxfs.store.write.Spool`, which becomes the message or goes away with the draft.

A draft of a message that exists (*base*) may be written

* at the end: the message's bytes come first, then those that are written;
* from offset 0 on, as ``rsync --inplace`` does: the message is written again.  This has to reach the old end,
  or to set its own with ftruncate; a commit before that is refused, and changes nothing.

A temporary whose name begins with a dot (*scratch*) may be written anywhere while it is in memory: editors
keep their swap files so.  :meth:`Content.sync` then makes a copy of it durable, and it stays in memory.
Anything else is EOPNOTSUPP.

The first bytes may be those of a message, with more behind them (``based``): an append.  If that message is
another one by the time of the commit, because somebody else has appended to it, :meth:`Content.rebase` puts
what was appended here behind that.

Concurrency: one caller at a time (:attr:`dboxfs.vfs.draft.Draft.lock`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from dboxfs.store import Body
from dboxfs.store.write import BytesSource, Source, Spool
from dboxfs.vfs.errors import Refused

EACH = 256 << 10
"""Bytes that one draft may have in memory."""

ALL = 16 << 20
"""Bytes that all drafts together may have in memory."""

_PIECE = 1 << 20


class Budget:
    """Memory of all drafts together (bytes)."""

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


class Content:
    """The bytes of one draft.

    :param spool: makes a temporary file where the message will be.
    :param base: the message that the draft was opened on, if its bytes stay; this closes it.
    :param based: how many of the first bytes are a message's; 0 for a file that is only appended to.
    :ivar dirty: there are bytes that no commit has had.
    :ivar based: how many of the first bytes are those of the message that it is or appends to; None: all are
        its own, and take the place of that message as a whole.
    """

    def __init__(
        self, spool: Callable[[], Spool], budget: Budget, base: Body | None = None, based: int | None = None
    ) -> None:
        self.dirty = False
        self.based = based
        self._new_spool = spool
        self._budget = budget
        self._base = base
        self._written = 0
        self._memory = bytearray()
        self._spool: Spool | None = None
        self._copy: Spool | None = None
        self._synced = True
        self._started = False
        self._rewriting = False

    @property
    def size(self) -> int:
        """Bytes that reading it gives."""
        if self._base is not None and not self._started:
            return self._base.size
        return self._written

    @property
    def taken(self) -> bool:
        """The temporary file was handed over to a commit."""
        return self._spool is not None and self._spool.taken

    @property
    def _may_scratch(self) -> bool:
        return self._base is None and self._spool is None

    # -- writing -------------------------------------------------------------------------------

    async def write(self, data: bytes, offset: int | None, *, scratch: bool) -> None:
        """Append *data*, which the writer wants at *offset* (None: at the end, wherever that is).

        :param scratch: it may be written anywhere.
        :raises Refused: EOPNOTSUPP: that is not the end.
        :raises OSError: the temporary file can't be written.
        """
        self._synced = False
        if not (scratch and offset is not None and self._scratch(data, offset)):
            await self._start(offset)
            await self._append(data)
        self.dirty = True

    def _scratch(self, data: bytes, offset: int) -> bool:
        """Write anywhere in memory; False: the bytes are not in memory, or that is their end."""
        end = max(offset + len(data), len(self._memory))
        if not self._may_scratch or end > EACH:
            return False
        if offset == len(self._memory) or not self._budget.take(end - len(self._memory)):
            return False
        self._memory += bytes(max(offset - len(self._memory), 0))
        self._memory[offset : offset + len(data)] = data
        self._written = len(self._memory)
        return True

    async def _start(self, offset: int | None) -> None:
        if not self._started and self._base is not None:
            if offset is None or offset == self._base.size:
                await self._copy_in(self._base)
                self.based = self._base.size
            elif offset == 0:
                self._rewriting = True
            else:
                raise Refused(errno.EOPNOTSUPP)
        elif offset is not None and offset != self._written:
            raise Refused(errno.EOPNOTSUPP)
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
            self._spool = self._new_spool()
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
            old, self._spool = self._spool, self._new_spool()
            try:
                await _transfer(old, self._spool)
            finally:
                old.close()

    def truncate(self, size: int) -> None:
        """ftruncate: to nothing, or to the size that it has.

        :raises Refused: EOPNOTSUPP: to any other size.
        """
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
            raise Refused(errno.EOPNOTSUPP)

    # -- reading and the end -------------------------------------------------------------------

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* at the end."""
        if self._base is not None and not self._started:
            return await self._base.read(size, offset)
        if self._spool is not None:
            return await self._spool.read(size, offset)
        return bytes(self._memory[offset : offset + size])

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known.

        :raises OSError: it can't be written.
        """
        if self._spool is not None:
            await self._spool.settle()

    async def sync(self, *, scratch: bool) -> None:
        """Make the bytes durable, in a temporary file, if commits are; :meth:`settle` included.

        :param scratch: they stay in memory, too, to be written anywhere.
        :raises OSError: they are not durable.
        """
        if self._synced or self.taken:
            return
        if not (scratch and self._may_scratch):
            await (await self._spill()).sync()
        else:
            if self._copy is None:
                self._copy = self._new_spool()
            self._copy.rollback()
            await self._copy.write_all(bytes(self._memory))
            await self._copy.sync()
        self._synced = True

    def source(self) -> Source:
        """The bytes, for a save.

        :raises Refused: EOPNOTSUPP: only the beginning of a message was written over.
        """
        if self._rewriting and self._base is not None and self._written < self._base.size:
            raise Refused(errno.EOPNOTSUPP)
        return BytesSource(bytes(self._memory)) if self._spool is None else self._spool

    def committed(self) -> None:
        """A commit has had all bytes."""
        self.dirty, self.based = False, self._written

    def _forget_memory(self) -> None:
        self._budget.give(len(self._memory))
        self._memory = bytearray()

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def close(self) -> None:
        """Forget everything; the temporary file is deleted."""
        self._forget_memory()
        self._drop_copy()
        if self._spool is not None:
            self._spool.close()
        if self._base is not None:
            self._base.close()
            self._base = None


async def _transfer(old: Spool, new: Spool) -> None:
    at = 0
    while piece := await old.read(_PIECE, at):
        await new.write_all(piece)
        at += len(piece)
