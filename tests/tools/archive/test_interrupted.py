"""An archive and a prune that die anywhere leave nothing that points to what isn't there, and go on."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from dboxfs.errors import DboxfsError, StoreBusy
from dboxfs.fsapi.drivers.object_client import Objects
from dboxfs.store import Location
from dboxfs.tools.archive import ArchiveOptions, Repository
from dboxfs.tools.archive.prune import kept, prune
from tests.tools.archive.archives import (
    URL,
    Died,
    FaultyObjects,
    Shown,
    add,
    archive,
    change,
    expunge,
    make_store,
    memory,
    of_archive,
    of_store,
)

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SMALL = ArchiveOptions(sealed=1500)
AGAIN = ArchiveOptions(sealed=1500, break_lock=True)

Fault = Callable[[int, str, str, bool], None]


def copied(objects: Objects) -> Objects:
    """The same objects in another store."""
    new = memory()
    for info in list(objects.list_all("")):
        new.put(info.key, objects.get_whole(info.key), create=True)
    return new


def killed_at(step: int, after: bool) -> Fault:
    """The process is killed before or behind a step: it makes no other one."""

    def fault(number: int, kind: str, key: str, behind: bool) -> None:
        if (number, behind) >= (step, after):
            raise Died

    return fault


def fails_at(step: int, after: bool) -> Fault:
    """One step fails: it has not happened, or its answer is lost."""

    def fault(number: int, kind: str, key: str, behind: bool) -> None:
        if (number, behind) == (step, after):
            raise OSError(errno.EIO, "the server says 500", key)

    return fault


def points(steps: int) -> list[tuple[int, bool]]:
    found = [(step, after) for step in range(steps) for after in (False, True)]
    return found if EVERY else found[:: max(1, len(found) // 10)]


async def generations(objects: Objects) -> dict[str, dict[str, Shown]]:
    """What each generation shows: each can be read, and has everything that it points to."""
    keys = await trio.to_thread.run_sync(Repository(objects, URL).generations)
    names = [key.removeprefix("generations/") for key in keys]
    return {name: await of_archive(objects, name + "~") for name in names}


async def first_and_changed(tmp_path: Path) -> tuple[Location, Objects, dict[str, dict[str, Shown]]]:
    """A store that was archived, and changed since."""
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects, SMALL)
    await change(location)
    return location, objects, await generations(objects)


@pytest.mark.parametrize("make_fault", [killed_at, fails_at], ids=["killed", "failed"])
async def test_an_archive_that_ends_anywhere_goes_on(
    tmp_path: Path, make_fault: Callable[[int, bool], Fault]
) -> None:
    location, before, old = await first_and_changed(tmp_path)
    whole = FaultyObjects(copied(before))
    await archive(location, whole, SMALL)
    expected = await of_archive(whole)
    assert expected == await of_store(location)
    for step, after in points(len(whole.steps)):
        objects = FaultyObjects(copied(before), make_fault(step, after))
        try:
            await archive(location, objects, SMALL)
        except* (Died, OSError, DboxfsError):
            pass
        shown = await generations(objects.inner)
        assert {name: shown[name] for name in old} == old, (step, after)
        assert all(new == expected for name, new in shown.items() if name not in old), (step, after)
        sealed = {info.key for info in objects.inner.list_all("rows")}
        done = await archive(location, objects.inner, AGAIN)
        assert (done.failed, done.told) == ([], []), (step, after)
        assert await of_archive(objects.inner) == expected, (step, after)
        assert bool(done.resumed) == bool(sealed and done.new), (step, after)
        assert {info.key.partition("/")[0] for info in objects.inner.list_all("")} == {
            "data", "generations", "index",
        }, (step, after)  # fmt: skip


async def three_generations(tmp_path: Path) -> tuple[Location, Objects]:
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects, SMALL)
    await change(location)
    await archive(location, objects, SMALL)
    await expunge(location, "INBOX", 3, 5)
    await add(location, 60)
    await archive(location, objects, SMALL)
    return location, objects


@pytest.mark.parametrize("make_fault", [killed_at, fails_at], ids=["killed", "failed"])
async def test_a_prune_that_ends_anywhere_goes_on(
    tmp_path: Path, make_fault: Callable[[int, bool], Fault]
) -> None:
    location, before = await three_generations(tmp_path)
    old = await generations(before)
    newest = max(old)
    whole = FaultyObjects(copied(before))
    prune(Repository(whole, URL), 1, 0)
    left = {info.key for info in whole.list_all("")}
    assert len(left) < len(list(before.list_all("")))
    for step, after in points(len(whole.steps)):
        objects = FaultyObjects(copied(before), make_fault(step, after))
        with contextlib.suppress(Died, OSError, DboxfsError):
            prune(Repository(objects, URL), 1, 0)
        shown = await generations(objects.inner)
        assert shown == {name: old[name] for name in shown}, (step, after)
        assert newest in shown, (step, after)
        prune(Repository(objects.inner, URL), 1, 0, break_lock=True)
        assert {info.key for info in objects.inner.list_all("")} == left, (step, after)
    assert await of_archive(whole) == await of_store(location)


async def test_a_prune_keeps_one_a_day_and_one_a_month_and_what_they_need() -> None:
    days = ["0131T10", "0201T10", "0228T10", "0301T10", "0301T20", "0302T10", "0302T23"]
    keys = [f"generations/2026{day}0000Z-{0:016x}" for day in days]
    assert kept(keys, 2, 0) == {keys[4], keys[6]}
    assert kept(keys, 0, 2) == {keys[2], keys[6]}
    assert kept(keys, 1, 9) == {keys[0], keys[2], keys[6]}
    assert kept(keys, 0, 0) == {keys[6]}
    assert kept([], 3, 3) == set()


def test_the_days_of_a_prune_are_local_days(time_zone: Callable[[str], None]) -> None:
    keys = [f"generations/202603{time}0000Z-{0:016x}" for time in ("01T05", "01T23", "02T05")]
    time_zone("UTC")
    assert kept(keys, 2, 0) == {keys[1], keys[2]}
    time_zone("XYZ-3")  # three hours before UTC
    assert kept(keys, 2, 0) == {keys[0], keys[2]}


async def test_a_generation_that_cannot_be_read_ends_a_prune_before_anything_goes(tmp_path: Path) -> None:
    _, objects = await three_generations(tmp_path)
    first = min(info.key for info in objects.list_all("generations"))
    objects.put(first, objects.get_whole(first).replace(b"INBOX", b"INBOY"), create=False)
    before = {info.key for info in objects.list_all("")}
    with pytest.raises(DboxfsError, match="the checksum doesn't fit"):
        prune(Repository(objects, URL), 1, 0)
    assert {info.key for info in objects.list_all("")} == before


async def test_two_runs_at_a_time_are_kept_apart(tmp_path: Path) -> None:
    location, objects, old = await first_and_changed(tmp_path)
    other = Repository(objects, URL)
    other.lock("archive")
    with pytest.raises(StoreBusy, match=r"archive on \S+ has the lock since .* --break-lock"):
        await archive(location, objects)
    with pytest.raises(StoreBusy):
        prune(Repository(objects, URL), 1, 0)
    assert await generations(objects) == old
    other.unlock()
    assert (await archive(location, objects)).new


async def test_a_run_whose_lock_was_broken_changes_nothing_more(tmp_path: Path) -> None:
    location, objects, old = await first_and_changed(tmp_path)

    def take_it_away(number: int, kind: str, key: str, behind: bool) -> None:
        if kind == "put" and key.startswith("data/") and not behind:
            faulty.fault = lambda *_: None
            Repository(objects, URL).lock("archive", broken=True)

    faulty = FaultyObjects(objects, take_it_away)
    with pytest.raises(StoreBusy, match="taken away from this run"):
        await archive(location, faulty)
    assert await generations(objects) == old


async def test_the_lock_of_a_process_that_is_gone_is_no_hindrance(tmp_path: Path) -> None:
    location, objects, _ = await first_and_changed(tmp_path)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    Repository(objects, URL).lock("archive")
    held = objects.get_whole("lock")
    mine = f'"process": "{os.getpid()}-'.encode()
    assert mine in held
    objects.put("lock", held.replace(mine, f'"process": "{pid}-'.encode()), create=False)
    assert (await archive(location, objects)).new


@pytest.mark.parametrize("kind", ["data", "index"])
@pytest.mark.parametrize("how", ["deleted", "cut"])
async def test_what_is_lost_in_the_store_is_told_and_stored_anew(tmp_path: Path, kind: str, how: str) -> None:
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects, SMALL)
    for info in list(objects.list_all(kind)):
        if how == "deleted":
            objects.delete(info.key)
        else:
            objects.put(info.key, objects.get_whole(info.key)[:-7], create=False)
    done = await archive(location, objects)
    assert done.new
    assert done.failed == []
    assert done.told
    assert all("is gone or cut" in line for line in done.told)
    assert await of_archive(objects) == await of_store(location)


async def test_an_object_that_arrives_changed_is_not_counted_as_stored(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store")
    objects = FaultyObjects(memory())
    objects.reads = lambda key, data: data.replace(b"number 3", b"number 4")
    with pytest.raises(OSError, match="what is stored is not what was written"):
        await archive(location, objects)
    assert not list(objects.list_all("generations"))
