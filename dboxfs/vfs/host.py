"""What a mounted file system is given by what serves it: a way to the kernel, background tasks, counters.

``dboxfs.fuse`` makes one from a FUSE mount.  A test makes one from a list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Spawn = Callable[[Callable[[], Awaitable[object]]], None]
"""Starts a background task that lives as long as the mount.  Its errors are logged."""


class Kernel(Protocol):
    """What the kernel is told.  No method waits for a lock that a client may hold while it waits for us.

    A name is the inode number of its directory, and bytes.
    """

    @property
    def names_expire(self) -> bool:
        """Whether nobody can tell the kernel of names: it has to ask again by itself."""

    def attributes(self, inode: int) -> None:
        """The attributes of *inode* changed."""

    def at_once(self, inode: int) -> None:
        """The same, before the request that is being answered now is answered."""

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """A name went away, or means something else now.

        :param deleted: it was this inode, which is gone; 0: it isn't, or nobody knows.
        """

    async def now(self, parent: int, name: bytes) -> None:
        """Return when the kernel will look the name up again, or has not answered for too long."""

    def push(self, inode: int, data: bytes) -> bool:
        """Put the whole content of *inode*, which nobody has open, into the kernel's page cache.

        :return: False: the kernel doesn't know the inode.
        """


@dataclass(frozen=True, slots=True)
class Host:
    """What serves a mounted file system gives it.

    :ivar spawn: starts a background task.
    :ivar kernel: is told what changes.
    :ivar requests: how often the kernel has asked, by operation; grows while the mount is used.
    :ivar stats: what else stats.json says of the kernel's side.
    """

    spawn: Spawn
    kernel: Kernel
    requests: Mapping[str, int]
    stats: Callable[[], Mapping[str, object]] = dict
