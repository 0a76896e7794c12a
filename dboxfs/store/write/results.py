"""Results of write operations."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from msgspec import Struct

T = TypeVar("T")


class Saved(Struct, frozen=True):
    """Messages that were saved: uid and guid (16 bytes) of each, in the order in which they were given."""

    uid_validity: int
    uids: tuple[int, ...]
    guids: tuple[bytes, ...]


class Copied(Struct, frozen=True):
    """Messages that were copied or moved: uids in the source, ascending, and their uids in the target."""

    uid_validity: int
    source_uids: tuple[int, ...]
    uids: tuple[int, ...]


def now_seconds() -> int:
    """Seconds since the epoch."""
    return int(time.time())


def few(uids: Sequence[int]) -> str:
    """The first ten of many uids, for a line in the log."""
    return " ".join(map(str, uids[:10])) + (" ..." if len(uids) > 10 else "")


def first_error(group: BaseExceptionGroup) -> Exception | None:
    """The error to report, of several errors of parallel tasks; None: only cancellations."""
    for error in group.exceptions:
        found = first_error(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Exception):
            return found
    return None


async def side_by_side(
    work: Callable[[int, T], Awaitable[None]], items: Sequence[T], *, at_once: int | None = None
) -> None:
    """Run *work* for all items, with their positions; the first error ends the others and is raised.

    :param at_once: how many run at the same time, each in a task; None: all.
    """
    if len(items) == 1:
        await work(0, items[0])
        return
    waiting = enumerate(items)

    async def work_on() -> None:
        for at, item in waiting:
            await work(at, item)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(len(items) if at_once is None else min(at_once, len(items))):
                nursery.start_soon(work_on)
    except BaseExceptionGroup as group:
        error = first_error(group)
        if error is None:
            raise
        raise error from group
