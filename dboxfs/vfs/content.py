"""The bytes of a draft: those of the message that it was opened on, and a temporary that only grows.

A write at any offset is appended to the temporary; a map says which bytes of the file are where
(:mod:`dboxfs.vfs.extents`).  The message that the draft was opened on (*base*) is the first extent, and is
not copied before the commit.  Bytes that were never written are zeros.

The temporary is in memory while the draft is small (:data:`EACH`) and all drafts together are small
(:class:`Budget`).  Then it is a :class:`~dboxfs.store.write.Spool`; one that holds exactly the bytes of the
message is committed as it is.  In memory, bytes are overwritten in place.  A spool that has grown far beyond
its file, because the same places are written again and again, is written anew (:data:`WASTE`).

A draft whose name begins with a dot (*scratch*) stays in memory after a sync, and the sync makes a copy of it
durable: editors sync their swap files often.

The first bytes may be those of a message, with more behind them (``based``): an append.  If another process
has appended to that message, and so replaced it, before the commit, :meth:`Content.rebase` puts the bytes
that were appended here behind the new one's.

Concurrency: one caller at a time (:attr:`dboxfs.vfs.draft.Draft.lock`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec import Struct

from dboxfs.store import Body
from dboxfs.store.write import BytesSource, Source
from dboxfs.vfs.extents import Extents, From
from dboxfs.vfs.staging_file import StagingFile, StagingSegment

EACH = 256 << 10
"""Bytes that one draft may have in memory, at most."""

ALL = 16 << 20
"""Bytes that all drafts together may have in memory, at most."""

WASTE = 64 << 20
"""Bytes that a temporary file may have beyond twice those of its draft."""

_PIECE = 1 << 20


class Budget:
    """Memory of all drafts together (bytes)."""

    def __init__(self, limit: int = ALL) -> None:
        self.used = 0
        self.limit = limit

    def take(self, size: int) -> bool:
        """Take *size* bytes; False: the limit doesn't allow it."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give *size* bytes back."""
        self.used -= size


class _Pieced(Struct, frozen=True):
    """A source that is put together from base, temporary and zeros."""

    content: Content

    @property
    def size(self) -> int:
        return self.content.size

    async def read(self, size: int, offset: int) -> bytes:
        return await self.content.read(size, offset)

    async def descriptor(self) -> int | None:
        return None


class Temporary(Source, Protocol):
    """The temporary file for bytes of a draft that don't stay in memory."""

    @property
    def taken(self) -> bool:
        """It was handed over to a commit."""

    async def write_all(self, data: bytes) -> None:
        """Append bytes.

        :raises OSError: they can't be written.
        """

    def rollback(self) -> None:
        """Empty it."""

    async def settle(self) -> None:
        """Hand everything to the file system."""

    async def sync(self) -> None:
        """Make everything durable, where commits are durable."""

    def close(self) -> None:
        """Delete it, unless a commit has taken it."""


Spools = Callable[[], Temporary]


class PackedContent(NamedTuple):
    """A content without its objects.

    ``file``: the staging file that its temporary is a segment of, or None; ``places``: of that in the file.
    ``extents``: of the draft in its temporary.  Both as :meth:`Extents.numbers` has them.  ``memory``: the
    temporary, where it is in memory.  ``based``, ``dirty``, ``synced``: see :class:`Content`.
    """

    file: StagingFile | None
    places: tuple[int, ...]
    extents: tuple[int, ...]
    memory: bytes
    dirty: bool
    based: int | None
    synced: bool


class Content:
    """The bytes of one draft.

    :param base: the message that the draft was opened on, if its bytes stay; the draft closes it.
    :param based: how many of the first bytes are a message's; 0 for a file that is only appended to.
    :ivar dirty: there are uncommitted bytes.

    Methods that may need a temporary file are given *spool*, which makes one where the message will be.
    """

    __slots__ = (
        "_base", "_based", "_budget", "_copy", "_extents", "_memory", "_spool", "_synced", "dirty",
    )  # fmt: skip

    def __init__(self, budget: Budget, base: Body | None = None, based: int | None = None) -> None:
        self.dirty = False
        self._based = base.size if base is not None else based
        self._budget = budget
        self._base = base
        self._extents = Extents(base.size if base is not None else 0)
        self._memory = bytearray()
        self._spool: Temporary | None = None
        self._copy: Temporary | None = None
        self._synced = True

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._extents.size

    @property
    def based(self) -> int | None:
        """How many of the first bytes are those of the message that it is or appends to; None: its bytes
        replace that message as a whole."""
        return self._based

    @property
    def taken(self) -> bool:
        """The temporary file was handed over to a commit."""
        return self._spool is not None and self._spool.taken

    # -- writing -------------------------------------------------------------------------------

    async def write(self, data: bytes, offset: int | None, spool: Spools) -> None:
        """Write *data* at *offset* (None: at the end, wherever that is).

        :raises Refused: EFBIG: the file would have too many extents or too many zeros; nothing has changed.
        :raises OSError: the temporary file can't be written.
        """
        if not data:
            return
        offset = self.size if offset is None else offset
        within = offset < self.size and self._spool is None
        place = self._extents.place(offset, len(data)) if within else None
        self._synced = False
        if place is not None:
            self._memory[place : place + len(data)] = data
        else:
            await self._append(data, offset, spool)
        if self._based is not None and offset < self._based:
            self._based = None
        self.dirty = True

    async def _append(self, data: bytes, offset: int, spool: Spools) -> None:
        end = len(self._memory) if self._spool is None else self._spool.size
        before = self._extents.size
        self._extents.write(offset, len(data), end)
        try:
            if self._fits(len(data)):
                self._memory += data
            else:
                await (await self._spill(spool)).write_all(data)
                await self._begin_again_if_wasted(spool)
        except OSError:  # the draft has failed; its earlier bytes stay readable
            self._extents.truncate(min(before, self._extents.size))
            raise

    def _fits(self, size: int) -> bool:
        """Take memory for *size* more bytes; False: they go to the temporary file."""
        return self._spool is None and len(self._memory) + size <= EACH and self._budget.take(size)

    async def rebase(self, body: Body) -> None:
        """Put the bytes of *body* in front of those that were appended; the draft closes *body*.

        :raises ValueError: the draft is not an append.
        """
        if self._based is None:
            body.close()
            raise ValueError("the bytes of the message were written over")
        extents = Extents(body.size)
        at = body.size
        for piece in self._extents.pieces(self._based):
            if piece.source is From.TEMPORARY:
                extents.write(at, piece.size, piece.at)
            at += piece.size
        extents.truncate(at)
        if self._base is not None:
            self._base.close()
        self._base, self._extents, self._based = body, extents, body.size

    async def _spill(self, spool: Spools) -> Temporary:
        """The temporary file; moves the bytes in memory there."""
        if self._spool is None:
            self._spool = spool()
            await self._spool.write_all(bytes(self._memory))
            self._forget_memory()
            self._drop_copy()
        else:
            await self.renew(spool)
        return self._spool

    async def renew(self, spool: Spools) -> None:
        """Get a new temporary file if a commit has taken the old one: later writes make another message.

        :raises OSError: it can't be written.
        """
        if self._spool is not None and self._spool.taken:
            old, self._spool = self._spool, spool()
            try:
                await _transfer(old, self._spool)
            finally:
                old.close()

    async def _begin_again_if_wasted(self, spool: Spools) -> None:
        """Write a temporary that has far more bytes than the draft anew, with the draft's bytes alone."""
        if self._spool is None or self._spool.size <= WASTE + 2 * self.size:
            return
        new, extents = spool(), Extents(self._base.size if self._base is not None else 0)
        extents.truncate(0)
        at = 0
        try:
            while at < self.size:
                data = await self.read(_PIECE, at)
                extents.write(at, len(data), new.size)
                await new.write_all(data)
                at += len(data)
        except OSError:
            new.close()
            raise
        self._spool.close()
        self._spool, self._extents = new, extents

    def truncate(self, size: int) -> None:
        """ftruncate: shorten the file, or put zeros behind it.  At 0 it begins again and is not dirty: there
        is no empty message.

        :raises Refused: EFBIG: too many zeros; nothing has changed.
        """
        if size == 0:
            self._begin_again()
        elif size != self.size:
            self._extents.truncate(size)
            if self._based is not None and size < self._based:
                self._based = None
            self.dirty, self._synced = True, False

    def _begin_again(self) -> None:
        self._forget_memory()
        self._drop_copy()
        if self._spool is not None and self.taken:
            self._spool.close()
            self._spool = None
        if self._spool is not None:
            self._spool.rollback()
        self._extents.truncate(0)
        self._based = None
        self.dirty = False

    # -- reading and the end -------------------------------------------------------------------

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* at the end.

        :raises OSError: EIO: base or temporary have become shorter.
        """
        parts = []
        for piece in self._extents.pieces(offset, size):
            if piece.source is From.HOLE:
                part = bytes(piece.size)
            elif piece.source is From.BASE:
                part = await self._read_base(piece.size, piece.at)
            elif self._spool is not None:
                part = await self._spool.read(piece.size, piece.at)
            else:
                part = bytes(self._memory[piece.at : piece.at + piece.size])
            if len(part) != piece.size:
                raise OSError(errno.EIO, "the message ends early")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_base(self, size: int, offset: int) -> bytes:
        parts = []
        while size:
            part = await self._base.read(size, offset) if self._base is not None else b""
            if not part:
                break
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known.

        :raises OSError: it can't be written.
        """
        if self._spool is not None:
            await self._spool.settle()

    async def sync(self, spool: Spools, *, scratch: bool) -> None:
        """Make the bytes durable, in a temporary file, if commits are; :meth:`settle` included.

        :param scratch: they also stay in memory, to be overwritten in place.
        :raises OSError: they are not durable.
        """
        if self._synced or self.taken:
            return
        if self._spool is not None or not scratch:
            await (await self._spill(spool)).sync()
        else:
            if self._copy is None:
                self._copy = spool()
            self._copy.rollback()
            await self._copy.write_all(bytes(self._memory))
            await self._copy.sync()
        self._synced = True

    def source(self) -> Source:
        """The bytes, for a save."""
        end = len(self._memory) if self._spool is None else self._spool.size
        if not self._extents.is_plain(end):
            return _Pieced(self)
        return BytesSource(bytes(self._memory)) if self._spool is None else self._spool

    # -- packed, and unpacked ------------------------------------------------------------------

    def pack(self) -> PackedContent | None:
        """What :meth:`unpack` makes the same content of; None: it has files of its own.

        The memory that it has taken of the budget is the caller's from then on.
        """
        if self._base is not None or self._copy is not None:
            return None
        segment = self._spool
        if segment is not None and not isinstance(segment, StagingSegment):
            return None
        file, places = (segment.file, segment.extents.numbers()) if segment is not None else (None, ())
        return PackedContent(
            file, places, self._extents.numbers(), bytes(self._memory), self.dirty, self._based, self._synced
        )

    @classmethod
    def unpack(cls, packed: PackedContent, budget: Budget) -> Content:
        """The content that was packed."""
        content = cls(budget, based=packed.based)
        content._extents, content._memory = Extents.of(packed.extents), bytearray(packed.memory)
        content.dirty, content._synced = packed.dirty, packed.synced
        if packed.file is not None:
            content._spool = StagingSegment(packed.file, Extents.of(packed.places))
        return content

    def committed(self) -> None:
        """All bytes are committed."""
        self.dirty, self._based = False, self.size

    def _forget_memory(self) -> None:
        self._budget.give(len(self._memory))
        self._memory = bytearray()

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def close(self) -> None:
        """Give up all bytes; the temporary file is deleted."""
        self._forget_memory()
        self._drop_copy()
        if self._spool is not None:
            self._spool.close()
        if self._base is not None:
            self._base.close()
            self._base = None


async def _transfer(old: Temporary, new: Temporary) -> None:
    at = 0
    while piece := await old.read(_PIECE, at):
        await new.write_all(piece)
        at += len(piece)
