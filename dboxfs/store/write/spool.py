"""The file that an upload goes to while it is no message yet.

It lies where messages of its mailbox lie, under a temporary name, is only appended to, through a handle of
the file API (a fast writer waits, memory is bounded), and goes away with the spool::

    format 3:  file header | message header | body ...      and at the commit: trailer, rename
    format 2, or where line ends are changed:  body ...     copied behind its size at the commit

So in format 3 the bytes of an upload are written once, and looked at once, in passing.

A spool whose file was taken (:meth:`Spool.take`) can be read on, as long as somebody has it open; it is not
written any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from dboxfs.dbox import LineEnds, RecordWriter, encode_file_header3
from dboxfs.fsapi import CreateMode, FileSystem, Permissions
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.write.results import now_seconds


class Spool:
    """The temporary file of one upload.  It is a :class:`~dboxfs.store.write.message.Source`.

    :param directory: where the file is made; its errors come with the first write.
    :param ready: begin it as a file of format 3, which may become a message as it is.
    :ivar lines: what was counted (``ready``).
    :ivar taken: the file is a message's.
    """

    def __init__(self, fs: FileSystem, directory: str, permissions: Permissions, *, ready: bool) -> None:
        self.directory = directory
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
        """An open file that holds exactly the message, if this one does."""
        return None if self.ready else await self._handle.settle()

    def rollback(self) -> None:
        """Begin again from nothing."""
        self._handle.rollback()
        self._begun = not self.ready
        self._record = self._begin()
        self.lines = LineEnds()

    async def settle(self) -> None:
        """Hand everything to the file system.

        :raises OSError: it can't be written.
        """
        await self._handle.settle()

    async def sync(self) -> None:
        """Make everything durable, if commits are.

        :raises OSError: it isn't.
        """
        await self._handle.sync()

    async def take(self, disk: Disk) -> AppendFile:
        """The file, with all but the trailer; it is the caller's from now on, under its temporary name.

        :raises OSError: something could not be written.
        """
        await self._handle.settle()
        path = self._handle.hand_over()
        self.taken = True
        try:
            return await disk.open(path)
        except OSError:
            await disk.discard([path])
            raise

    def trailer(self, items: Iterable[tuple[bytes, bytes]]) -> bytes:
        """What makes the file a whole one."""
        return self._record.trailer(items)

    def close(self) -> None:
        """Forget everything; a file that nobody has taken is deleted."""
        self._handle.close()
