"""Programs in two mounts of one store change one message at the same time, in an order made by chance.

A lookup and an open are made once more after ESTALE, as by the kernel.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from tests.vfs.inside import ONE, TWO, Mounted, Program

APPENDS = 10
"""Of each of three programs."""

PATH = "INBOX/note"


async def once_more(change: Callable[[], Awaitable[object]]) -> None:
    try:
        await change()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        await change()


@pytest.mark.parametrize("seed", range(2))
async def test_the_name_is_there_at_any_time_and_so_is_all_that_was_appended(m: Mounted, seed: int) -> None:
    rng, numbers, appended = random.Random(seed), itertools.count(), list[bytes]()
    await m.program().write(PATH, TWO)
    async with m.again() as other:

        def program() -> Program:
            return rng.choice([m, other]).program()

        async def append() -> None:
            for _ in range(APPENDS):
                line = b"line %d\n" % next(numbers)
                await program().append(PATH, line)
                appended.append(line)
                await trio.sleep(rng.choice([0, 0.001]))

        async def date() -> None:
            while True:
                who = program()
                await once_more(partial(who.set_received, PATH, rng.randrange(10**9)))
                await trio.sleep(0.002)

        async def look() -> None:
            while True:
                assert (await program().read(PATH)).startswith(TWO)
                await trio.sleep(rng.choice([0, 0.001]))

        async def hear() -> None:
            while True:
                await rng.choice([m, other]).follow()
                await trio.sleep(rng.choice([0, 0.002]))

        async with trio.open_nursery() as others:
            for task in (date, look, look, hear):
                others.start_soon(task)
            async with trio.open_nursery() as writers:
                for _ in range(3):
                    writers.start_soon(append)
            others.cancel_scope.cancel()
    (_, first), (_, text) = await m.stored()
    lines = Counter(text.removeprefix(TWO).splitlines(keepends=True))
    assert first == ONE
    assert lines == Counter(appended)
