"""Files and directories that programs keep beside the mail: ``.uidvalidity``, ``.mbsyncstate``, ``.notmuch/``
...

They are no mail, and only this view shows them.  They are plain files in the control directory of the
store::

    <control>/dboxfs-maildir/<guid of the mailbox, or "root">/<path below the mailbox's directory>
    <control>/dboxfs-maildir/<guid of the mailbox>.new                            one to replace another
    <control>/dboxfs-mh/...                                                       the same of the MH view

so they stay with their mailbox when it is renamed.  Each write goes to the file at once, and fsync to the
file's own.

Limits: :data:`FOREIGN_LARGEST` a file, :data:`FOREIGN_ENTRIES` a directory, :data:`FOREIGN_BYTES` a store
(each mount counts for itself).

Only this part of ``vfs/`` touches a disk, and not through ``fsapi``: programs keep databases, which overwrite
their files, and ``fsapi`` can't.  Each call runs on a worker thread.

Concurrency: requests about one file are carried out in the order in which the kernel sends them.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio
from msgspec import Struct

from dboxfs.fsapi.drivers.acting import acting_as
from dboxfs.util.regular import open_regular
from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import ROOT, Inodes
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.views.foreign_open import ForeignFile, OpenForeign, in_thread
from dboxfs.vfs.views.places import FOREIGN

T = TypeVar("T")

MAILDIR_DIRECTORY = "dboxfs-maildir"
MH_DIRECTORY = "dboxfs-mh"
FOREIGN_LARGEST = 1 << 30
"""Bytes of a file, at most."""

FOREIGN_SMALL = 16 << 20
"""Bytes of a file that is read as a whole each time."""

FOREIGN_THREADS = 4
"""Calls of the system for these files that run at the same time."""

FOREIGN_ENTRIES = 10_000
"""Entries of a directory, at most."""

FOREIGN_BYTES = 4 << 30
"""Bytes of all files of a store, at most."""

_KEPT = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_EXCL


class _Path(Struct, frozen=True):
    """A file or directory.

    ``home``: the guid of its mailbox in hex digits, or ``root``.  ``parts``: the names below that.
    """

    home: bytes
    parts: tuple[bytes, ...]

    def child(self, name: bytes) -> _Path:
        return _Path(self.home, (*self.parts, name))


def _names(directory: bytes) -> list[bytes]:
    return sorted(os.listdir(directory))


class Foreign:
    """The files of one store.

    :param directory: where they are; made when the first file is.
    :param owner: owner and group of what is made; None: those of the process.
    """

    def __init__(
        self, directory: str, inodes: Inodes, attributes: Attributes, owner: tuple[int, int] | None = None
    ) -> None:
        self._directory = os.fsencode(directory)
        self._inodes = inodes
        self._attributes = attributes
        self._owner = owner
        self._numbers = itertools.count(1)
        self._inode_of: dict[_Path, int] = {}
        self._path_of: dict[int, _Path] = {}
        self._used: int | None = None
        self._written: Counter[int] = Counter()
        self.threads = trio.CapacityLimiter(FOREIGN_THREADS)

    # -- inode numbers and paths ---------------------------------------------------------------

    def _path(self, inode: int) -> _Path:
        """The path of an inode number.

        :raises Refused: ESTALE: it is gone.
        """
        found = self._path_of.get(inode)
        if found is not None:
            return found
        folder = self._inodes.node(inode).folder
        if folder is None:
            raise Refused(errno.ESTALE)
        if inode == ROOT or folder.parent is None:
            return _Path(b"root", ())
        box = folder.mailbox
        if box is None or box.guid is None:
            raise Refused(errno.ENOENT)
        return _Path(box.guid.hex().encode("ascii"), ())

    def _inode(self, path: _Path) -> int:
        inode = self._inode_of.get(path)
        if inode is None:
            inode = self._inode_of[path] = FOREIGN | next(self._numbers)
            self._path_of[inode] = path
        return inode

    def _forget(self, path: _Path) -> None:
        inode = self._inode_of.pop(path, 0)
        if self._path_of.get(inode) == path:
            other = next((some for some, number in self._inode_of.items() if number == inode), None)
            if other is not None:  # it was linked
                self._path_of[inode] = other
            else:
                del self._path_of[inode]

    async def _run(self, work: Callable[[], T]) -> T:
        """Run *work* on a worker thread, with the rights of the store's owner."""
        uid, gid = self._owner or (None, None)
        return await in_thread(partial(_acting, uid, gid, work), self.threads)

    def _on_disk(self, path: _Path) -> bytes:
        return os.path.join(self._directory, path.home, *path.parts)

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the file or directory of this name.

        :raises Refused: ENOENT: there is none.
        """
        path = self._path(parent).child(name)
        found = await self._run(partial(os.lstat, self._on_disk(path)))
        return self._attrs(self._inode(path), found)

    def _attrs(self, inode: int, found: os.stat_result) -> Attrs:
        if stat.S_ISDIR(found.st_mode):
            attrs = self._attributes.control_dir(inode)
            attrs.nlink = found.st_nlink
        elif stat.S_ISREG(found.st_mode):
            attrs = self._attributes.control_file(inode, found.st_size)
        else:
            raise Refused(errno.ENOENT)
        attrs.modified_ns, attrs.changed_ns = found.st_mtime_ns, found.st_ctime_ns
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*.

        :raises Refused: ENOENT, ESTALE: it is gone.
        """
        return self._attrs(inode, await self._run(partial(os.lstat, self._on_disk(self._path(inode)))))

    async def setattr(self, inode: int, size: int | None, modified: int | None) -> Attrs:
        """Set the size or the mtime of a file.

        :param size: bytes.  :param modified: seconds since the epoch.
        :raises Refused: EFBIG, ENOSPC: it would be too large.
        """
        path = self._on_disk(self._path(inode))
        if size is not None:
            await self._room(size, (await self._run(partial(os.lstat, path))).st_size)
            await self._run(partial(os.truncate, path, size))
        if modified is not None:
            await self._run(partial(os.utime, path, (modified, modified), follow_symlinks=False))
        return await self.getattr(inode)

    async def entries(self, inode: int) -> Sequence[tuple[bytes, Attrs]]:
        """The entries of a directory, of a mailbox or of a program."""
        try:
            path = self._path(inode)
            names = await self._run(partial(_names, self._on_disk(path)))
        except Refused:
            return ()
        found = []
        for name in names:
            try:
                found.append((name, await self.lookup(inode, name)))
            except Refused:  # gone meanwhile
                continue
        return found

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """
        return OpenForeign(await self.getattr(inode), await self.entries(inode))

    # -- files ---------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, flags: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT.

        :raises Refused: ENOSPC: the directory has too many entries.
        """
        path = self._path(parent).child(name)
        await self._make_way(path)
        return await self._opened(path, flags | os.O_CREAT)

    async def open(self, inode: int, flags: int) -> Opened:
        """open(2) of a file that is there.

        :raises Refused: ENOENT, ESTALE: it is gone.
        """
        opened, _ = await self._opened(self._path(inode), flags & ~os.O_CREAT)
        return opened

    async def _opened(self, path: _Path, flags: int) -> tuple[Opened, Attrs]:
        is_only_written = flags & os.O_ACCMODE == os.O_WRONLY
        kept = flags & (_KEPT | os.O_CREAT) | os.O_NOFOLLOW
        if is_only_written:  # the kernel may read what it fills a page with
            kept += os.O_RDWR - os.O_WRONLY
        number = await self._run(partial(open_regular, self._on_disk(path), kept))
        attrs = self._attrs(self._inode(path), os.fstat(number))
        file = ForeignFile(self, attrs.inode, number, is_written=bool(flags & os.O_ACCMODE))
        return Opened(file, direct_io=False, keep_cache=False), attrs

    def began(self, inode: int) -> None:
        """A program has opened a file to write it."""
        self._written[inode] += 1

    def ended(self, inode: int) -> None:
        """A program has closed a file that it had opened to write it."""
        self._written[inode] -= 1
        if not self._written[inode]:
            del self._written[inode]

    async def content(self, inode: int) -> bytes:
        """The whole content of a file.

        :raises Refused: EBUSY: a program is writing it; ENOENT, ESTALE: it is gone; EISDIR; EFBIG.
        """
        if self._written[inode]:
            raise Refused(errno.EBUSY)
        data, _ = await self._run(partial(_read, self._on_disk(self._path(inode)), FOREIGN_LARGEST))
        return data

    async def small(self, parent: int, name: bytes) -> tuple[bytes, int]:
        """The content of a small file, and its mtime (ns since the epoch); no bytes and 0: there is none that
        can be read, of at most :data:`FOREIGN_SMALL` bytes.
        """
        try:
            path = self._on_disk(self._path(parent).child(name))
            return await self._run(partial(_read, path, FOREIGN_SMALL))
        except Refused:
            return b"", 0

    async def put(self, parent: int, name: bytes, data: bytes) -> None:
        """Replace a small file as a whole; without a byte it is removed."""
        path = self._path(parent).child(name)
        await self._make_way(path)
        beside = os.path.join(self._directory, path.home + b".new")  # where no program has names
        await self._run(partial(self._put, self._on_disk(path), beside, data))

    @staticmethod
    def _put(path: bytes, beside: bytes, data: bytes) -> None:
        if not data:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(open_regular(beside, flags), "wb") as file:
            file.write(data)
        os.rename(beside, path)

    async def _make_way(self, path: _Path) -> None:
        """Make the directory of a mailbox's files, if this is the first.

        :raises Refused: ENOSPC: the directory has too many entries.
        """
        above = os.path.dirname(self._on_disk(path))
        if len(path.parts) == 1:
            for directory in (self._directory, above):
                try:
                    await self._run(partial(os.mkdir, directory, 0o700))
                except Refused as exc:
                    if exc.errno != errno.EEXIST:
                        raise
        if len(await self._run(partial(_names, above))) >= FOREIGN_ENTRIES:
            raise Refused(errno.ENOSPC)

    async def _room(self, size: int, before: int) -> None:
        """Count a file that becomes *size* bytes long instead of *before*.

        :raises Refused: EFBIG: the file would be too large; ENOSPC: all files together would be.
        """
        if size > FOREIGN_LARGEST:
            raise Refused(errno.EFBIG)
        if self._used is None:
            self._used = await self._run(self._count)
        more = size - before
        if more > 0 and self._used + more > FOREIGN_BYTES:
            self._used = await self._run(self._count)  # files were replaced or cut since
            if self._used + more > FOREIGN_BYTES:
                raise Refused(errno.ENOSPC)
        self._used += more

    def _count(self) -> int:
        """The bytes of all files; a file with several names counts once."""
        sizes: dict[int, int] = {}
        for above, _, names in os.walk(self._directory):
            for name in names:
                with suppress(FileNotFoundError):  # gone meanwhile
                    found = os.lstat(os.path.join(above, name))
                    sizes[found.st_ino] = found.st_size
        return sum(sizes.values())

    async def grown(self, number: int, end: int) -> None:
        """Count a file that is about to be written up to *end* (bytes).

        :raises Refused: EFBIG, ENOSPC: as of :meth:`_room`.
        """
        before = os.fstat(number).st_size
        if end > before:
            await self._room(end, before)

    # -- changes of names ----------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes) -> None:
        """unlink(2).

        :raises Refused: ENOENT: there is nothing of this name.
        """
        path = self._path(parent).child(name)
        found = await self._run(partial(os.lstat, self._on_disk(path)))
        await self._run(partial(os.unlink, self._on_disk(path)))
        self._forget(path)
        if self._used is not None and found.st_nlink == 1:
            self._used -= found.st_size

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, *, noreplace: bool
    ) -> None:
        """rename(2).

        :raises Refused: ENOENT: there is nothing of this name; EEXIST: the new name exists.
        """
        source, target = self._path(old_parent).child(old), self._path(new_parent).child(new)
        if noreplace and await self._run(partial(os.path.lexists, self._on_disk(target))):
            raise Refused(errno.EEXIST)
        await self._make_way(target)
        await self._run(partial(os.rename, self._on_disk(source), self._on_disk(target)))
        moved = {path: inode for path, inode in self._inode_of.items() if _is_in(path, source)}
        for path in moved:
            del self._inode_of[path]
        self._forget(target)
        for path, inode in moved.items():
            now = _Path(target.home, target.parts + path.parts[len(source.parts) :])
            self._inode_of[now], self._path_of[inode] = inode, now

    async def link(self, inode: int, parent: int, name: bytes) -> Attrs:
        """link(2).

        :raises Refused: EEXIST: the name exists; ENOSPC: the directory has too many entries.
        """
        path = self._path(parent).child(name)
        await self._make_way(path)
        await self._run(partial(os.link, self._on_disk(self._path(inode)), self._on_disk(path)))
        self._inode_of[path] = inode
        return await self.lookup(parent, name)

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """
        :raises Refused: EEXIST: something is there; ENOSPC: there are too many.
        """
        path = self._path(parent).child(name)
        await self._make_way(path)
        await self._run(partial(os.mkdir, self._on_disk(path), 0o700))
        return await self.lookup(parent, name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """
        :raises Refused: ENOTEMPTY, ENOENT.
        """
        path = self._path(parent).child(name)
        await self._run(partial(os.rmdir, self._on_disk(path)))
        self._forget(path)


def _acting(uid: int | None, gid: int | None, work: Callable[[], T]) -> T:
    with acting_as(uid, gid):
        return work()


def _read(path: bytes, most: int) -> tuple[bytes, int]:
    """The content of a file of at most *most* bytes, and its mtime (ns since the epoch)."""
    with open(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return data, os.fstat(file.fileno()).st_mtime_ns


def _is_in(path: _Path, above: _Path) -> bool:
    return path.home == above.home and path.parts[: len(above.parts)] == above.parts
