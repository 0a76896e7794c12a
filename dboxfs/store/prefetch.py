"""Files that are brought ahead before anybody asks for them: one bounded table for the whole store.

A walk through an sdbox mailbox opens each message's file; this prepares the next ones in parallel.  Where
the kernel keeps what was read, that means to open each, ask for its bytes and close it, some at a time:
what follows finds path and bytes in the kernel's caches.  Elsewhere (storage that can't be read without
waiting) the handle stays open here until it is taken.  What nobody takes is closed when newer ones need the
room, or a few seconds later, so that a deleted file doesn't hold its disk space and descriptors don't run
out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from dboxfs.fsapi import FileSystem, Handle

MOST_FILES = 256
"""How many files at most."""

SECONDS = 5.0
"""How long one is kept."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    handle: Handle | None
    since: float


class AheadFiles:
    """What was brought ahead, by path, the oldest first."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._some = trio.Event()
        self.opened = 0
        self.taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def stats(self) -> dict[str, int]:
        """Files brought ahead, how many of them were then asked for, and how many wait for it."""
        return {"brought": self.opened, "used": self.taken, "waiting": len(self._waiting)}

    def bring(self, files: Iterable[tuple[str, int]]) -> None:
        """Begin to open the files and to read their first bytes, (path, size), unless that was done."""
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
        """Keep *handle*, which is being opened, for whoever takes it."""
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
        """Close what is too many or too old."""
        old = trio.current_time() - SECONDS
        while self._waiting:
            path, waiting = next(iter(self._waiting.items()))
            if len(self._waiting) <= MOST_FILES and waiting.since > old:
                return
            self._close(self._waiting.pop(path))

    async def run(self) -> None:
        """Close what nobody took in time, until cancelled.  Sleeps while there is nothing."""
        while True:
            await self._some.wait()
            await trio.sleep(SECONDS)
            self.trim()
            if not self._waiting:
                self._some = trio.Event()

    def drop(self, directory: str) -> None:
        """Close everything in *directory*."""
        for path in [path for path in self._waiting if path.rpartition("/")[0] == directory]:
            self._close(self._waiting.pop(path))

    def close(self) -> None:
        """Close everything."""
        while self._waiting:
            self._close(self._waiting.popitem()[1])

    @staticmethod
    def _close(waiting: _Waiting | None) -> None:
        if waiting is not None and waiting.handle is not None:
            waiting.handle.close()
