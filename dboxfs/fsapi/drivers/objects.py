"""The ``objects`` driver: objects of a store as files (``object_client``), operated on by worker threads.

The path ``/a/b`` is the key ``a/b`` below the URL.  Bytes that keys don't take (control characters, bytes
that are no UTF-8, parts ``.`` and ``..``) and the percent sign are percent-encoded; a key that this never
makes is not shown.

What a store can't do is said in :attr:`ObjectsDriver.capabilities`, and fails with EOPNOTSUPP:

* **no locks**, so that no multi-dbox store can be held for writing here;
* no directories: one is there while an object lies below it, and needs no mkdir;
* no owners, modes, dates or extended attributes to set; no links; no rename, but ``Copy``;
* objects are whole: nothing is appended to one that is there;
* an open file is pinned by its etag, not kept: read after it was replaced or deleted it is ESTALE or ENOENT.

Writing: a new file is kept here (in memory up to 8 MiB, then in a temporary file without a name) until
``Publish`` makes **one object** of it: with fail-if-exists a single conditional request, else a put, in
parts above 8 MiB.  It appears whole or not at all, and is durable then.  What was never published was never
in the store: a process that dies leaves nothing but parts of an upload, which the store's own rules take
away.

Reading: ranges are asked for as the page cache does (its read-ahead makes them large); the ranges of one
``Peek`` that lie close together are one request.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from hashlib import blake2b
from typing import IO, Any, ClassVar, TypeVar

import trio
from msgspec import Struct, field

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers.base import no_numbers, peek_each
from dboxfs.fsapi.drivers.object_client import PART, ObjectInfo, Objects
from dboxfs.fsapi.drivers.object_files import key_of, make_stat, name_of, read_ranges
from dboxfs.fsapi.drivers.pool import WorkerPool
from dboxfs.fsapi.ops import Appended, Job, Op, OpenedFile, os_error
from dboxfs.fsapi.types import Capabilities, DirEntry, Peek, PeekResult

R = TypeVar("R")

OBJECTS_CAN = Capabilities(
    locks=False, rename=False, link=False, append=False, directories=False,
    attributes=False, outlives_name=False, costly_requests=True, copy=True,
)  # fmt: skip


class _File(Struct, eq=False):
    """An open object, or (``spool``) a new file with what was written so far."""

    info: ObjectInfo
    spool: IO[bytes] | None = None
    published: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class ObjectsDriver:
    """Objects as files.

    :param connect: makes the store; called once, by the process that uses it (a store does not survive a
        fork).
    :param workers: requests at once.
    """

    def __init__(self, connect: Callable[[], Objects], workers: int = 32) -> None:
        self.capabilities = OBJECTS_CAN
        self.depth = workers
        self.kernel_cached = False
        self._connect = connect
        self._objects: Objects | None = None
        self._pool = WorkerPool(self._execute, self._dispose, workers)
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}
        self._pending: dict[str, _File] = {}
        self._next_fd = 1

    # -- the driver's contract ---------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Make the store, and remember the loop."""
        self._objects = self._connect()
        self._pool.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Queue an operation for the next free worker."""
        return self._pool.submit(op, done, background=background)

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """Not without a request."""
        return None

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """Not without a request."""
        return None

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """As it was when it was opened: an object never changes, it is replaced."""
        return self._status(self._file(fd))

    def close_nowait(self, fd: int) -> bool:
        """There is nothing to give back to the store."""
        self._close(ops.Close(fd))
        return True

    def stats(self) -> dict[str, int | float]:
        """Those of the workers; requests, bytes_up, bytes_down: what was asked of the store."""
        answer = self._pool.stats()
        if self._objects is not None:
            cost = self._objects.cost
            answer |= {
                "requests": sum(cost.requests.values()),
                "bytes_up": cost.bytes_up,
                "bytes_down": cost.bytes_down,
            }
        return answer

    async def aclose(self) -> None:
        """Stop the threads, and forget what was never published."""
        self._pool.close()
        with self._lock:
            files = [*self._files.values(), *self._pending.values()]
            self._files.clear()
            self._pending.clear()
        for file in files:
            if file.spool is not None:
                file.spool.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _execute(self, op: Op[R]) -> R:
        call = self._CALLS.get(type(op))
        if call is None:
            raise os_error(errno.EOPNOTSUPP, getattr(op, "path", None))
        result: R = call(self, op)
        return result

    def _dispose(self, job: Job[Any]) -> None:
        if isinstance(job.result, OpenedFile):
            with self._lock:
                self._files.pop(job.result.fd, None)

    @property
    def _store(self) -> Objects:
        assert self._objects is not None
        return self._objects

    def _file(self, fd: int) -> _File:
        try:
            return self._files[fd]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def _add(self, file: _File) -> OpenedFile:
        with self._lock:
            fd = self._next_fd
            self._next_fd += 1
            self._files[fd] = file
        return OpenedFile(fd, self._status(file))

    def _status(self, file: _File) -> os.stat_result:
        size = file.info.size if file.spool is None else _size(file.spool)
        return _stat(file.info.key, size, file.info.modified_ns)

    def _look(self, path: str) -> ObjectInfo | None:
        """The object of a path; None: a directory."""
        key = key_of(path)
        if not key:
            return None
        try:
            return self._store.head(key)
        except FileNotFoundError:
            if any(self._store.list_level(key)) or any(name.startswith(key + "/") for name in self._pending):
                return None
            raise self._missing(key, path) from None
        except OSError as error:
            if error.errno == errno.EIO and self._below_an_object(key):  # a directory of the local store
                raise os_error(errno.ENOTDIR, path) from None
            raise

    def _missing(self, key: str, path: str) -> OSError:
        return os_error(errno.ENOTDIR if self._below_an_object(key) else errno.ENOENT, path)

    def _below_an_object(self, key: str) -> bool:
        while "/" in key:
            key = key.rpartition("/")[0]
            try:
                self._store.head(key)
                return True
            except OSError:
                continue
        return False

    # -- reading -----------------------------------------------------------------------------------------

    def _open(self, op: ops.Open) -> OpenedFile:
        if op.append:
            self._found(op.path)
            raise os_error(errno.EOPNOTSUPP, op.path)
        return self._add(_File(self._found(op.path)))

    def _found(self, path: str) -> ObjectInfo:
        info = self._look(path)
        if info is None:
            raise os_error(errno.EISDIR, path)
        return info

    def _read(self, op: ops.Read) -> bytes:
        file = self._file(op.fd)
        if op.offset < 0 or op.size < 0:
            raise os_error(errno.EINVAL)
        if file.spool is not None:
            with file.lock:
                file.spool.seek(op.offset)
                return file.spool.read(op.size)
        return self._range(file.info, op.offset, op.offset + op.size)

    def _range(self, info: ObjectInfo, start: int, end: int) -> bytes:
        end = min(end, info.size)
        return self._store.get(info.key, start, end, info.etag) if start < end else b""

    def _advise(self, op: ops.Advise) -> None:
        self._file(op.fd)

    def _willneed_many(self, op: ops.WillneedMany) -> None:
        """Nothing here keeps it."""

    def _stat(self, op: ops.Stat) -> os.stat_result:
        info = self._look(op.path)
        return _stat(key_of(op.path)) if info is None else _stat(info.key, info.size, info.modified_ns)

    def _readlink(self, op: ops.Readlink) -> str:
        self._look(op.path)
        raise os_error(errno.EINVAL, op.path)

    def _statvfs(self, op: ops.Statvfs) -> os.statvfs_result:
        return no_numbers()

    def _listdir(self, op: ops.Listdir) -> list[DirEntry]:
        key = key_of(op.path)
        below = key + "/" if key else ""
        prefixes, objects = self._store.list_level(key)
        found = dict.fromkeys(prefixes, True)
        found.update((info.key[len(below) :], False) for info in objects)
        for name in list(self._pending):
            if name.startswith(below):
                part, more, _ = name[len(below) :].partition("/")
                found[part] = bool(more)
        if not found and self._look(op.path) is not None:
            raise os_error(errno.ENOTDIR, op.path)
        names = ((name_of(part), is_dir) for part, is_dir in found.items())
        return [
            DirEntry(name, is_dir, False)
            for name, is_dir in names
            if name is not None and name.startswith(op.prefix)
        ]

    def _peek_many(self, op: ops.PeekMany) -> list[PeekResult | OSError]:
        return peek_each(op.requests, self._peek)

    def _peek(self, request: Peek) -> PeekResult:
        info = self._found(request.path)
        chunks = read_ranges(request, info.size, lambda start, end: self._range(info, start, end))
        return PeekResult(_stat(info.key, info.size, info.modified_ns), chunks)

    # -- writing -----------------------------------------------------------------------------------------

    def _create(self, op: ops.Create) -> OpenedFile:
        key = key_of(op.path)
        spool: Any = tempfile.SpooledTemporaryFile(max_size=PART)  # noqa: SIM115 - closed with the file
        file = _File(ObjectInfo(key, 0, 0, None), spool)
        with self._lock:
            if key in self._pending:
                raise os_error(errno.EEXIST, op.path)
            self._pending[key] = file
        return self._add(file)

    def _writable(self, fd: int) -> tuple[_File, IO[bytes]]:
        file = self._file(fd)
        if file.spool is None:
            raise os_error(errno.EBADF)
        if file.published:
            raise os_error(errno.EOPNOTSUPP)
        return file, file.spool

    def _append(self, op: ops.Append) -> Appended:
        try:
            file, spool = self._writable(op.fd)
            with file.lock:
                spool.seek(0, os.SEEK_END)
                spool.writelines(op.chunks)
        except OSError as error:
            return Appended(0, error)
        return Appended(sum(map(len, op.chunks)), None)

    def _truncate(self, op: ops.Truncate) -> None:
        file, spool = self._writable(op.fd)
        with file.lock:
            spool.truncate(op.size)

    def _sync(self, op: ops.Sync) -> None:
        self._file(op.fd)

    def _publish(self, op: ops.Publish) -> None:
        key = key_of(op.path)
        with self._lock:
            file = self._pending.get(key_of(op.temporary))
        if file is None or file.spool is None:
            raise os_error(errno.ENOENT, op.temporary)
        with file.lock:
            self._put(key, op, file.spool)
        with self._lock:
            self._pending.pop(file.info.key, None)
        file.published = True

    def _put(self, key: str, op: ops.Publish, spool: IO[bytes]) -> None:
        size = _size(spool)
        if op.replace:
            if size > PART:
                self._store.put_file(key, spool, size)  # type: ignore[arg-type]
            else:
                spool.seek(0)
                self._store.put(key, spool.read(), create=False)
            return
        try:  # looked at before, since a create whose answer is lost takes an equal object for its own
            self._store.head(key)
        except FileNotFoundError:
            pass
        else:
            raise os_error(errno.EEXIST, op.path)
        spool.flush()
        if size <= PART:
            spool.seek(0)
            self._store.put(key, spool.read(), create=True)
            return
        mapped = mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ)  # unmapped by whoever holds it last
        self._store.put(key, memoryview(mapped), create=True)

    def _unlink(self, op: ops.Unlink) -> None:
        with self._lock:
            pending = self._pending.pop(key_of(op.path), None)
        if pending is None:
            self._store.delete(self._found(op.path).key)

    def _copy(self, op: ops.Copy) -> None:
        self._store.copy(self._found(op.source).key, key_of(op.target), replace=op.replace)

    def _sync_dir(self, op: ops.SyncDir) -> None:
        """An object that was put is durable, its key too."""

    def _close(self, op: ops.Close) -> None:
        with self._lock:
            file = self._files.pop(op.fd, None)
        if file is None:
            raise os_error(errno.EBADF)
        if file.spool is not None and file.info.key not in self._pending:
            file.spool.close()

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
        ops.Unlink: _unlink,
        ops.Copy: _copy,
    }


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _stat(key: str, size: int | None = None, modified_ns: int = 0) -> os.stat_result:
    """Attributes of an object, or (*size* None) of a directory.  The inode number is that of the key."""
    mode = stat.S_IFDIR | 0o700 if size is None else stat.S_IFREG | 0o600
    inode = int.from_bytes(blake2b(key.encode("utf-8"), digest_size=8).digest(), "little") >> 1 or 1
    return make_stat(mode, inode, size or 0, modified_ns)
