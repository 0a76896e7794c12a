"""``-o restore``: what a staged file costs, and that it is the same file when it is asked for again."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from functools import partial

import pytest
import trio
import trio.testing

from dboxfs.fsapi import Driver, Fault, FaultsDriver
from dboxfs.store import Kind
from dboxfs.vfs import writable
from dboxfs.vfs.content import EACH, Budget
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import AWAKE
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted, raises

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


ROOM, SMALL, MORE_THAN_FITS = 2 << 20, 8_000, 500
"""Bytes that all drafts together may have in memory here; bytes of a message; messages, twice what fits."""


class Slow:
    """Gives a mount a driver whose faults can be planned, and that counts operations."""

    driver: FaultsDriver

    def __call__(self, driver: Driver) -> Driver:
        self.driver = FaultsDriver(driver, depth=2)
        return self.driver


@pytest.fixture
async def disk() -> Slow:
    return Slow()


@pytest.fixture
async def filled(
    disk: Slow, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Mounted]:
    monkeypatch.setattr(writable, "Budget", partial(Budget, ROOM))
    async with mounted(Kind.SDBOX, faults=disk, restore=True) as made:
        yield made


async def stage_many(p: Program, uids: Iterable[int]) -> None:
    """As rsync does."""
    for uid in uids:
        file = await p.create(f"Work/.{uid}.eml.x7Qz", os.O_EXCL)
        await file.write(text_of(uid))
        await file.close()
        for name, value in {"keywords": "$Work", "uid": str(uid)}.items():
            await p.set_xattr(f"Work/.{uid}.eml.x7Qz", name, value)
        await p.rename(f"Work/.{uid}.eml.x7Qz", f"Work/{uid}.eml")
        await trio.lowlevel.checkpoint()  # as the request loop does


def text_of(uid: int) -> bytes:
    return b"Subject: %d\n\n" % uid + bytes([uid % 251 + 1]) * SMALL


async def test_bytes_that_do_not_fit_into_memory_go_to_the_disk_many_files_at_once(
    disk: Slow, filled: Mounted
) -> None:
    p, before = filled.program(), disk.driver.counts["append"]
    await stage_many(p, range(1, 1 + MORE_THAN_FITS))
    assert 0 < disk.driver.counts["append"] - before < MORE_THAN_FITS // 8
    texts = await p.texts("Work")
    assert all(texts[f"{uid}.eml"] == text_of(uid) for uid in range(1, 1 + MORE_THAN_FITS))
    assert filled.vfs.staging is not None
    on_disk = filled.vfs.staging.describe()["staged_bytes_on_disk"]
    assert isinstance(on_disk, int)
    assert on_disk >= MORE_THAN_FITS * SMALL - ROOM
    await filled.vfs.staging.commit()
    assert await filled.stored("Work") == [(uid, text_of(uid)) for uid in range(1, 1 + MORE_THAN_FITS)]


async def test_files_that_are_changed_while_their_bytes_go_to_the_disk_keep_the_change(
    disk: Slow, filled: Mounted, autojump_clock: trio.testing.MockClock
) -> None:
    p = filled.program()
    disk.driver.replan([Fault("append", delay=1.0)])
    uid = 0
    while not disk.driver.stats()["in_flight"]:
        uid += 1
        await stage_many(p, [uid])
    await p.append("Work/1.eml", b"more\n")
    await p.rename("Work/2.eml", "Work/other")
    await p.unlink("Work/3.eml")
    await p.set_xattr("Work/4.eml", "flags", "\\Answered")
    await p.rename("Work", "Done")
    disk.driver.replan([])
    autojump_clock.jump(2.0)
    assert filled.vfs.staging is not None
    await filled.vfs.staging.commit()
    stored = dict(await filled.stored("Done"))
    assert stored.pop(1) == text_of(1) + b"more\n"
    assert stored == {number: text_of(number) for number in (2, *range(4, uid + 1))}
    assert await filled.flags(4, "Done") == (("\\Answered",), ("$Work",))
    assert "other" in await p.names("Done")


async def test_a_full_disk_loses_no_file_that_was_closed_and_is_told_to_the_program_whose_bytes_find_no_room(
    disk: Slow, filled: Mounted
) -> None:
    p, q, uid = filled.program(), filled.program(), 0
    disk.driver.replan([Fault("append", error=errno.ENOSPC)])
    with raises(errno.ENOSPC):
        for uid in range(1, 1 + MORE_THAN_FITS):
            await stage_many(p, [uid])
    assert uid * SMALL > ROOM * 0.9
    assert await q.texts("Work") == {f"{number}.eml": text_of(number) for number in range(1, uid)}
    disk.driver.replan([])
    assert filled.vfs.staging is not None
    await filled.vfs.staging.commit()
    assert await filled.stored("Work") == [(number, text_of(number)) for number in range(1, uid)]
