"""The file operations of the write protocol, with the store's owner, group and modes.

Each method is exactly one operation of the driver, unless its docstring names more.  It runs to its end even
if the caller is cancelled, and follows no symbolic link when it makes or replaces a file.
:meth:`Disk.discard` and :meth:`AppendFile.close` clean up after an error: they count their own errors and
never hide the first one.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from dboxfs.fsapi import DirEntry, FileSystem, Permissions, ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended, CopyRange, LockKind, Op, OpenedFile, OpenShared, TryLock
from dboxfs.fsapi.temporary import Process
from dboxfs.store.write_options import WriteOptions

R = TypeVar("R")

_COPY_PIECE = 16 << 20
_READ_PIECE = 4 << 20


class Disk:
    """Runs the operations of one store.

    :param owner: attributes of the store's root: new files get its owner, group and modes.
    :param root: the store's root directory, if it exists yet.  It is never made: if it is missing, the store
        is gone (its file system was unmounted), and its place must stay empty.
    :ivar lost_errors: clean-ups that failed after another error.
    :ivar process: the owner of its temporary files and notes.
    """

    def __init__(
        self, fs: FileSystem, owner: os.stat_result, options: WriteOptions, root: str | None = None
    ) -> None:
        self.fs = fs
        self._root = root
        self.options = options
        self.lost_errors = 0
        self._numbers = itertools.count(1)
        self.process = Process.this()
        mode = stat.S_IMODE(owner.st_mode)
        privileged = os.geteuid() == 0
        uid = owner.st_uid if privileged else None
        gid = owner.st_gid if privileged or owner.st_gid in os.getgroups() else None
        self.file_permissions = Permissions(mode & 0o666, gid, uid)
        self.dir_permissions = Permissions(mode & 0o2777, gid, uid)

    def temporary(self, directory: str) -> str:
        """A name for a temporary file in *directory*; it names the process."""
        return os.path.join(directory, self.process.temporary_name(next(self._numbers)))

    async def run(self, op: Op[R]) -> R:
        """Run one operation.

        :raises OSError: the error of the system.
        """
        return await self.fs.run(op)

    async def run_all(self, batch: Sequence[Op[R]]) -> list[R | OSError]:
        """Run operations in parallel: a result or an error for each."""
        return await self.fs.run_all(batch)

    async def chain(self, program: Callable[[], Steps[R]]) -> R:
        """Run operations one after the other with one hop to a worker (:mod:`dboxfs.fsapi.chain`).

        :raises OSError: an error that the program raises.
        """
        return await self.fs.run_chain(program)

    # -- names -------------------------------------------------------------------------------------------

    async def stat(self, path: str) -> os.stat_result | None:
        """Attributes of *path* (of a symbolic link itself); None: it does not exist."""
        try:
            return await self.run(ops.Stat(path, follow=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def exists(self, path: str) -> bool:
        """Whether *path* exists."""
        return await self.stat(path) is not None

    async def listdir(self, path: str) -> list[DirEntry]:
        """The entries of a directory; empty if it is missing."""
        try:
            return await self.run(ops.Listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def mkdir(self, path: str) -> bool:
        """Make a directory; False if it exists."""
        try:
            await self.run(ops.Mkdir(path, self.dir_permissions))
        except FileExistsError:
            return False
        return True

    async def make_dirs(self, path: str) -> None:
        """Make a directory and the missing ones above it (an operation each).

        :raises FileNotFoundError: the store is gone.
        """
        missing: list[str] = []
        while path != self._root and not await self.mkdir_or_parent_missing(path):
            missing.append(path)
            path = os.path.dirname(path)
        if path == self._root and not await self.exists(path):
            raise ops.os_error(errno.ENOENT, path)
        for directory in reversed(missing):
            await self.mkdir(directory)

    async def mkdir_or_parent_missing(self, path: str) -> bool:
        """Make a directory unless it exists; False if the one above is missing."""
        try:
            await self.mkdir(path)
        except FileNotFoundError:
            return False
        return True

    async def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable, if commits are durable."""
        if self.options.durable:
            await self.run(ops.SyncDir(path))

    async def unlink(self, path: str) -> bool:
        """Remove a name; False if it is gone already."""
        try:
            await self.run(ops.Unlink(path))
        except FileNotFoundError:
            return False
        return True

    async def discard(self, paths: Iterable[str]) -> None:
        """Remove names after an error.  Never fails: errors are counted."""
        for answer in await self.run_all([ops.Unlink(path) for path in paths]):
            if isinstance(answer, OSError) and answer.errno != errno.ENOENT:
                self.lost_errors += 1

    async def attempt(self, change: Awaitable[None] | Awaitable[bool]) -> bool:
        """Carry out a change after an error; False: it failed.  Never raises an OSError: errors are
        counted.
        """
        try:
            await change
        except OSError:
            self.lost_errors += 1
            return False
        return True

    # -- files -------------------------------------------------------------------------------------------

    async def create(self, path: str, permissions: Permissions | None = None) -> AppendFile:
        """Make a new file (with the store's permissions); FileExistsError if the name is taken."""
        opened = await self.run(ops.Create(path, permissions or self.file_permissions))
        return AppendFile(self, path, opened)

    async def write_new(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Make a new file with *data*, durable if commits are durable: create, append, sync, close.

        :param sync: False: leave that to :func:`~dboxfs.store.sync_all.sync_all`.
        :raises FileExistsError: the name is taken.
        :raises OSError: the file is incomplete; the caller removes it.
        """
        error = await self.chain(lambda: self.writing_new(path, data, sync=sync))
        if error is not None:
            raise error

    def writing_new(self, path: str, data: bytes, *, sync: bool = True) -> Steps[OSError | None]:
        """The steps of :meth:`write_new`; gives its error.  An error of the close is only counted."""
        failed: OSError | None = None
        try:
            opened = yield ops.Create(path, self.file_permissions)
        except OSError as error:
            return error
        try:
            check_appended((yield ops.Append(opened.fd, (data,))), len(data), path)
            if sync and self.options.durable:
                yield ops.Sync(opened.fd, len(data))
        except OSError as error:
            failed = error
        try:
            yield ops.Close(opened.fd)
        except OSError:
            self.lost_errors += 1
        return failed

    async def create_temporary(self, directory: str) -> AppendFile:
        """Make a new file under a temporary name."""
        while True:
            try:
                return await self.create(self.temporary(directory))
            except FileExistsError:
                continue

    async def open(self, path: str) -> AppendFile:
        """Open an existing file for reading and appending."""
        return AppendFile(self, path, await self.run(OpenShared(path)))

    async def open_locked(
        self, path: str, kind: LockKind | None, head: int
    ) -> tuple[AppendFile, bool, os.stat_result | None]:
        """Open a file, try to lock it, then stat the path again: open, lock, stat, read.

        :param kind: None: without a lock.
        :param head: bytes to read from its beginning into ``AppendFile.head``.
        :returns: the file; whether it is locked; if so, the attributes of *path* (None: it is gone).
        """

        def program() -> Steps[tuple[OpenedFile, bool, os.stat_result | None, bytes]]:
            opened: OpenedFile = yield OpenShared(path)
            try:
                if kind is not None and not (yield TryLock(opened.fd, kind)):
                    return opened, False, None, b""
                try:
                    now = yield ops.Stat(path, follow=False)
                except (FileNotFoundError, NotADirectoryError):
                    return opened, True, None, b""
                return opened, True, now, (yield ops.Read(opened.fd, head, 0))
            except OSError:
                yield ops.Close(opened.fd)
                raise

        opened, locked, now, start = await self.chain(program)
        file = AppendFile(self, path, opened)
        file.head = start
        return file, locked, now

    async def open_read(self, path: str) -> AppendFile:
        """Open an existing file for reading only."""
        return AppendFile(self, path, await self.run(ops.Open(path)))

    async def read_whole(self, path: str) -> bytes | None:
        """The content of a (small) file; None if it is missing.  Three operations."""
        try:
            file = await self.open_read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return await file.read(file.size, 0)
        finally:
            await file.close()

    async def replace(self, path: str, data: bytes, temporary: str | None = None) -> None:
        """Replace the content of *path* by *data*, by rename: create, append, sync, rename."""
        file = await (self.create(temporary) if temporary else self.create_temporary(os.path.dirname(path)))
        try:
            await file.append(data)
            await file.sync()
            await self.run(ops.Rename(file.path, path))
        except OSError:
            await file.close()
            await self.discard([file.path])
            raise
        await file.close()


class AppendFile:
    """An open file.  ``size`` is its length in bytes as far as this writer knows, which alone appends.

    ``head``: its first bytes, if they were read when it was opened.
    """

    __slots__ = ("_closed", "disk", "fd", "head", "path", "size", "stat")

    def __init__(self, disk: Disk, path: str, opened: OpenedFile) -> None:
        self.disk = disk
        self.path = path
        self.fd = opened.fd
        self.stat = opened.stat
        self.size = opened.stat.st_size
        self.head = b""
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the file is still open."""
        return not self._closed

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.stat.st_dev, self.stat.st_ino

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes, fewer only at the end of the file."""
        if offset + size <= len(self.head):
            return self.head[offset : offset + size]
        parts = []
        while size > 0:
            data = await self.disk.run(ops.Read(self.fd, min(size, _READ_PIECE), offset))
            if not data:
                break
            parts.append(data)
            size -= len(data)
            offset += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def append(self, data: bytes) -> None:
        """Write at the end, in one write.

        :raises OSError: some bytes may have been written; :meth:`cut` removes them.
        """
        answer = await self.disk.run(ops.Append(self.fd, (data,)))
        self.size += answer.written
        check_appended(answer, len(data), self.path)

    async def append_durably(
        self,
        data: bytes,
        *,
        sync: bool = True,
        first: Callable[[], Steps[None]] | None = None,
    ) -> OSError | None:
        """:meth:`append` and :meth:`sync`; gives the error of the sync: the bytes are there, but may get
        lost.

        :param sync: False: no sync.
        :param first: steps before that.
        :raises OSError: as :meth:`append`, or of *first*; nothing was synced.
        """
        sync = sync and self.disk.options.durable
        if not sync and first is None:
            await self.append(data)
            return None

        def program() -> Steps[tuple[Appended, OSError | None]]:
            if first is not None:
                yield from first()
            answer = yield ops.Append(self.fd, (data,))
            if answer.error is not None or answer.written != len(data):
                return answer, None
            if sync:
                try:
                    yield ops.Sync(self.fd, self.size + len(data))
                except OSError as error:
                    return answer, error
            return answer, None

        answer, error = await self.disk.chain(program)
        self.size += answer.written
        check_appended(answer, len(data), self.path)
        return error

    def took(self, written: int, status: os.stat_result | None) -> None:
        """Note that a chain has appended *written* bytes; *status*: the file's attributes since then, if
        known.
        """
        self.size += written
        if status is not None:
            self.stat = status

    def was_closed(self) -> None:
        """Note that a chain has closed the file."""
        self._closed = True

    async def append_from(self, fd: int, size: int, offset: int = 0) -> None:
        """Append *size* bytes of another open file, an operation for every 16 MiB.

        :raises OSError: as :meth:`append`; EIO: the other file has fewer bytes.
        """
        while size > 0:
            piece = min(size, _COPY_PIECE)
            answer = await self.disk.run(CopyRange(fd, offset, piece, self.fd, self.size))
            self.size += answer.written
            if answer.error is not None:
                raise answer.error
            if answer.written == 0:
                raise OSError(errno.EIO, f"{size} bytes are missing at offset {offset}", self.path)
            size -= answer.written
            offset += answer.written

    async def cut(self, size: int) -> None:
        """Cut the file to *size* bytes, to remove appended bytes."""
        await self.disk.run(ops.Truncate(self.fd, size, self.size))
        self.size = size

    async def sync(self) -> None:
        """Make the bytes durable, if commits are durable."""
        if self.disk.options.durable:
            await self.disk.run(ops.Sync(self.fd, self.size))

    async def try_lock(self, kind: LockKind) -> bool:
        """Lock the file, if the lock is free; whether it is locked now."""
        return await self.disk.run(TryLock(self.fd, kind))

    async def close(self) -> None:
        """Close the file, which ends its lock.  Never fails; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.disk.run(ops.Close(self.fd))
        except OSError:
            self.disk.lost_errors += 1


def check_appended(answer: Appended, size: int, path: str) -> None:
    """
    :raises OSError: fewer than *size* bytes were written.
    """
    if answer.error is not None:
        number = answer.error.errno or errno.EIO
        raise OSError(number, os.strerror(number), path) from answer.error
    if answer.written != size:
        raise OSError(errno.EIO, f"{answer.written} of {size} bytes were written", path)
