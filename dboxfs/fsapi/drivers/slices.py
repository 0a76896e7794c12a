"""The ``slices`` driver: a tree of files, each of which is a slice of an object of a store.  Read-only.

Names, sizes and places are known when the driver is started (a :class:`SliceTree`): attributes and listings
cost no request.  The bytes of a file are ranges of its object; an object that holds many small files
(``packed``) is read whole, once, compared with its digest, and kept as long as there is room.

The objects never change: whatever writes fails with EROFS.  An object that is missing is ENOENT for who
reads it, one that is too short EIO.  Operations run on worker threads (``pool``).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar

import trio
from msgspec import Struct, field

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers.base import no_numbers, peek_each
from dboxfs.fsapi.drivers.object_blocks import BlockReader
from dboxfs.fsapi.drivers.object_client import Objects
from dboxfs.fsapi.drivers.object_files import make_stat, read_ranges
from dboxfs.fsapi.drivers.pool import WorkerPool
from dboxfs.fsapi.ops import Job, Op, OpenedFile, os_error
from dboxfs.fsapi.types import Capabilities, DirEntry, Peek, PeekResult

R = TypeVar("R")

SLICES_CAN = Capabilities(
    locks=False, rename=False, link=False, append=False, directories=False,
    attributes=False, costly_requests=True, frozen=True,
)  # fmt: skip

KEPT_BYTES = 64 << 20
"""Bytes of packed objects that are kept."""


def inode_of(path: str) -> int:
    """The inode number of a path relative to the root: the same in every process.  The device is 0."""
    digest = blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1


class Slice(Struct, frozen=True):
    """A file: *size* bytes of the object *key* from *offset* on; in its plain bytes, if that is packed."""

    key: str
    offset: int
    size: int


class Packed(Struct, frozen=True):
    """An object that is read whole.  ``digest``: BLAKE2b, 16 bytes in hex, of what is stored."""

    digest: str
    unpack: Callable[[bytes], bytes]


class SliceTree(Struct, frozen=True):
    """What the driver shows.  Paths are relative to its root, parts joined with ``/``; "" is the root.

    ``directories``: those that are to be there though they are empty; what leads to a file is there anyway.
    """

    files: Mapping[str, Slice]
    packed: Mapping[str, Packed]
    directories: tuple[str, ...] = ()
    modified_ns: int = 0
    entries: dict[str, dict[str, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries[""] = {}
        for path in self.directories:
            self._add(path, is_dir=True)
        for path in self.files:
            self._add(path, is_dir=False)

    def _add(self, path: str, *, is_dir: bool) -> None:
        while path:
            parent, _, name = path.rpartition("/")
            if is_dir:
                self.entries.setdefault(path, {})
            above = self.entries.setdefault(parent, {})
            if name in above:
                return
            above[name] = is_dir
            path, is_dir = parent, True


class SlicesDriver:
    """A tree of slices.

    :param connect: makes the store and the tree; called once, on a worker thread of the process that uses it.
    :param root: the path below which the tree is.
    """

    def __init__(
        self, connect: Callable[[], tuple[Objects, SliceTree]], root: str, workers: int = 32
    ) -> None:
        self.capabilities = SLICES_CAN
        self.depth = workers
        self.kernel_cached = False
        self._connect = connect
        self._root = root.rstrip("/")
        self._pool = WorkerPool(self._execute, lambda job: None, workers)
        self._objects: Objects | None = None
        self._tree = SliceTree({}, {})
        self._lock = threading.Lock()
        self._open_files: dict[int, str] = {}
        self._next_fd = 1
        self._blocks = BlockReader(self._get)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._reading: dict[str, threading.Lock] = {}

    # -- the driver's contract ---------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Make the store, and read what the tree is."""
        self._objects, self._tree = await trio.to_thread.run_sync(self._connect)
        self._pool.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        """Queue an operation for the next free worker."""
        return self._pool.submit(op, done, background=background)

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        """Every file is known."""
        return self._open(ops.Open(path)).fd

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        """What is in memory."""
        found = self._tree.files[self._path_of(fd)]
        whole = self._kept.get(found.key) if found.key in self._tree.packed else None
        if whole is None:
            return None
        start = found.offset + min(offset, found.size)
        return whole[start : min(start + size, found.offset + found.size)]

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        """Known."""
        return self._stat_of(self._path_of(fd))

    def close_nowait(self, fd: int) -> bool:
        """There is nothing to give back to the store."""
        self._close(ops.Close(fd))
        return True

    def stats(self) -> dict[str, int | float]:
        """Those of the workers; requests, bytes_down: what was asked of the store."""
        answer = self._pool.stats()
        if self._objects is not None:
            cost = self._objects.cost
            answer |= {"requests": sum(cost.requests.values()), "bytes_down": cost.bytes_down}
        return answer

    async def aclose(self) -> None:
        """Stop the threads."""
        self._pool.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _execute(self, op: Op[R]) -> R:
        call = self._CALLS.get(type(op))
        if call is None:
            raise os_error(errno.EROFS, getattr(op, "path", None))
        result: R = call(self, op)
        return result

    def _relative(self, path: str) -> str:
        """
        :raises OSError: ENOENT, ENOTDIR: nothing is there.
        """
        if "\0" in path:
            raise ValueError("embedded null byte")
        if path != self._root and not path.startswith(self._root + "/"):
            raise os_error(errno.ENOENT, path)
        relative = "/".join(part for part in path[len(self._root) :].split("/") if part)
        if relative in self._tree.files or relative in self._tree.entries:
            return relative
        above = relative
        while above:
            above = above.rpartition("/")[0]
            if above in self._tree.files:
                raise os_error(errno.ENOTDIR, path)
        raise os_error(errno.ENOENT, path)

    def _file(self, path: str) -> str:
        relative = self._relative(path)
        if relative not in self._tree.files:
            raise os_error(errno.EISDIR, path)
        return relative

    def _path_of(self, fd: int) -> str:
        try:
            return self._open_files[fd]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def _stat_of(self, relative: str) -> os.stat_result:
        found = self._tree.files.get(relative)
        mode = stat.S_IFDIR | 0o700 if found is None else stat.S_IFREG | 0o600
        size = 0 if found is None else found.size
        return make_stat(mode, inode_of(relative), size, self._tree.modified_ns)

    def _bytes(self, relative: str, start: int, end: int) -> bytes:
        found = self._tree.files[relative]
        end = min(end, found.size)
        if start >= end:
            return b""
        if found.key in self._tree.packed:
            whole = self._whole(found.key, self._tree.packed[found.key])
            data = whole[found.offset + start : found.offset + end]
            if len(data) != end - start:
                raise OSError(errno.EIO, "the object is shorter than it should be", found.key)
            return data
        size = found.offset + found.size
        return self._blocks.read(found.key, size, found.offset + start, found.offset + end)

    def _get(self, key: str, start: int, end: int) -> bytes:
        assert self._objects is not None
        return self._objects.get(key, start, end)

    def _whole(self, key: str, packed: Packed) -> bytes:
        """A packed object's plain bytes: kept ones, or read by one worker while others wait for it."""
        with self._lock:
            turn = self._reading.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            assert self._objects is not None
            stored = self._objects.get_whole(key)
            if blake2b(stored, digest_size=16).hexdigest() != packed.digest:
                raise OSError(errno.EIO, "the object is damaged: its checksum is another one", key)
            data = packed.unpack(stored)
            with self._lock:
                self._kept[key] = data
                self._kept_bytes += len(data)
                while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                    self._kept_bytes -= len(self._kept.popitem(last=False)[1])
                self._reading.pop(key, None)
            return data

    # -- the operations ----------------------------------------------------------------------------------

    def _open(self, op: ops.Open) -> OpenedFile:
        relative = self._file(op.path)
        if op.append:
            raise os_error(errno.EROFS, op.path)
        with self._lock:
            fd = self._next_fd
            self._next_fd += 1
            self._open_files[fd] = relative
        return OpenedFile(fd, self._stat_of(relative))

    def _read(self, op: ops.Read) -> bytes:
        if op.offset < 0 or op.size < 0:
            raise os_error(errno.EINVAL)
        return self._bytes(self._path_of(op.fd), op.offset, op.offset + op.size)

    def _advise(self, op: ops.Advise) -> None:
        self._path_of(op.fd)

    def _willneed_many(self, op: ops.WillneedMany) -> None:
        """Nothing here keeps it."""

    def _close(self, op: ops.Close) -> None:
        with self._lock:
            if self._open_files.pop(op.fd, None) is None:
                raise os_error(errno.EBADF)

    def _stat(self, op: ops.Stat) -> os.stat_result:
        return self._stat_of(self._relative(op.path))

    def _readlink(self, op: ops.Readlink) -> str:
        self._relative(op.path)
        raise os_error(errno.EINVAL, op.path)

    def _statvfs(self, op: ops.Statvfs) -> os.statvfs_result:
        return no_numbers(os.ST_RDONLY)

    def _listdir(self, op: ops.Listdir) -> list[DirEntry]:
        relative = self._relative(op.path)
        if relative in self._tree.files:
            raise os_error(errno.ENOTDIR, op.path)
        entries = self._tree.entries[relative].items()
        return [DirEntry(name, is_dir, False) for name, is_dir in entries if name.startswith(op.prefix)]

    def _peek_many(self, op: ops.PeekMany) -> list[PeekResult | OSError]:
        return peek_each(op.requests, self._peek)

    def _peek(self, request: Peek) -> PeekResult:
        relative = self._file(request.path)
        status = self._stat_of(relative)
        chunks = read_ranges(request, status.st_size, lambda start, end: self._bytes(relative, start, end))
        return PeekResult(status, chunks)

    _CALLS: ClassVar[dict[type[Op[Any]], Callable[[Any, Any], Any]]] = {
        ops.Open: _open,
        ops.Read: _read,
        ops.Advise: _advise,
        ops.WillneedMany: _willneed_many,
        ops.Close: _close,
        ops.Stat: _stat,
        ops.Readlink: _readlink,
        ops.Statvfs: _statvfs,
        ops.Listdir: _listdir,
        ops.PeekMany: _peek_many,
    }
