"""Files and directories that programs keep beside the mail: ``.uidvalidity``, ``.mbsyncstate``, ``.notmuch/``
...

They are no mail, are never shown as mail, and no other view has them.  They are plain files in the control
directory of the store::

    <control>/dboxfs-maildir/<guid of the mailbox, or "root">/<path below the mailbox's directory>

so they follow their mailbox when it is renamed.  Each write goes to the file at once; fsync is the file's
own.

Limits: :data:`FOREIGN_LARGEST`, :data:`FOREIGN_ENTRIES` a directory, :data:`FOREIGN_BYTES` a store (counted
counted from the mount on: other mounts of the store count for themselves).

This is the one part of ``vfs/`` that touches a disk, and not through ``fsapi``, which can't overwrite: a
database does.  Each call runs on a worker thread.

Concurrency: requests about one file are as ordered as the kernel sends them.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.node import ROOT, Inodes
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.views.places import FOREIGN

DIRECTORY = "dboxfs-maildir"
FOREIGN_LARGEST = 1 << 30
"""Bytes."""
FOREIGN_ENTRIES = 10_000
FOREIGN_BYTES = 4 << 30

_KEPT = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_EXCL
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Path:
    """A file or directory: ``home`` is what its mailbox is known by, ``parts`` are below it."""

    home: bytes
    parts: tuple[bytes, ...]

    def child(self, name: bytes) -> _Path:
        return _Path(self.home, (*self.parts, name))


async def _in_thread(work: Callable[[], T]) -> T:
    """Run *work* on a worker thread; what the system refuses is refused."""
    try:
        return await trio.to_thread.run_sync(work)
    except OSError as exc:
        if exc.errno in (errno.EIO, None):
            raise
        raise Refused(exc.errno or errno.EIO) from exc


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

    # -- where things are ----------------------------------------------------------------------

    def _path(self, inode: int) -> _Path:
        """
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
        self._path_of.pop(inode, None)

    def _on_disk(self, path: _Path) -> bytes:
        return os.path.join(self._directory, path.home, *path.parts)

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """
        :raises Refused: ENOENT: there is nothing of this name.
        """
        path = self._path(parent).child(name)
        found = await _in_thread(partial(os.lstat, self._on_disk(path)))
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
        """
        :raises Refused: ENOENT, ESTALE: it is gone.
        """
        return self._attrs(inode, await _in_thread(partial(os.lstat, self._on_disk(self._path(inode)))))

    async def setattr(self, inode: int, size: int | None, modified: int | None) -> Attrs:
        """
        :param size: bytes.  :param modified: seconds since the epoch.
        :raises Refused: EFBIG, ENOSPC: it would be too large.
        """
        path = self._on_disk(self._path(inode))
        if size is not None:
            await self._room(size, (await _in_thread(partial(os.lstat, path))).st_size)
            await _in_thread(partial(os.truncate, path, size))
        if modified is not None:
            await _in_thread(partial(os.utime, path, (modified, modified), follow_symlinks=False))
        return await self.getattr(inode)

    async def entries(self, inode: int) -> Sequence[tuple[bytes, Attrs]]:
        """What is in a directory, of a mailbox or of a program."""
        try:
            path = self._path(inode)
            names = await _in_thread(partial(_names, self._on_disk(path)))
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
        """
        :raises Refused: ENOENT: it is gone.
        """
        return _OpenForeign(await self.getattr(inode), await self.entries(inode))

    # -- files ---------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, flags: int) -> tuple[Opened, Attrs]:
        """
        :raises Refused: ENOSPC: there are too many.
        """
        path = self._path(parent).child(name)
        await self._make_way(path)
        return await self._opened(path, flags | os.O_CREAT)

    async def open(self, inode: int, flags: int) -> Opened:
        """
        :raises Refused: ENOENT, ESTALE: it is gone.
        """
        opened, _ = await self._opened(self._path(inode), flags & ~os.O_CREAT)
        return opened

    async def _opened(self, path: _Path, flags: int) -> tuple[Opened, Attrs]:
        if flags & os.O_ACCMODE == os.O_WRONLY:  # the kernel may read what it fills a page with
            flags += os.O_RDWR - os.O_WRONLY
        kept = flags & (_KEPT | os.O_CREAT) | _NO_LINK
        number = await _in_thread(partial(os.open, self._on_disk(path), kept, 0o600))
        self._own(number, flags)
        attrs = self._attrs(self._inode(path), os.fstat(number))
        return Opened(_ForeignFile(self, number), direct_io=False, keep_cache=False), attrs

    def _own(self, number: int, flags: int) -> None:
        if flags & os.O_CREAT and self._owner is not None and os.geteuid() == 0:
            os.fchown(number, *self._owner)

    async def _make_way(self, path: _Path) -> None:
        """The directory of a mailbox's files is made with the first of them.

        :raises Refused: ENOSPC: there are too many entries.
        """
        above = os.path.dirname(self._on_disk(path))
        if len(path.parts) == 1:
            for directory in (self._directory, above):
                try:
                    await _in_thread(partial(os.mkdir, directory, 0o700))
                except Refused as exc:
                    if exc.errno != errno.EEXIST:
                        raise
                else:
                    await _in_thread(partial(self._own_directory, directory))
        if len(await _in_thread(partial(_names, above))) >= FOREIGN_ENTRIES:
            raise Refused(errno.ENOSPC)

    def _own_directory(self, path: bytes) -> None:
        if self._owner is not None and os.geteuid() == 0:
            os.chown(path, *self._owner, follow_symlinks=False)

    async def _room(self, size: int, before: int) -> None:
        """A file becomes *size* bytes long.

        :raises Refused: EFBIG: it must not; ENOSPC: all together must not.
        """
        if size > FOREIGN_LARGEST:
            raise Refused(errno.EFBIG)
        if self._used is None:
            self._used = await _in_thread(self._count)
        more = size - before
        if more > 0 and self._used + more > FOREIGN_BYTES:
            raise Refused(errno.ENOSPC)
        self._used += more

    def _count(self) -> int:
        walk = os.walk(self._directory)
        return sum(os.lstat(os.path.join(above, name)).st_size for above, _, names in walk for name in names)

    async def grown(self, number: int, end: int) -> None:
        """A file is about to be written to *end*.

        :raises Refused: EFBIG, ENOSPC: it must not.
        """
        before = os.fstat(number).st_size
        if end > before:
            await self._room(end, before)

    # -- changes of names ----------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes) -> None:
        """
        :raises Refused: ENOENT: there is nothing of this name.
        """
        path = self._path(parent).child(name)
        size = (await _in_thread(partial(os.lstat, self._on_disk(path)))).st_size
        await _in_thread(partial(os.unlink, self._on_disk(path)))
        self._forget(path)
        if self._used is not None:
            self._used -= size

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, *, noreplace: bool
    ) -> None:
        """
        :raises Refused: ENOENT: there is nothing of this name; EEXIST: something is in the way.
        """
        source, target = self._path(old_parent).child(old), self._path(new_parent).child(new)
        if noreplace and await _in_thread(partial(os.path.lexists, self._on_disk(target))):
            raise Refused(errno.EEXIST)
        await self._make_way(target)
        await _in_thread(partial(os.rename, self._on_disk(source), self._on_disk(target)))
        moved = {path: inode for path, inode in self._inode_of.items() if _is_in(path, source)}
        for path in moved:
            del self._inode_of[path]
        self._forget(target)
        for path, inode in moved.items():
            now = _Path(target.home, target.parts + path.parts[len(source.parts) :])
            self._inode_of[now], self._path_of[inode] = inode, now

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """
        :raises Refused: EEXIST: something is there; ENOSPC: there are too many.
        """
        path = self._path(parent).child(name)
        await self._make_way(path)
        await _in_thread(partial(os.mkdir, self._on_disk(path), 0o700))
        await _in_thread(partial(self._own_directory, self._on_disk(path)))
        return await self.lookup(parent, name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """
        :raises Refused: ENOTEMPTY, ENOENT.
        """
        path = self._path(parent).child(name)
        await _in_thread(partial(os.rmdir, self._on_disk(path)))
        self._forget(path)


def _is_in(path: _Path, above: _Path) -> bool:
    return path.home == above.home and path.parts[: len(above.parts)] == above.parts


class _ForeignFile:
    """An open file.

    :param number: its descriptor.
    """

    def __init__(self, foreign: Foreign, number: int) -> None:
        self._foreign = foreign
        self._number = number

    async def read(self, size: int, offset: int) -> bytes:
        return await _in_thread(partial(os.pread, self._number, size, offset))

    async def write(self, data: bytes, offset: int) -> int:
        await self._foreign.grown(self._number, offset + len(data))
        return await _in_thread(partial(self._write, data, offset))

    def _write(self, data: bytes, offset: int) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(self._number, data[done:], offset + done)
        return done

    async def flush(self) -> None:
        """Nothing waits here."""

    async def fsync(self) -> None:
        await _in_thread(partial(os.fsync, self._number))

    async def release(self) -> None:
        os.close(self._number)


class _OpenForeign:
    """A directory, opened: what it had then."""

    def __init__(self, own: Attrs, entries: Sequence[tuple[bytes, Attrs]]) -> None:
        self._own = own
        self._entries = [(b".", own), (b"..", own), *entries]

    async def prepare(self, start: int) -> None:
        """It stays what it was."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._entries)):
            yield position + 1, *self._entries[position]

    async def sizes(self, start: int) -> None:
        """They are known."""

    def attributes(self) -> Attrs:
        return self._own

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
