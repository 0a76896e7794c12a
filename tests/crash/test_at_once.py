"""What was not acknowledged is there at once or never; a move is finished or undone by the next writer.

A writer dies after every operation (and inside every append), in a process of its own as far as its notes and
temporary files say.  What our reader shows then, what it shows when the next writer has recovered the store,
and what a rebuild from the files would bring back, must be one thing.  Points: all with ``DBOXFS_CRASH=all``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.temporary import Process
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.writing import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from tests.crash.points import Recorder
from tests.crash.test_format3 import Change, Key, contents, copy, move, points_of
from tests.crash.test_format3 import replace as replaced
from tests.store_writing.stores import body

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 8
NEW = {body(100), body(101), body(102)}


async def save(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100))])


async def save_large(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100)), NewMessage(body(101, 50_000)), NewMessage(body(102))])


CHANGES: list[Change] = [save, save_large, replaced, copy, move]


def dead() -> Process:
    """A process that was here a moment ago."""
    child = subprocess.Popen(["true"])
    child.wait()
    return replace(Process.this(), pid=child.pid, start="1")


def options_of(neighbour: Neighbour) -> WriteOptions:
    return WriteOptions(neighbour, memory_limit=10_000)


async def prepared(location: Location) -> None:
    """Messages 1 to 3 in INBOX, 10 in Work."""
    async with FileSystem(ThreadsDriver(1)) as fs:
        options = options_of(Neighbour.ALONE)
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, await fs.stat(location.root), options)
        for n in (1, 2, 3):
            await writer.save("INBOX", [NewMessage(body(n), flags=8)])
        await writer.create_mailbox("Work")
        await writer.save("Work", [NewMessage(body(10))])


async def run(location: Location, neighbour: Neighbour, change: Change, driver: FaultsDriver) -> bool:
    """Make the change as a process that is dead by now; whether it was acknowledged."""
    try:
        async with FileSystem(driver) as fs:
            writer = StoreWriter(fs, location, Path(location.root).stat(), options_of(neighbour))
            writer.disk.process = dead()
            await change(writer)
    except* (OSError, DboxfsError):
        if not driver.crashed:
            raise
    return not driver.crashed


async def recovered(location: Location, neighbour: Neighbour) -> None:
    """The next writable mount begins."""
    async with FileSystem(ThreadsDriver(1)) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat(), options_of(neighbour))
        await writer.recover()
        if neighbour is Neighbour.ALONE:
            await writer.maintain()
        assert not list(Path(location.root).glob("dboxfs-note*"))


async def nobodys(location: Location) -> list[str]:
    """What a rebuild would make messages of: files without a record, map records that nothing refers to."""
    found = []
    async with FileSystem(ThreadsDriver(1)) as fs, open_store(fs, location, follow=False) as store:
        boxes = {name: folder.mailbox for name, folder in store.folders.items() if folder.mailbox is not None}
        if location.kind is Kind.SDBOX:
            for name, box in boxes.items():
                assert box.state is not None
                known = {f"u.{uid}" for uid in box.state.uids.tolist()}
                files = Path(location.mailbox_path(name)).glob("u.*")
                found += [f"{name}/{file.name}" for file in files if file.name not in known]
            return found
        assert store.storage is not None
        writer = StoreWriter(fs, location, store.owner, options_of(Neighbour.DOVECOT))
        mapping = await writer.seen_map()
    ends: Counter[int] = Counter()
    for uid, count in zip(mapping.map_uids.tolist(), mapping.refcounts.tolist(), strict=True):
        place = mapping.lookup(uid)
        assert place is not None
        ends[place.file_id] = max(ends[place.file_id], place.offset + place.size)
        referred = sum(
            int(np.count_nonzero(column["map_uid"] == uid))
            for box in boxes.values()
            if box.state is not None
            and (column := box.state.column("mdbox", [("map_uid", "<u4"), ("date", "<u4")])) is not None
        )
        if count and not referred:
            found.append(f"map uid {uid}")
    for file in Path(location.storage).glob("m.*"):
        if file.stat().st_size != ends[int(file.name[2:])]:
            found.append(file.name)
    return found


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.value)
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
async def test_what_was_not_acknowledged_is_there_at_once_or_never(
    points: dict[str, int], tmp_path: Path, change: Change, kind: Kind, neighbour: Neighbour
) -> None:
    first, last = Location(kind, str(tmp_path / "first")), Location(kind, str(tmp_path / "last"))
    await prepared(first)
    shutil.copytree(first.root, last.root)
    recorder = Recorder()
    assert await run(last, neighbour, change, recorder)
    before, after = await contents(first), await contents(last)
    every = list(points_of(recorder.kinds))
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for number, point in enumerate(chosen):
        left = Location(kind, str(tmp_path / f"left{number}"))
        shutil.copytree(first.root, left.root)
        whole = await run(left, neighbour, change, FaultsDriver(ThreadsDriver(1), point.plan(), depth=1))
        at_once = await contents(left)
        await recovered(left, neighbour)
        then = await contents(left)
        where = f"{point} after {recorder.kinds[max(point.nth - 1, 0)]}"
        check(change, before, after, at_once, then, whole, where)
        if neighbour is Neighbour.ALONE or change in (save, save_large):
            assert await nobodys(left) == [], where
        shutil.rmtree(left.root)
    points[f"at once: {change.__name__}-{kind.value}-{neighbour.value}"] = len(chosen)


def check(
    change: Change,
    before: Counter[Key],
    after: Counter[Key],
    at_once: Counter[Key],
    then: Counter[Key],
    whole: bool,
    where: str,
) -> None:
    if whole:
        assert then == after, where
    if change is move:
        assert then in (before, after), f"{where}: half a move"
    else:
        assert then == at_once, f"{where}: what was not there at once came, or went, later"
        assert then in (before, after), f"{where}: half a change"
