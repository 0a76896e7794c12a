"""The ``memory`` driver: files in this process, with the same rules as on a disk, for tests.

Operations run in the order in which they were submitted, on the loop's thread but never inside ``submit``;
there are no threads, so a test with a fake clock is deterministic.  ``nowait=True`` makes opens and reads
answer at once, as a warm kernel cache does; without it all operations take the way through the event loop.

:ivar tree: the files, for a test to look at or to prepare.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import trio
from msgspec import Struct

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers.base import Completions, no_numbers, peek_each
from dboxfs.fsapi.drivers.memory_tree import MemoryNode, Tree
from dboxfs.fsapi.ops import Appended, Job, Op, OpenedFile, os_error
from dboxfs.fsapi.types import Capabilities, DirEntry, Peek, PeekResult, Permissions

R = TypeVar("R")


class _OpenFile(Struct, eq=False):
    node: MemoryNode
    append: bool
    closed: bool = False


class MemoryDriver:
    """A tree of files; ``/`` is its root.

    :param tree: the files that another driver has, or had: two drivers are two processes on one disk.
    """

    def __init__(
        self,
        *,
        nowait: bool = False,
        depth: int = 10,
        capabilities: Capabilities | None = None,
        tree: Tree | None = None,
    ) -> None:
        self.capabilities = capabilities or Capabilities()
        self.depth = depth
        self.kernel_cached = nowait
        self.tree = tree if tree is not None else Tree()
        self._nowait = nowait
        self._files: dict[int, _OpenFile] = {}
        self._next_fd = 1
        self._completions = Completions(self._dispose)
        self._submitted = 0

    # -- for tests ---------------------------------------------------------------------------------------

    def put(self, path: str, data: bytes) -> None:
        """Make or change a file, and the directories that lead to it."""
        self.make_dirs(os.path.dirname(path))
        node = self.tree.locate(path).node or self.tree.add(path, stat.S_IFREG, Permissions(0o600))
        node.data[:] = data

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return bytes(self.tree.find(path).data)

    def make_dirs(self, path: str) -> None:
        """Make a directory and its missing parents."""
        if path in ("", "/"):
            return
        self.make_dirs(os.path.dirname(path.rstrip("/")))
        if self.tree.locate(path).node is None:
            self.tree.add(path, stat.S_IFDIR, Permissions(0o700))

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link."""
        self.tree.add(path, stat.S_IFLNK, Permissions(0o777), target)

    @property
    def open_files(self) -> int:
        """How many files are open."""
        return len(self._files)

    # -- the driver's contract ---------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Remember the loop."""
        self._completions.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Have the operation run in the next turn of the event loop."""

        def run(job: Job[R]) -> None:
            job.run(self._execute)
            done(job)

        job = Job(op, run)
        self._submitted += 1
        self._completions.post(job)
        return job

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """The file, if this driver was made to answer at once."""
        if not self._nowait:
            return None
        return self._open(ops.Open(path, nofollow=nofollow)).fd

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """The bytes, if this driver was made to answer at once."""
        if not self._nowait:
            return None
        return self._read(ops.Read(fd, size, offset))

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """The present attributes."""
        return self._file(fd).node.stat()

    def close_nowait(self, fd: int) -> bool:
        """Close a file, if this driver was made to answer at once."""
        if self._nowait:
            self._close(ops.Close(fd))
        return self._nowait

    def stats(self) -> dict[str, int | float]:
        """jobs, wakeups, queue, in_flight, open_files."""
        waiting = self._submitted - self._completions.completed
        return {
            "jobs": self._submitted,
            "wakeups": self._completions.wakeups,
            "queue": waiting,
            "in_flight": waiting,
            "open_files": len(self._files),
        }

    async def aclose(self) -> None:
        """Drop operations that have not run, and release locks, as a process does at its end.

        The tree stays.
        """
        self._completions.close()
        for file in self._files.values():
            file.closed = True

    # -- the operations ----------------------------------------------------------------------------------

    def _execute(self, op: Op[R]) -> R:
        result: R = self._CALLS[type(op)](self, op)
        return result

    def _dispose(self, job: Job[Any]) -> None:
        if isinstance(job.result, OpenedFile) and (file := self._files.pop(job.result.fd, None)) is not None:
            file.closed = True

    def _file(self, fd: int) -> _OpenFile:
        try:
            return self._files[fd]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def _add_file(self, node: MemoryNode, append: bool) -> OpenedFile:
        fd = self._next_fd
        self._next_fd += 1
        self._files[fd] = _OpenFile(node, append)
        return OpenedFile(fd, node.stat())

    def _open(self, op: ops.Open) -> OpenedFile:
        node = self._found(op.path, op.nofollow)
        if node.is_dir:
            raise os_error(errno.EISDIR, op.path)
        return self._add_file(node, op.append)

    def _found(self, path: str, nofollow: bool) -> MemoryNode:
        node = self.tree.find(path, follow=not nofollow)
        if node.is_symlink:
            raise os_error(errno.ELOOP, path)
        return node

    def _create(self, op: ops.Create) -> OpenedFile:
        return self._add_file(self.tree.add(op.path, stat.S_IFREG, op.permissions), True)

    def _read(self, op: ops.Read) -> bytes:
        node = self._file(op.fd).node
        if node.is_dir:
            raise os_error(errno.EISDIR)
        if op.offset < 0 or op.size < 0:
            raise os_error(errno.EINVAL)
        return bytes(memoryview(node.data)[op.offset : op.offset + op.size])

    def _advise(self, op: ops.Advise) -> None:
        self._file(op.fd)

    def _append(self, op: ops.Append) -> Appended:
        file = self._file(op.fd)
        if not file.append:
            return Appended(0, os_error(errno.EBADF))
        for chunk in op.chunks:
            file.node.data += chunk
            file.node.changed()
        return Appended(sum(map(len, op.chunks)), None)

    def _truncate(self, op: ops.Truncate) -> None:
        file = self._file(op.fd)
        if not file.append:
            raise os_error(errno.EINVAL)
        if len(file.node.data) > op.expected:
            raise os_error(errno.EBUSY)
        del file.node.data[op.size :]
        file.node.changed()

    def _sync(self, op: ops.Sync) -> None:
        if len(self._file(op.fd).node.data) != op.expected:
            raise os_error(errno.EBUSY)

    def _publish(self, op: ops.Publish) -> None:
        self.tree.rename(op.temporary, op.path, replace=op.replace)

    def _sync_dir(self, op: ops.SyncDir) -> None:
        if not self.tree.find(op.path).is_dir:
            raise os_error(errno.ENOTDIR, op.path)

    def _close(self, op: ops.Close) -> None:
        self._file(op.fd).closed = True
        del self._files[op.fd]

    def _stat(self, op: ops.Stat) -> os.stat_result:
        return self.tree.find(op.path, follow=op.follow).stat()

    def _listdir(self, op: ops.Listdir) -> list[DirEntry]:
        node = self.tree.find(op.path)
        if not node.is_dir:
            raise os_error(errno.ENOTDIR, op.path)
        return [
            DirEntry(name, child.is_dir, child.is_symlink)
            for name, child in node.entries.items()
            if name.startswith(op.prefix)
        ]

    def _readlink(self, op: ops.Readlink) -> str:
        node = self.tree.find(op.path, follow=False)
        if not node.is_symlink:
            raise os_error(errno.EINVAL, op.path)
        return node.target

    def _statvfs(self, op: ops.Statvfs) -> os.statvfs_result:
        self.tree.find(op.path)
        return no_numbers()

    def _willneed_many(self, op: ops.WillneedMany) -> None:
        """Does nothing: all files are in memory."""

    def _peek_many(self, op: ops.PeekMany) -> list[PeekResult | OSError]:
        return peek_each(op.requests, self._peek)

    def _peek(self, request: Peek) -> PeekResult:
        node = self._found(request.path, request.nofollow)
        if node.is_dir:
            raise os_error(errno.EISDIR, request.path)
        chunks = []
        for offset, size in request.ranges:
            start = max(0, len(node.data) + offset) if offset < 0 else offset
            count = request.limit if size is None else min(size, request.limit)
            chunks.append(bytes(memoryview(node.data)[start : start + count]))
        return PeekResult(node.stat(), tuple(chunks))

    def _rename(self, op: ops.Rename) -> None:
        self.tree.rename(op.source, op.target)

    def _link(self, op: ops.Link) -> None:
        self.tree.link(op.source, op.target)

    def _unlink(self, op: ops.Unlink) -> None:
        self.tree.unlink(op.path)

    def _mkdir(self, op: ops.Mkdir) -> None:
        self.tree.add(op.path, stat.S_IFDIR, op.permissions)

    def _rmdir(self, op: ops.Rmdir) -> None:
        self.tree.rmdir(op.path)

    def _open_shared(self, op: ops.OpenShared) -> OpenedFile:
        node = self.tree.find(op.path, follow=False)
        if node.is_symlink:
            raise os_error(errno.ELOOP, op.path)
        if node.is_dir:
            raise os_error(errno.EISDIR, op.path)
        return self._add_file(node, True)

    def _try_lock(self, op: ops.TryLock) -> bool:
        file = self._file(op.fd)
        holder = file.node.locks.get(op.lock)
        if holder is None or holder.closed:
            file.node.locks[op.lock] = holder = file
        return holder is file

    def _unlock(self, op: ops.Unlock) -> None:
        file = self._file(op.fd)
        if file.node.locks.get(op.lock) is file:
            del file.node.locks[op.lock]

    def _sync_all(self, op: ops.SyncAll) -> None:
        self._file(op.fd)  # EBADF

    def _set_times(self, op: ops.SetTimes) -> None:
        self._file(op.fd).node.mtime_ns = op.mtime_ns

    def _set_xattr(self, op: ops.SetXattr) -> None:
        self.tree.find(op.path).xattrs[op.name] = op.value

    def _copy_range(self, op: ops.CopyRange) -> Appended:
        target = self._file(op.fd).node
        if len(target.data) != op.expected:
            raise os_error(errno.EBUSY)
        piece = bytes(self._file(op.source_fd).node.data[op.offset : op.offset + op.size])
        target.data += piece
        target.changed()
        return Appended(len(piece), None)

    _CALLS: ClassVar[dict[type[Op[Any]], Callable[[Any, Any], Any]]] = {
        ops.Open: _open,
        ops.Create: _create,
        ops.Read: _read,
        ops.Advise: _advise,
        ops.Append: _append,
        ops.Truncate: _truncate,
        ops.Sync: _sync,
        ops.Publish: _publish,
        ops.SyncDir: _sync_dir,
        ops.Close: _close,
        ops.Stat: _stat,
        ops.Listdir: _listdir,
        ops.Readlink: _readlink,
        ops.Statvfs: _statvfs,
        ops.PeekMany: _peek_many,
        ops.WillneedMany: _willneed_many,
        ops.Rename: _rename,
        ops.Link: _link,
        ops.Unlink: _unlink,
        ops.Mkdir: _mkdir,
        ops.Rmdir: _rmdir,
        ops.OpenShared: _open_shared,
        ops.TryLock: _try_lock,
        ops.Unlock: _unlock,
        ops.SyncAll: _sync_all,
        ops.SetTimes: _set_times,
        ops.SetXattr: _set_xattr,
        ops.CopyRange: _copy_range,
    }
