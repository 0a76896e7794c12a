"""Notes of changes on disk since the store was read last: directories are watched, and events noted.

::

    inotify -> Watcher -> ChangeNotes (the tree, the map, mailboxes) -> Store takes the notes and reads

An event only makes a note; :class:`~dboxfs.store.store.Store` reads.  A directory is watched under one of
four keys: ``top`` (the directories above all mailboxes), ``map``, ``tree`` (a folder), ``index`` (a mailbox's
index).  Everything runs on the event loop's thread, and every method here is atomic.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable

import trio

from dboxfs.store.location import Location, TreeLayout
from dboxfs.store.watch import Inotify, Watched, Watcher


class ChangeNotes:
    """The watches of one store, and the changes that they have reported.

    :param map_changed: called when something has changed in the directory of an mdbox's map.
    :param inotify: shared with other stores; None: make an own one.
    """

    def __init__(
        self, location: Location, map_changed: Callable[[], None], inotify: Inotify | None = None
    ) -> None:
        self._location = location
        self._listed = location.layout is TreeLayout.INDEX
        self._tree_root = location.list_index_dir if self._listed else location.tree
        self._below_root = os.path.join(self._tree_root, "")
        self._map_changed = map_changed
        self._watcher = Watcher(inotify)
        self._tree = False
        self._all = False
        self._names: set[str] = set()
        self._held: set[str] = set()
        self._noted = trio.Event()

    async def run(self) -> None:
        """Deliver events until cancelled."""
        await self._watcher.run()

    def close(self) -> None:
        """End all watches."""
        self._watcher.close()

    @property
    def watches(self) -> int:
        """Number of directories that inotify watches."""
        return self._watcher.watches

    # -- notes ---------------------------------------------------------------------------------

    async def wait(self, seconds: float = math.inf) -> bool:
        """Wait for a change that has to be read; False: there was none for *seconds*."""
        if math.isinf(seconds):
            await self._noted.wait()
        else:
            with trio.move_on_after(seconds):
                await self._noted.wait()
        return self._noted.is_set()

    def take(self, names: Iterable[str]) -> tuple[bool, set[str]]:
        """Whether to read the tree, and the mailboxes to read; both count as read from now on.

        :param names: all mailboxes of the store.
        """
        self._noted = trio.Event()
        if self._all:
            self._all = False
            self._names.update(names)
        tree, self._tree = self._tree, False
        ready = self._names - self._held
        self._names &= self._held
        return tree, ready

    def note(self, names: Iterable[str]) -> None:
        """Note that these mailboxes are to be read again."""
        self._names.update(names)
        self._noted.set()

    def wake(self) -> None:
        """Have :meth:`wait` return."""
        self._noted.set()

    def hold(self, name: str) -> None:
        """Note changes of a mailbox, but keep them back until :meth:`let_go`."""
        self._held.add(name)

    @property
    def held(self) -> frozenset[str]:
        """The mailboxes that are held."""
        return frozenset(self._held)

    def let_go(self, name: str) -> None:
        """Give out the changes of a mailbox again, also those that were noted meanwhile."""
        self._held.discard(name)
        if name in self._names:
            self._noted.set()

    # -- watches -------------------------------------------------------------------------------

    def watch_top(self, *, mapped: bool) -> None:
        """Watch the directories above all mailboxes: a restore may replace the whole store.

        :param mapped: the store has a map.
        """
        location = self._location
        for directory in {location.root, location.index or location.root}:
            self._watcher.add(directory, "top", self._top_event)
        if mapped:
            self._watcher.add(location.map_dir, "map", lambda changed: self._map_changed())

    def watch_folder(self, directory: str) -> None:
        """Watch a directory of the tree; with LAYOUT=index that of the list index, which has all folders."""
        self._watcher.add(directory, "tree", lambda changed: self._tree_event(directory, changed))

    def watch_index(self, name: str, directory: str) -> Watched:
        """Watch the directory of a mailbox's index."""
        return self._watcher.add(
            directory, "index", lambda changed: self._index_event(name, directory, changed)
        )

    def forget_folder(self, name: str) -> None:
        """End the watch of a folder that is gone."""
        if not self._listed:
            self._watcher.remove(self._directory(name))

    def forget_index(self, directory: str) -> None:
        """End the watch of a mailbox that is gone."""
        self._watcher.remove(directory)

    def follows_folder(self, name: str) -> bool:
        """Whether a folder's directory is watched."""
        return self._watcher.watching(self._directory(name), "tree")

    def follows_index(self, directory: str) -> bool:
        """Whether the index in *directory* is watched."""
        return self._watcher.watching(directory, "index")

    def _directory(self, name: str) -> str:
        return self._below_root + name if name and not self._listed else self._tree_root

    # -- events --------------------------------------------------------------------------------

    def _top_event(self, changed: set[str | None]) -> None:
        if None in changed:
            self._tree = self._all = True
            self._map_changed()
            self._noted.set()

    def _tree_event(self, directory: str, changed: set[str | None]) -> None:
        if None in changed:
            self._watcher.remove(directory)
        elif self._listed and not any(self._is_list(entry) for entry in changed):
            return
        self._tree = True
        self._noted.set()

    def _is_list(self, entry: str | None) -> bool:
        return entry is not None and entry.startswith(self._location.list_index_name)

    def _index_event(self, name: str, directory: str, changed: set[str | None]) -> None:
        if None in changed:
            self._watcher.remove(directory)
            self._tree = True
        elif not any(entry is not None and entry.startswith("dovecot.index") for entry in changed):
            return
        self._names.add(name)
        if name not in self._held:
            self._noted.set()
