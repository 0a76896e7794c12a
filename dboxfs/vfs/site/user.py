"""One user of a site, and the user's store while it is open.

::

    closed --enter--> opening --ok--> open --(idle, or its place is needed)--> closing --> closed
                         |
                         +--error--> closed; the next request within RETRY_AFTER gets the same error

A request calls :meth:`SiteUser.enter`, and :meth:`SiteUser.leave` when it is answered; an open file or
directory counts from its open to its release.  A store is not closed while one of these is left, or while it
has drafts that would be lost.

Concurrency: ``turn`` (one lock a user) is held while the store is opened or closed.  A task that opens a
store may close another one for its place, if no task holds that one's lock.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from msgspec import Struct, field

from dboxfs.vfs.errors import Refused
from dboxfs.vfs.serving import Served
from dboxfs.vfs.site.numbers import UserNumbers
from dboxfs.vfs.unopened import Unopened
from dboxfs.vfs.writable import WritableVfs

log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds after a failure in which a store is not opened again."""

CROWD = 256
"""Requests and open files of one user, at most; more are refused (EBUSY), to leave room for other users."""


class OpenStore(Struct, frozen=True):
    """A store that is open.

    :ivar unopened: answers READ and READDIR in a mount without OPEN; None: the mount has OPEN.
    :ivar closing: set when the store shall close.  :ivar gone: set when it has closed.
    """

    served: Served
    unopened: Unopened | None
    closing: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)

    @property
    def has_drafts(self) -> bool:
        """Whether it has drafts that would be lost with the store's close."""
        vfs = self.served.vfs
        return isinstance(vfs, WritableVfs) and vfs.drafts.would_be_lost


class SiteUser:
    """A user.

    :param open_store: opens the store, and sets ``store``.
    :ivar name: the user's name.  :ivar shown: the directory's name.  :ivar above: the inode of the directory
        above it.
    :ivar owner: uid and gid of the store's root, as read last; None: not read yet.
    :ivar store: the store; None: it is not open.
    :ivar requests: operation -> count.  :ivar errors: errno -> count of requests that failed.
    :ivar trouble: why the last opening of the store failed; empty: it succeeded.
    :ivar busy: requests that are being answered, and files and directories that are open.
    :ivar first_entered: called once, by the first request for a store that was opened ahead.
    :ivar used: when it was used last (trio's clock).  :ivar seconds: time of all its requests together.
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
        """The store, opened if need be; call :meth:`leave` afterwards.

        :param what: the operation, for the counters.
        :raises Refused: it can't be opened, and the log has the reason; EBUSY: it has too many requests.
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
        """A request is answered, or a file or directory is closed."""
        self.busy -= 1
        self.used = trio.current_time()

    def stay(self) -> None:
        """A file or directory was opened; call :meth:`leave` when it is closed."""
        self.busy += 1

    async def _open(self) -> None:
        async with self.turn:
            while self.store is None:
                if self._failed is not None and trio.current_time() - self._failed_at < RETRY_AFTER:
                    raise Refused(self._failed.errno or errno.EIO)
                self._failed = None
                await self._open_store(self)

    def failed(self, number: int, why: str) -> Refused:
        """Note that the store can't be opened; logs *why*, but not the same line again; gives the error."""
        self._failed, self._failed_at = Refused(number), trio.current_time()
        if why != self.trouble:
            self.trouble = why
            log.error("user %s: %s", self.name, why)
        return Refused(number)

    def works(self) -> None:
        """Note that the store was opened."""
        self.trouble = ""

    @property
    def is_idle(self) -> bool:
        """Whether the store is open, and no request, open file or draft needs it now."""
        return self.store is not None and not self.busy and not self.waiting and not self.store.has_drafts
