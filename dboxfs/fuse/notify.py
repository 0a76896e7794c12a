"""Tells the kernel what changed, without ever waiting for a lock that a client holds.

The kernel holds a directory's lock while it waits for our answer to a rename, a create, an unlink, and the
lock of a page while it waits for our answer to a READ. A thread of the daemon that waits for such a lock
when the daemon is killed never ends, and the client never gets an answer. So no thread of the daemon makes
a call that takes one:

* Attributes: FUSE_NOTIFY_INVAL_INODE without a range takes no lock.
* Pages: a message's bytes are pushed, or dropped, by the OPEN of an inode that no process has open
  (:mod:`dboxfs.vfs.reader`), so that there is no READ to wait for.
* Names, by one of these :class:`Entries`:

=============  ===========================================================================================
``EPOCH``      FUSE_NOTIFY_INC_EPOCH (Linux 6.16): one counter goes up, and every name that is older is looked
               up again when it is used.  It takes no lock and no inode; the connection's own minor version
               doesn't matter (libfuse 3.14 says 38, the notification came with 44).  When the kernel looks a
               name up again on a path (not in a listing), the inode's pages are dropped too; so an epoch is
               sent only once for a batch of changes
``COMPANION``  each name by itself, by a process that may wait and aborts the connection when the daemon ends
               (:mod:`dboxfs.fuse.companion`)
``TIMEOUT``    the kernel is told nothing: it asks again after half a second.  Used where neither of the
               others is possible, and until the kernel's first request
=============  ===========================================================================================

* Listings that the kernel keeps, where directories are not opened: FUSE_NOTIFY_INVAL_INODE with the whole
  range. It takes the locks of the directory's pages, which the kernel holds while it copies entries, never
  while it waits for an answer.

The kernel is told only of a name that went away or stands for something else: it remembers no missing name.
The exception are mounts that put backups back, where it has epochs (:mod:`dboxfs.vfs.missing`): these are
told of names that come, too.

Concurrency: the methods belong to the event loop's thread. One thread sends the queue, in order; the kernel
answers ENOENT for an inode or a name that it doesn't know, which is no error. With epochs,
:meth:`Notifier.now` passes the queue: the name has to be stale before the answer to the request.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import logging
import os
import queue
import struct
import threading
import time
from typing import NamedTuple

import pyfuse3
import trio

from dboxfs.errors import MountError
from dboxfs.fuse.companion import Companion
from dboxfs.util.mounts import Mount
from dboxfs.vfs.options import Entries

log = logging.getLogger(__name__)

EPOCH_SECONDS = 0.05
"""Seconds at least between two epochs for changes that no request waits for."""

ANSWER_SECONDS = 0.25
"""Seconds that the answer to a request waits for the companion at most."""

_INC_EPOCH = struct.pack("=IiQ", 16, 8, 0)

_Name = tuple[int, bytes, int, int]


class _Listing(NamedTuple):
    """The entries of a directory changed."""

    inode: int


_Item = int | _Name | _Listing | enum.Enum | None


class _Sign(enum.Enum):
    EPOCH = enum.auto()
    TIME_IS_UP = enum.auto()


class Notifier:
    """The thread and its queue.  Call ``start`` after the mount is made, ``stop`` before it is unmounted.

    :ivar means: how names are told now.
    :ivar keeps_listings: the kernel keeps listings, and has to be told when one changes.
    :ivar sent: invalidations that reached something.
    :ivar epochs: how often all names were made stale.
    """

    def __init__(self) -> None:
        self.means = Entries.TIMEOUT
        self.keeps_listings = False
        self.sent = 0
        self.epochs = 0
        self._device = -1
        self._companion: Companion | None = None
        self._tickets: dict[int, trio.Event] = {}
        self._numbers = itertools.count(1)
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._is_due = False
        self._last = 0.0
        self._thread = threading.Thread(target=self._run, name="dboxfs-notify", daemon=True)

    # -- beginning and end ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def choose(self, entries: Entries, device: int, mount: Mount | None, companion: Companion | None) -> None:
        """Find out how names can be invalidated; call it after the kernel's first request.

        :param device: the descriptor of ``/dev/fuse``.
        :raises MountError: the way that *entries* asks for is impossible here.
        """
        self._device = device
        if entries in (Entries.AUTO, Entries.EPOCH) and self._bump():
            self.means = Entries.EPOCH
        elif entries is Entries.EPOCH:
            raise MountError("-o entries=epoch: this kernel has no epochs (Linux 6.16 has); leave it out")
        elif entries is not Entries.TIMEOUT and companion is not None and mount is not None:
            self._take(companion, mount, device, must=entries is Entries.COMPANION)
        elif entries is Entries.COMPANION:
            raise MountError("-o entries=companion: there is no companion process for this mount")
        log.debug("names are told to the kernel by %s", self.means.value)

    def _take(self, companion: Companion, mount: Mount, device: int, *, must: bool) -> None:
        try:
            companion.own(device, mount)
        except (MountError, OSError) as exc:
            if must:
                raise MountError(f"-o entries=companion: {exc}") from exc
            log.warning("names are looked up again every half second: %s", exc)
        else:
            self.means, self._companion = Entries.COMPANION, companion

    async def listen(self) -> None:
        """Receive the companion's tickets until it ends; returns at once where no companion tells names."""
        companion = self._companion
        try:
            while companion is not None:
                await trio.lowlevel.wait_readable(companion.fileno())
                for ticket in companion.tickets():
                    if (event := self._tickets.get(ticket)) is not None:
                        event.set()
        except EOFError:
            self.means = Entries.TIMEOUT
            log.error("the companion process has ended: names may be old until the store is mounted again")
            for event in self._tickets.values():
                event.set()

    def stop(self) -> None:
        """Drop the queue and end the thread.  Waits for the call under way, a second at most."""
        self._ending.set()
        with self._lock:
            self._device = -1  # its number may soon be another file's
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(1.0)

    # -- :class:`dboxfs.vfs.host.Kernel` -------------------------------------------------------

    @property
    def names_expire(self) -> bool:
        """Whether names can't be invalidated: the kernel has to ask again by itself."""
        return self.means is Entries.TIMEOUT

    @property
    def keeps_missing(self) -> bool:
        """Whether the kernel may remember that a name does not exist: an epoch makes these stale, too."""
        return self.means is Entries.EPOCH

    @staticmethod
    def push(inode: int, data: bytes) -> bool:
        """Put the whole content of *inode*, which no process has open, into the kernel's page cache.

        :return: False: the kernel doesn't know the inode.
        """
        try:
            pyfuse3.notify_store(pyfuse3.InodeT(inode), 0, data)
        except FileNotFoundError:
            return False
        return True

    def at_once(self, inode: int) -> None:
        """The attributes of *inode* changed: the client of our next answer already gets the new ones.

        In the kernel this takes no lock and doesn't wait.  Nothing happens once the mount ends.
        """
        if self._ending.is_set():
            return
        with contextlib.suppress(OSError):  # the kernel doesn't know it any more
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=True)

    def attributes(self, inode: int) -> None:
        """The attributes of *inode* changed."""
        self._queue.put(inode)

    def listing(self, inode: int) -> None:
        """The entries of the directory *inode* changed."""
        if self.keeps_listings:
            self._queue.put(_Listing(inode))

    def all_names(self) -> None:
        """Have the kernel look up every name again, where it has epochs. Elsewhere each name is told."""
        if self.means is Entries.EPOCH:
            self._bump()

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """*name* in *parent* went away, or means something else now; *deleted*: it was this inode, which is
        gone.
        """
        if self.means is Entries.COMPANION:
            self._queue.put((parent, name, deleted, 0))
        elif not self._is_due:
            self._is_due = True
            self._queue.put(_Sign.EPOCH)

    async def now(self, parent: int, name: bytes) -> None:
        """Have the kernel look *name* up again from now on; after :data:`ANSWER_SECONDS` this returns all the
        same.
        """
        if self.means is Entries.EPOCH:
            self._bump()
        elif self.means is Entries.COMPANION:
            ticket = next(self._numbers)
            done = self._tickets[ticket] = trio.Event()
            self._queue.put((parent, name, 0, ticket))
            try:
                with trio.move_on_after(ANSWER_SECONDS):
                    await done.wait()
            finally:
                del self._tickets[ticket]

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        due: float | None = None
        while (item := self._next(due)) is not None:
            if self._ending.is_set():
                continue
            if item is _Sign.EPOCH:
                due = max(time.monotonic(), self._last + EPOCH_SECONDS)
            elif isinstance(item, int):
                self._tell_attributes(item)
            elif isinstance(item, _Listing):
                self._tell_attributes(item.inode, attr_only=False)
            elif isinstance(item, tuple):
                self._tell_name(*item)
            if due is not None and time.monotonic() >= due:
                due, self._is_due = None, False  # later changes need another epoch
                self._bump()

    def _next(self, due: float | None) -> _Item:
        try:
            return self._queue.get(timeout=None if due is None else max(due - time.monotonic(), 0))
        except queue.Empty:
            return _Sign.TIME_IS_UP

    def _tell_attributes(self, inode: int, *, attr_only: bool = True) -> None:
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=attr_only)
            self.sent += 1
        except FileNotFoundError:
            return
        except OSError as exc:
            log.debug("invalidation of inode %d: %s", inode, exc)
        except Exception:
            log.exception("invalidation of inode %d", inode)

    def _tell_name(self, parent: int, name: bytes, deleted: int, ticket: int) -> None:
        if self._companion is None:
            return
        try:
            self._companion.send(parent, name, deleted, ticket)
            self.sent += 1
        except OSError as exc:  # :meth:`listen` notices its end
            log.debug("name %s in inode %d: %s", name, parent, exc)

    def _bump(self) -> bool:
        """Make all names stale; False: the kernel has no epochs, or the mount is gone. Doesn't wait."""
        self._last = time.monotonic()
        try:
            with self._lock:
                if self._device < 0:
                    return False
                os.write(self._device, _INC_EPOCH)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENODEV, errno.ENOTCONN):
                log.warning("the kernel doesn't take a new epoch: %s", exc)
            return False
        self.epochs += 1
        self.sent += 1
        return True
