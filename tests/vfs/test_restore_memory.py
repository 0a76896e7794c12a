"""``-o restore``: what a staged file costs, and that it is the same file when it is asked for again."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import trio.testing

from dboxfs.store import Kind
from dboxfs.vfs.content import EACH
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import AWAKE
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted

MANY = 3 * AWAKE
MOST_BYTES = 700
"""Bytes of memory that a staged file may take, its text aside."""
FEW, LOTS = 100, 500
MOST_IN_COMMIT = {Kind.SDBOX: 1700, Kind.MDBOX: 2300}
"""Bytes of memory that the commit of a mailbox may take for each of its messages, beside what stays."""


@pytest.fixture
async def m(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Mounted]:
    async with mounted(Kind.SDBOX, restore=True) as made:
        yield made


async def stage(p: Program, uid: int, text: bytes = b"x") -> None:
    path = f"Work/{uid}.eml"
    file = await p.create(path, os.O_EXCL)
    await file.write(text)
    await file.close()
    for name, value in {
        "flags": "\\Seen",
        "keywords": "$Work",
        "guid": f"{uid:032x}",
        "uid": str(uid),
    }.items():
        await p.set_xattr(path, name, value)
    await p.set_received(path, JULY + uid)


def drafts() -> int:
    """How many objects there are."""
    return sum(isinstance(some, Draft) for some in gc.get_objects())


async def test_a_staged_file_that_nobody_has_open_takes_a_few_hundred_bytes(m: Mounted, p: Program) -> None:
    gc.collect()
    others = drafts()  # of other tests
    tracemalloc.start()
    try:
        for uid in range(1, 2 * AWAKE):
            await stage(p, uid)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for uid in range(1000, 1000 + MANY):
            await stage(p, uid)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert m.vfs.staging is not None
    assert m.vfs.staging.describe()["staged"] == 2 * AWAKE - 1 + MANY
    assert drafts() - others <= AWAKE
    assert grown / MANY < MOST_BYTES


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
async def test_the_commit_of_a_mailbox_takes_a_few_hundred_bytes_a_message_for_as_long_as_it_runs(
    kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    async with mounted(kind, restore=True) as m:
        assert m.vfs.staging is not None
        program, took = m.program(), list[int]()
        for first, count in (1, AWAKE), (1000, FEW), (2000, LOTS):
            for uid in range(first, first + count):
                await stage(program, uid)
            gc.collect()
            tracemalloc.start()
            try:
                await m.vfs.staging.commit()
                gc.collect()
                after, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            took.append(peak - after)
        assert len(await m.stored("Work")) == AWAKE + FEW + LOTS
    assert (took[2] - took[1]) / (LOTS - FEW) < MOST_IN_COMMIT[kind]


async def test_a_staged_file_is_the_same_after_many_others_came(m: Mounted, p: Program, q: Program) -> None:
    """Small and large, in one part and in many, in the places of others, renamed."""
    large = ONE + bytes(range(256)) * (EACH // 128)
    await stage(p, 1, TWO)
    await stage(p, 2, large)
    holes = await p.create("Work/3.eml")
    await holes.write(b"end\n", 500_000)
    await holes.write(ONE)
    await holes.close()
    for uid in range(100, 100 + MANY):
        await stage(p, uid)
    with_hole = ONE + bytes(500_000 - len(ONE)) + b"end\n"
    texts = await q.texts("Work")
    assert (texts["1.eml"], texts["2.eml"], texts["3.eml"]) == (TWO, large, with_hole)
    file = await q.open("Work/1.eml", os.O_WRONLY)
    await file.write(ONE, len(TWO))
    for uid in range(500, 500 + MANY):
        await stage(p, uid)
    await file.write(ONE, len(TWO + ONE))
    await file.close()
    await p.rename("Work/2.eml", "Work/100.eml")
    await p.unlink("Work/101.eml")
    assert await q.xattr("Work/1.eml", "keywords") == "$Work"
    assert (await q.stat("Work/100.eml")).modified_ns == (JULY + 2) * 10**9
    assert m.vfs.staging is not None
    await m.vfs.staging.commit()
    stored = dict(await m.stored("Work"))
    assert (stored[1], stored[2], stored[3]) == (TWO + ONE + ONE, large, with_hole)
    assert sorted(stored) == [1, 2, 3, *range(102, 100 + MANY), *range(500, 500 + MANY)]
    assert await m.flags(2, "Work") == (("\\Seen",), ("$Work",))


async def test_a_mailbox_with_staged_files_is_renamed_with_them(m: Mounted, p: Program) -> None:
    for uid in range(1, MANY):
        await stage(p, uid, TWO)
    await p.set_xattr("Work", "guid", "5a" * 16)
    await p.rename("Work", "Done")
    assert m.vfs.staging is not None
    await m.vfs.staging.commit()
    assert await m.stored("Done") == [(uid, TWO) for uid in range(1, MANY)]
    assert await p.xattr("Done", "guid") == "5a" * 16
