"""The mailstore: the tree of folders, their mailboxes, and everything that changes in them.

::

    location = parse_location("mdbox:/srv/mail/ann")
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location) as store:
        inbox = store.folders["INBOX"].mailbox
        body = await inbox.open(int(inbox.uids[0]))
        print(await body.read(body.size, 0))

Concurrency.  Everything runs on one trio event loop.  ``folders`` and the contents of a mailbox change only
inside :meth:`Store.refresh_tree` and :meth:`Store.refresh_mailbox`, between two checkpoints; listeners are
called right after, on the same thread, and must not block.  One task follows inotify events: events of some
milliseconds are taken together, then tree and mailboxes are read again side by side.  Where a directory
can't be watched, whoever is asked about it calls :meth:`Store.check` first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from dboxfs.errors import CorruptFile, DboxfsError, NoSuchStore
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.store.indexfiles import Delta
from dboxfs.store.location import Kind, Location
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.mdbox import MdboxStorage
from dboxfs.store.names import display_name, shown_part
from dboxfs.store.subscriptions import parse_subscriptions
from dboxfs.store.tree import Found, scan_tree
from dboxfs.store.watch import Watcher

log = logging.getLogger(__name__)

_SETTLE = 0.002
_LOADS_AT_ONCE = 32
# A directory that can't be watched is looked at again when it was last looked at this long ago.
_STALE_AFTER = 0.5


@dataclass(eq=False, slots=True)
class Folder:
    """A directory of the mailbox tree.  ``mailbox`` is None for a parent that holds no messages itself.

    ``name``: storage name ("" is the root).  ``shown``: name of its directory in the mount (one part, UTF-8).
    ``children``: by shown name.
    """

    name: str
    shown: str
    parent: Folder | None
    mailbox: Mailbox | None
    children: dict[str, Folder] = field(default_factory=dict)

    @property
    def identity(self) -> bytes:
        """What makes this folder the one it is: guid and uidvalidity of its mailbox, else its name."""
        box = self.mailbox
        if box is None or box.guid is None:
            return b"name:" + os.fsencode(self.name)
        return b"guid:" + box.guid + box.uid_validity.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom to tell: ``messages``: what changed in a folder's mailbox; the others: the tree."""

    messages: Callable[[Folder, Delta], None]
    folder_gone: Callable[[Folder], None]
    folder_new: Callable[[Folder], None]


class Store:
    """A dbox mailstore.  Made by :func:`open_store`."""

    def __init__(self, fs: FileSystem, location: Location) -> None:
        self.fs = fs
        self.location = location
        self.root = Folder("", "", None, None)
        self.folders: dict[str, Folder] = {"": self.root}
        self.damaged_messages = 0
        self.refreshes = 0
        self.owner: os.stat_result
        self.storage = MdboxStorage(fs, location) if location.kind is Kind.MDBOX else None
        self._listeners: list[Listener] = []
        self._watcher = Watcher()
        self._watched: set[tuple[str, str]] = set()
        self._checked: dict[str, float] = {}
        self._tree_dirty = False
        self._dirty: set[str] = set()
        self._wake = trio.Event()
        self._index_errors: dict[str, str] = {}

    # -- life ----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the tree and the index of every mailbox.

        :raises NoSuchStore: the root can't be read.
        """
        try:
            self.owner = await self.fs.stat(self.location.root)
        except OSError as exc:
            raise NoSuchStore(f"{self.location.root}: {exc.strerror}") from exc
        if self.storage is not None:
            self._watch("map", self.location.map_dir, self._map_changed)
        await self.refresh_tree()

    async def follow(self) -> None:
        """Keep the store up to date with what happens on disk, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watcher.run)
            while True:
                await self._wake.wait()
                await trio.sleep(_SETTLE)
                self._wake = trio.Event()
                await self._settle()

    async def _settle(self) -> None:
        tree, self._tree_dirty = self._tree_dirty, False
        names, self._dirty = self._dirty, set()
        if tree:
            await self.refresh_tree()
        async with trio.open_nursery() as nursery:
            for name in names:
                folder = self.folders.get(name)
                if folder is not None and folder.mailbox is not None:
                    nursery.start_soon(self.refresh_mailbox, folder)

    def close(self) -> None:
        """Stop watching and close the files that are kept open."""
        self._watcher.close()
        if self.storage is not None:
            self.storage.close()

    def listen(self, listener: Listener) -> None:
        """Tell *listener* of every change from now on."""
        self._listeners.append(listener)

    # -- the tree ------------------------------------------------------------------------------

    async def refresh_tree(self) -> None:
        """Look at the whole tree again; mailboxes that are new are loaded before anybody sees them."""
        found = await scan_tree(self.fs, self.location, self._watch_tree)
        wanted = {item.name: item for item in found.walk()}
        gone = [folder for name, folder in self.folders.items() if name not in wanted]
        changed = [
            folder
            for name, folder in self.folders.items()
            if name in wanted and (folder.mailbox is not None) != wanted[name].selectable
        ]
        boxes = await self._load_mailboxes(
            [name for name, item in wanted.items() if item.selectable and not self._has_mailbox(name)]
        )
        for folder in changed:
            self._unwatch(folder)
            folder.mailbox = None
            self._tell_gone(folder)
        for folder in sorted(gone, key=lambda folder: len(folder.name), reverse=True):
            self._remove(folder)
        for item in wanted.values():
            self._add(item, boxes.get(item.name))
        for folder in self.folders.values():
            if folder.mailbox is not None:
                self._watch_index(folder.name, folder.mailbox)
        for folder in changed:
            self._tell_new(folder)

    def _has_mailbox(self, name: str) -> bool:
        folder = self.folders.get(name)
        return folder is not None and folder.mailbox is not None

    async def _load_mailboxes(self, names: list[str]) -> dict[str, Mailbox]:
        boxes = {name: self._new_mailbox(name) for name in names}
        limit = trio.CapacityLimiter(_LOADS_AT_ONCE)

        async def load(name: str, box: Mailbox) -> None:
            async with limit:
                self._watch_index(name, box)
                await self._refresh_box(name, box)

        async with trio.open_nursery() as nursery:
            for name, box in boxes.items():
                nursery.start_soon(load, name, box)
        return boxes

    def _new_mailbox(self, name: str) -> Mailbox:
        return Mailbox(self.fs, self.location, name, self.storage, damage=self._count_damage)

    def _count_damage(self) -> None:
        self.damaged_messages += 1

    def _add(self, item: Found, box: Mailbox | None) -> None:
        folder = self.folders.get(item.name)
        if folder is None:
            above, _, part = item.name.rpartition("/")
            parent = self.folders[above]
            folder = Folder(item.name, shown_part(part, utf8=self.location.utf8), parent, box)
            self.folders[item.name] = folder
            parent.children[folder.shown] = folder
            self._tell_new(folder)
        elif box is not None:
            folder.mailbox = box

    def _remove(self, folder: Folder) -> None:
        self._unwatch(folder)
        del self.folders[folder.name]
        if folder.parent is not None:
            folder.parent.children.pop(folder.shown, None)
        self._index_errors.pop(folder.name, None)
        self._tell_gone(folder)

    def _tell_new(self, folder: Folder) -> None:
        for listener in self._listeners:
            listener.folder_new(folder)

    def _tell_gone(self, folder: Folder) -> None:
        for listener in self._listeners:
            listener.folder_gone(folder)

    # -- one mailbox ---------------------------------------------------------------------------

    async def refresh_mailbox(self, folder: Folder) -> None:
        """Follow the index of *folder*'s mailbox and tell the listeners what changed."""
        box = folder.mailbox
        if box is None:
            return
        identity = folder.identity
        delta = await self._refresh_box(folder.name, box)
        if self.folders.get(folder.name) is not folder or folder.mailbox is not box or not delta:
            return
        if identity != folder.identity:
            self._tell_gone(folder)
            self._tell_new(folder)
        else:
            for listener in self._listeners:
                listener.messages(folder, delta)

    async def _refresh_box(self, name: str, box: Mailbox) -> Delta | None:
        self._checked[name] = trio.current_time()
        self.refreshes += 1
        try:
            delta = await box.refresh()
        except (DboxfsError, OSError) as exc:
            if self._index_errors.get(name) != str(exc):
                self._index_errors[name] = str(exc)
                log.error("%s: %s", box.display_name, exc)
            return None
        self._index_errors.pop(name, None)
        return delta

    async def check(self, folder: Folder) -> None:
        """Look at what can't be watched: to be called when somebody opens or looks into *folder*."""
        box = folder.mailbox
        if box is None or self.is_watched(folder):
            return
        if trio.current_time() - self._checked.get(folder.name, 0.0) > _STALE_AFTER:
            self._watch_index(folder.name, box)
            await self.refresh_mailbox(folder)

    def is_watched(self, folder: Folder) -> bool:
        """Whether changes of *folder* come by themselves; otherwise :meth:`check` has to look for them."""
        return folder.mailbox is None or ("index", folder.mailbox.index_directory) in self._watched

    def report_damage(self, error: CorruptFile) -> None:
        """Count and log damage that came up while a message was read."""
        self.damaged_messages += 1
        log.error("%s", error)

    async def statvfs(self) -> os.statvfs_result:
        """The file system that the store lies on."""
        return await trio.to_thread.run_sync(os.statvfs, self.location.root)

    async def subscribed(self) -> frozenset[str]:
        """The subscribed storage names, as the file has them now."""
        path = os.path.join(self.location.control_dir, self.location.subscriptions)
        (found,) = await self.fs.peek([Peek(path, ((0, None),))])
        return parse_subscriptions(found.chunks[0]) if isinstance(found, PeekResult) else frozenset()

    def display_name(self, folder: Folder, separator: str = "/") -> str:
        """The full name of *folder* for people."""
        return display_name(folder.name, utf8=self.location.utf8, separator=separator)

    @property
    def index_errors(self) -> dict[str, str]:
        """Mailboxes (storage names) whose index can't be read, and why."""
        return dict(self._index_errors)

    @property
    def watches(self) -> int:
        """How many directories inotify watches."""
        return self._watcher.watches

    # -- watching ------------------------------------------------------------------------------

    def _watch(self, kind: str, directory: str, callback: Callable[[set[str | None]], None]) -> None:
        if (kind, directory) not in self._watched and self._watcher.add(directory, callback):
            self._watched.add((kind, directory))

    def _watch_tree(self, directory: str) -> None:
        self._watch("tree", directory, lambda changed: self._tree_changed(directory, changed))

    def _watch_index(self, name: str, box: Mailbox) -> None:
        directory = box.index_directory
        self._watch("index", directory, lambda changed: self._index_changed(name, directory, changed))

    def _unwatch(self, folder: Folder) -> None:
        directories = [os.path.join(self.location.tree, folder.name)]
        if folder.mailbox is not None:
            directories.append(folder.mailbox.index_directory)
        for directory in directories:
            self._forget_watch(directory)

    def _forget_watch(self, directory: str) -> None:
        self._watched -= {("tree", directory), ("index", directory)}
        self._watcher.remove(directory)

    def _tree_changed(self, directory: str, changed: set[str | None]) -> None:
        if None in changed:
            self._forget_watch(directory)
        self._tree_dirty = True
        self._wake.set()

    def _index_changed(self, name: str, directory: str, changed: set[str | None]) -> None:
        if None in changed:
            self._forget_watch(directory)
            self._tree_dirty = True
        elif not any(entry is not None and entry.startswith("dovecot.index") for entry in changed):
            return
        self._dirty.add(name)
        self._wake.set()

    def _map_changed(self, changed: set[str | None]) -> None:
        if self.storage is not None:
            self.storage.changed = True
        if None in changed:
            self._watched.discard(("map", self.location.map_dir))


@asynccontextmanager
async def open_store(fs: FileSystem, location: Location, *, follow: bool = True) -> AsyncIterator[Store]:
    """The store at *location*, loaded; with *follow* it keeps itself up to date while the context lasts.

    :raises NoSuchStore: it can't be read.
    """
    store = Store(fs, location)
    try:
        await store.load()
        async with trio.open_nursery() as nursery:
            if follow:
                nursery.start_soon(store.follow)
            yield store
            nursery.cancel_scope.cancel()
    finally:
        store.close()
