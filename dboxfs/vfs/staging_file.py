"""The temporaries of files that are put back, many in one file: a staging file for each mailbox.

A restore has thousands of files that are no messages yet, too many to keep a temporary file open for each.
So the bytes that don't stay in memory go to one file a mailbox, which only grows::

    staging file   | draft 1 | draft 2 | draft 1 | draft 3 ...
    segment 1      pieces 1 and 3

A :class:`StagingSegment` is the temporary of one draft.  :class:`~dboxfs.vfs.content.Content` uses it like a
:class:`~dboxfs.store.write.Spool`.  Bytes that a draft has given up stay in the file until the mailbox is
committed; then the file is deleted, and the next segment begins another one.  A crash leaves the file under a
temporary name, and the next writable mount removes it.

Concurrency: appends to one staging file come one after the other (its lock, held across the append alone).
"""

from __future__ import annotations

import trio

from dboxfs.store.write import Spool
from dboxfs.vfs.extents import Extents


class StagingFile:
    """The file that the drafts of one mailbox append to.

    :param spool: the file; :meth:`close` closes it.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = trio.Lock()

    @property
    def size(self) -> int:
        """Bytes of all segments, also those that were given up."""
        return self._spool.size

    async def append(self, data: bytes) -> int:
        """Append *data*; gives its offset.

        :raises OSError: it can't be written.
        """
        async with self._lock:
            at = self._spool.size
            await self._spool.write_all(data)
            return at

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes at *offset*, fewer at the end."""
        return await self._spool.read(size, offset)

    async def settle(self) -> None:
        """Hand everything to the file system.

        :raises OSError: it can't be written.
        """
        await self._spool.settle()

    async def sync(self) -> None:
        """Make everything durable, where commits are durable.

        :raises OSError: it isn't.
        """
        await self._spool.sync()

    def close(self) -> None:
        """Delete the file."""
        self._spool.close()


class StagingSegment:
    """The temporary of one draft: its pieces of a staging file, in order.

    :ivar file: the staging file.
    :ivar extents: where in it the pieces are.
    """

    __slots__ = ("extents", "file")
    taken = False

    def __init__(self, file: StagingFile, extents: Extents | None = None) -> None:
        self.file = file
        self.extents = Extents() if extents is None else extents

    @property
    def size(self) -> int:
        """Bytes written to it."""
        return self.extents.size

    async def write_all(self, data: bytes) -> None:
        """Append bytes.

        :raises OSError: they can't be written.
        :raises Refused: EFBIG: it would be in too many parts.
        """
        at = await self.file.append(data)
        self.extents.write(self.size, len(data), at)

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes at *offset*, fewer at the end."""
        parts = [await self.file.read(piece.size, piece.at) for piece in self.extents.pieces(offset, size)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def descriptor(self) -> int | None:
        """No file holds exactly its bytes."""
        return None

    def rollback(self) -> None:
        """Empty it."""
        self.extents = Extents()

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known."""
        await self.file.settle()

    async def sync(self) -> None:
        """Make everything durable, where commits are durable."""
        await self.file.sync()

    def close(self) -> None:
        """Does nothing: its bytes are deleted with the staging file."""
