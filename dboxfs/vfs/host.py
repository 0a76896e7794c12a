"""The interface of a file system to its mount: the way to the kernel, background tasks, counters.

``dboxfs.fuse`` makes one from a FUSE mount.  A test makes one from a list.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import trio
from msgspec import Struct, field

from dboxfs.errors import DboxfsError
from dboxfs.vfs.kernel_pages import Pushed
from dboxfs.vfs.observed import Observed

log = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], Awaitable[object]]], None]
"""Starts a background task that lives as long as the mount.  Its errors are logged."""


def spawner(nursery: trio.Nursery, about: str = "") -> Spawn:
    """Starts background tasks in *nursery*; the mount goes on without one that fails.

    What a store or a disk can do is one line in the log; what only a fault of the program can do has its
    traceback there.

    :param about: begins each line.
    """

    async def guarded(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except (DboxfsError, OSError) as exc:
            log.error("%sbackground work failed: %s", about, exc)
        except Exception as exc:
            log.error("%sbackground work failed: %r", about, exc, exc_info=exc)

    return lambda work: nursery.start_soon(guarded, work)


class Kernel(Protocol):
    """Tells the kernel of changes.  No method waits for a lock that a client may hold while it waits for us.

    A name is the inode number of its directory, and bytes.
    """

    @property
    def names_expire(self) -> bool:
        """Whether names can't be invalidated: the kernel has to ask again by itself."""

    @property
    def keeps_missing(self) -> bool:
        """Whether the kernel may remember that a name does not exist: :meth:`entry` also makes such a name
        stale, and does no harm to a directory that has just been made.
        """

    def attributes(self, inode: int) -> None:
        """The attributes of *inode* changed."""

    def at_once(self, inode: int) -> None:
        """The same, but before the answer to the current request is sent."""

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """A name went away, or means something else now, or came where the kernel remembers missing names.

        :param deleted: the name was this inode, which is gone; 0: the inode isn't gone, or is unknown.
        """

    async def now(self, parent: int, name: bytes) -> None:
        """Have the kernel look the name up again; returns when that is sure, or has taken too long."""

    def listing(self, inode: int) -> None:
        """The entries of the directory *inode* changed: the kernel has to drop a listing that it keeps."""

    def push(self, inode: int, data: bytes) -> bool:
        """Put the whole content of *inode*, which no process has open, into the kernel's page cache.

        :return: False: the kernel doesn't know the inode.
        """


Item = tuple[int, bytes | memoryview]
"""An inode, and its whole content."""


class PushWait(Protocol):
    """Items that are handed over together."""

    def push(self, items: Sequence[Item]) -> None:
        """Have them stored, in this order; call it once, without items if there are none after all."""

    async def wait(self) -> None:
        """Wait until they are stored, but not longer than a READ may wait."""


class Pages(Protocol):
    """The kernel's page cache of a mount without OPEN (:mod:`dboxfs.vfs.unopened`)."""

    def begin(self, inode: int) -> PushWait | None:
        """A READ of *inode* has come; gives what it has to wait for. Call :meth:`end` afterwards."""

    def end(self, inode: int) -> None:
        """The READ of *inode* is about to be answered."""

    def wanted(self, inodes: Iterable[int]) -> set[int]:
        """Those of *inodes* that may be pushed."""

    def missed(self, inode: int) -> bool:
        """Whether *inode* was to be stored, but the kernel didn't know it. Forgotten with this answer."""

    def expect(self, inodes: Sequence[int]) -> PushWait:
        """The bytes of these messages are about to be read and pushed: READs of them wait for that."""

    def drop(self, inodes: Sequence[int]) -> None:
        """Have the kernel drop its pages of *inodes*, and discard what was expected before."""


def _same(inode: int) -> int:
    return inode


class Host(Struct, frozen=True):
    """The mount, as its file system sees it.

    :ivar spawn: starts a background task.
    :ivar kernel: tells the kernel of changes.
    :ivar requests: number of requests by operation; grows while the mount is used.
    :ivar stats: gives the kernel's part of stats.json.
    :ivar observed: durations and errors of requests.
    :ivar pushed: remembers which messages were put into the kernel's page cache.
    :ivar outside: gives the number that an inode has in the mount, as the kernel and programs see it.
    """

    spawn: Spawn
    kernel: Kernel
    requests: Mapping[str, int]
    stats: Callable[[], Mapping[str, object]] = dict
    observed: Observed = field(default_factory=Observed)
    pushed: Pushed = field(default_factory=Pushed)
    outside: Callable[[int], int] = _same
