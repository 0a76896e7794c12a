"""Tell the kernel what changed, from a thread of its own.

An invalidation may wait for a request in flight on the same directory, and that request waits for the event
loop; so it must never be made on the event loop's thread (pyfuse3 releases the interpreter lock meanwhile).
The thread takes what is queued in order; the kernel answers ENOENT for what it doesn't know, which is not
an error.

While the kernel waits for us to change a directory or a file (create, rename, setattr ...) it holds its
lock, and to tell it of the file, or of a name in the directory, would hang in the kernel as long.  A process
that is killed then never ends, and whoever waits for it waits for ever.  So what is
:meth:`busy <Notifier.busy>` is let alone until it has been idle, for :data:`PATIENCE` seconds at most.

The queue holds what changed since the last round of the thread: one entry for each message that was
expunged, at about 2 µs a call.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3

log = logging.getLogger(__name__)

PATIENCE = 0.25
"""Seconds that the kernel is not told of what is being changed."""

_Item = tuple[int, bytes | None, int]


class Notifier:
    """The thread and its queue.  ``start`` after the mount is made, ``stop`` before it goes."""

    def __init__(self) -> None:
        self.sent = 0
        self._ending = threading.Event()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._busy: Counter[int] = Counter()
        self._waiting: dict[int, list[threading.Event]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="dboxfs-notify", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Drop what is queued and end: the mount is gone.  Waits for the call under way, a second at most."""
        self._ending.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(1.0)

    @staticmethod
    def at_once(inode: int) -> None:
        """The attributes of *inode* changed, and whoever gets our next answer shall ask for them.

        In the kernel this takes no lock and waits for nobody.
        """
        with contextlib.suppress(OSError):  # the kernel doesn't know it any more
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=True)

    def attributes(self, inode: int) -> None:
        """The attributes of *inode* changed."""
        self._queue.put((inode, None, 0))

    def contents(self, inode: int) -> None:
        """Bytes and attributes of *inode* may be others."""
        self._queue.put((inode, None, 1))

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """*name* in *parent* may mean something else now; *deleted*: it was this inode, which is gone."""
        self._queue.put((parent, name, deleted))

    @contextmanager
    def busy(self, *inodes: int) -> Iterator[None]:
        """These are being changed: nothing is said of them, or of names in them, meanwhile."""
        with self._lock:
            self._busy.update(inodes)
        try:
            yield
        finally:
            with self._lock:
                self._busy.subtract(inodes)
                for inode in inodes:
                    if not self._busy[inode]:
                        del self._busy[inode]
                        for waiter in self._waiting.pop(inode, ()):
                            waiter.set()

    def wait_until_idle(self, inode: int) -> None:
        """Wait for a moment in which nobody changes *inode*, :data:`PATIENCE` seconds at most.

        Blocks: not for the loop's thread.
        """
        with self._lock:
            if inode not in self._busy:
                return
            idle = threading.Event()
            self._waiting.setdefault(inode, []).append(idle)
        idle.wait(PATIENCE)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            inode, name, deleted = item
            if self._ending.is_set():
                continue
            try:
                if name is None:
                    pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=not deleted)
                else:
                    self.wait_until_idle(inode)
                    if deleted:
                        self.wait_until_idle(deleted)
                    pyfuse3.invalidate_entry(
                        pyfuse3.InodeT(inode), pyfuse3.FileNameT(name), pyfuse3.InodeT(deleted)
                    )
                self.sent += 1
            except FileNotFoundError:
                continue
            except OSError as exc:
                log.debug("invalidation of %s in inode %d: %s", name, inode, exc)
            except Exception:
                log.exception("invalidation of %s in inode %d", name, inode)
