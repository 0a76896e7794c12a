"""Several stores as one tree (``-o namespaces``): each below the directory of its namespace's prefix.

The first store is the root.  Directories of prefixes (``Public``, ``shared/bob``) belong to the tree itself:
they always exist, hide an entry of the same name in the store above them, and can't be removed or renamed.  A
directory that only leads to a namespace (``shared``) has no other entries.

Inode numbers are made as in a site (:mod:`dboxfs.vfs.site.numbers`): a namespace, called by its prefix, takes
the part of a user there.  The root of the first store is the root of the mount.

A message can't be moved or linked from one store to another: the answer is EXDEV, and mv then copies it with
its attributes.

Concurrency: the tree of prefixes never changes once it is made.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.site.numbers import SiteNumbers, UserNumbers


class JoinedStore(Struct, frozen=True):
    """One store of the mount.

    :ivar path: the names of the directories that lead to it.
    :ivar numbers: translates its inode numbers into those of the mount.
    :ivar writable: answers requests that write; None: the store is read-only.
    """

    path: tuple[bytes, ...]
    numbers: UserNumbers
    reading: ReadableFileSystem
    writable: WritableFileSystem | None = None


class _Place(Struct):
    """A directory of prefixes.  ``store``: the store whose root it is; None: it only leads to others."""

    inode: int
    above: int
    store: JoinedStore | None = None
    inside: dict[bytes, _Place] = field(default_factory=dict)


Leading = Callable[[int, int], Attrs]
"""(inode, count of links) -> the attributes of a directory that only leads to others."""


class JoinedFileSystem:
    """Passes every request of the mount to the store that it is about.

    :param stores: the first one is the root.
    :param numbers: the inode numbers of all of them.
    """

    def __init__(self, stores: Sequence[JoinedStore], numbers: SiteNumbers, leading: Leading) -> None:
        self._first = stores[0]
        self._numbers = numbers
        self._leading = leading
        self._by_numbers = {store.numbers: store for store in stores}
        root = _Place(ROOT, ROOT, self._first)
        self._places: dict[int, _Place] = {ROOT: root}
        by_path = {store.path: store for store in stores}
        for store in stores[1:]:
            here = root
            for count in range(1, len(store.path) + 1):
                here = self._inside(here, store.path[:count], by_path.get(store.path[:count]))

    def _inside(self, above: _Place, path: tuple[bytes, ...], store: JoinedStore | None) -> _Place:
        """The directory at *path*, made if it is missing; *store*: the store whose root it is."""
        if path[-1] not in above.inside:
            inode = self._numbers.domain(b"/".join(path)) if store is None else store.numbers.root
            above.inside[path[-1]] = self._places[inode] = _Place(inode, above.inode, store)
        return above.inside[path[-1]]

    # -- the store of a request ----------------------------------------------------------------

    def _split(self, inode: int) -> tuple[JoinedStore, int]:
        """The store that a number is about, and the number there.

        :raises Refused: ESTALE: the number belongs to no file.
        """
        if inode == ROOT:
            return self._first, ROOT
        numbers, inner = self._numbers.meant(inode)
        return self._by_numbers[numbers], inner

    def _writing(self, inode: int) -> tuple[WritableFileSystem, int, JoinedStore]:
        """The store of an inode for a request that writes, the number there, and the store's entry.

        :raises Refused: EROFS: this store is read-only, or the directory only leads to others.
        """
        if self._leads(inode):
            raise Refused(errno.EROFS)
        store, inner = self._split(inode)
        if store.writable is None:
            raise Refused(errno.EROFS)
        return store.writable, inner, store

    def _leads(self, inode: int) -> bool:
        place = self._places.get(inode)
        return place is not None and place.store is None

    def _inside_of(self, inode: int) -> Mapping[bytes, _Place]:
        place = self._places.get(inode)
        return place.inside if place is not None else {}

    def _refuse_taken(self, parent: int, name: bytes, number: int) -> None:
        """Refuse the name of a namespace's directory.

        :raises Refused: with the errno *number*.
        """
        if name in self._inside_of(parent):
            raise Refused(number)

    async def _place_attrs(self, place: _Place) -> Attrs:
        if place.store is None:
            return self._leading(place.inode, 2 + len(place.inside))
        attrs = _out(await place.store.reading.getattr(ROOT), place.store)
        attrs.nlink += len(place.inside)
        return attrs

    # -- reading -------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        place = self._inside_of(parent).get(name)
        if place is not None:
            return await self._place_attrs(place)
        if self._leads(parent):
            raise Refused(errno.ENOENT)
        store, inner = self._split(parent)
        return _out(await store.reading.lookup(inner, name, pid), store)

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*."""
        place = self._places.get(inode)
        if place is not None:
            return await self._place_attrs(place)
        store, inner = self._split(inode)
        return _out(await store.reading.getattr(inner, pid), store)

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory."""
        place = self._places.get(inode)
        more = [(name, await self._place_attrs(one)) for name, one in self._inside_of(inode).items()]
        if place is not None and place.store is None:
            here = await self._place_attrs(place)
            above = await self.getattr(place.above)
            return _LeadingDirectory([(b".", here), (b"..", above), *more])
        store, inner = self._split(inode)
        above_it = place.above if place is not None else None
        return _JoinedDirectory(await store.reading.opendir(inner), store, more, above_it)

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """open(2) of a file by thread *pid*."""
        store, inner = self._split(inode)
        return await store.reading.open(inner, flags, pid)

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute."""
        if self._leads(inode):
            raise Refused(errno.ENODATA if name.startswith(b"user.") else errno.EOPNOTSUPP)
        store, inner = self._split(inode)
        return await store.reading.getxattr(inner, name)

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes."""
        if self._leads(inode):
            return []
        store, inner = self._split(inode)
        return await store.reading.listxattr(inner)

    async def statfs(self) -> os.statvfs_result:
        """The values of the file system that the first store lies on."""
        return await self._first.reading.statfs()

    # -- writing -------------------------------------------------------------------------------

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        """Give a file another length, or a received date."""
        writing, inner, store = self._writing(inode)
        return _out(await writing.setattr(inner, size, received, file, pid), store)

    async def fsyncdir(self, directory: OpenDirectory) -> None:
        """Return when all removals from a directory are on disk."""
        if isinstance(directory, _JoinedDirectory) and directory.store.writable is not None:
            await directory.store.writable.fsyncdir(directory.inner)

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT by thread *pid*."""
        self._refuse_taken(parent, name, errno.EISDIR)
        writing, inner, store = self._writing(parent)
        opened, attrs = await writing.create(inner, name, flags, pid)
        return opened, _out(attrs, store)

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs:
        """mknod(2) of a regular file by thread *pid*."""
        self._refuse_taken(parent, name, errno.EEXIST)
        writing, inner, store = self._writing(parent)
        return _out(await writing.mknod(inner, name, pid), store)

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        writing, inner, _ = self._writing(inode)
        await writing.setxattr(inner, name, value)

    async def removexattr(self, inode: int, name: bytes) -> None:
        """Take an extended attribute away."""
        writing, inner, _ = self._writing(inode)
        await writing.removexattr(inner, name)

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*."""
        self._refuse_taken(parent, name, errno.EISDIR)
        writing, inner, _ = self._writing(parent)
        await writing.unlink(inner, name, pid)

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*.

        :raises Refused: EXDEV: to another store; EBUSY: it is the directory of a namespace.
        """
        self._refuse_taken(old_parent, old, errno.EBUSY)
        self._refuse_taken(new_parent, new, errno.EBUSY)
        writing, old_inner, store = self._writing(old_parent)
        _, new_inner, new_store = self._writing(new_parent)
        if store is not new_store:
            raise Refused(errno.EXDEV)
        await writing.rename(old_inner, old, new_inner, new, flags, pid)

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs:
        """link(2) by thread *pid*; gives the attributes of the new file.

        :raises Refused: EXDEV: to another store.
        """
        self._refuse_taken(new_parent, new, errno.EEXIST)
        writing, parent, store = self._writing(new_parent)
        of, inner = self._split(inode)
        if of is not store:
            raise Refused(errno.EXDEV)
        return _out(await writing.link(inner, parent, new, pid), store)

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """mkdir(2): make a mailbox."""
        self._refuse_taken(parent, name, errno.EEXIST)
        writing, inner, store = self._writing(parent)
        return _out(await writing.mkdir(inner, name), store)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2): delete a mailbox without messages.

        :raises Refused: EBUSY: it is the directory of a namespace.
        """
        self._refuse_taken(parent, name, errno.EBUSY)
        writing, inner, _ = self._writing(parent)
        await writing.rmdir(inner, name)


def _out(attrs: Attrs, store: JoinedStore) -> Attrs:
    attrs.inode = store.numbers.out(attrs.inode)
    return attrs


class _LeadingDirectory:
    """An open directory that only leads to others, with ``.`` first."""

    def __init__(self, entries: Sequence[tuple[bytes, Attrs]]) -> None:
        self._entries = entries

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position, (name, attrs) in enumerate(self._entries[start:], start + 1):
            yield position, name, attrs

    async def sizes(self, start: int) -> None:
        """Does nothing: there are no messages."""

    def attributes(self) -> Attrs:
        return self._entries[0][1]

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())


class _JoinedDirectory:
    """An open directory of a store, with the directories of namespaces in it before its own entries.

    :param above: the inode of ``..``; None: the store's own.
    """

    def __init__(
        self,
        inner: OpenDirectory,
        store: JoinedStore,
        more: Sequence[tuple[bytes, Attrs]],
        above: int | None,
    ) -> None:
        self.inner = inner
        self.store = store
        self._more = more
        self._names = frozenset(name for name, _ in more)
        self._above = above

    def _inner_start(self, start: int) -> int:
        return max(start - len(self._more), 0)

    async def prepare(self, start: int) -> None:
        await self.inner.prepare(self._inner_start(start))

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position, (name, attrs) in enumerate(self._more[start:], start + 1):
            yield position, name, attrs
        for behind, name, attrs in self.inner.above(self._inner_start(start)):
            if name in self._names:
                continue
            _out(attrs, self.store)
            if name == b".." and self._above is not None:
                attrs.inode = self._above
            yield behind + len(self._more), name, attrs

    async def sizes(self, start: int) -> None:
        await self.inner.sizes(self._inner_start(start))

    def attributes(self) -> Attrs:
        return self.inner.attributes()

    def messages(self, start: int) -> Iterator[ListingRow]:
        out = self.store.numbers.out
        for row in self.inner.messages(self._inner_start(start)):
            if row.name not in self._names:
                yield replace(row, next=row.next + len(self._more), inode=out(row.inode))
