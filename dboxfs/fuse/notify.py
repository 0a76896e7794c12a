"""Tell the kernel what changed, from a thread of its own.

An invalidation may wait for a request in flight on the same directory, and that request waits for the event
loop; so it must never be made on the event loop's thread (pyfuse3 releases the interpreter lock meanwhile).
The thread takes what is queued in order; the kernel answers ENOENT for what it doesn't know, which is not
an error.

The queue is bounded by what changes between two rounds of the thread; a mailbox of which more than
:data:`ENTRY_LIMIT` messages were expunged at once still costs one call a message, about 2 µs each.
"""

from __future__ import annotations

import logging
import queue
import threading

import pyfuse3

log = logging.getLogger(__name__)


class Notifier:
    """The thread and its queue.  ``start`` after the mount is made, ``stop`` before it goes."""

    def __init__(self) -> None:
        self.sent = 0
        self._queue: queue.SimpleQueue[tuple[int, bytes | None, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dboxfs-notify", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is queued, then end.  Doesn't wait: an invalidation may wait for the kernel."""
        self._queue.put(None)

    def attributes(self, inode: int) -> None:
        """The attributes of *inode* changed."""
        self._queue.put((inode, None, 0))

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """*name* in *parent* may mean something else now; *deleted*: it was this inode, which is gone."""
        self._queue.put((parent, name, deleted))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            inode, name, deleted = item
            try:
                if name is None:
                    pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=True)
                else:
                    pyfuse3.invalidate_entry(
                        pyfuse3.InodeT(inode), pyfuse3.FileNameT(name), pyfuse3.InodeT(deleted)
                    )
                self.sent += 1
            except FileNotFoundError:
                continue
            except OSError as exc:
                log.debug("invalidation of %s in inode %d: %s", name, inode, exc)
