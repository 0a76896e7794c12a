"""The temporaries of files that are put back, many in one file: a staging file for each mailbox.

A restore has thousands of files that are no messages yet, and none of them may keep a file of its own open.
So the bytes that don't stay in memory go to one file a mailbox, which only grows::

    staging file   | draft 1 | draft 2 | draft 1 | draft 3 ...
    segment 1      pieces 1 and 3

A :class:`StagingSegment` is the temporary of one draft.  It is to :class:`~dboxfs.vfs.content.Content` what a
:class:`~dboxfs.store.write.Spool` is.  What a draft has given up stays in the file until the mailbox is
committed; then the file goes, and the next segment begins another one.  A crash leaves it under a temporary
name, which the next writable mount removes.

Concurrency: appends of one staging file come one after the other (its lock, held across the append alone).
"""

from __future__ import annotations

import trio

from dboxfs.store.write import Spool
from dboxfs.vfs.extents import Extents


class StagingFile:
    """What the drafts of one mailbox append to.

    :param spool: the file; this closes it.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = trio.Lock()

    @property
    def size(self) -> int:
        """Bytes of all segments, those that were given up too."""
        return self._spool.size

    async def append(self, data: bytes) -> int:
        """Append *data*; gives where it is.

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
        """Make everything durable, if commits are.

        :raises OSError: it isn't.
        """
        await self._spool.sync()

    def close(self) -> None:
        """Forget everything; the file is deleted."""
        self._spool.close()


class StagingSegment:
    """The temporary of one draft: its pieces of a staging file, in order."""

    taken = False

    def __init__(self, file: StagingFile) -> None:
        self._file = file
        self._extents = Extents()

    @property
    def size(self) -> int:
        """Bytes that were written to it."""
        return self._extents.size

    async def write_all(self, data: bytes) -> None:
        """Append bytes.

        :raises OSError: they can't be written, or it is in too many parts (EFBIG).
        """
        at = await self._file.append(data)
        self._extents.write(self.size, len(data), at)

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes at *offset*, fewer at the end."""
        parts = [await self._file.read(piece.size, piece.at) for piece in self._extents.pieces(offset, size)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def descriptor(self) -> int | None:
        """No file holds exactly its bytes."""
        return None

    def rollback(self) -> None:
        """Begin again from nothing."""
        self._extents = Extents()

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known."""
        await self._file.settle()

    async def sync(self) -> None:
        """Make everything durable, if commits are."""
        await self._file.sync()

    def close(self) -> None:
        """Its bytes go with the staging file."""
