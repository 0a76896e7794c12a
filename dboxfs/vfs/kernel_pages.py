"""Remembers which messages the kernel's page cache probably has, and which of its pages may be outdated.

:class:`Pushed`: the messages that were put there, as a guess in fixed memory: the inode number is hashed into
a table. Two inodes may share a place, and the kernel drops pages without telling us; a wrong guess only costs
one READ request.

:class:`Doubts`: messages whose pages in the kernel may be outdated, because their files may have been
repaired. The next OPEN of each drops them (it is answered without ``keep_cache``), in the client's own time:
a call from here would wait for a READ in flight, which only we can answer.
"""

from __future__ import annotations

import numpy as np

from dboxfs.store.attrs import Uids

BITS = 1 << 20
"""Places in the table of :class:`Pushed`."""


class Pushed:
    """A table of :data:`BITS` marks, each a byte for speed: 1 MiB."""

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
        """The kernel doesn't have the pages of this message: it has sent a READ."""
        self._seen[(inode ^ inode >> 32 ^ inode >> 51) % BITS] = 0


class Doubts:
    """One byte for each message of a mailbox that was reloaded, until the next reload."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[int, tuple[Uids, bytearray]] = {}

    def raise_about(self, folder: int, uids: Uids) -> None:
        """The messages *uids* (ascending) of the mailbox with this inode may have other bytes by now."""
        self._of[folder] = uids, bytearray(len(uids))

    def settle(self, folder: int, uid: int) -> bool:
        """Whether a message's pages may be outdated; the caller drops them, so the next answer is False."""
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
