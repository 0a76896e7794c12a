"""Reads a mailbox again when the writer of this process pauses.

Each change of the writer makes an event, and it is shown already.  What others have changed, the writer reads
in each of its turns, under the log's lock.  So an event of a mailbox that is being written needs no look at
the disk until the writer has paused for :data:`WRITER_PAUSES` seconds; it is read after
:data:`WRITER_READ_AFTER` seconds all the same.

Concurrency: one waiting task a mailbox; an event that comes when it has begun to read starts another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

WRITER_PAUSES = 0.02
"""Seconds without a turn of the writer, after which a mailbox is read."""
WRITER_READ_AFTER = 0.5
"""Seconds after which it is read all the same."""


class Turns(Protocol):
    """The index of a mailbox, as far as its writer's turns go (:class:`IndexFiles`)."""

    @property
    def turns(self) -> int:
        """How many there were."""

    def was_fed(self, seconds: float) -> bool:
        """Whether one has begun in the last *seconds*."""


class QuietReads:
    """The mailboxes of a store that are read when their writer pauses."""

    def __init__(self) -> None:
        self._waiting: set[Turns] = set()

    def read(
        self, index: Turns, read: Callable[[], Awaitable[None]], now: trio.Nursery, later: trio.Nursery
    ) -> None:
        """Have *read* called in the tasks *now*; or in *later*, when the writer of *index* pauses."""
        if index in self._waiting:
            return
        if not index.was_fed(WRITER_PAUSES):
            now.start_soon(read)
            return
        self._waiting.add(index)

        async def wait() -> None:
            begun, turns = trio.current_time(), -1
            while turns != index.turns and trio.current_time() - begun < WRITER_READ_AFTER:
                turns = index.turns
                await trio.sleep(WRITER_PAUSES)
            self._waiting.discard(index)
            await read()

        later.start_soon(wait)
