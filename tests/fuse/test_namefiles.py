"""Names in files: whatever operation a writer dies at, each name means what it did or what it was to mean."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dboxfs.fsapi import Driver, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fuse import names as names_module
from dboxfs.fuse.namefiles import NameFiles, NameReader
from dboxfs.store import Folder, Kind, Location
from dboxfs.store.writing import NewMessage, StoreWriter, WriteOptions, init_store
from tests.crash.points import Point
from tests.fuse.test_uploads import Recorder
from tests.store.opened import opened

Change = Callable[[NameFiles, Folder], Awaitable[None]]
Shown = dict[int, bytes]


async def add(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 3, b"three")


async def take_over(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 1, b"two", after=2)


async def swap(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 1, b"two")


async def mend(files: NameFiles, folder: Folder) -> None:
    await files.mend()


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    """A store with three messages."""
    root = tmp_path / "mail"
    location = Location(Kind.SDBOX, str(root))
    async with FileSystem(ThreadsDriver(1), sync=False) as fs:
        await init_store(fs, location)
        messages = [NewMessage(b"Subject: %d\n\n" % number) for number in range(3)]
        await StoreWriter(fs, location, root.stat()).save("INBOX", messages)
    return root


async def shown(root: Path, *, without: int = 0) -> Shown:
    """What a new mount shows; *without*: after that message was expunged."""
    async with opened(f"sdbox:{root}", follow=False) as (store, _):
        reader = NameReader(store)
        await reader.load()
        folder = store.folders["INBOX"]
        if without:
            reader.names.forget(folder, [without])
        return dict(reader.names.shown(folder))


async def change(root: Path, work: Change, driver: Driver | None = None) -> None:
    async with opened(f"sdbox:{root}", follow=False, driver=driver) as (store, _):
        reader = NameReader(store)
        await reader.load()
        if isinstance(driver, Recorder):
            driver.kinds.clear()
        await work(NameFiles(reader, WriteOptions()), store.folders["INBOX"])


async def prepare(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 1, b"one")
    await files.record(folder, 2, b"two")


async def none(files: NameFiles, folder: Folder) -> None:
    """Nothing has a name yet."""


@pytest.mark.parametrize(
    ("before", "work", "anew"),
    [
        (none, add, False),
        (prepare, add, False),
        (prepare, take_over, False),
        (prepare, mend, False),
        (prepare, swap, True),
        (prepare, take_over, True),
    ],
)
async def test_a_crash(
    root: Path, before: Change, work: Change, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "dboxfs-names"
    await change(root, before)
    if work is mend:
        await change(root, take_over)
    kept = root.parent / "kept"
    if directory.exists():
        shutil.copytree(directory, kept)
    if anew:
        monkeypatch.setattr(names_module, "_FEW", -100)
    old = await shown(root), await shown(root, without=2)
    recorder = Recorder()
    await change(root, work, recorder)
    new = await shown(root), await shown(root, without=2)
    first = sum(recorder.counts.values()) - len(recorder.kinds)
    points = [Point(first + n) for n in range(len(recorder.kinds))]
    points += [Point(first + n, torn=True) for n, kind in enumerate(recorder.kinds, 1) if kind == "append"]
    assert (old != new) == bool(recorder.kinds), "nothing was tested"
    for point in points:
        shutil.rmtree(directory, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, directory)
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        try:
            await change(root, work, driver)
        except* OSError:
            assert driver.crashed
        found = await shown(root), await shown(root, without=2)
        assert found in (old, new), f"{point} of {recorder.kinds}"
        await change(root, add)
        assert (await shown(root))[3] == b"three", "the next mount can write"


async def test_an_error_leaves_names_as_they_were(root: Path) -> None:
    await change(root, prepare)
    recorder = Recorder()
    await change(root, swap, recorder)
    assert await shown(root) == {1: b"two"}
    shutil.rmtree(root / "dboxfs-names")
    await change(root, prepare)
    first = sum(recorder.counts.values()) - len(recorder.kinds)
    for nth in (n for n, kind in enumerate(recorder.kinds, 1) if kind in ("append", "sync")):
        plan = [fault for fault in Point(first + nth, torn=True).plan() if fault.crash is None]
        async with opened(
            f"sdbox:{root}", follow=False, driver=FaultsDriver(ThreadsDriver(1), plan, depth=1)
        ) as (
            store,
            _,
        ):
            reader = NameReader(store)
            await reader.load()
            folder = store.folders["INBOX"]
            with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EIO):
                await swap(NameFiles(reader, WriteOptions()), folder)
            assert reader.names.shown(folder) == {1: b"one", 2: b"two"}
        assert await shown(root) == {1: b"one", 2: b"two"}


async def test_two_writers_of_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "_FEW", 7)  # so that it is written anew again and again
    async with (
        opened(f"sdbox:{root}", follow=False) as (one, _),
        opened(f"sdbox:{root}", follow=False) as (two, _),
    ):
        readers = [NameReader(store) for store in (one, two)]
        files = [NameFiles(reader, WriteOptions()) for reader in readers]
        folders = [store.folders["INBOX"] for store in (one, two)]
        for number in range(60):
            await files[number % 2].record(folders[number % 2], 1 + number % 3, b"n%d" % number)
        await readers[0].look(folders[0])
        expected = {1: b"n57", 2: b"n58", 3: b"n59"}
        assert [dict(r.names.shown(f)) for r, f in zip(readers, folders, strict=True)] == [expected, expected]
    assert await shown(root) == expected
