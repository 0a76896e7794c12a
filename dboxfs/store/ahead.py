"""Files that are opened before anybody asks for them: one bounded table for the whole store.

A walk through an sdbox mailbox opens each message's file; this opens the next ones in parallel, and asks
for their bytes.  What nobody takes is closed when newer ones need the room, or a few seconds later, so that
a deleted file doesn't hold its disk space and descriptors don't run out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import trio

from dboxfs.fsapi import FileSystem, Handle

MOST = 256
"""How many files at most."""

SECONDS = 5.0
"""How long one is kept."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    handle: Handle
    since: float


class AheadFiles:
    """Handles by path, the oldest first."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._some = trio.Event()
        self.opened = 0
        self.taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, path: str, willneed: int) -> None:
        """Begin to open *path* and to read its first *willneed* bytes, unless that was done already."""
        if path in self._waiting:
            return
        self.opened += 1
        self._waiting[path] = _Waiting(
            self._fs.open(path, willneed=willneed, nofollow=True, background=True), trio.current_time()
        )
        self._some.set()
        self.trim()

    def put(self, path: str, handle: Handle) -> None:
        """Keep *handle*, which is being opened, for whoever takes it."""
        old = self._waiting.pop(path, None)
        if old is not None:
            old.handle.close()
        self._waiting[path] = _Waiting(handle, trio.current_time())
        self._some.set()
        self.trim()

    def take(self, path: str) -> Handle | None:
        """The handle of *path* if there is one; the caller closes it."""
        waiting = self._waiting.pop(path, None)
        if waiting is None:
            return None
        self.taken += 1
        return waiting.handle

    def trim(self) -> None:
        """Close what is too many or too old."""
        old = trio.current_time() - SECONDS
        while self._waiting:
            path, waiting = next(iter(self._waiting.items()))
            if len(self._waiting) <= MOST and waiting.since > old:
                return
            del self._waiting[path]
            waiting.handle.close()

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
            self._waiting.pop(path).handle.close()

    def close(self) -> None:
        """Close everything."""
        while self._waiting:
            self._waiting.popitem()[1].handle.close()
