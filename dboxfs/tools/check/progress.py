"""What a check has looked at so far; and whether others are changing the store meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.store.salvage import Found
from dboxfs.tools.check.messages import Who

LATELY = 120.0
"""Seconds for which a change of a file counts as one that may be going on."""


@dataclass(slots=True)
class Tally:
    """Counts.  ``texts``: whether texts are read.  ``messages``, ``bytes``: so far.  ``of``: messages that
    the indexes have.

    ``external``: messages with attachments in files of their own.  ``encrypted``: which ones are.
    """

    texts: bool
    report: Callable[[Tally], None]
    messages: int = 0
    of: int = 0
    bytes: int = 0
    external: int = 0
    encrypted: set[Who] = field(default_factory=set)

    def message(self, found: Found, who: Who) -> None:
        """A message was looked at."""
        self.messages += 1
        if found.metadata is not None and found.metadata.ext_refs is not None:
            self.external += 1
        if found.measured is not None and found.measured.encrypted:
            self.encrypted.add(who)

    def read(self, count: int) -> None:
        """Bytes of a file were read."""
        self.bytes += count
        self.report(self)


async def touched(fs: FileSystem, paths: list[str]) -> bool:
    """Whether one of *paths* was changed lately (or in the future, by another clock)."""
    found = await fs.peek([Peek(path, ()) for path in paths])
    now = time.time()
    return any(isinstance(one, PeekResult) and now - one.stat.st_mtime < LATELY for one in found)
