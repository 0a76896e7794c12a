"""``.dboxfs/raw/``: the files of the store as they are on disk, all of one moment (:mod:`dboxfs.store.raw`).

``raw/root/`` is the root of the store; parts that lie elsewhere are beside it (``raw/index/``, ``raw/alt/``
...).  A program that copies the tree gets a store that Dovecot and dboxfs open: a byte backup, compressed and
encrypted messages as they are stored.

The moment is taken when something in ``raw`` is looked up, or ``raw`` is opened, and there is none.  It is
given up when it was not used for :data:`LASTS` seconds.  So all requests of one backup see the same one.

Numbers: one for each directory and file of a moment, a block for the ``u.N`` of a directory.  They end with
the moment (ESTALE).  The kernel keeps nothing of the tree.  Only the store's owner may look into it.

Concurrency: one moment is taken at a time; requests that wait for it share it.
"""

from __future__ import annotations

import bisect
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import trio
from msgspec import Struct, field

from dboxfs.fsapi import Handle
from dboxfs.store import Store
from dboxfs.store.raw import Moment, RawDirectory, RawFile, take_moment
from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.node import RAW

LASTS = 60.0
"""Seconds without a request after which a moment is given up."""

KEPT_OPEN = 16
"""Files that are kept open for the next read, at most: without OPEN no RELEASE tells of the last one."""

_BITS = 0b1111 << 60 | 0b111 << 34
_ROOT = RAW | 1
_LISTED_AT_ONCE = 256
"""Entries of a listing whose attributes are read together."""


class _Single(Struct, frozen=True, eq=False):
    """One ``u.N`` of a directory."""

    directory: RawDirectory
    uid: int


_Item = RawDirectory | RawFile | _Single


class _Reading(Struct, eq=False):
    """A file that is read.  ``file``: None: it was not opened yet.  ``users``: reads that run now.

    ``handle``: None: its bytes are kept.  ``ended``: the last of the users closes it.
    """

    file: RawFile | None = None
    handle: Handle | None = None
    users: int = 0
    ended: bool = False
    opening: trio.Lock = field(default_factory=trio.Lock)

    def close_unused(self) -> None:
        """Close it if it is over, and no read uses it."""
        if self.ended and not self.users and self.handle is not None:
            self.handle.close()
            self.handle = None


class _Numbered(Struct, eq=False):
    """A moment with its numbers.  ``starts``: the first number of each block of ``u.N``, ascending."""

    moment: Moment
    items: dict[int, RawDirectory | RawFile] = field(default_factory=dict)
    inodes: dict[int, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    blocks: list[RawDirectory] = field(default_factory=list)

    def number_all(self, free: int) -> int:
        """Number everything from *free* on; gives the next free number."""
        for directory in self.moment.top.all_directories():
            own: list[RawDirectory | RawFile] = [directory, *directory.files.values()]
            for item in own:
                self.items[free] = item
                self.inodes[id(item)] = free
                free += 1
            if len(directory.singles):
                self.starts.append(free)
                self.blocks.append(directory)
                free += len(directory.singles)
        return free

    def item(self, number: int) -> _Item | None:
        """The directory or file that a number stands for; None: it is not of this moment."""
        found = self.items.get(number)
        if found is not None:
            return found
        at = bisect.bisect_right(self.starts, number) - 1
        if at < 0 or number - self.starts[at] >= len(self.blocks[at].singles):
            return None
        return _Single(self.blocks[at], int(self.blocks[at].singles[number - self.starts[at]]))

    def number(self, item: _Item) -> int:
        """The number of a directory or file."""
        if not isinstance(item, _Single):
            return self.inodes[id(item)]
        row = int(item.directory.singles.searchsorted(item.uid))
        return self.starts[self.blocks.index(item.directory)] + row


class RawTree:
    """The tree of one mount."""

    name = b"raw"
    root = _ROOT

    def __init__(self, store: Store, attributes: Attributes, spawn: Spawn) -> None:
        self._store = store
        self._attributes = attributes
        self._spawn = spawn
        self._now: _Numbered | None = None
        self._free = 2
        self._used = 0.0
        self._taking = trio.Lock()
        self._readings: OrderedDict[int, _Reading] = OrderedDict()

    def owns(self, inode: int) -> bool:
        """Whether a number is one of the tree."""
        return inode & _BITS == RAW

    # -- the moment ----------------------------------------------------------------------------

    async def _begin(self) -> _Numbered:
        """The moment; it is taken if there is none."""
        async with self._taking:
            now = self._now
            if now is None:
                now = _Numbered(await take_moment(self._store.fs, self._store.location))
                self._free = now.number_all(self._free)
                self._now = now
                self._spawn(self._expire)
        self._used = trio.current_time()
        return now

    async def _expire(self) -> None:
        """Give the moment up when it is not used any more."""
        try:
            while (left := self._used + LASTS - trio.current_time()) > 0:
                await trio.sleep(left)
        finally:
            for number in list(self._readings):
                self._end(number)
            if self._now is not None:
                self._now.moment.close()
                self._now = None

    async def _item(self, inode: int) -> tuple[_Numbered, _Item]:
        if inode == self.root:
            begun = await self._begin()
            return begun, begun.moment.top
        now = self._now
        item = now.item(inode & ~RAW) if now is not None else None
        if now is None or item is None:
            raise Refused(errno.ESTALE)
        self._used = trio.current_time()
        return now, item

    # -- attributes ----------------------------------------------------------------------------

    def shown(self, now: _Numbered, item: _Item, single: RawFile | None = None) -> Attrs:
        """The attributes of an item; *single*: a ``u.N`` as it is on disk."""
        inode = self.root if item is now.moment.top else RAW | now.number(item)
        if isinstance(item, RawDirectory):
            attrs = self._attributes.control_dir(inode)
            changed = item.modified_ns
        else:
            file = item if isinstance(item, RawFile) else single
            assert file is not None
            attrs = self._attributes.control_file(inode, file.size)
            changed = file.modified_ns
        attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        if changed:
            attrs.modified_ns = attrs.changed_ns = changed
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs

    async def _attrs(self, now: _Numbered, item: _Item) -> Attrs:
        return self.shown(now, item, await self._single(now, item) if isinstance(item, _Single) else None)

    @staticmethod
    async def _single(now: _Numbered, item: _Single) -> RawFile:
        (found,) = await now.moment.singles(item.directory, [item.uid])
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    # -- requests ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none; ENOTDIR: *parent* is a file.
        :raises OSError: ENOENT: the message was expunged since.
        """
        now, item = await self._item(parent)
        if not isinstance(item, RawDirectory):
            raise Refused(errno.ENOTDIR)
        found = _named(item, os.fsdecode(name))
        if found is None:
            raise Refused(errno.ENOENT)
        return await self._attrs(now, found)

    async def getattr(self, inode: int) -> Attrs:
        """The attributes of *inode*.  Those of the top take no moment.

        :raises Refused: ESTALE: its moment is over.
        :raises OSError: ENOENT: the message was expunged since.
        """
        if inode == self.root and self._now is None:
            attrs = self._attributes.control_dir(inode)
            attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
            attrs.entry_timeout = attrs.attr_timeout = 0.0
            return attrs
        now, item = await self._item(inode)
        return await self._attrs(now, item)

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ESTALE: its moment is over; ENOTDIR: it is a file.
        :raises OSError: the store can't be read.
        """
        now, item = await self._item(inode)
        if not isinstance(item, RawDirectory):
            raise Refused(errno.ENOTDIR)
        return _OpenRawDirectory(self, now, item)

    async def open(self, inode: int) -> OpenRaw:
        """Open a file to be read.

        :raises Refused: ESTALE: its moment is over; EISDIR: it is a directory.
        """
        now, item = await self._item(inode)
        if isinstance(item, RawDirectory):
            raise Refused(errno.EISDIR)
        return OpenRaw(self, now, item)

    async def read(self, now: _Numbered, item: RawFile | _Single, size: int, offset: int) -> bytes:
        """Bytes of a file, which stays open for the next reads.

        :raises OSError: see :meth:`Moment.read <dboxfs.store.raw.Moment.read>`.
        """
        self._used = trio.current_time()
        number = now.number(item)
        reading = self._readings.setdefault(number, _Reading())
        self._readings.move_to_end(number)
        while len(self._readings) > KEPT_OPEN:
            self._end(next(iter(self._readings)))
        reading.users += 1
        try:
            async with reading.opening:
                if reading.file is None:
                    file = item if isinstance(item, RawFile) else await self._single(now, item)
                    reading.handle = await now.moment.open(file)
                    reading.file = file
            return await now.moment.read(reading.file, size, offset, reading.handle)
        except BaseException:
            if reading.file is None and self._readings.get(number) is reading:
                self._end(number)
            raise
        finally:
            reading.users -= 1
            reading.close_unused()

    def released(self, now: _Numbered, item: RawFile | _Single) -> None:
        """An open of a file is over."""
        self._end(now.number(item))

    def _end(self, number: int) -> None:
        reading = self._readings.pop(number, None)
        if reading is not None:
            reading.ended = True
            reading.close_unused()

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """There are none."""
        return {}

    async def some(
        self, now: _Numbered, directory: RawDirectory, items: Sequence[_Item]
    ) -> list[Attrs | None]:
        """The attributes of entries of *directory*; None: it is gone."""
        uids = [item.uid for item in items if isinstance(item, _Single)]
        singles = iter(await now.moment.singles(directory, uids))
        shown: list[Attrs | None] = []
        for item in items:
            single = next(singles) if isinstance(item, _Single) else None
            is_gone = isinstance(item, _Single) and single is None
            shown.append(None if is_gone else self.shown(now, item, single))
        return shown


def _named(directory: RawDirectory, name: str) -> _Item | None:
    found: _Item | None = directory.directories.get(name) or directory.files.get(name)
    if found is not None or not name.startswith("u.") or not name[2:].isdecimal() or len(name) > 12:
        return found
    uid = int(name[2:])
    row = int(directory.singles.searchsorted(uid))
    there = row < len(directory.singles) and int(directory.singles[row]) == uid and name == f"u.{uid}"
    return _Single(directory, uid) if there else None


class OpenRaw:
    """An open file of the tree."""

    __slots__ = ("_item", "_now", "_tree")

    def __init__(self, tree: RawTree, now: _Numbered, item: RawFile | _Single) -> None:
        self._tree = tree
        self._now = now
        self._item = item

    async def read(self, size: int, offset: int) -> bytes:
        return await self._tree.read(self._now, self._item, size, offset)

    async def write(self, data: bytes, offset: int) -> int:
        raise Refused(errno.EBADF)

    async def flush(self) -> None:
        """Does nothing: nothing was written."""

    async def fsync(self) -> None:
        """Does nothing: nothing was written."""

    async def release(self) -> None:
        self._tree.released(self._now, self._item)


class _OpenRawDirectory:
    """A directory of the tree, opened.  Its entries: directories, files, then the ``u.N`` by uid."""

    def __init__(self, tree: RawTree, now: _Numbered, directory: RawDirectory) -> None:
        self._tree = tree
        self._now = now
        self._directory = directory
        self._others: list[tuple[str, _Item]] = [*directory.directories.items(), *directory.files.items()]
        self._ready: list[tuple[int, bytes, Attrs]] = []

    def _entry(self, position: int) -> tuple[str, _Item]:
        """The entry with this number, from 0 on."""
        if position < len(self._others):
            return self._others[position]
        uid = int(self._directory.singles[position - len(self._others)])
        return f"u.{uid}", _Single(self._directory, uid)

    async def prepare(self, start: int) -> None:
        """Read the attributes of the next entries.  Offsets 0 and 1: the directory and the one above it."""
        count = len(self._others) + len(self._directory.singles)
        self._ready = []
        if start < 2:
            own = self.attributes()
            self._ready = [(1, b".", own), (2, b"..", own)][start:]
        first = max(start - 2, 0)
        while first < count:
            entries = [self._entry(at) for at in range(first, min(first + _LISTED_AT_ONCE, count))]
            shown = await self._tree.some(self._now, self._directory, [item for _, item in entries])
            for number, ((name, _), attrs) in enumerate(zip(entries, shown, strict=True), first + 3):
                if attrs is not None:
                    self._ready.append((number, os.fsencode(name), attrs))
            first += len(entries)
            if len(self._ready) > 2 or first >= count:
                return

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        return (entry for entry in self._ready if entry[0] > start)

    async def sizes(self, start: int) -> None:
        """Does nothing: sizes are known."""

    def attributes(self) -> Attrs:
        return self._tree.shown(self._now, self._directory)

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
