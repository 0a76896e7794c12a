"""What a mounted file system is given by what serves it: a way to the kernel, background tasks, counters.

``dboxfs.fuse`` makes one from a FUSE mount.  A test makes one from a list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dboxfs.vfs.kernel_pages import Pushed
from dboxfs.vfs.observed import Observed

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

    def listing(self, inode: int) -> None:
        """The entries of the directory *inode* changed: a listing that the kernel keeps is old."""

    def push(self, inode: int, data: bytes) -> bool:
        """Put the whole content of *inode*, which nobody has open, into the kernel's page cache.

        :return: False: the kernel doesn't know the inode.
        """


Item = tuple[int, bytes | memoryview]
"""An inode, and its whole content."""


class PushWait(Protocol):
    """Items that were handed over together."""

    async def wait(self) -> None:
        """Wait until they are stored, or for long enough."""


class Pages(Protocol):
    """The kernel's page cache, while nothing is opened (:mod:`dboxfs.vfs.unopened`).

    :ivar generation: of the moment at which bytes begin to be read; :meth:`drop` begins a new one.
    """

    generation: int

    def begin(self, inode: int) -> PushWait | None:
        """A READ of *inode* has come; gives what it has to wait for. To be ended with :meth:`end`."""

    def end(self, inode: int) -> None:
        """The answer is on its way."""

    def wanted(self, inodes: Iterable[int]) -> set[int]:
        """Those of *inodes* that may be pushed."""

    def push(self, items: Sequence[Item], generation: int) -> PushWait:
        """Have them stored, in this order."""

    def drop(self, inodes: Sequence[int]) -> None:
        """Have the kernel drop what it has of *inodes*, and forget what was read of them before."""


def _same(inode: int) -> int:
    return inode


@dataclass(frozen=True, slots=True)
class Host:
    """What serves a mounted file system gives it.

    :ivar spawn: starts a background task.
    :ivar kernel: is told what changes.
    :ivar requests: how often the kernel has asked, by operation; grows while the mount is used.
    :ivar stats: what else stats.json says of the kernel's side.
    :ivar observed: durations and errors of requests.
    :ivar pushed: which messages the kernel was given.
    :ivar outside: gives the number that an inode has in the mount, as the kernel and programs see it.
    """

    spawn: Spawn
    kernel: Kernel
    requests: Mapping[str, int]
    stats: Callable[[], Mapping[str, object]] = dict
    observed: Observed = field(default_factory=Observed)
    pushed: Pushed = field(default_factory=Pushed)
    outside: Callable[[int], int] = _same
