"""A file system over a store in memory, asked as the kernel asks it: without root, a mount or a Dovecot.

:func:`mounted` makes a store with our own ``init`` and writer on the ``memory`` driver, and a
:class:`~dboxfs.vfs.writable.WritableVfs` over it.  A :class:`Program` is a process that uses it: it looks
paths up name by name, and opens, writes and closes as libc does.  Processes have numbers that no process of
this machine has, so nothing is found in /proc: every close is the last one, unless a test says otherwise.

What the kernel is told is kept (:class:`Told`); it has no cache, so each call is a request.

"Somebody else" (:attr:`Mounted.others`) is a second writer of the same store, as a Dovecot or another mount
is.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Driver, FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.store import Folder, Kind, Location, Store, open_store
from dboxfs.store.location import TreeLayout
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.host import Host, Kernel
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.options import ViewOptions
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.writable import WritableVfs

ONE = b"Subject: one\n\nfirst\n"
TWO = b"Subject: two\nTo: somebody\n\nsecond\nand more\n"
JULY = 1_689_000_000
ALONE = WriteOptions(Neighbour.ALONE)
ROOT_DIRECTORY = "/nowhere/on/this/disk/mail"

_FIRST_PID = 1 << 23
"""More than Linux gives any process."""

_LONGEST = 30.0
"""Seconds of a test; of one whose clock jumps (``autojump_clock``) a thousand times that."""

_TASKS = itertools.count(_FIRST_PID)


@dataclass(slots=True)
class Told:
    """What the kernel was told."""

    names_expire: bool = False
    keeps_missing: bool = False
    entries: list[tuple[int, bytes, int]] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    listings: list[int] = field(default_factory=list)
    looked_up_again: list[tuple[int, bytes]] = field(default_factory=list)
    pushed: dict[int, bytes] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)

    def attributes(self, inode: int) -> None:
        self.changed.append(inode)

    def at_once(self, inode: int) -> None:
        self.changed.append(inode)

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        self.entries.append((parent, name, deleted))

    def listing(self, inode: int) -> None:
        self.listings.append(inode)

    async def now(self, parent: int, name: bytes) -> None:
        self.looked_up_again.append((parent, name))

    def push(self, inode: int, data: bytes) -> bool:
        self.pushed[inode] = data
        return inode not in self.unknown


class Program:
    """A process that uses a mount."""

    def __init__(self, vfs: ReadableFileSystem, pid: int | None = None) -> None:
        self.vfs = vfs
        self.pid = next(_TASKS) if pid is None else pid

    @property
    def rw(self) -> WritableFileSystem:
        assert not isinstance(self.vfs, ReadOnlyVfs)
        return cast(WritableFileSystem, self.vfs)

    # -- names ---------------------------------------------------------------------------------

    async def inode(self, path: str) -> int:
        """The inode of a path, looked up name by name."""
        found = ROOT
        for name in path.strip("/").split("/") if path.strip("/") else []:
            found = (await self.vfs.lookup(found, os.fsencode(name), self.pid)).inode
        return found

    async def place(self, path: str) -> tuple[int, bytes]:
        """The inode of the directory of a path, and the last name in it."""
        above, _, name = path.strip("/").rpartition("/")
        return await self.inode(above), os.fsencode(name)

    async def stat(self, path: str) -> Attrs:
        parent, name = await self.place(path)
        return await self.vfs.lookup(parent, name, self.pid) if name else await self.vfs.getattr(ROOT)

    async def exists(self, path: str) -> bool:
        try:
            await self.stat(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    async def listed(self, path: str = "INBOX") -> dict[str, int]:
        """The names of a directory, without dots, and their inodes."""
        directory = await self.vfs.opendir(await self.inode(path))
        await directory.prepare(0)
        above = [(name, attrs.inode) for _, name, attrs in directory.above(0)]
        await directory.sizes(0)
        rows = [(row.name, row.inode) for row in directory.messages(0)]
        found = [(os.fsdecode(name), inode) for name, inode in above + rows if name not in (b".", b"..")]
        assert len(dict(found)) == len(found), "a name is listed twice"
        return dict(found)

    async def names(self, path: str = "INBOX") -> list[str]:
        return sorted(await self.listed(path))

    # -- files ---------------------------------------------------------------------------------

    async def open(self, path: str, flags: int = os.O_RDONLY) -> File:
        """open(2), with ``O_CREAT``, ``O_EXCL``, ``O_TRUNC``, ``O_APPEND``; the kernel walks a path once more
        after ESTALE.
        """
        try:
            return await self._open(path, flags)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return await self._open(path, flags)

    async def _open(self, path: str, flags: int) -> File:
        parent, name = await self.place(path)
        try:
            inode = (await self.vfs.lookup(parent, name, self.pid)).inode
        except OSError as error:
            if error.errno != errno.ENOENT or not flags & os.O_CREAT:
                raise
            opened, attrs = await self.rw.create(parent, name, flags, self.pid)
            return File(self, attrs.inode, opened.file)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, path)
        try:
            return File(self, inode, (await self.vfs.open(inode, flags & ~os.O_CREAT, self.pid)).file)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        inode = (await self.vfs.lookup(parent, name, self.pid)).inode  # as the kernel does, once
        return File(self, inode, (await self.vfs.open(inode, flags & ~os.O_CREAT, self.pid)).file)

    async def create(self, path: str, flags: int = 0) -> File:
        return await self.open(path, os.O_WRONLY | os.O_CREAT | flags)

    async def write(self, path: str, data: bytes, *, received: int | None = None, flags: int = 0) -> int:
        """``cp``: a new file, or one written anew; gives the inode it has afterwards."""
        file = await self.create(path, os.O_TRUNC | flags)
        await file.write(data)
        if received is not None:
            await file.set_received(received)
        await file.close()
        return await self.inode(path)

    async def append(self, path: str, data: bytes) -> None:
        """``cat >> path``"""
        file = await self.create(path, os.O_APPEND)
        await file.write(data)
        await file.close()

    async def read(self, path: str) -> bytes:
        """``cat path``"""
        file = await self.open(path)
        try:
            return await file.read()
        finally:
            await file.close()

    async def texts(self, path: str = "INBOX") -> dict[str, bytes]:
        """Name and bytes of every message in a directory."""
        found = {}
        for name in await self.names(path):
            if not stat.S_ISDIR((await self.stat(f"{path}/{name}")).mode):
                found[name] = await self.read(f"{path}/{name}")
        return found

    # -- everything else -----------------------------------------------------------------------

    async def set_received(self, path: str, received: int) -> None:
        """``touch -d``"""
        await self.rw.setattr(await self.inode(path), None, received, None, self.pid)

    async def truncate(self, path: str, size: int) -> None:
        """truncate(2)"""
        await self.rw.setattr(await self.inode(path), size, None, None, self.pid)

    async def xattr(self, path: str, name: str) -> str:
        """The value of ``user.dbox.<name>``."""
        return (await self.vfs.getxattr(await self.inode(path), b"user.dbox." + name.encode())).decode()

    async def mknod(self, path: str) -> Attrs:
        """mknod(2) of a regular file"""
        return await self.rw.mknod(*await self.place(path), self.pid)

    async def set_xattr(self, path: str, name: str, value: str) -> None:
        await self.rw.setxattr(await self.inode(path), b"user.dbox." + name.encode(), value.encode())

    async def unlink(self, path: str) -> None:
        await self.rw.unlink(*await self.place(path), self.pid)

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        await self.inode(old)  # as the kernel does, first
        await self.rw.rename(*await self.place(old), *await self.place(new), flags, self.pid)

    async def link(self, old: str, new: str) -> Attrs:
        return await self.rw.link(await self.inode(old), *await self.place(new), self.pid)

    async def mkdir(self, path: str) -> Attrs:
        return await self.rw.mkdir(*await self.place(path))

    async def rmdir(self, path: str) -> None:
        await self.rw.rmdir(*await self.place(path))


class File:
    """An open file description of a :class:`Program`, with one descriptor."""

    def __init__(self, program: Program, inode: int, file: OpenFile) -> None:
        self.program = program
        self.inode = inode
        self.file = file
        self.at = 0

    async def write(self, data: bytes, at: int | None = None) -> None:
        """write(2), or pwrite(2) at an offset."""
        assert await self.file.write(data, self.at if at is None else at) == len(data)
        if at is None:
            self.at += len(data)

    async def read(self, size: int = 1 << 20, at: int = 0) -> bytes:
        return await self.file.read(size, at)

    async def stat(self) -> Attrs:
        """fstat(2)"""
        return await self.program.vfs.getattr(self.inode, self.program.pid)

    async def set_received(self, received: int) -> None:
        """futimens(3)"""
        await self.program.rw.setattr(self.inode, None, received, None, self.program.pid)

    async def truncate(self, size: int) -> None:
        """ftruncate(2)"""
        await self.program.rw.setattr(self.inode, size, None, self.file, self.program.pid)

    async def fsync(self) -> None:
        await self.file.fsync()

    async def flush(self) -> None:
        """close(2) of a copy of the descriptor."""
        await self.file.flush()

    async def close(self) -> None:
        """close(2) of the last descriptor."""
        try:
            await self.file.flush()
        finally:
            await self.file.release()


@dataclass(slots=True)
class Mounted:
    """A store with the mailboxes INBOX (one message, uid 1) and Work (none), mounted with ``rw``."""

    tree: Tree
    fs: FileSystem
    location: Location
    store: Store
    vfs: WritableVfs
    reading: ReadOnlyVfs
    name_reader: NameReader
    told: Told
    others: StoreWriter
    requests: dict[str, int]
    nursery: trio.Nursery

    def program(self) -> Program:
        """Another process that uses the mount."""
        return Program(self.vfs)

    def folder(self, name: str = "INBOX") -> Folder:
        return self.store.folders[name]

    def uids(self, name: str = "INBOX") -> list[int]:
        """The uids of the messages that the mount shows."""
        box = self.folder(name).mailbox
        return box.uids.tolist() if box is not None else []

    async def follow(self, name: str = "INBOX") -> None:
        """Hear of what others have done to a mailbox, as inotify tells a mount."""
        await self.store.refresh_mailbox(self.folder(name))

    def files(self) -> list[str]:
        """The paths of all files of the store, as they are on disk."""
        found, todo = [], [(ROOT_DIRECTORY, self.tree.find(ROOT_DIRECTORY))]
        while todo:
            path, node = todo.pop()
            todo += [(f"{path}/{name}", child) for name, child in node.entries.items()]
            if not node.is_dir:
                found.append(path)
        return sorted(found)

    def file(self, path: str) -> bytearray:
        """The bytes of a file of the store, to look at or to damage."""
        return self.tree.find(path).data

    @asynccontextmanager
    async def again(self) -> AsyncIterator[Mounted]:
        """The same store, mounted once more by another process."""
        async with mounted(self.location.kind, driver=MemoryDriver(tree=self.tree)) as found:
            yield found

    async def stored(self, name: str = "INBOX") -> list[tuple[int, bytes]]:
        """Uid and text of every message, as a store that is opened now has them."""
        async with open_store(self.fs, self.location, follow=False) as fresh:
            box = fresh.folders[name].mailbox
            found = []
            for uid in box.uids.tolist() if box is not None else []:
                assert box is not None
                body = await box.open(uid)
                found.append((uid, await body.read(body.size, 0)))
                body.close()
            return found

    async def flags(self, uid: int, name: str = "INBOX") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Flags and keywords of a message, as a store that is opened now has them."""
        async with open_store(self.fs, self.location, follow=False) as fresh:
            box = fresh.folders[name].mailbox
            assert box is not None
            return box.flags(uid), box.keywords(uid)


@contextmanager
def raises(*numbers: int) -> Iterator[None]:
    """An OSError, or an error of the project's, with one of these errno values."""
    with pytest.raises((OSError, DboxfsError)) as caught:
        yield
    error = caught.value
    assert isinstance(error, OSError | DboxfsError)
    assert error.errno in numbers, repr(error)


def location_of(kind: Kind, layout: TreeLayout = TreeLayout.FS) -> Location:
    escape = "^" if layout is TreeLayout.INDEX else ""
    return Location(kind, ROOT_DIRECTORY, layout=layout, escape=escape)


async def make_store(
    driver: Driver, kind: Kind, options: WriteOptions = ALONE, layout: TreeLayout = TreeLayout.FS
) -> None:
    """INBOX with one message (uid 1), and Work with none."""
    location = location_of(kind, layout)
    async with FileSystem(driver) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, await fs.stat(location.root), options)
        await writer.create_mailbox("Work")
        await writer.save("INBOX", [NewMessage(ONE, JULY)])


@asynccontextmanager
async def mounted(
    kind: Kind = Kind.SDBOX,
    options: WriteOptions = ALONE,
    driver: MemoryDriver | None = None,
    faults: Callable[[Driver], Driver] | None = None,
    restore: bool = False,
    kernel: Callable[[Kernel], Kernel] = lambda told: told,
    layout: TreeLayout = TreeLayout.FS,
    shared: bool = False,
) -> AsyncIterator[Mounted]:
    """A new store in memory, or the one that *driver* has, mounted with ``rw``.

    :param faults: makes the driver of the mount of the one that has the store.
    :param kernel: stands between the file system and what the kernel is told.
    :param shared: the writer shares the state of the indexes with the readers, as in a mount.
    """
    if driver is None:
        memory = MemoryDriver()
        memory.make_dirs(os.path.dirname(ROOT_DIRECTORY))
        await make_store(memory, kind, layout=layout)
        driver = MemoryDriver(tree=memory.tree)
    tree = driver.tree
    location, told = location_of(kind, layout), Told()
    requests: dict[str, int] = {}
    async with (
        FileSystem(faults(driver) if faults is not None else driver) as fs,
        open_store(fs, location, follow=False) as store,
        trio.open_nursery() as nursery,
    ):
        jumps = isinstance(trio.lowlevel.current_clock(), MockClock)
        nursery.cancel_scope.deadline = trio.current_time() + _LONGEST * (1000 if jumps else 1)
        names = NameReader(store)
        await names.load()
        host = Host(nursery.start_soon, kernel(told), requests)
        reading = ReadOnlyVfs(store, ViewOptions(writable=True), host, names)
        views = store if shared else None
        writer = StoreWriter(fs, location, store.owner, options, views=views)
        vfs = WritableVfs(reading, writer, names, restore=restore)
        await vfs.begin()
        assert vfs.follower is not None
        nursery.start_soon(vfs.follower.run)
        if vfs.staging is not None:
            nursery.start_soon(vfs.staging.run)
        others = StoreWriter(fs, location, store.owner, options)
        yield Mounted(tree, fs, location, store, vfs, reading, names, told, others, requests, nursery)
        await vfs.finish()
        nursery.cancel_scope.cancel()
