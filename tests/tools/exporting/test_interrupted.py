"""An export that dies anywhere shows nothing, or all of it; ``--resume`` finishes it, each message once.

All points: ``DBOXFS_CRASH=all pytest tests/tools/exporting``.  Otherwise some of them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.store.names.table import WrittenNames
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.exporting import (
    EmlFormat,
    Exported,
    Exporter,
    Format,
    MaildirFormat,
    MboxFormat,
    TargetTaken,
)
from tests.crash.points import Point, Recorder

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 14

FORMATS: dict[str, Format] = {
    "maildir": MaildirFormat(plain=False, coding=NameCoding()),
    "maildir fs": MaildirFormat(plain=True, coding=NameCoding()),
    "mbox": MboxFormat(nested=True, coding=NameCoding()),
    "eml": EmlFormat(xattrs=True, names=WrittenNames(), coding=NameCoding()),
}


async def make_store(root: Path) -> Path:
    options = WriteOptions(neighbour=Neighbour.ALONE)
    async with FileSystem(ThreadsDriver()) as fs:
        location = Location(Kind.SDBOX, str(root))
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, root.stat(), options)
        for name in ("Work", "Work/Sub"):
            await writer.create_mailbox(name)
        for name in ("INBOX", "Work", "Work/Sub"):
            news = [
                NewMessage(b"Subject: %d\n\n" % n + b"x" * size, 10**9 + n, n, ("Word",))
                for n, size in enumerate((10, 300_000, 20))
            ]
            await writer.save(name, news)
        await writer.subscribe("Work")
    return root


async def attempt(store: Path, target: Path, form: str, driver: Driver, *, resume: bool) -> Exported:
    async with FileSystem(driver) as fs, open_store(fs, parse_location(str(store)), follow=False) as opened:
        return await Exporter(fs, opened, str(target), FORMATS[form], form, resume=resume).run()


def contents(root: Path) -> dict[str, tuple[bytes, int, dict[str, bytes]]]:
    """Every file and directory: bytes, mtime of files (s), attributes."""
    found = {}
    for path in sorted(root.rglob("*")):
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        is_file = path.is_file()
        mail = is_file and (path.suffix == ".eml" or ",S=" in path.name)
        mtime = int(path.stat().st_mtime) if mail else 0
        found[str(path.relative_to(root))] = (path.read_bytes() if is_file else b"", mtime, attributes)
    return found


def some(points: list[Point]) -> Iterator[Point]:
    step = 1 if EVERY else max(1, len(points) // SOME)
    yield from points[::step]


@pytest.mark.parametrize("form", FORMATS)
async def test_whatever_operation_it_dies_at_resume_finishes_it(tmp_path: Path, form: str) -> None:
    store = await make_store(tmp_path / "store")
    recorder = Recorder()
    await attempt(store, tmp_path / "whole", form, recorder, resume=False)
    expected = contents(tmp_path / "whole")
    points = [Point(nth) for nth in range(len(recorder.kinds))]
    points += [Point(nth, torn=True) for nth, kind in enumerate(recorder.kinds, 1) if kind == "append"]
    for point in some(points):
        target = tmp_path / "target"
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        try:
            await attempt(store, target, form, driver, resume=False)
        except* (OSError, DboxfsError):
            pass
        if not driver.crashed:  # how much is read ahead differs: it ended before that operation
            assert contents(target) == expected, point
            shutil.rmtree(target)
            continue
        begun = (target / ".dboxfs-export").exists()
        if begun:
            with pytest.raises((TargetTaken, ExceptionGroup)):
                await attempt(store, target, form, ThreadsDriver(), resume=False)
        if begun or not target.exists() or not os.listdir(target):
            done = await attempt(store, target, form, ThreadsDriver(), resume=True)
            assert done.failed == [], point
        assert contents(target) == expected, point
        shutil.rmtree(target)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_full_disk_ends_it_and_resume_goes_on_where_it_was(tmp_path: Path, form: str) -> None:
    store = await make_store(tmp_path / "store")
    await attempt(store, tmp_path / "whole", form, ThreadsDriver(), resume=False)
    target = tmp_path / "target"
    for nth in (2, 3, 5):
        driver = FaultsDriver(ThreadsDriver(), [Fault("append", nth, error=errno.ENOSPC)])
        with pytest.raises((OSError, ExceptionGroup)):
            await attempt(store, target, form, driver, resume=True)
        assert os.listdir(target) == [".dboxfs-export"]
    done = await attempt(store, target, form, ThreadsDriver(), resume=True)
    assert done.mailboxes + done.resumed == 3
    assert contents(target) == contents(tmp_path / "whole")


async def test_an_interrupted_export_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    store = await make_store(tmp_path / "store")
    target = tmp_path / "target"
    driver = FaultsDriver(ThreadsDriver(), [Fault("append", 4, error=errno.ENOSPC)])
    with pytest.raises((OSError, ExceptionGroup)):
        await attempt(store, target, "maildir", driver, resume=False)
    with pytest.raises((TargetTaken, ExceptionGroup)):
        await attempt(store, target, "eml", ThreadsDriver(), resume=True)
    (target / "mine").write_text("mine")
    with pytest.raises((TargetTaken, ExceptionGroup)):
        await attempt(store, target, "maildir", ThreadsDriver(), resume=True)
