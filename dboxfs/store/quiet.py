"""Reads a mailbox, or the tree, again when the writer of this process pauses.

Each change of the writer makes an event, and it is shown already.  What others have changed, the writer reads
in each of its turns, under the log's lock.  So an event of a mailbox that is being written needs no look at
the disk until the writer has paused for :data:`WRITER_PAUSES` seconds; it is read after
:data:`WRITER_READ_AFTER` seconds all the same.  So is the tree, while this process makes, removes or renames
mailboxes (:data:`TREE_PAUSES`): a scan of it reads every mailbox's directory.

Concurrency: one waiting task a mailbox; an event that comes when it has begun to read starts another one.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

WRITER_PAUSES = 0.02
"""Seconds without a turn of the writer, after which a mailbox is read."""
WRITER_READ_AFTER = 0.5
"""Seconds after which it is read all the same."""
TREE_PAUSES = 0.1
"""Seconds without a mailbox that this process has made, removed or renamed, after which the tree is read."""


class Turns(Protocol):
    """The index of a mailbox, as far as its writer's turns go (:class:`IndexFiles`)."""

    @property
    def turns(self) -> int:
        """How many there were."""

    def was_fed(self, seconds: float) -> bool:
        """Whether one has begun in the last *seconds*."""


class OwnTurns:
    """The turns of this process at one thing, which their holder counts."""

    def __init__(self) -> None:
        self.turns = 0
        self._begun = -math.inf

    def begin(self) -> None:
        """A turn begins now."""
        self.turns += 1
        self._begun = trio.current_time()

    def was_fed(self, seconds: float) -> bool:
        """Whether a turn has begun in the last *seconds*."""
        return trio.current_time() - self._begun < seconds


class QuietReads:
    """The mailboxes of a store, or its tree, that are read when their writer pauses.

    :param pause: seconds without a turn of the writer that are a pause.
    """

    def __init__(self, pause: float = WRITER_PAUSES) -> None:
        self._pause = pause
        self._waiting: set[Turns] = set()

    def read(
        self, index: Turns, read: Callable[[], Awaitable[None]], now: trio.Nursery, later: trio.Nursery
    ) -> None:
        """Have *read* called in the tasks *now*; or in *later*, when the writer of *index* pauses."""
        if index in self._waiting:
            return
        if not index.was_fed(self._pause):
            now.start_soon(read)
            return
        self._waiting.add(index)

        async def wait() -> None:
            begun, turns = trio.current_time(), -1
            while turns != index.turns and trio.current_time() - begun < WRITER_READ_AFTER:
                turns = index.turns
                await trio.sleep(self._pause)
            self._waiting.discard(index)
            await read()

        later.start_soon(wait)
