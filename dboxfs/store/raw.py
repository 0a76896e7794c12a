"""A store's files as they are on disk, all of one moment: what ``.dboxfs/raw`` shows.

:func:`take_moment` lists all directories and keeps the bytes of the files that change: indexes, logs,
control files.  If one of them, or a directory, has changed until the end, it looks again, at most
:data:`MOMENT_LOOKS` times.  So a copy of a :class:`Moment` is a store as a crash at that moment would have
left it, and Dovecot and dboxfs open it as such.  In a store that changes all the time the last look counts;
its files are read in an order that leaves no record without its message: mailboxes before the map, the map
before ``m.N``.

========================  ===================================================================================
file                      read from
========================  ===================================================================================
``u.N``, attachments      the disk, at the time of the read: they never change.  ENOENT: expunged since
``m.N``, ``*.cache``      the disk, up to the size of the moment: they only grow.  ESTALE: another file has
                          the name; ENOENT: purged since
all others                memory (up to :data:`MOMENT_SMALL` bytes each, :data:`MOMENT_KEPT` together), else
                          a descriptor
========================  ===================================================================================

Left out: temporary files and locks, links to files, objects that are no files.  Links to directories are
followed, with the rights of the file API that opened the store.

Memory: besides the kept bytes, 4 bytes for each ``u.N`` and some 400 for each other file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from dboxfs.fsapi import FileSystem, Handle, Peek, PeekResult, ops
from dboxfs.fsapi.ops import os_error
from dboxfs.fsapi.types import DirEntry
from dboxfs.store.location import Location

MOMENT_LOOKS = 5
MOMENT_SMALL = 64 << 10
MOMENT_KEPT = 32 << 20

_SINGLE = re.compile(r"u\.([1-9][0-9]{0,9})")
_GROWING = re.compile(r"m\.[0-9]+|.*\.cache")
_TEMPORARY = re.compile(r"\.temp\..*|.*\.(lock|newlock|tmp)|\.nfs.*")
_STATS_AT_ONCE = 64
_HIGHEST_UID = 0xFFFFFFFF

Identity = tuple[int, int, int, int]
"""Device, inode number, size in bytes, mtime in ns."""


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class RawFile(Struct, eq=False):
    """A file that is no ``u.N``.

    :ivar content: its bytes; None: they are read from the disk.  :ivar handle: open, for a kept file that is
        too large for memory.
    """

    path: str
    identity: Identity
    content: bytes | None = None
    handle: Handle | None = None

    @property
    def size(self) -> int:
        return self.identity[2]

    @property
    def modified_ns(self) -> int:
        return self.identity[3]

    @property
    def kept(self) -> bool:
        """Whether its bytes are those of the moment, whatever happens on disk."""
        return self.content is not None or self.handle is not None


class RawDirectory(Struct, eq=False):
    """A directory.  ``singles``: the uids of its ``u.N``, ascending (uint32)."""

    path: str
    modified_ns: int = 0
    directories: dict[str, RawDirectory] = field(default_factory=dict)
    files: dict[str, RawFile] = field(default_factory=dict)
    singles: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))

    def all_directories(self) -> Iterator[RawDirectory]:
        """This directory and all below it."""
        todo = [self]
        while todo:
            one = todo.pop()
            yield one
            todo += reversed(one.directories.values())


class Moment:
    """All files of one moment.  ``top``: has a directory for each part of the store, as ``dboxfs info`` calls
    them: ``root``, and ``inbox``, ``index``, ``control``, ``alt``, ``attachments`` if they lie elsewhere.

    :ivar settled: nothing changed while it was taken.
    """

    def __init__(self, fs: FileSystem, top: RawDirectory, *, settled: bool) -> None:
        self._fs = fs
        self.top = top
        self.settled = settled

    async def open(self, file: RawFile) -> Handle | None:
        """Open a file on the disk; the caller closes it.  None: its bytes are kept.

        :raises OSError: ENOENT: it was removed since; ESTALE: another file has its name.
        """
        if file.kept:
            return None
        handle = self._fs.open(file.path, nofollow=True)
        try:
            now = await handle.wait_open()
            if (now.st_dev, now.st_ino) != file.identity[:2]:
                raise os_error(errno.ESTALE, file.path)
        except BaseException:
            handle.close()
            raise
        return handle

    async def read(self, file: RawFile, size: int, offset: int, handle: Handle | None = None) -> bytes:
        """Bytes of a file, as at that moment.

        :param handle: from :meth:`open`; None: it is opened for this read.
        :raises OSError: as :meth:`open`; it can't be read.
        """
        size = min(size, max(file.size - offset, 0))
        if file.content is not None:
            return file.content[offset : offset + size]
        opened = handle or file.handle
        if opened is not None:
            return await _read(opened, size, offset)
        own = await self.open(file)
        assert own is not None, "its bytes are not kept"
        try:
            return await _read(own, size, offset)
        finally:
            own.close()

    async def singles(self, directory: RawDirectory, uids: Sequence[int]) -> list[RawFile | None]:
        """The ``u.N`` of *directory* with these uids, as they are now; None: it is gone."""
        paths = [os.path.join(directory.path, f"u.{uid}") for uid in uids]
        found = await self._fs.run_all([ops.Stat(path, follow=False) for path in paths])
        return [
            None
            if isinstance(one, OSError) or not stat.S_ISREG(one.st_mode)
            else RawFile(path, _identity(one))
            for path, one in zip(paths, found, strict=True)
        ]

    def close(self) -> None:
        """Close the descriptors of large files that are kept."""
        for directory in self.top.all_directories():
            for file in directory.files.values():
                if file.handle is not None:
                    file.handle.close()


async def _read(handle: Handle, size: int, offset: int) -> bytes:
    parts = []
    while size > 0:
        data = await handle.read(size, offset)
        if not data:
            break
        parts.append(data)
        offset, size = offset + len(data), size - len(data)
    return b"".join(parts)


def parts_of(location: Location) -> dict[str, str]:
    """The directories of the store's parts by name; those that lie in another one are left out."""
    found: dict[str, str] = {}
    for name in ("root", "inbox", "index", "index_cache", "control", "alt", "attachments"):
        path = getattr(location, name)
        if path is None or any(f"{path}/".startswith(f"{above}/") for above in found.values()):
            continue
        found[name] = path
    return found


async def take_moment(fs: FileSystem, location: Location) -> Moment:
    """List the store and keep its changing files.

    :raises OSError: the root can't be read.
    """
    await fs.listdir(location.root)
    look = _Look(fs)
    for number in range(MOMENT_LOOKS):
        top = RawDirectory("")
        top.directories |= {name: RawDirectory(path) for name, path in parts_of(location).items()}
        await look.fill(top.directories.values())
        look.forget_others(top)
        settled = await look.is_settled(top)
        if settled or number == MOMENT_LOOKS - 1:
            return Moment(fs, top, settled=settled)
    raise AssertionError("the last look counts")


class _Look:
    """Looks at all directories; what has not changed since the look before is not read again."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._kept: dict[str, RawFile] = {}
        self._bytes = 0

    async def fill(self, parts: Iterable[RawDirectory]) -> None:
        """List directories and all below them; one that can't be read stays empty."""
        todo = [(part, frozenset[tuple[int, int]]()) for part in parts]
        todo.reverse()
        maps: list[tuple[RawDirectory, frozenset[tuple[int, int]]]] = []  # after all mailboxes
        while todo or maps:
            made, above = todo.pop() if todo else maps.pop()
            try:
                here = await self._fs.stat(made.path)
                entries = await self._fs.listdir(made.path)
            except OSError:
                continue
            identity = here.st_dev, here.st_ino
            if identity in above:
                continue  # a link that leads back
            await self._list(made, here, entries)
            for name, inner in reversed(made.directories.items()):
                (maps if name == "storage" else todo).append((inner, above | {identity}))

    async def _list(self, made: RawDirectory, here: os.stat_result, entries: Sequence[DirEntry]) -> None:
        path = made.path
        made.modified_ns = here.st_mtime_ns
        inner = {one.name for one in entries if one.is_dir or await self._leads_to_directory(path, one)}
        made.directories |= {name: RawDirectory(os.path.join(path, name)) for name in sorted(inner)}
        names = [one.name for one in entries if one.name not in inner and not _TEMPORARY.fullmatch(one.name)]
        await self._files(made, [name for name in names if not _SINGLE.fullmatch(name)])
        if any(name.startswith("m.") for name in names):  # all that the map, read by now, names is there
            more = {one.name for one in await self._fs.listdir(path)} - set(names)
            await self._files(made, [name for name in more if name.startswith("m.")])
        links = {one.name for one in entries if one.is_symlink}
        uids = [int(m[1]) for name in names if name not in links and (m := _SINGLE.fullmatch(name))]
        made.singles = np.array(sorted(uid for uid in uids if uid <= _HIGHEST_UID), np.uint32)

    async def _leads_to_directory(self, path: str, entry: DirEntry) -> bool:
        if not entry.is_symlink:
            return False
        try:
            return stat.S_ISDIR((await self._fs.stat(os.path.join(path, entry.name))).st_mode)
        except OSError:
            return False

    async def _files(self, made: RawDirectory, names: Sequence[str]) -> None:
        changing = [name for name in names if not _GROWING.fullmatch(name)]
        growing = [name for name in names if _GROWING.fullmatch(name)]
        for group in (changing, growing):  # logs before the files whose bytes they name
            for start in range(0, len(group), _STATS_AT_ONCE):
                await self._some(made, group[start : start + _STATS_AT_ONCE])

    async def _some(self, made: RawDirectory, names: Sequence[str]) -> None:
        paths = [os.path.join(made.path, name) for name in names]
        found = await self._fs.run_all([ops.Stat(path, follow=False) for path in paths])
        for name, path, one in zip(names, paths, found, strict=True):
            if isinstance(one, OSError) or not stat.S_ISREG(one.st_mode):
                continue
            file = RawFile(path, _identity(one))
            if not _GROWING.fullmatch(name) and not _is_attachment(path):
                kept = await self._keep(file)
                if kept is None:
                    continue
                file = kept
            made.files[name] = file

    async def _keep(self, file: RawFile) -> RawFile | None:
        """The file with its bytes; None: it is gone."""
        before = self._kept.get(file.path)
        if before is not None:
            if before.identity == file.identity:
                return before
            self._forget(before)
        if file.size <= MOMENT_SMALL and self._bytes + file.size <= MOMENT_KEPT:
            (found,) = await self._fs.peek([Peek(file.path, ((0, None),), MOMENT_SMALL, nofollow=True)])
            if isinstance(found, PeekResult):
                content = found.chunks[0][: found.stat.st_size]
                kept = RawFile(
                    file.path, (*_identity(found.stat)[:2], len(content), found.stat.st_mtime_ns), content
                )
                self._bytes += len(content)
                self._kept[file.path] = kept
                return kept
            if isinstance(found, FileNotFoundError):
                return None
        handle = self._fs.open(file.path, nofollow=True)
        try:
            file = RawFile(file.path, _identity(await handle.wait_open()), None, handle)
        except FileNotFoundError:
            handle.close()
            return None
        except OSError:
            handle.close()
            return file  # the read reports the error
        self._kept[file.path] = file
        return file

    def forget_others(self, top: RawDirectory) -> None:
        """Close the files of earlier looks that *top* does not have."""
        used = {id(file) for directory in top.all_directories() for file in directory.files.values()}
        for file in list(self._kept.values()):
            if id(file) not in used:
                self._forget(file)

    def _forget(self, file: RawFile) -> None:
        del self._kept[file.path]
        self._bytes -= len(file.content or b"")
        if file.handle is not None:
            file.handle.close()

    async def is_settled(self, top: RawDirectory) -> bool:
        """Whether all directories and kept files are what they were."""
        directories = [one for one in top.all_directories() if one.path]
        files = [file for one in directories for file in one.files.values() if file.kept]
        wanted = [(one.path, one.modified_ns) for one in directories if one.modified_ns]
        for start in range(0, len(wanted), _STATS_AT_ONCE):
            some = wanted[start : start + _STATS_AT_ONCE]
            found = await self._fs.run_all([ops.Stat(path) for path, _ in some])
            for (_, modified), now in zip(some, found, strict=True):
                if isinstance(now, OSError) or now.st_mtime_ns != modified:
                    return False
        for start in range(0, len(files), _STATS_AT_ONCE):
            batch = files[start : start + _STATS_AT_ONCE]
            found = await self._fs.run_all([ops.Stat(file.path, follow=False) for file in batch])
            for file, now in zip(batch, found, strict=True):
                if isinstance(now, OSError) or _identity(now) != file.identity:
                    return False
        return True


def _is_attachment(path: str) -> bool:
    """Whether a file is an attachment: its name is a digest, a dash and a guid."""
    return re.fullmatch(r"[0-9a-f]{32,128}-[0-9a-f]{32}.*", os.path.basename(path)) is not None
