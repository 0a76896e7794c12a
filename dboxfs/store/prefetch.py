"""Bring messages into memory before a program reads them, while it walks through a mailbox.

A walk (:class:`Walk`) is a run of opens at rising positions with small gaps.  ``tar``, ``grep -r`` and backup
programs make them: they read files in the order of the listing or of inode numbers, which here is the order
of uids.  The first opens of a walk bring :data:`FIRST_WINDOW` messages ahead.  Each time that half of these
were opened, the window doubles, up to :data:`LARGEST_WINDOW`.  Any other open ends the walk and brings
nothing ahead.

In an sdbox each message is a file (:class:`AheadFiles`), and the next ones are opened in parallel.  If the
kernel caches the driver's files, each file is opened, its bytes are requested and it is closed, some files at
a time: the later open finds path and bytes in the kernel's caches.  With other drivers the handle stays open
here until it is taken.  Handles that are not taken are closed when newer ones need the room, or after a few
seconds, so that a deleted file doesn't hold disk space and descriptors don't run out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import trio
from msgspec import Struct

from dboxfs.fsapi import FileSystem, Handle

FIRST_WINDOW = 16
"""Messages that a new walk brings ahead."""

LARGEST_WINDOW = 128
"""Messages that a walk brings ahead at most."""

_STRIDE = 4  # distance of two opens in a walk, at most

MOST_FILES = 256
"""Files that are brought ahead at most."""

SECONDS = 5.0
"""Seconds that a file is kept."""


class _Waiting(Struct, frozen=True):
    handle: Handle | None
    since: float


class AheadFiles:
    """The files of a whole store that were brought ahead, by path, the oldest first."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._some = trio.Event()
        self.opened = 0
        self.taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def stats(self) -> dict[str, int]:
        """Counts of files that were brought ahead, of those that were then used, and of those that wait."""
        return {"brought": self.opened, "used": self.taken, "waiting": len(self._waiting)}

    def bring(self, files: Iterable[tuple[str, int]]) -> None:
        """Begin to open files and to read their first bytes, (path, size), unless they wait already."""
        wanted = [(path, size) for path, size in files if path not in self._waiting]
        self.opened += len(wanted)
        if self._fs.driver.kernel_cached:
            self._fs.willneed(wanted)
            for path, _ in wanted:
                self._keep(path, None)
        else:
            for path, size in wanted:
                self._keep(path, self._fs.open(path, willneed=size, nofollow=True, background=True))
        self.trim()

    def _keep(self, path: str, handle: Handle | None) -> None:
        self._waiting[path] = _Waiting(handle, trio.current_time())
        self._some.set()

    def put(self, path: str, handle: Handle) -> None:
        """Keep *handle*, which is being opened, until it is taken."""
        self._close(self._waiting.pop(path, None))
        self._keep(path, handle)
        self.trim()

    def take(self, path: str) -> tuple[bool, Handle | None]:
        """Whether *path* was brought ahead, and its handle if there is one; the caller closes it."""
        waiting = self._waiting.pop(path, None)
        if waiting is None:
            return False, None
        self.taken += 1
        return True, waiting.handle

    def trim(self) -> None:
        """Close files that are too many or too old."""
        old = trio.current_time() - SECONDS
        while self._waiting:
            path, waiting = next(iter(self._waiting.items()))
            if len(self._waiting) <= MOST_FILES and waiting.since > old:
                return
            self._close(self._waiting.pop(path))

    async def run(self) -> None:
        """Close files that were not taken in time, until cancelled.  Sleeps while there are none."""
        while True:
            await self._some.wait()
            await trio.sleep(SECONDS)
            self.trim()
            if not self._waiting:
                self._some = trio.Event()

    def drop(self, directory: str) -> None:
        """Close all files in *directory*."""
        for path in [path for path in self._waiting if path.rpartition("/")[0] == directory]:
            self._close(self._waiting.pop(path))

    def close(self) -> None:
        """Close all files."""
        while self._waiting:
            self._close(self._waiting.popitem()[1])

    @staticmethod
    def _close(waiting: _Waiting | None) -> None:
        if waiting is not None and waiting.handle is not None:
            waiting.handle.close()


class Walk:
    """Recognizes a walk through a mailbox by the opens of its messages.

    :param bring: called with positions [first, last) of messages to bring ahead.  ``last`` may be beyond the
        end.
    """

    __slots__ = ("_bring", "_brought", "_last", "_window")

    def __init__(self, bring: Callable[[int, int], None]) -> None:
        self._bring = bring
        self._last = -1
        self._brought = 0
        self._window = 0

    def opened(self, position: int, *, useful: bool) -> None:
        """Note that the message at *position* is opened; *useful*: its bytes were not all in memory."""
        step = position - self._last
        self._last = position
        if not 0 < step <= _STRIDE or not useful:
            self._window = 0
            return
        if not self._window:
            self._window, self._brought = FIRST_WINDOW, position + 1
        elif self._brought - position > self._window // 2:
            return
        else:
            self._window = min(self._window * 2, LARGEST_WINDOW)
            self._brought = max(self._brought, position + 1)
        first, self._brought = self._brought, position + 1 + self._window
        self._bring(first, self._brought)
