"""What the kernel's page cache holds, as far as we know.

:class:`Pushed`: which messages were put there already, a guess in fixed memory: a table of bits, the inode
number hashed into it. Two inodes may share a bit, and the kernel drops pages without a word; a wrong guess
costs one READ request and nothing else, so no more is remembered.

:class:`Doubts`: which messages may have other bytes than the kernel has, because their files may have been
repaired. The next OPEN of each has the kernel drop them (without ``keep_cache``), in the client's own time:
to drop them from here would wait for a READ in flight, which only we can answer.
"""

from __future__ import annotations

import numpy as np

from dboxfs.store.attrs import Uids

BITS = 1 << 20


class Pushed:
    """A million bits (as bytes: 1 MiB, for speed)."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = bytearray(BITS)

    def first(self, inode: int) -> bool:
        """Whether *inode* was not marked yet; marks it."""
        at = (inode ^ inode >> 32 ^ inode >> 51) % BITS
        if self._seen[at]:
            return False
        self._seen[at] = 1
        return True

    def forget(self, inode: int) -> None:
        """The kernel had to ask: it doesn't have this message (any more)."""
        self._seen[(inode ^ inode >> 32 ^ inode >> 51) % BITS] = 0


class Doubts:
    """One byte a message of each mailbox that was read anew, until the next time."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[int, tuple[Uids, bytearray]] = {}

    def raise_about(self, folder: int, uids: Uids) -> None:
        """The messages *uids* (ascending) of the mailbox with this inode may have other bytes by now."""
        self._of[folder] = uids, bytearray(len(uids))

    def settle(self, folder: int, uid: int) -> bool:
        """Whether there was a doubt about a message; there is none any more."""
        found = self._of.get(folder)
        if found is None:
            return False
        uids, settled = found
        at = int(np.searchsorted(uids, uid))
        if at == len(uids) or uids[at] != uid or settled[at]:
            return False
        settled[at] = 1
        return True

    def forget(self, folder: int) -> None:
        """The mailbox is gone."""
        self._of.pop(folder, None)
