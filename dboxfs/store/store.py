"""The mailstore: the tree of folders, their mailboxes, and all changes in them.

::

    location = parse_location("mdbox:/srv/mail/ann")
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location) as store:
        inbox = store.folders["INBOX"].mailbox
        body = await inbox.open(int(inbox.uids[0]))
        print(await body.read(body.size, 0))

Concurrency.  Everything runs on one trio event loop.  ``folders`` and the contents of a mailbox change only
inside :meth:`Store.refresh_tree` and :meth:`Store.refresh_mailbox`, between two checkpoints; listeners are
called right after, on the same thread, and must not block.  One task at a time reads the tree
(``_tree_lock``), and one reads each mailbox (``Mailbox.refreshing``, after the tree's).  One task handles
inotify events: it takes those of some milliseconds together, then reads tree and mailboxes again in parallel.
If a directory can't be watched, the caller calls :meth:`Store.check` before it uses the folder.

An unreadable folder is never shown as empty: a known folder stays as it was, and for an unknown one
:meth:`Store.check` raises the error.  A store whose root is gone gives EIO.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio

from dboxfs.errors import CorruptFile, DboxfsError, NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.store.backend import Backend
from dboxfs.store.changes import ChangeNotes
from dboxfs.store.damage_log import DamageLog, IndexErrors
from dboxfs.store.dbox_version import recorded_version
from dboxfs.store.details import Details
from dboxfs.store.details_cache import DEFAULT_LIMIT, DetailsCache
from dboxfs.store.disk import AppendFile
from dboxfs.store.folder import Folder, Listener, Listeners, why_unreadable
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Location
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.mdbox.storage import MdboxStorage
from dboxfs.store.prefetch import AheadFiles
from dboxfs.store.quiet import TREE_PAUSES, OwnTurns, QuietReads
from dboxfs.store.size_table import SizeTables
from dboxfs.store.subscriptions import read_subscriptions
from dboxfs.store.tree import TreeDirectory, keep_unreadable, scan_folders, scan_tree
from dboxfs.store.watch import Inotify, Watched

log = logging.getLogger(__name__)

_LOADS_AT_ONCE = 32
# Seconds after which a directory that can't be watched is read again.
_STALE_AFTER = 0.5
_RETRY_AFTER = 1.0  # seconds, for an index after an error of the system


class Store:
    """A dbox mailstore.  Made by :func:`dboxfs.store.opening.open_store`.

    :param backend: the message files, sdbox or mdbox.
    :param storage: mdbox: the map and the ``m.N`` files; None: the store has no map.
    :param ahead: the files that are brought ahead.
    :param cache: the directory of the size tables, outside of the store, with its file API.
    :param table_size: number of messages whose parsed records are kept in memory.
    :param inotify: shared with other stores; None: make an own one.
    :ivar claim: the locked file of ``write/claim.py``, closed with the store; None: there is none.
    :ivar changes: what is watched and noted; changes of a mailbox can be held back there.
    :ivar dbox_version: recorded version of new messages (``dboxversion``); None: it can't be read.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        backend: Backend,
        storage: MdboxStorage | None,
        ahead: AheadFiles,
        cache: tuple[FileSystem, str] | None = None,
        table_size: int = DEFAULT_LIMIT,
        inotify: Inotify | None = None,
    ) -> None:
        self.fs = fs
        self.location = location
        self.root = Folder("", "", None, None)
        self.folders: dict[str, Folder] = {"": self.root}
        self.reports = DamageLog()
        self.refreshes = 0
        self.dbox_version: int | None = None
        self.claim: AppendFile | None = None
        self.owner: os.stat_result
        self.storage = storage
        self.ahead = ahead
        self.backend = backend
        self.records: DetailsCache[Details] = DetailsCache(table_size)
        self.sizes: SizeTables | None = None
        self.inotify = inotify
        self._cache = cache
        self._listeners = Listeners()
        self.changes = ChangeNotes(location, backend.map_changed, inotify)
        self._checked: dict[str, float] = {}
        self._tree_checked = 0.0
        self._tree_lock = trio.Lock()
        self._renumbered: set[Folder] = set()
        self._index_errors = IndexErrors()
        self._quiet = QuietReads()
        self._quiet_tree = QuietReads(TREE_PAUSES)
        self._own_tree = OwnTurns()

    # -- life ----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the tree and the index of every mailbox.

        :raises NoSuchStore: the root can't be read.
        """
        try:
            self.owner = await self.fs.stat(self.location.root)
        except OSError as exc:
            raise NoSuchStore(f"{self.location.root}: {exc.strerror}") from exc
        if self._cache is not None:
            self.sizes = SizeTables(*self._cache, self.location.root, self.owner)
            await self.sizes.prepare(tidy=self.inotify is None)  # a site does not do it for each store
        try:
            self.dbox_version = await recorded_version(self.fs, self.location)
        except (CorruptFile, OSError) as exc:
            log.warning("%s", exc)
        await self.refresh_tree()

    async def follow(self) -> None:
        """Keep the store up to date with the changes on disk, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.changes.run)
            nursery.start_soon(self.ahead.run)
            while True:
                again = self._index_errors.retried & self.folders.keys()
                if not await self.changes.wait(_RETRY_AFTER if again else math.inf):
                    self.changes.note(again)
                await self._settle(nursery)

    async def _settle(self, tasks: trio.Nursery) -> None:
        tree, names = self.changes.take(self.folders)
        if tree:
            async with trio.open_nursery() as nursery:
                self._quiet_tree.read(self._own_tree, self.refresh_tree, nursery, tasks)
        async with trio.open_nursery() as nursery:
            for folder in filter(None, map(self.folders.get, names)):
                if (box := folder.mailbox) is not None:
                    self._quiet.read(box.index, partial(self.refresh_mailbox, folder), nursery, tasks)

    def close(self) -> None:
        """End the watches and close the files that are kept open."""
        self.changes.close()
        self.ahead.close()
        self.records.drop()
        self.backend.close()

    async def keep_sizes(self) -> None:
        """Write the sizes that were read since the last time into the cache directory."""
        boxes = [folder.mailbox for folder in self.folders.values() if folder.mailbox is not None]
        for box in boxes:
            await box.keep_sizes(final=True)

    def listen(self, listener: Listener) -> None:
        """From now on call *listener* after every change."""
        self._listeners.add(listener)

    # -- the tree ------------------------------------------------------------------------------

    async def refresh_tree(self, *only: str) -> None:
        """Read the whole tree again; new mailboxes are loaded before they are shown.

        :param only: read these folders and all below them instead: this process has made, removed or renamed
            them.  The events of such changes have the whole tree read when no more of them follow.
        """
        if only:
            self._own_tree.begin()
        async with self._tree_lock:
            found = await self._scan_some(only)
            if found is None:
                self._tree_checked = trio.current_time()
                self.changes.watch_top(mapped=self.storage is not None)
                found = [await scan_tree(self.fs, self.location, self.changes.watch_folder)]
                only = ("",)
            known = [folder for name in only if name in self.folders for folder in self.folders[name].walk()]
            wanted = {item.name: item for top in found for item in top.walk()}
            mailboxes = {folder.name: folder.mailbox is not None for folder in known}
            keep_unreadable(wanted, mailboxes, self.reports.error)
            for what in (damage for top in found for damage in top.damage):
                self.report_damage(CorruptFile(self.location.list_index_path, 0, what))
            self._take_tree(wanted, await self._load_mailboxes(wanted), known)

    async def _scan_some(self, names: tuple[str, ...]) -> list[TreeDirectory] | None:
        if not names or any(name.rpartition("/")[0] not in self.folders for name in names):
            return None
        return await scan_folders(self.fs, self.location, self.changes.watch_folder, names)

    async def _load_mailboxes(self, wanted: dict[str, TreeDirectory]) -> dict[str, Mailbox]:
        """Load new mailboxes; read those again whose directory was replaced, and those that had no index: a
        mailbox that was renamed and renamed back seemed to have none, and no event follows.
        """
        names = [item.name for item in wanted.values() if item.selectable]
        new = {name: self._new_mailbox(name) for name in names if not self._has_mailbox(name)}
        limit = trio.CapacityLimiter(_LOADS_AT_ONCE)

        async def load(name: str, box: Mailbox) -> None:
            async with limit:
                self.changes.watch_index(name, box.index_directory)
                await self._refresh_box(name, box)

        async def follow(folder: Folder) -> None:
            async with limit:
                await self.refresh_mailbox(folder)

        async with trio.open_nursery() as nursery:
            for name, box in new.items():
                nursery.start_soon(load, name, box)
            for name in names:
                folder = self.folders.get(name)
                old = folder.mailbox if folder is not None else None
                if folder is None or old is None:
                    continue
                if self.changes.watch_index(name, old.index_directory) is Watched.NEW or old.state is None:
                    nursery.start_soon(follow, folder)
        return new

    def _take_tree(
        self, wanted: dict[str, TreeDirectory], boxes: dict[str, Mailbox], known: list[Folder]
    ) -> None:
        gone = [folder for folder in known if folder.name not in wanted]
        there = [folder for folder in known if folder.name in wanted]
        changed = {folder for folder in there if self._differs(folder, wanted[folder.name])}
        for folder in changed:
            self._drop_mailbox(folder)
            self._listeners.folder_gone(folder)
        for folder in sorted(gone, key=lambda folder: folder.name.count("/"), reverse=True):
            self._remove(folder)
        for item in sorted(wanted.values(), key=lambda item: item.name.split("/")):
            self._add(item, boxes.get(item.name))
            if (folder := self.folders[item.name]) in changed:
                self._listeners.folder_new(folder)  # before its children, which may be new, too

    def _differs(self, folder: Folder, item: TreeDirectory) -> bool:
        return (folder.mailbox is not None) != item.selectable or self._is_another(folder)

    def _has_mailbox(self, name: str) -> bool:
        folder = self.folders.get(name)
        return folder is not None and folder.mailbox is not None and not self._is_another(folder)

    def _is_another(self, folder: Folder) -> bool:
        """Whether another mailbox has the name now (LAYOUT=index, whose names lead to guids)."""
        box, wanted = folder.mailbox, self.location.index_path(folder.name)
        return box is not None and box.index_directory != wanted

    def _new_mailbox(self, name: str) -> Mailbox:
        box = Mailbox(
            self.fs,
            self.location,
            name,
            self.backend,
            report=self.reports.error,
            resync=self._resync,
            sizes=self.sizes,
            records=self.records,
        )
        box.index.changed = partial(self._fed, box)
        box.index.missed = partial(self._missed, name)
        return box

    def _add(self, item: TreeDirectory, box: Mailbox | None) -> None:
        folder = self.folders.get(item.name)
        if folder is None:
            above, _, part = item.name.rpartition("/")
            parent = self.folders[above]
            folder = Folder(item.name, self.location.names.shown_part(part), parent, box)
            self.folders[item.name] = folder
            parent.children[folder.shown] = folder
            self._listeners.folder_new(folder)
        elif box is not None:
            folder.mailbox = box
        folder.error = item.error

    def _remove(self, folder: Folder) -> None:
        self._drop_mailbox(folder)
        self.changes.forget_folder(folder.name)
        del self.folders[folder.name]
        if folder.parent is not None:
            folder.parent.children.pop(folder.shown, None)
        self._listeners.folder_gone(folder)

    def _drop_mailbox(self, folder: Folder) -> None:
        if folder.mailbox is not None:
            self.changes.forget_index(folder.mailbox.index_directory)
            folder.mailbox.files.forget()
            folder.mailbox = None
            self._index_errors.discard(folder.name)
            self._checked.pop(folder.name, None)

    # -- one mailbox ---------------------------------------------------------------------------

    async def refresh_mailbox(self, folder: Folder) -> None:
        """Read the index of *folder*'s mailbox and tell the listeners about the changes."""
        box = folder.mailbox
        if box is not None:
            await box.refreshing.run(partial(self._refresh_mailbox, folder, box))

    async def _refresh_mailbox(self, folder: Folder, box: Mailbox) -> None:
        identity = folder.identity
        delta = await self._refresh_box(folder.name, box)
        if delta is None or not self._is_in(folder, box):
            return
        another = identity != folder.identity and folder not in self._renumbered
        self._listeners.changed(folder, delta, another=another)
        dates = await box.refresh_dates()  # the listeners know the changes: this reads a file
        if len(dates) and self._is_in(folder, box):
            self._listeners.messages(folder, Delta(dates[:0], dates[:0], dates, False))

    def _fed(self, box: Mailbox, delta: Delta) -> None:
        """Take over changes of *box* that a writer of this process has made, or has read."""
        folder, before = self.folders.get(box.name), box.identity
        delta = box.take(delta)
        if folder is None or not self._is_in(folder, box):
            return
        self._index_errors.discard(folder.name)
        another = before != box.identity and folder not in self._renumbered
        self._listeners.changed(folder, delta, another=another)

    def _missed(self, name: str) -> None:
        """Note a mailbox that could not be read while a writer of this process held it."""
        self.changes.note([name])

    async def see(self, folder: Folder) -> None:
        """Return when *folder* shows the changes of the writer that uses these views."""
        if folder.mailbox is not None and not folder.mailbox.index.is_fed:
            await self.refresh_mailbox(folder)

    def mailbox_view(self, name: str) -> IndexFiles | None:
        """The reader of a mailbox's index, which the writer of this process shares."""
        box = self.folders[name].mailbox if name in self.folders else None
        return box.index if box is not None else None

    def map_view(self) -> IndexFiles | None:
        """mdbox: the same for the map."""
        return self.storage.index if self.storage is not None else None

    @contextmanager
    def renumbered(self, folder: Folder) -> Iterator[None]:
        """Hold this while a mailbox without messages gets another guid or UIDVALIDITY, and is read again.
        For the listeners it stays the same folder; a process that opens the store later sees another one.
        """
        self._renumbered.add(folder)
        try:
            yield
        finally:
            self._renumbered.discard(folder)

    def _is_in(self, folder: Folder, box: Mailbox) -> bool:
        return self.folders.get(folder.name) is folder and folder.mailbox is box

    async def _refresh_box(self, name: str, box: Mailbox) -> Delta | None:
        self._checked[name] = trio.current_time()
        self.refreshes += 1
        try:
            delta = await box.refresh()
        except (DboxfsError, OSError) as exc:
            if self._index_errors.add(name, box.display_name, exc):
                self.changes.wake()
            return None
        self._index_errors.discard(name)
        return delta

    async def _resync(self, box: Mailbox) -> None:
        """Read *box* now."""
        folder = self.folders.get(box.name)
        if folder is None or folder.mailbox is not box:
            return
        await self.refresh_mailbox(folder)
        if not await box.exists():  # deleted, renamed, or the whole store is gone
            await self.refresh_tree()
            if self.root.error is not None:
                raise why_unreadable(self.root.error)
            if folder.mailbox is not box or self.folders.get(box.name) is not folder:
                box.gone()

    async def check(self, folder: Folder) -> None:
        """Read a folder that can't be watched; called when a request opens or lists *folder*.

        :raises CorruptFile, OSError: the folder can't be read, and was not read before.
        """
        now = trio.current_time()
        if not self._tree_followed(folder) and now - self._tree_checked > _STALE_AFTER:
            await self.refresh_tree()
        box = folder.mailbox
        stale = now - self._checked.get(folder.name, -_STALE_AFTER) >= _STALE_AFTER
        failed = folder.name in self._index_errors.retried
        if box is not None and (failed or (stale and not self._index_followed(box))):
            self.changes.watch_index(folder.name, box.index_directory)
            await self.refresh_mailbox(folder)
        if folder.error is not None:
            raise why_unreadable(folder.error)
        if folder.mailbox is not None and folder.mailbox.state is None:
            self._index_errors.check(folder.name)

    def is_watched(self, folder: Folder) -> bool:
        """Whether events report changes of *folder*; otherwise :meth:`check` has to look for them."""
        box = folder.mailbox
        return self._tree_followed(folder) and (box is None or self._index_followed(box))

    def _tree_followed(self, folder: Folder) -> bool:
        if self.root.error is not None or self.fs.capabilities.frozen:
            return self.root.error is None
        if folder.name == "INBOX" and self.location.inbox is not None:
            return folder.error is None
        return folder.error is None and self.changes.follows_folder(folder.name)

    def _index_followed(self, box: Mailbox) -> bool:
        return self.fs.capabilities.frozen or self.changes.follows_index(box.index_directory)

    def report_damage(self, error: CorruptFile) -> None:
        """Count and log damage that was found while a message was read."""
        self.reports.error("", error)

    @property
    def damaged_messages(self) -> int:
        """Number of different faults that were found."""
        return self.reports.damaged

    async def statvfs(self) -> os.statvfs_result:
        """statvfs(2) of the store's root."""
        return await self.fs.statvfs(self.location.root)

    async def subscribed(self) -> frozenset[str]:
        """The subscribed storage names in the file now; OSError: it can't be read."""
        return await read_subscriptions(self.fs, self.location)

    def display_name(self, folder: Folder, separator: str = "/") -> str:
        """The full name of *folder* for messages to users."""
        box = folder.mailbox if separator == "/" else None
        return box.display_name if box is not None else self.location.display_name(folder.name, separator)

    @property
    def index_errors(self) -> dict[str, str]:
        """Mailboxes (storage names) whose index can't be read, with the errors."""
        return self._index_errors.texts()
