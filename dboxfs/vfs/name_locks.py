"""Locks of names: changes of the file that a name stands for come one after the other.

A caller that gives the name to another file (a rename) tells the writers of the old file before another task
runs.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from dboxfs.store import Folder
from dboxfs.util.lock import Lock
from dboxfs.vfs.node import Inodes


class NameLocks:
    """A lock for each name of each folder, as long as a task holds it or waits for it."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._locks: WeakValueDictionary[tuple[int, bytes], Lock] = WeakValueDictionary()

    def of(self, folder: Folder, name: bytes) -> Lock:
        """The lock of *name* in *folder*."""
        key = self._inodes.of(folder), name
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = Lock()
        return lock
