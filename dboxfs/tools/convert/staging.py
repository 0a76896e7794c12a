"""The directory of a destination while it is being made.

::

    DST/.dboxfs-convert     the journal; while it exists, the conversion is not finished
    DST/.dboxfs-store/      the store that is being made
    DST/mailboxes ...       renamed to here at the very end, mailboxes/ last

So the destination of an interrupted conversion has no ``mailboxes/`` and no program takes it for a store;
``mailboxes/`` appears with one rename, when everything is on disk.  A directory that holds anything else is
refused, and so is the journal of another conversion, or one that a running conversion has locked.
"""

from __future__ import annotations

import os

from msgspec.structs import replace

from dboxfs.errors import NoSuchStore, StoreBusy
from dboxfs.fsapi import FileSystem, ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.store.location import UNFINISHED, Kind, Location
from dboxfs.store.write import Fsync, StoreExists, WriteOptions
from dboxfs.store.write.session import Work
from dboxfs.tools.convert.journal import Journal, journal_path
from dboxfs.tools.staged import publish

STAGING = ".dboxfs-store"
"""The directory in the destination's root in which the store is made."""


class Workplace:
    """An open destination.  Made by :func:`open_workplace`.

    :ivar work: writes the store that is being made, without syncs: the journal makes them.
    :ivar journal: locked, but not loaded yet.
    """

    def __init__(self, root: str, work: Work, journal: Journal, *, durable: bool) -> None:
        self.root = root
        self.work = work
        self.journal = journal
        self._durable = durable

    async def check_nothing_else(self) -> None:
        """Check that the root holds nothing but the journal and the unfinished store.

        :raises StoreExists: it holds something else.
        """
        names = {entry.name for entry in await self.work.disk.listdir(self.root)} - {UNFINISHED, STAGING}
        if names:
            raise _not_empty(self.root, names)

    async def prepare(self) -> None:
        """Make the directories that every store has."""
        location = self.work.location
        await self.work.disk.mkdir(location.root)
        await self.work.disk.make_dirs(location.tree)
        if location.kind is Kind.MDBOX:
            await self.work.disk.make_dirs(location.storage)

    async def write(self, path: str, data: bytes) -> None:
        """Make a file of the unfinished store, in place of one that an interrupted conversion has left."""
        await self.work.disk.unlink(path)
        await self.work.disk.write_new(path, data)

    async def publish(self) -> None:
        """Move the finished store to its place; files that an earlier attempt has moved stay there."""
        disk = self.work.disk
        await publish(disk, self.work.location.root, self.root, durable=self._durable)
        await disk.unlink(journal_path(self.root))
        await self._sync_root()

    async def _sync_root(self) -> None:
        if self._durable:
            await self.work.disk.run(ops.SyncDir(self.root))

    async def close(self) -> None:
        """Close the journal, which releases its lock."""
        await self.journal.close()


async def open_workplace(fs: FileSystem, root: str, kind: Kind, options: WriteOptions) -> Workplace:
    """Lock the destination *root*, which is there.

    Everything in it gets the owner, group and modes of *root*.

    :raises StoreExists: *root* holds something that no conversion has made.
    :raises StoreBusy: another conversion into *root* is running.
    :raises NoSuchStore: *root* can't be read.
    """
    await _check_entries(fs, root)
    owner = await fs.run(ops.Stat(root))
    staged = Location(kind, os.path.join(root, STAGING))
    work = Work(fs, staged, owner, replace(options, fsync=Fsync.NEVER))
    path = journal_path(root)
    try:
        file = await work.disk.create(path)
    except FileExistsError:
        file = await work.disk.open(path)
    try:
        if not await file.try_lock(LockKind.FLOCK):
            raise StoreBusy(f"{root}: another dboxfs convert is writing it")
    except BaseException:
        await file.close()
        raise
    durable = options.durable
    return Workplace(root, work, Journal(file, durable=durable), durable=durable)


async def _check_entries(fs: FileSystem, root: str) -> None:
    try:
        names = {entry.name for entry in await fs.run(ops.Listdir(root))}
    except OSError as exc:
        raise NoSuchStore(f"{root}: {exc.strerror}") from exc
    if UNFINISHED not in names and names:
        raise _not_empty(root, names)


def _not_empty(root: str, names: set[str]) -> StoreExists:
    return StoreExists(
        f"{root}: the directory is not empty ({min(names)}); a conversion needs a new or empty one"
    )
