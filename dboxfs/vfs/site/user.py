"""One user of a site, and the user's store while it is open.

::

    closed --enter--> opening --ok--> open --(idle, or others need the place)--> closing --> closed
                         |
                         +--error--> closed; the next request within RETRY_AFTER gets the same error

Who needs the store calls :meth:`SiteUser.enter` and, when the request is answered or the file is released,
:meth:`SiteUser.leave`.  A store in which somebody is, or that has files which are no messages yet, is not
closed.

Concurrency: ``turn`` (one lock a user) is held while the store is opened or closed.  Who opens a store may
close another one for its place, of which nobody holds the lock.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from dboxfs.vfs.errors import Refused
from dboxfs.vfs.serving import Served
from dboxfs.vfs.site.numbers import UserNumbers
from dboxfs.vfs.unopened import Unopened
from dboxfs.vfs.writable import WritableVfs

log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds after which a store that could not be opened is tried again."""

CROWD = 256
"""Requests of one user that are answered at a time; more are refused (EBUSY), so that others have room."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that is open.

    :ivar unopened: answers READ and READDIR where the kernel opens nothing.
    :ivar closing: the store shall close.  :ivar gone: it has closed.
    """

    served: Served
    unopened: Unopened | None
    closing: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)

    @property
    def has_drafts(self) -> bool:
        """Files are there that are no messages yet, and would be lost."""
        vfs = self.served.vfs
        return isinstance(vfs, WritableVfs) and vfs.drafts.would_be_lost


class SiteUser:
    """A user.

    :param open_store: opens the store, and sets ``store``.
    :ivar name: of the user.  :ivar shown: of the directory.  :ivar above: the inode of the directory that it
        is in.
    :ivar owner: uid and gid of the store's root, as it was seen last; None: not seen yet.
    :ivar store: the store; None: it is not open.
    :ivar requests: how many there were, by operation.  :ivar errors: how many of them failed, by errno.
    :ivar trouble: why the store could not be opened last; empty: it could.
    :ivar busy: requests that are being answered, and files and directories that are open.
    :ivar first_entered: is called once, when somebody enters the store, which was opened before.
    :ivar used: when it was used last (trio's clock).
    """

    def __init__(
        self,
        name: str,
        shown: bytes,
        above: int,
        numbers: UserNumbers,
        open_store: Callable[[SiteUser], Awaitable[None]],
    ) -> None:
        self.name = name
        self.shown = shown
        self.above = above
        self.numbers = numbers
        self.root = numbers.root
        self.owner: tuple[int, int] | None = None
        self.seen_at = -RETRY_AFTER
        self.store: OpenStore | None = None
        self.requests: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.busy = 0
        self.waiting = 0
        self.used = 0.0
        self.seconds = 0.0
        self.opened = 0
        self.logs: dict[int, int] = {}
        self.turn = trio.Lock()
        self.first_entered: Callable[[SiteUser], None] | None = None
        self._open_store = open_store
        self._failed: OSError | None = None
        self._failed_at = 0.0
        self.trouble = ""

    async def enter(self, what: str) -> OpenStore:
        """The store, opened if need be; to be left with :meth:`leave`.

        :param what: the operation, for the counters.
        :raises Refused: it can't be opened, which the log has told; EBUSY: too many wait for it.
        """
        if self.busy + self.waiting >= CROWD:
            raise Refused(errno.EBUSY)
        self.requests[what] += 1
        if self.store is None:
            self.waiting += 1
            try:
                await self._open()
            finally:
                self.waiting -= 1
        self.busy += 1
        if self.first_entered is not None:
            entered, self.first_entered = self.first_entered, None
            entered(self)
        assert self.store is not None
        return self.store

    def leave(self) -> None:
        """The request is answered."""
        self.busy -= 1
        self.used = trio.current_time()

    def stay(self) -> None:
        """A file or directory is open, until :meth:`leave`."""
        self.busy += 1

    async def _open(self) -> None:
        async with self.turn:
            while self.store is None:
                if self._failed is not None and trio.current_time() - self._failed_at < RETRY_AFTER:
                    raise Refused(self._failed.errno or errno.EIO)
                self._failed = None
                await self._open_store(self)

    def failed(self, number: int, why: str) -> Refused:
        """The store can't be opened: one line in the log, not the same again; gives the error."""
        self._failed, self._failed_at = Refused(number), trio.current_time()
        if why != self.trouble:
            self.trouble = why
            log.error("user %s: %s", self.name, why)
        return Refused(number)

    def works(self) -> None:
        """The store could be opened."""
        self.trouble = ""

    @property
    def is_idle(self) -> bool:
        """The store is open, and nobody needs it now."""
        return self.store is not None and not self.busy and not self.waiting and not self.store.has_drafts
