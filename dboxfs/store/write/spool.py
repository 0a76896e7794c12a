"""The temporary file of an upload that is no message yet.

It is beside the messages of its mailbox, under a temporary name, and is deleted with the spool.  The spool
only appends to it, through a handle of the file API (a fast writer waits, memory is bounded)::

    format 3:  file header | message header | body ...      and at the commit: trailer, rename
    format 2, or where line ends are changed:  body ...     copied behind its size at the commit

So in format 3 the bytes of an upload are written once, and counted in the same pass.

A spool whose file was taken (:meth:`Spool.take`) can still be read, as long as its handle is open; it is not
written any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from dboxfs.dbox import LineEnds, RecordWriter, encode_file_header3
from dboxfs.fsapi import CreateMode, FileSystem, Permissions
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.write.results import now_seconds


class Spool:
    """The temporary file of one upload.  It is a :class:`~dboxfs.store.write.message.Source`.

    :param directory: where the file is made; errors of that come with the first write.
    :param where: gives the path that this directory has by now; called when the file is taken, or deleted.
        None: it never has another one.
    :param ready: begin it as a file of format 3, which can become a message by adding the trailer.
    :ivar lines: line ends and sizes so far (only with ``ready``).
    :ivar taken: the file was taken: it belongs to a message.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        permissions: Permissions,
        *,
        ready: bool,
        where: Callable[[], str] | None = None,
    ) -> None:
        self.directory = directory
        self._where = where
        self.ready = ready
        self.taken = False
        self.lines = LineEnds()
        self._handle = fs.create(os.path.join(directory, "upload"), CreateMode.FAIL_IF_EXISTS, permissions)
        self._key = os.urandom(16)
        self._header = encode_file_header3(now_seconds(), self._key) if ready else b""
        self._record = self._begin()
        self._start = len(self._header) + len(self._record.header) if ready else 0
        self._begun = not ready

    def _begin(self) -> RecordWriter:
        return RecordWriter(self._key, len(self._header), os.urandom(16))

    @property
    def size(self) -> int:
        """Bytes of the message so far."""
        return max(self._handle.size - self._start, 0)

    @property
    def place(self) -> tuple[int, bytes]:
        """Offset of the record and key of the file."""
        return len(self._header), self._key

    async def write_all(self, data: bytes) -> None:
        """Append bytes of the message.

        :raises OSError: the file can't be made or written.
        """
        if not self._begun:
            self._begun = True
            await self._handle.write_all(self._header + self._record.header)
        if self.ready:
            self._record.feed(data)
            self.lines.feed(data)
        await self._handle.write_all(data)

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes of the message at *offset*, fewer at the end."""
        return await self._handle.read(size, self._start + offset) if self._begun else b""

    async def descriptor(self) -> int | None:
        """The open file, if it holds exactly the message; else None."""
        return None if self.ready else await self._handle.settle()

    def rollback(self) -> None:
        """Drop all bytes and begin again."""
        self._handle.rollback()
        self._begun = not self.ready
        self._record = self._begin()
        self.lines = LineEnds()

    async def settle(self) -> None:
        """Hand all bytes to the file system.

        :raises OSError: it can't be written.
        """
        await self._handle.settle()

    async def sync(self) -> None:
        """Make all bytes durable, if commits are durable.

        :raises OSError: that failed.
        """
        await self._handle.sync()

    async def take(self, disk: Disk) -> AppendFile:
        """Take the file, with all but the trailer; from then on the caller owns it, under its temporary name.

        :raises OSError: a part could not be written.
        """
        await self._handle.settle()
        self._look_where()
        path = self._handle.hand_over()
        self.taken = True
        try:
            return await disk.open(path)
        except OSError:
            await disk.discard([path])
            raise

    def trailer(self, items: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The trailer that completes the file."""
        return self._record.trailer(items)

    def close(self) -> None:
        """Close the spool; its file is deleted, unless it was taken."""
        self._look_where()
        self._handle.close()

    def _look_where(self) -> None:
        """Follow a renamed mailbox."""
        if self._where is not None:
            self._handle.directory_is(self._where())
