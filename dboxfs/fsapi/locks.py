"""Exclusive locks in memory, between the handles of one file system.

A lock is held on a file, and a file has several keys: the path under which it was opened or is committed,
its temporary name, and, once it is open, ``(device, inode)``.  A handle that holds a lock holds all the
keys that it knows; ``try_lock`` fails if another handle holds any of them.  That two names mean one file is
only known when both are open.

No task waits for a lock, so locks have no order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class LockTable:
    """The holder of each key."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, object] = {}
        self._keys: dict[object, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def acquire(self, holder: object, keys: Iterable[Hashable]) -> bool:
        """Lock all of ``keys`` or none; True if ``holder`` has them now (or had them before)."""
        wanted = set(keys)
        if any(self._holders.get(key, holder) is not holder for key in wanted):
            return False
        for key in wanted:
            self._holders[key] = holder
        self._keys.setdefault(holder, set()).update(wanted)
        return True

    def holds(self, holder: object) -> bool:
        """Whether ``holder`` has a lock."""
        return holder in self._keys

    def extend(self, holder: object, key: Hashable) -> None:
        """A holder has learnt another key of its file.  A key that another one holds stays there."""
        keys = self._keys.get(holder)
        if keys is not None and self._holders.setdefault(key, holder) is holder:
            keys.add(key)

    def retract(self, holder: object, key: Hashable) -> None:
        """A holder has learnt that a key is not its file's."""
        if self._holders.get(key) is holder:
            del self._holders[key]
            self._keys[holder].discard(key)

    def release(self, holder: object) -> None:
        """Release all keys of ``holder``."""
        for key in self._keys.pop(holder, ()):
            del self._holders[key]
