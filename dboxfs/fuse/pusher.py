"""The thread that puts messages into the kernel's page cache before a program asks for them.

FUSE_NOTIFY_STORE waits, in the kernel, for a READ in flight on the same inode, and that READ waits for the
daemon. The thread may wait there, the event loop never. These rules keep the thread from waiting for a READ
whose answer waits for the thread, and keep a program from reading faster than the thread stores:

1. There is one thread. The READ that opens a window is answered after its batch is stored
   (:meth:`PushBatch.wait`), or at once if the program has messages of the window before left to read.
2. A READ of an inode that is queued waits for that batch, too, and the thread passes over the inode. An inode
   is queued from :meth:`Pusher.expect` on, before its bytes are read.
3. A READ of the inode that is being stored at this moment is answered at once: the thread waits for it. It
   stores the rest of the batch from its end then: the program, as fast as the thread, would ask for each.
4. An inode with a READ in flight is not queued.
5. No wait lasts longer than :data:`WAIT_SECONDS`.

A daemon that is killed while the thread waits would never end, and neither would the program whose READ it
waits for. So nothing is pushed before a companion process (:mod:`dboxfs.fuse.companion`) stands ready to end
the connection then, nor after it has ended (:attr:`Pusher.guarded`).

After a repair of the store the kernel's pages may be wrong. The same thread drops them (:meth:`Pusher.drop`),
in the order of the calls. Bytes that were read before a drop are not stored after it: a batch has the
:attr:`Pusher.generation` at which it was expected, and each drop begins a new generation.

Concurrency: all methods belong to the event loop, except those of the thread itself. ``_lock`` guards the
state that both use; neither waits while it holds the lock.
"""

from __future__ import annotations

import logging
import os
import queue
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio
from msgspec import Struct, field

from dboxfs.vfs.host import Item

log = logging.getLogger(__name__)

_HEADER = struct.Struct("=IiQ")
_STORE = struct.Struct("=QQII")
_INVAL_INODE = struct.Struct("=Qqq")
_NOTIFY_INVAL_INODE = 2
_NOTIFY_STORE = 4

WAIT_SECONDS = 0.02
"""Seconds that a READ waits for a batch at most: a safeguard, should the rules not be enough."""


MISSED_MOST = 4096
"""Inodes that are remembered because the kernel didn't know them, at most."""

_MISSED_IN_A_ROW = 4


class PushBatch(Struct, eq=False):
    """Messages that are handed over together.

    ``inodes``: of all that were expected.  ``hand``: gives the batch to the thread.  ``counts``: waits, and
    waits that were given up.
    """

    generation: int
    inodes: Sequence[int]
    hand: Callable[[PushBatch], None]
    counts: Counter[str]
    items: Sequence[Item] = ()
    done: trio.Event = field(default_factory=trio.Event)

    def push(self, items: Sequence[Item]) -> None:
        """Have these messages stored, in this order, and no other of those that were expected. Once only."""
        self.items = items
        self.counts["batches"] += 1
        self.hand(self)

    async def wait(self) -> None:
        """Wait until the thread is through with all of them, for :data:`WAIT_SECONDS` at most."""
        self.counts["waits"] += 1
        with trio.move_on_after(WAIT_SECONDS) as scope:
            await self.done.wait()
        self.counts["given_up"] += scope.cancelled_caught


class Pusher:
    """Puts messages into the kernel's page cache, and has it drop them, in a thread.

    :param put: stores the content of an inode; False: the kernel doesn't know the inode. May wait for a READ.
    :param forget: has the kernel drop the pages of an inode. May wait for a READ.
    :param soon: runs a function on the event loop, from any thread.
    :ivar generation: see the module.
    :ivar guarded: whether messages may be pushed.
    """

    def __init__(
        self,
        put: Callable[[int, bytes | memoryview], bool],
        forget: Callable[[int], object],
        soon: Callable[[Callable[[], object]], object],
    ) -> None:
        self.generation = 0
        self.guarded = False
        self._put = put
        self._forget = forget
        self._soon = soon
        self._lock = threading.Lock()
        self._in_flight: Counter[int] = Counter()
        self._queued: dict[int, PushBatch] = {}
        self._at = 0
        self._missed: dict[int, None] = {}
        self._is_overtaken = False
        self._todo: queue.SimpleQueue[PushBatch | Sequence[int] | None] = queue.SimpleQueue()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="dboxfs-pusher", daemon=True)
        self._counts: Counter[str] = Counter()

    @classmethod
    def onto(cls, device: int) -> Pusher:
        """A pusher for the connection of this descriptor of ``/dev/fuse``."""
        return cls(partial(_store, device), partial(_drop_pages, device), _soon())

    def start(self) -> None:
        """Begin to store and drop."""
        self._thread.start()

    def stop(self) -> None:
        """Drop the queue and end the thread. Waits for the call under way, a second at most."""
        self._ending = True
        self._todo.put(None)
        if self._thread.is_alive():
            self._thread.join(1.0)

    def stats(self) -> dict[str, int]:
        """Messages and bytes stored, messages passed over, waits, and waits that were given up."""
        names = ("messages", "bytes", "batches", "passed_over", "unknown", "dropped", "waits", "given_up")
        with self._lock:
            return {name: self._counts[name] for name in names}

    # -- for READ requests -------------------------------------------------------------------------

    def begin(self, inode: int) -> PushBatch | None:
        """A READ of *inode* has come; gives the batch that it waits for.  Call :meth:`end` afterwards."""
        with self._lock:
            self._in_flight[inode] += 1
            if self._at == inode:
                self._is_overtaken = True
                return None
            return self._queued.pop(inode, None)

    def end(self, inode: int) -> None:
        """The READ of *inode* is about to be answered."""
        with self._lock:
            self._in_flight[inode] -= 1
            if not self._in_flight[inode]:
                del self._in_flight[inode]

    # -- pushing and dropping ----------------------------------------------------------------------

    def wanted(self, inodes: Iterable[int]) -> set[int]:
        """Those of *inodes* that may be pushed: neither queued already, nor with a READ in flight."""
        if not self.guarded:
            return set()
        with self._lock:
            return {one for one in inodes if one not in self._in_flight and one not in self._queued}

    def missed(self, inode: int) -> bool:
        """Whether *inode* was to be stored, and the kernel didn't know it yet: a program reads messages
        before it has read the whole listing.  Forgotten with this answer.
        """
        with self._lock:
            is_missed = inode in self._missed
            if is_missed:
                del self._missed[inode]
        return is_missed

    def expect(self, inodes: Sequence[int]) -> PushBatch:
        """The bytes of these messages are about to be read and pushed (:meth:`PushBatch.push`): from now on,
        READs of them wait for that.
        """
        batch = PushBatch(self.generation, inodes, self._todo.put, self._counts)
        with self._lock:
            self._queued.update({inode: batch for inode in inodes if inode not in self._in_flight})
            for inode in inodes:
                self._missed.pop(inode, None)
        return batch

    def drop(self, inodes: Sequence[int]) -> None:
        """Have the kernel drop the pages of *inodes*, and discard all queued bytes that were read before."""
        with self._lock:
            self.generation += 1
        self._todo.put(inodes)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while (task := self._todo.get()) is not None and not self._ending:
            try:
                if isinstance(task, PushBatch):
                    self._store(task)
                else:
                    self._drop(task)
            except Exception:
                log.exception("the kernel's page cache")
            finally:
                if isinstance(task, PushBatch):
                    self._through(task)

    def _store(self, batch: PushBatch) -> None:
        unknown, items = 0, deque(batch.items)
        while items and not self._ending:
            inode, data = items.popleft()
            if unknown == _MISSED_IN_A_ROW:  # nor does the kernel know the others
                self._miss(inode)
            elif self._take(inode, batch):
                try:
                    known = self._put(inode, data)
                finally:
                    self._leave()
                unknown = 0 if known else unknown + 1
                with self._lock:
                    self._counts["messages" if known else "unknown"] += 1
                    self._counts["bytes"] += len(data) if known else 0
                    if self._is_overtaken:
                        items.reverse()
                    self._is_overtaken = False
                if not known:
                    self._miss(inode)

    def _miss(self, inode: int) -> None:
        with self._lock:
            self._missed[inode] = None
            if len(self._missed) > MISSED_MOST:
                del self._missed[next(iter(self._missed))]

    def _take(self, inode: int, batch: PushBatch) -> bool:
        """Whether *inode* is still to be stored; from now on it is being stored."""
        with self._lock:
            queued = self._queued.get(inode) is batch
            if queued:
                del self._queued[inode]
            if not queued or batch.generation != self.generation or inode in self._in_flight:
                self._counts["passed_over"] += 1
                return False
            self._at = inode
            return True

    def _leave(self) -> None:
        with self._lock:
            self._at = 0

    def _drop(self, inodes: Sequence[int]) -> None:
        for inode in inodes:
            with self._lock:
                self._at = inode
            try:
                self._forget(inode)
            finally:
                self._leave()
            self._counts["dropped"] += 1

    def _through(self, batch: PushBatch) -> None:
        with self._lock:
            for inode in batch.inodes:
                if self._queued.get(inode) is batch:
                    del self._queued[inode]
        try:
            self._soon(batch.done.set)
        except trio.RunFinishedError:
            log.debug("the mount has ended")


# -- notifications for /dev/fuse (<linux/fuse.h>) --------------------------------------------------


def _store(device: int, inode: int, data: bytes | memoryview) -> bool:
    head = _HEADER.pack(_HEADER.size + _STORE.size + len(data), _NOTIFY_STORE, 0)
    return _written(device, [head + _STORE.pack(inode, 0, len(data), 0), data])


def _drop_pages(device: int, inode: int) -> bool:
    head = _HEADER.pack(_HEADER.size + _INVAL_INODE.size, _NOTIFY_INVAL_INODE, 0)
    return _written(device, [head + _INVAL_INODE.pack(inode, 0, 0)])


def _written(device: int, parts: Sequence[bytes | memoryview]) -> bool:
    try:
        os.writev(device, parts)
    except FileNotFoundError:
        return False
    return True


def _soon() -> Callable[[Callable[[], object]], object]:
    return trio.lowlevel.current_trio_token().run_sync_soon
