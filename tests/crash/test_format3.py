"""Whatever operation a writer of dbox version 3 dies at, nothing acknowledged is lost or half done.

As in ``test_crash``, but without Dovecot, which can't read these stores: dboxfs opens what is left.  The
stores have messages of both versions.  All points: ``DBOXFS_CRASH=all``.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from tests.crash.points import LAST_WORDS, Point, Recorder
from tests.store.write.stores import body

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 6
THREE = WriteOptions(Neighbour.ALONE, dbox_version=3, memory_limit=10_000)
TWO = WriteOptions(Neighbour.ALONE, memory_limit=10_000)

Key = tuple[str, bytes]
Change = Callable[[StoreWriter], Awaitable[object]]


async def save(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100)), NewMessage(body(101, 50_000)), NewMessage(body(102))])


async def upload(writer: StoreWriter) -> None:
    spool = writer.spool("INBOX")
    try:
        text = body(100, 300_000)
        for at in range(0, len(text), 100_000):
            await spool.write_all(text[at : at + 100_000])
        await spool.sync()
        await writer.save("INBOX", [NewMessage(spool), NewMessage(body(101))])
    finally:
        spool.close()


async def replace(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100), replaces=2)])


async def copy(writer: StoreWriter) -> None:
    await writer.copy("INBOX", [1, 2], "Work")


async def move(writer: StoreWriter) -> None:
    await writer.move("INBOX", [1, 2], "Work")


async def expunge(writer: StoreWriter) -> None:
    await writer.expunge("INBOX", [1, 3])


async def purge(writer: StoreWriter) -> None:
    await writer.purge()


EITHER = (frozenset({("INBOX", body(2)), ("INBOX", body(100))}),)
BETWEEN = tuple(frozenset({("INBOX", body(n)), ("Work", body(n))}) for n in range(1, 3))
SCENARIOS: list[tuple[Change, Kind, tuple[frozenset[Key], ...]]] = [
    *((change, kind, ()) for change in (save, upload, copy, expunge) for kind in Kind),
    *((replace, kind, EITHER) for kind in Kind),
    *((move, kind, BETWEEN) for kind in Kind),
    (purge, Kind.MDBOX, ()),
]


async def prepared(location: Location, change: Change) -> None:
    """Messages 1 to 6 of both versions in INBOX, 10 in Work; for a purge some of them expunged."""
    async with FileSystem(ThreadsDriver(1)) as fs:
        await init_store(fs, location, options=THREE)
        owner = await fs.stat(location.root)
        for n, options in enumerate((THREE, TWO, THREE, TWO, THREE, THREE), 1):
            writer = StoreWriter(fs, location, owner, options)
            await writer.save("INBOX", [NewMessage(body(n), flags=8)])
        await writer.create_mailbox("Work")
        await writer.save("Work", [NewMessage(body(10))])
        if change is purge:
            await writer.expunge("INBOX", [2, 3, 5])


async def run(location: Location, change: Change, driver: FaultsDriver) -> bool:
    """Make the change; whether it was acknowledged."""
    try:
        async with FileSystem(driver) as fs:
            await change(StoreWriter(fs, location, Path(location.root).stat(), THREE))
    except* (OSError, DboxfsError):
        if not driver.crashed:
            raise
    return not driver.crashed


async def contents(location: Location) -> Counter[Key]:
    """How often each message is in each mailbox."""
    found: Counter[Key] = Counter()
    async with FileSystem(ThreadsDriver(1)) as fs, open_store(fs, location, follow=False) as store:
        for name, folder in store.folders.items():
            if folder.mailbox is None:
                continue
            await folder.mailbox.scan()
            for uid in folder.mailbox.uids.tolist():
                message = await folder.mailbox.open(uid)
                found[name, await message.read(message.size, 0)] += 1
                message.close()
    return found


async def go_on(location: Location) -> None:
    """The next writer brings the store in order and saves a message."""
    async with FileSystem(ThreadsDriver(1)) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat(), THREE)
        await writer.recover()
        await writer.maintain()
        await writer.save("INBOX", [NewMessage(LAST_WORDS)])
        if location.kind is Kind.MDBOX:
            assert not (await writer.purge()).left


def points_of(operations: list[str]) -> Iterator[Point]:
    yield Point(0)
    for nth, kind in enumerate(operations, 1):
        yield Point(nth)
        if kind == "append":
            yield Point(nth, torn=True)


@pytest.mark.parametrize(
    ("change", "kind", "together"), SCENARIOS, ids=lambda v: getattr(v, "value", getattr(v, "__name__", ""))
)
async def test_a_crash(
    points: dict[str, int], tmp_path: Path, change: Change, kind: Kind, together: tuple[frozenset[Key], ...]
) -> None:
    first, last = Location(kind, str(tmp_path / "first")), Location(kind, str(tmp_path / "last"))
    await prepared(first, change)
    before = await contents(first)
    shutil.copytree(first.root, last.root)
    recorder = Recorder()
    assert await run(last, change, recorder)
    after = await contents(last)
    every = list(points_of(recorder.kinds))
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for number, point in enumerate(chosen):
        left = Location(kind, str(tmp_path / f"left{number}"))
        shutil.copytree(first.root, left.root)
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        whole = await run(left, change, driver)
        for step in ("left", "recovered"):
            have = await contents(left)
            for key in have.keys() | before.keys() | after.keys():
                low, high = sorted((before[key], after[key]))
                low = after[key] if whole else low
                extra = int(step == "recovered" and key == ("INBOX", LAST_WORDS))
                where = f"{point}, {step}: {key[0]} {key[1][:40]!r}"
                assert low + extra <= have[key] <= high + extra, where
            assert all(any(have[key] for key in places) for places in together), f"{point}, {step}"
            if step == "left":
                await go_on(left)
        assert not list(Path(left.root).rglob("*.newlock"))
        shutil.rmtree(left.root)
    points[f"format 3: {change.__name__}-{kind.value}"] = len(chosen)
