"""Counts of a running check; and whether other processes are changing the store meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct, field

from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.store.salvage import Found
from dboxfs.tools.check.messages import Who

LATELY = 120.0
"""Seconds after the last change of a file during which another process may still be changing it."""


class Tally(Struct):
    """Counts of a check.

    ``texts``: whether texts are read.  ``report``: called after each file.  ``messages``, ``bytes``: checked
    and read so far.  ``of``: number of messages in the indexes.  ``external``: number of messages with
    attachments in files of their own.  ``encrypted``: the encrypted messages.
    """

    texts: bool
    report: Callable[[Tally], None]
    messages: int = 0
    of: int = 0
    bytes: int = 0
    external: int = 0
    encrypted: set[Who] = field(default_factory=set)

    def message(self, found: Found, who: Who) -> None:
        """Count a message that was checked."""
        self.messages += 1
        if found.metadata is not None and found.metadata.ext_refs is not None:
            self.external += 1
        if found.measured is not None and found.measured.encrypted:
            self.encrypted.add(who)

    def read(self, count: int) -> None:
        """Count *count* bytes that were read from a file."""
        self.bytes += count
        self.report(self)


async def touched(fs: FileSystem, paths: list[str]) -> bool:
    """Whether one of *paths* was changed lately.  A date in the future (another clock) counts as lately."""
    found = await fs.peek([Peek(path, ()) for path in paths])
    now = time.time()
    return any(isinstance(one, PeekResult) and now - one.stat.st_mtime < LATELY for one in found)
