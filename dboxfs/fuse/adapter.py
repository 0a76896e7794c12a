"""The kernel's requests, handed to a :mod:`dboxfs.vfs` and back: the only module with handlers of pyfuse3's.

A handler counts its request once, calls the one method of the file system that answers it, and turns values
into pyfuse3's.  ``dboxfs.vfs`` decides the meaning of a request, :mod:`dboxfs.fuse.error_map` the errno of an
error.  File handles are numbers from one counter: a table maps them to open files, another to open
directories.

On a read-only mount the kernel itself refuses writing (mount option ``ro``); a writing handler that is called
all the same answers EROFS.
"""

from __future__ import annotations

import errno
import logging
import select
import stat
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial, wraps
from time import perf_counter_ns
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import FUSEError

from dboxfs.fuse.entries import add_messages
from dboxfs.fuse.error_map import ErrorMap
from dboxfs.fuse.openless import NO_FLUSH
from dboxfs.vfs.attrs import NS, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.observed import Observed
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.serving import UnopenedRequests
from dboxfs.vfs.waiting import Polled

log = logging.getLogger(__name__)

READING = (
    "lookup", "getattr", "open", "read", "release", "opendir", "readdir", "releasedir", "getxattr",
    "listxattr", "statfs", "flush", "fsync", "fsyncdir", "setattr", "poll",
)  # fmt: skip
"""The requests that the kernel sends to every mount."""

WRITING = (
    "create", "write", "unlink", "rename", "link", "mkdir", "rmdir", "mknod", "symlink", "setxattr",
    "removexattr",
)  # fmt: skip
"""The requests that it sends to a writable mount, too."""

_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM

P = ParamSpec("P")
R = TypeVar("R")


def request(
    method: Callable[Concatenate[Adapter, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Adapter, P], Coroutine[Any, Any, R]]:
    """Count a request, and make every error of its handler a FUSEError."""
    name = method.__name__

    async def answered(self: Adapter, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] = self.requests.get(name, 0) + 1  # an error here would end the daemon
        began = perf_counter_ns()
        try:
            return await method(self, *args, **kwargs)
        except Exception as exc:
            number = self.errors.errno_of(exc, name)
            self.observed.failed(name, number)
            raise FUSEError(number) from exc
        finally:
            ns = perf_counter_ns() - began
            self.observed.took(name, ns)
            if self.observed.trace:
                log.info("trace: %s %s: %.3f ms", name, args[0] if args else "", ns / 1e6)

    return wraps(method)(answered)  # type: ignore[return-value]


class Adapter(pyfuse3.Operations):
    """One mount.

    :param vfs: answers the requests.  :param writable: answers those that write; None: read-only.
    :param requests: counts the requests, by name; this fills it.
    :ivar unopened: answers READ and READDIR by inode, without OPEN; None: the kernel opens files and
        directories.
    :ivar released: called with each directory that is closed.
    :ivar observed: counts durations and errors.
    :ivar greeted: the kernel has begun to talk to us: the mount answers.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        vfs: ReadableFileSystem,
        requests: dict[str, int],
        writable: WritableFileSystem | None = None,
    ) -> None:
        super().__init__()
        self.requests = requests
        self.observed = Observed()
        self.errors = ErrorMap()
        self.greeted = trio.Event()
        self.unopened: UnopenedRequests | None = None
        self.released: Callable[[OpenDirectory], None] = lambda _: None
        self._vfs = vfs
        self._writable = writable
        self._next_handle = 1
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        requests.update(dict.fromkeys(READING if self._writable is None else READING + WRITING, 0))

    def init(self) -> None:
        """Called for the kernel's first request; its answer is sent before another task runs."""
        self.greeted.set()

    @property
    def _writes(self) -> WritableFileSystem:
        """
        :raises Refused: EROFS: this is a read-only mount.
        """
        if self._writable is None:
            raise Refused(errno.EROFS)
        return self._writable

    def _refuse_sync(self) -> None:
        """
        :raises Refused: ENOSYS: this is a read-only mount, where nothing is to be written to the disk.  For
            the kernel that is success, and it doesn't send this request again.
        """
        if self._writable is None:
            raise Refused(errno.ENOSYS)

    async def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        if self.unopened is not None:
            self.unopened.forget(inode for inode, _ in inodes)

    # -- names and attributes ------------------------------------------------------------------

    @request
    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(await self._vfs.lookup(parent, name, ctx.pid))

    @request
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(await self._vfs.getattr(inode, ctx.pid))

    @request
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        received = attr.st_mtime_ns // NS if fields.update_mtime else None
        size = attr.st_size if fields.update_size else None
        file = self._files.get(fh) if fh is not None else None
        return _entry(await self._writes.setattr(inode, size, received, file, ctx.pid))

    # -- directories ---------------------------------------------------------------------------

    @request
    async def opendir(self, inode: int, ctx: Any) -> int:
        if self.unopened is not None:
            raise Refused(errno.ENOSYS)
        return self._new_handle(self._directories, await self._vfs.opendir(inode))

    def _new_handle(self, table: dict[int, R], what: R, mark: int = 0) -> int:
        handle = self._next_handle | mark
        self._next_handle += 1
        table[handle] = what
        return handle

    @request
    async def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        reply: Any = pyfuse3.readdir_reply  # its types of names and numbers are calls for nothing
        above = 0
        if self.unopened is not None:
            directory, above, start = await self.unopened.directory(fh, start)
        else:
            directory = self._directories[fh]
        await directory.prepare(start)
        for behind, name, attrs in directory.above(start):
            if not reply(token, name, _entry(attrs), above | behind):
                return
        await directory.sizes(start)
        add_messages(token, directory, start, _entry(directory.attributes()), above)

    @request
    async def releasedir(self, fh: int) -> None:
        self.released(self._directories.pop(fh))

    @request
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._refuse_sync()
        await self._writes.fsyncdir(self._directories[fh])

    # -- files ---------------------------------------------------------------------------------

    @request
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        opened, attrs = await self._writes.create(parent, name, flags, ctx.pid)
        return self._opened(opened), _entry(attrs)

    @request
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if self.unopened is not None:
            raise Refused(errno.ENOSYS)  # the kernel sends no OPEN again; no file has a handle from now on
        return self._opened(await self._vfs.open(inode, flags, ctx.pid))

    def _opened(self, opened: Opened) -> pyfuse3.FileInfo:
        handle = self._new_handle(self._files, opened.file, 0 if opened.flushes else NO_FLUSH)
        return pyfuse3.FileInfo(
            fh=pyfuse3.FileHandleT(handle), direct_io=opened.direct_io, keep_cache=opened.keep_cache
        )

    @request
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        if self.unopened is not None:
            return await self.unopened.read(fh, size, offset)
        return await self._files[fh].read(size, offset)

    @request
    async def poll(self, inode: int, fh: int, poll_handle: Any, ctx: Any) -> int:
        wake = partial(_wake, poll_handle) if poll_handle is not None else None
        if self.unopened is not None:
            is_ready = await self.unopened.is_ready(inode, wake)
        else:
            file = self._files[fh]
            is_ready = not isinstance(file, Polled) or file.is_ready(wake)
        return _READY if is_ready else 0

    @request
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        return await self._files[fh].write(bytes(data), offset)

    @request
    async def flush(self, fh: int) -> None:
        self._refuse_sync()
        await self._files[fh].flush()

    @request
    async def fsync(self, fh: int, datasync: bool) -> None:
        self._refuse_sync()
        await self._files[fh].fsync()

    @request
    async def release(self, fh: int) -> None:
        await self._files.pop(fh).release()

    # -- extended attributes -------------------------------------------------------------------

    @request
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return await self._vfs.getxattr(inode, name)

    @request
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[pyfuse3.XAttrNameT]:
        return [pyfuse3.XAttrNameT(name) for name in await self._vfs.listxattr(inode)]

    @request
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        await self._writes.setxattr(inode, name, value)

    @request
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        await self._writes.removexattr(inode, name)

    # -- names ---------------------------------------------------------------------------------

    @request
    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        await self._writes.unlink(parent, name, ctx.pid)

    @request
    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: Any
    ) -> None:
        await self._writes.rename(old_parent, old, new_parent, new, flags, ctx.pid)

    @request
    async def link(self, inode: int, new_parent: int, new: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(await self._writes.link(inode, new_parent, new, ctx.pid))

    @request
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(await self._writes.mkdir(parent, name))

    @request
    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        await self._writes.rmdir(parent, name)

    @request
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        if not stat.S_ISREG(mode):
            raise Refused(errno.EPERM)
        return _entry(await self._writes.mknod(parent, name, ctx.pid))

    @request
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        raise Refused(errno.EPERM)

    # -- the file system -----------------------------------------------------------------------

    @request
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        found, data = await self._vfs.statfs(), pyfuse3.StatvfsData()
        data.f_bsize, data.f_frsize = found.f_bsize, found.f_frsize
        data.f_blocks, data.f_bfree, data.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
        data.f_files, data.f_ffree, data.f_favail = found.f_files, found.f_ffree, found.f_favail
        data.f_namemax = 255
        return data


def _wake(handle: Any) -> None:
    """Have the kernel ask again; if the process does not wait any more, nothing happens."""
    with suppress(OSError, FUSEError):
        handle.notify()


def _entry(attrs: Attrs) -> pyfuse3.EntryAttributes:
    """Attributes as pyfuse3 has them."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attrs.inode)
    entry.st_mode = pyfuse3.ModeT(attrs.mode)
    entry.st_nlink = attrs.nlink
    entry.st_uid = attrs.uid
    entry.st_gid = attrs.gid
    entry.st_size = attrs.size
    entry.st_blocks = (attrs.size + 511) >> 9
    entry.st_blksize = 4096
    entry.st_atime_ns = entry.st_mtime_ns = attrs.modified_ns
    entry.st_ctime_ns = attrs.changed_ns
    entry.entry_timeout = attrs.entry_timeout
    entry.attr_timeout = attrs.attr_timeout
    return entry
