"""Shared parts of all write paths of one store: the disk, the indexes, the locking of mailboxes and the map.

Lock order (PROTOCOL section 2): ``mailboxes.lock``, the map, then mailboxes by name.
:meth:`Work.mailboxes` takes several in that order; only under the map's or the tree's lock.
"""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from dboxfs.errors import CorruptFile, DboxfsError, NoSuchMailbox, Unsupported
from dboxfs.fsapi import FileSystem, ops
from dboxfs.index.mailbox import MDBOX_HEADER, MailboxHeader, mailbox_header
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.state import IndexState
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.create import make_mailbox_index, make_map, refuse_lost_log
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.indexes.snapshot import tidy
from dboxfs.store.list_index import ListReader
from dboxfs.store.location import Kind, Location, TreeLayout
from dboxfs.store.write.meaning import meaning, meant
from dboxfs.store.write.naming import Namer, Wanted, check_called
from dboxfs.store.write.notes import Notes
from dboxfs.store.write_errors import WHERE_INDEX, IndexMissing, OtherKey
from dboxfs.store.write_options import LockMethod, WriteOptions

HIGHEST_NUMBER = 0xFFFFFFFF
"""uids and file ids are below it: the next one must have 32 bits at most, too."""

MOST_UNREMOVED = 10_000
"""Files that could not be removed: so many are remembered at most."""

_FEW = 16
"""So many uids are looked up faster one by one than as an array."""

KEEP_STATES = 64
"""Mailboxes whose index state stays in memory between two changes."""


class Views(Protocol):
    """The reading side of this process: :class:`dboxfs.store.Store`."""

    def mailbox_view(self, name: str) -> IndexFiles | None:
        """The reader of a mailbox's index; None: there is none."""

    def map_view(self) -> IndexFiles | None:
        """The reader of the map; None: there is none."""


class Work:
    """One store being written.

    :param views: the reading side of this process; None: there is none.
    :ivar map: the map's log (mdbox).
    :ivar map_view: the map as it was read last, without a lock; the same state as that of ``map``.
    :ivar notes: notes of intent of this writer.
    :ivar never_acknowledged: mdbox: guids of messages that dead writers were about to save (``leftovers``).
    :ivar passed_over: mdbox: another process held a file in which dead writers may have left records: the
        notes stay.
    :ivar counts: changes so far, by kind, for statistics.
    :ivar repair: makes map and mailboxes consistent after a crash (``repair.repair_storage``).
    :ivar namer: gets the messages that shall have a name, before they are written; None: no names are kept.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        owner: os.stat_result,
        options: WriteOptions,
        views: Views | None = None,
    ) -> None:
        self.fs = fs
        self.location = location
        self.options = options
        self.disk = Disk(fs, owner, options, location.root)
        self.mdbox = self.location.kind is Kind.MDBOX
        if self.mdbox and not fs.capabilities.locks:
            raise Unsupported("this driver has no locks; a multi-dbox store can't be written through it")
        self._views = views
        seen = views.map_view() if views is not None else None
        self.map_view = seen or IndexFiles(fs, self.location.map_dir, "dovecot.map.index")
        what = "the map of the storage"
        self.map = IndexLog(self.disk, location.map_dir, "dovecot.map.index", what, lambda: self.map_view)
        self.notes = Notes(self.disk, location.control_dir)
        self.never_acknowledged: frozenset[bytes] = frozenset()
        self.passed_over = False
        self.counts: dict[str, int] = {}
        self.repair: Callable[[Work], Awaitable[None]] | None = None
        self.namer: Namer | None = None
        self._indexes: OrderedDict[str, IndexLog] = OrderedDict()
        self._list = ListReader(fs, location) if location.layout is TreeLayout.INDEX else None
        self._unremoved: dict[str, tuple[int, int, int]] = {}

    def count(self, what: str, number: int = 1) -> None:
        """Add to a counter."""
        self.counts[what] = self.counts.get(what, 0) + number

    async def coding_options(self, name: str) -> WriteOptions:
        """The options for new messages of a mailbox: with a key for each mailbox, they have that of this one.

        :raises NoFolderKey, StoreBusy, OSError: there is no key.
        """
        keys = self.options.by_folder
        if keys is None:
            return self.options
        async with self.mailbox(name) as index:
            header = mailbox_header(index.state)
        if header is None:
            raise NoSuchMailbox(f"{self.shown(name)}: no such mailbox")
        return replace(
            self.options, encrypt=await keys.seals(self.fs, self.options.lock_timeout, header.guid)
        )

    def check_key(self, source: str, target: str) -> None:
        """Check that a message can be brought from one mailbox into another as it is stored.

        :raises OtherKey: it is encrypted for the key of its mailbox.
        """
        if self.options.by_folder and source != target:
            raise OtherKey(f"{self.shown(source)}: its messages are encrypted with a key of their own")

    # -- files that could not be removed -----------------------------------------------------------------

    async def remember_unremoved(self, path: str) -> None:
        """Remember the file of an expunged message that could not be removed, so that the maintenance can."""
        try:
            found = await self.disk.stat(path)
        except OSError:
            return
        if found is not None and len(self._unremoved) < MOST_UNREMOVED:
            self._unremoved[path] = _identity(found)

    def is_unremoved(self, path: str, found: os.stat_result) -> bool:
        """Whether *path*, with the attributes *found*, is a file that this writer could not remove.

        This also forgets the file.
        """
        return self._unremoved.pop(path, None) == _identity(found)

    def unremoved(self, name: str) -> list[str]:
        """sdbox: files of a mailbox's messages that this writer could not remove."""
        if not self._unremoved:
            return []
        directories = {self.location.mailbox_path(name), self.location.alt_mailbox_path(name)}
        return [path for path in self._unremoved if os.path.dirname(path) in directories]

    async def still_unremoved(self, name: str, index: IndexLog) -> list[str]:
        """sdbox: files of expunged messages of a locked mailbox that this writer could not remove before."""
        found = []
        for path in self.unremoved(name):
            status, uid = await self.disk.stat(path), message_number(os.path.basename(path), "u")
            if status is not None and self.is_unremoved(path, status) and index.state.row_of(uid or 0) < 0:
                found.append(path)
        return found

    # -- indexes -----------------------------------------------------------------------------------------

    def index(self, name: str) -> IndexLog:
        """The index of a mailbox, not locked."""
        found = self._indexes.get(name)
        if found is None or found.directory != self.index_directory(name):
            found = self.new_index(name)
            self._indexes[name] = found
        self._indexes.move_to_end(name)
        if len(self._indexes) > KEEP_STATES:
            oldest = next(iter(self._indexes))
            if not self._indexes[oldest].busy:
                del self._indexes[oldest]
        return found

    def new_index(self, name: str) -> IndexLog:
        """A mailbox's index that is not kept in memory: for a look that should push no other index out."""
        view = partial(self._view, name)
        return IndexLog(self.disk, self.index_directory(name), "dovecot.index", self.shown(name), view)

    def _view(self, name: str) -> IndexFiles | None:
        """The reader of a mailbox's index; None with LAYOUT=index, if it reads the mailbox that had the name
        before.
        """
        found = self._views.mailbox_view(name) if self._views is not None else None
        return found if found is not None and found.directory == self.index_directory(name) else None

    def shown(self, name: str) -> str:
        """The name of a mailbox for messages to users: storage names are encoded."""
        return self.location.display_name(name)

    def index_directory(self, name: str) -> str:
        """Where the index files of a mailbox lie."""
        return self.location.index_path(name)

    def list_index(self) -> IndexLog:
        """``dovecot.list.index``, Dovecot's cache of the tree."""
        location = self.location
        return IndexLog(self.disk, location.list_index_dir, location.list_index_name, "the list index")

    def forget(self, name: str) -> None:
        """Forget the indexes of a mailbox that was renamed or deleted, and of those below it."""
        for known in list(self._indexes):
            if known == name or known.startswith(name + "/"):
                self._indexes[known].forget()
                if not self._indexes[known].busy:
                    del self._indexes[known]

    @asynccontextmanager
    async def forgotten(self, name: str) -> AsyncIterator[None]:
        """:meth:`forget` a mailbox, and hold its lock if it can be had: no file is written there then."""
        index, moves = self.index(name), self.options.lock_method is LockMethod.DOTLOCK  # and would stay
        async with AsyncExitStack() as stack:
            with suppress(DboxfsError, OSError):
                await stack.enter_async_context(index.mutex if moves else index.locked(deleted_ok=True))
            self.forget(name)
            yield

    async def locate(self) -> None:
        """With LAYOUT=index: read the current directories of the mailboxes."""
        if self._list is not None:
            await self._list.look()

    @asynccontextmanager
    async def mailbox(self, name: str) -> AsyncIterator[IndexLog]:
        """Hold the lock of a mailbox; the index is made if only the mailbox's directory exists.

        :raises NoSuchMailbox: it does not exist, or is not the one that the caller means (``meaning``).
        :raises CorruptFile, StoreBusy: see :meth:`IndexLog.locked`.
        """
        await self.locate()
        index, guid = self.index(name), self.location.directories.guid(name)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(index.locked())
            except FileNotFoundError:
                await self._make_missing_index(name, index)
                await stack.enter_async_context(index.locked())
            self._check_header(name, index)
            self._check_meant(name, index)
            await check_called(self.namer, name, partial(visible, index.state))
            if guid is not None:  # a rename of one above it takes no lock of it, nor does Dovecot
                stack.enter_context(self.location.directories.keep(name, guid))
            yield index
            if self.options.alone and index.is_held:
                await tidy(index)

    @asynccontextmanager
    async def mailboxes(self, names: Iterable[str]) -> AsyncIterator[dict[str, IndexLog]]:
        """Hold several mailboxes, each once, by their names; only under the map's or the tree's lock."""
        async with AsyncExitStack() as stack:
            yield {name: await stack.enter_async_context(self.mailbox(name)) for name in sorted(set(names))}

    async def name(
        self, mailbox: str, index: IndexLog, wanted: Sequence[Wanted | None]
    ) -> list[DboxfsError | None]:
        """Tell the namer of messages that are about to be written; the mailbox is locked.  Gives the error of
        each.
        """
        asked = [some for some in wanted if some is not None]
        if self.namer is None or not asked:
            return [None] * len(wanted)
        answers = iter(await self.namer.begin(mailbox, asked, partial(visible, index.state)))
        return [next(answers) if some is not None else None for some in wanted]

    async def name_one(self, mailbox: str, index: IndexLog, wanted: Wanted | None) -> None:
        """The same for one message.

        :raises Superseded: the message can't have that name.
        """
        (error,) = await self.name(mailbox, index, [wanted])
        if error is not None:
            raise error

    async def _make_missing_index(self, name: str, index: IndexLog) -> None:
        """
        :raises IndexMissing: there are messages, so the index is lost, or is elsewhere.
        """
        guid = self.location.directories.guid(name) if self._list is not None else None
        path, alt = self.location.mailbox_path(name), self.location.alt_mailbox_path(name)
        unlisted = guid is None and self._list is not None
        if unlisted or index.directory != self.index_directory(name) or not await self.disk.exists(path):
            raise NoSuchMailbox(f"{self.shown(name)}: no such mailbox")
        await self._refuse_lost_index(name, index, [path] if alt is None else [path, alt])
        await self.disk.make_dirs(index.directory)
        await make_mailbox_index(self.disk, self.location, index, self.map_view, contended=True, guid=guid)

    async def _refuse_lost_index(self, name: str, index: IndexLog, directories: Sequence[str]) -> None:
        """Refuse to replace a lost index: a new one would reuse uids, and existing messages would look
        expunged.
        """
        await refuse_lost_log(self.disk, index)
        if self.mdbox:
            return
        for directory in directories:
            entries = await self.disk.listdir(directory)
            count = sum(bool(message_number(entry.name, "u")) for entry in entries)
            if count:
                raise IndexMissing(
                    f"{directory}: {count} message files and no index, not written; {WHERE_INDEX}"
                )

    def header(self, index: IndexLog) -> MailboxHeader:
        """The dbox header of a locked mailbox.

        :raises CorruptFile: it has none.
        """
        header = mailbox_header(index.state)
        if header is None or not any(header.guid):
            raise CorruptFile(index.log_path, 0, f"the index of {index.what} has no dbox header")
        return header

    def _check_meant(self, name: str, index: IndexLog) -> None:
        """
        :raises NoSuchMailbox: the mailbox that the caller means is gone, and another one has its name.
        """
        guid = meant().get(name)
        if guid is not None and guid != self.header(index).guid:
            raise NoSuchMailbox(f"{index.what}: the mailbox is gone, another one has its name")

    def _check_header(self, name: str, index: IndexLog) -> None:
        header = self.header(index)
        if (header.kind == MDBOX_HEADER) != self.mdbox:
            other = "an sdbox" if self.mdbox else "an mdbox"
            raise CorruptFile(index.log_path, 0, f"{index.what} has the index of {other}; it is not written")
        if self.mdbox and self.map.busy and self.map.known_uid_validity not in (0, header.map_uid_validity):
            what = f"{index.what} belongs to another map, it is not written; dboxfs check says what to do"
            raise CorruptFile(index.log_path, 0, what)

    # -- the map -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def locked_map(self) -> AsyncIterator[MapIndex]:
        """Hold the lock of the map, which is made if there is none.  A change of it ends with
        :meth:`map_done`.

        If a writer died between changing the map and changing a mailbox, that is repaired first.

        :raises IndexMissing: there are messages, so the map is lost, or is elsewhere.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.map.locked())
            except FileNotFoundError:
                await make_map(self.disk, self.location, self.map)
                await stack.enter_async_context(self.map.locked())
            if not self.map.tail_is_head:
                await self.repair_map()
            yield MapIndex(self.map.state)
            if self.options.alone and self.map.is_held and self.map.tail_is_head:
                await tidy(self.map)

    async def seen_map(self) -> MapIndex:
        """The map as it was a moment ago, without a lock; only new records are read.

        :raises FileNotFoundError: there is none.
        :raises CorruptFile, OSError: it can't be read.
        """
        await self.map_view.look()
        if self.map_view.state is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.map.log_path)
        return MapIndex(self.map_view.state)

    async def repair_map(self) -> None:
        """Bring map and mailboxes together after a crash, under the map's lock (PROTOCOL section 10)."""
        if self.repair is None:
            raise CorruptFile(self.map.log_path, self.map.state.tail_offset, "a writer died here")
        with meaning():  # it changes all mailboxes, so no name means a certain one
            await self.repair(self)

    async def map_done(self, notes: Sequence[str] = ()) -> None:
        """Move the map's tail, which says that all is done, if the map was changed; drop *notes*."""
        if not self.map.tail_is_head:
            await self.map.append([], tail=True, unlink=notes)
        else:
            await self.notes.drop(notes)

    # -- paths -------------------------------------------------------------------------------------------

    def message_paths(self, name: str, uid: int) -> list[str]:
        """sdbox: where the file of a message may be."""
        paths = [os.path.join(self.location.mailbox_path(name), f"u.{uid}")]
        alt = self.location.alt_mailbox_path(name)
        if alt is not None:
            paths.append(os.path.join(alt, f"u.{uid}"))
        return paths

    def storage_paths(self, file_id: int) -> list[str]:
        """mdbox: where ``m.<file_id>`` may be."""
        roots = (self.location.storage, self.location.alt_storage)
        return [os.path.join(root, f"m.{file_id}") for root in roots if root is not None]

    async def link_or_copy(self, source: str, target: str) -> None:
        """Make a hard link to a file, or, if that is not possible, a copy of its bytes.

        :raises FileNotFoundError: the source is gone.
        """
        try:
            await self.disk.run(ops.Link(source, target))
            return
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
        original = await self.disk.open_read(source)
        try:
            copy = await self.disk.create(target)
            try:
                await copy.append_from(original.fd, original.size)
                await copy.sync()
            except OSError:
                await self.disk.discard([target])
                raise
            finally:
                await copy.close()
        finally:
            await original.close()


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Device, inode and ctime: they change when another file takes the place of this one."""
    return found.st_dev, found.st_ino, found.st_ctime_ns


def message_number(name: str, prefix: str) -> int:
    """The number in a file name ``u.N`` or ``m.N``; 0: another name, or an invalid number."""
    found = re.fullmatch(rf"{prefix}\.([1-9][0-9]{{0,9}})", name)
    number = int(found[1]) if found is not None else 0
    return number if number < HIGHEST_NUMBER else 0


def present(state: IndexState, uids: Iterable[int]) -> list[int]:
    """Those of *uids* that the index has, ascending, each once."""
    wanted = sorted(set(uids))
    if len(wanted) <= _FEW:
        return [uid for uid in wanted if state.row_of(uid) >= 0]
    return [uid for uid, row in zip(wanted, state.rows_of(wanted).tolist(), strict=True) if row >= 0]


def visible(state: IndexState, uids: Iterable[int]) -> list[int]:
    """Those of *uids* that the index has without a request to expunge them, ascending, each once."""
    found = present(state, uids)
    asked = set(state.pending_expunges.tolist()) if state.has_pending_requests else set()
    return [uid for uid in found if uid not in asked]
