"""Which messages were put into the kernel's page cache already: a guess in fixed memory.

A table of bits, the inode number hashed into it.  Two inodes may share a bit, and the kernel drops pages
without a word; a wrong guess costs one READ request and nothing else, so no more is remembered.
"""

from __future__ import annotations

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
