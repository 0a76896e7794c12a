"""What was not acknowledged is there at once or never; a move is finished or undone by the next writer.

A writer dies after every operation (and inside every append), in a process of its own as far as its notes and
temporary files say.  What our reader shows then, what it shows when the next writer has recovered the store,
and what a rebuild from the files would bring back, must be one thing.  Points: all with ``DBOXFS_CRASH=all``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.temporary import Process
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.size_format import generation_of
from dboxfs.store.write import (
    Neighbour,
    NewMessage,
    StoredText,
    StoreWriter,
    Twin,
    WriteOptions,
    init_store,
)
from tests.crash.points import Point, Recorder, clone
from tests.crash.test_format3 import Change, Key, contents, copy, move, points_of
from tests.crash.test_format3 import replace as replaced
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import body

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 8
NEW = {body(100), body(101), body(102)}


async def save(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100))])


async def save_large(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(100)), NewMessage(body(101, 50_000)), NewMessage(body(102))])


async def refer(writer: StoreWriter) -> None:
    """A save whose messages refer to a text that the storage has, and to one that comes with it."""
    location = writer.location
    async with FileSystem(ThreadsDriver(1)) as fs, open_store(fs, location, follow=False) as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        first = (await box.details(1)).metadata.guid
        mapping = await writer.seen_map()
    generation = generation_of(*mapping.identity)
    new, stored = os.urandom(16), StoredText(int(mapping.map_uids[0]), generation)
    await writer.save(
        "Work",
        [
            NewMessage(body(100), guid=new),
            NewMessage(b"", guid_text=first, same_as=stored),
            NewMessage(b"", guid=new, same_as=Twin(0)),
            NewMessage(body(101, 50_000)),
            NewMessage(b"", guid_text=first, same_as=stored),
        ],
    )


CHANGES: list[Change] = [save, save_large, replaced, copy, move]


def dead() -> Process:
    """A process that was here a moment ago."""
    child = subprocess.Popen(["true"])
    child.wait()
    return replace(Process.this(), pid=child.pid, start="1")


def options_of(neighbour: Neighbour) -> WriteOptions:
    return WriteOptions(neighbour, memory_limit=10_000, sync_together=3)


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
    chosen = await at_every_point(tmp_path, change, kind, neighbour)
    points[f"at once: {change.__name__}-{kind.value}-{neighbour.value}"] = chosen


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
async def test_what_refers_to_stored_texts_is_there_at_once_or_never(
    points: dict[str, int], tmp_path: Path, neighbour: Neighbour
) -> None:
    chosen = await at_every_point(tmp_path, refer, Kind.MDBOX, neighbour)
    points[f"at once: refer-{neighbour.value}"] = chosen


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
async def test_a_move_is_finished_or_undone_also_where_it_has_to_copy_the_bytes(
    points: dict[str, int], tmp_path: Path, neighbour: Neighbour
) -> None:
    """The file system has no hard links."""
    faults = [Fault("link", error=errno.EPERM, path="dbox-Mails")]
    chosen = await at_every_point(tmp_path, move, Kind.SDBOX, neighbour, faults)
    points[f"at once: move without links-{neighbour.value}"] = chosen


async def at_every_point(
    tmp_path: Path, change: Change, kind: Kind, neighbour: Neighbour, faults: Sequence[Fault] = ()
) -> int:
    """Let the writer die at every point of a change (or some); how many that were.

    :param faults: what goes wrong all the time.
    """
    first, last = Location(kind, str(tmp_path / "first")), Location(kind, str(tmp_path / "last"))
    await prepared(first)
    shutil.copytree(first.root, last.root)
    recorder = Recorder(faults)
    assert await run(last, neighbour, change, recorder)
    before, after = await contents(first), await contents(last)
    every = list(points_of(recorder.kinds))
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for number, point in enumerate(chosen):
        left = Location(kind, str(tmp_path / f"left{number}"))
        shutil.copytree(first.root, left.root)
        whole = await run(
            left, neighbour, change, FaultsDriver(ThreadsDriver(1), [*point.plan(), *faults], depth=1)
        )
        at_once = await contents(left)
        await recovered(left, neighbour)
        then = await contents(left)
        where = f"{point} after {recorder.kinds[max(point.nth - 1, 0)]}"
        check(change, before, after, at_once, then, whole, where)
        if neighbour is Neighbour.ALONE or change in (save, save_large, refer):
            assert await nobodys(left) == [], where
        shutil.rmtree(left.root)
    return len(chosen)


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.value)
async def test_what_a_full_disk_has_refused_does_not_come_when_there_is_room_again(
    tmp_path: Path, kind: Kind, neighbour: Neighbour
) -> None:
    """From each append of a save on there is no room for any."""
    location = Location(kind, str(tmp_path / "store"))
    await prepared(location)
    expected = await contents(location)
    refused = 0
    while True:
        full = [Fault("append", nth, error=errno.ENOSPC) for nth in range(refused + 1, 100)]
        driver = FaultsDriver(ThreadsDriver(1), full, depth=1)
        async with FileSystem(driver) as fs:
            writer = StoreWriter(fs, location, Path(location.root).stat(), options_of(neighbour))
            refusal = None
            try:
                await writer.save("INBOX", [NewMessage(body(100))])
            except OSError as error:
                refusal = error.errno
            if refusal is None:
                break
            assert refusal == errno.ENOSPC
            assert await contents(location) == expected
            driver.replan([])
            await writer.save("Work", [NewMessage(body(200 + refused))])
        expected["Work", body(200 + refused)] += 1
        assert await contents(location) == expected
        refused += 1
    assert refused >= 3


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


async def appended_and_died(account: Account, kinds: list[str]) -> int:
    """A save dies at the first point at which ``m.N`` has its record and the map has not; gives the bytes."""
    where = Location(Kind.MDBOX, str(account.root))
    mapped, file = (account.root / name for name in ("storage/dovecot.map.index.log", "storage/m.1"))
    size, known = file.stat().st_size, mapped.stat().st_size
    for point in points_of(kinds):
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        assert not await run(where, Neighbour.DOVECOT, save, driver), "the save was never interrupted there"
        if file.stat().st_size > size and not point.torn:
            assert mapped.stat().st_size == known
            return file.stat().st_size - size
        for note in account.root.glob("dboxfs-note*"):
            note.unlink()
        with file.open("r+b") as cut:
            cut.truncate(size)
    raise AssertionError("no such point")


async def died_under_dovecot(dovecot: Dovecot) -> Account:
    """Dovecot's INBOX has messages 1 to 3 and, behind the record of a save that died, 4."""
    account = dovecot.account("mdbox:{home}/mail")
    for n in (1, 2, 3):
        account.save(body(n))
    left = Location(Kind.MDBOX, str(account.root.parent / "other"))
    shutil.copytree(account.root, left.root)
    recorder = Recorder()
    assert await run(left, Neighbour.DOVECOT, save, recorder)
    assert await appended_and_died(account, recorder.kinds)
    account.save(body(4))
    return account


async def test_a_record_behind_which_dovecot_has_appended_is_left_to_its_purge(dovecot: Dovecot) -> None:
    account = await died_under_dovecot(dovecot)
    client = account.imap()
    client.select("INBOX")
    where = Location(Kind.MDBOX, str(account.root))
    await recovered(where, Neighbour.DOVECOT)
    await recovered(where, Neighbour.DOVECOT)
    assert (await refcounts(where)) == [1, 1, 1, 1, 0]
    account.save(body(5))
    client.noop()
    account.purge()
    assert b"number 100" not in b"".join(path.read_bytes() for path in account.root.glob("storage/m.*"))
    client.noop()
    client.logout()
    assert [message.text for message in account.fetch()] == [body(n) for n in (1, 2, 3, 4, 5)]


async def refcounts(location: Location) -> list[int]:
    """Of every map record, by map uid."""
    async with FileSystem(ThreadsDriver(1)) as fs:
        writer = StoreWriter(fs, location, Path(location.root).stat())
        return [int(count) for count in (await writer.seen_map()).refcounts]


async def test_what_takes_a_record_into_the_map_may_die_at_any_moment(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    account = await died_under_dovecot(dovecot)
    copy = Location(Kind.MDBOX, str(tmp_path / "copy"))
    shutil.copytree(account.root, copy.root)
    recorder = Recorder()
    await recovering(copy, recorder)
    before = await contents(copy)
    for number, point in enumerate(points_of(recorder.kinds)):
        left = Location(Kind.MDBOX, str(tmp_path / f"left{number}"))
        shutil.copytree(account.root, left.root)
        await recovering(left, FaultsDriver(ThreadsDriver(1), point.plan(), depth=1))
        await recovered(left, Neighbour.DOVECOT)
        assert await refcounts(left) == [1, 1, 1, 1, 0], f"{point}"
        assert await contents(left) == before


async def recovering(location: Location, driver: FaultsDriver) -> None:
    """A writable mount begins, and may die at that."""
    try:
        async with FileSystem(driver) as fs:
            writer = StoreWriter(fs, location, Path(location.root).stat())
            writer.disk.process = dead()
            await writer.recover()
    except* (OSError, DboxfsError):
        if not driver.crashed:
            raise


async def test_a_note_stays_while_somebody_holds_the_file_that_it_is_about(dovecot: Dovecot) -> None:
    account = await died_under_dovecot(dovecot)
    where = Location(Kind.MDBOX, str(account.root))
    with (account.root / "storage/m.1").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with FileSystem(ThreadsDriver(1)) as fs:
            await StoreWriter(fs, where, account.root.stat()).recover()
        assert len(list(account.root.glob("dboxfs-note*"))) == 1
    await recovered(where, Neighbour.DOVECOT)
    assert await refcounts(where) == [1, 1, 1, 1, 0]


async def test_a_new_file_of_a_save_that_died_is_not_in_the_way_of_dovecots(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(body(1))
    where = Location(Kind.MDBOX, str(account.root))
    mapped, new = (account.root / name for name in ("storage/dovecot.map.index.log", "storage/m.2"))
    known = mapped.stat().st_size
    for nth in range(1, 100):
        point = Point(nth)
        await run(where, Neighbour.DOVECOT, large, FaultsDriver(ThreadsDriver(1), point.plan(), depth=1))
        if new.exists():
            break
        await recovered(where, Neighbour.DOVECOT)
    assert new.exists()
    assert mapped.stat().st_size == known
    mine = account.root / "storage/m.9"
    shutil.copy(account.root / "storage/m.1", mine)
    await recovered(where, Neighbour.DOVECOT)
    assert not new.exists()
    assert mine.exists(), "a file of which no note says anything was removed"
    account.save(body(2, 11 << 20))
    assert [message.text for message in account.fetch()] == [body(1), body(2, 11 << 20)]


async def large(writer: StoreWriter) -> None:
    """A message that does not fit into the file that is there."""
    await writer.save("INBOX", [NewMessage(body(100, 11 << 20))])


async def remove(location: Location, neighbour: Neighbour, driver: FaultsDriver) -> set[int]:
    """Remove the messages 1 and 3 of INBOX as a row does it; gives the uids of answered removals."""
    answered = set[int]()

    async def change(writer: StoreWriter) -> None:
        for uid in (1, 3):
            assert await writer.ask_expunge("INBOX", uid)
            answered.update([uid] if not driver.crashed else [])
        await writer.carry_out("INBOX")
        await writer.keep_promises("INBOX")

    await run(location, neighbour, change, driver)
    return answered


async def check_removed(location: Location, answered: set[int], where: str) -> None:
    found = await contents(location)
    assert found["INBOX", body(2)] == found["Work", body(10)] == 1, where
    assert not [uid for uid in answered if found["INBOX", body(uid)]], where


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.value)
async def test_an_answered_removal_of_a_row_is_seen_at_once_and_leaves_nothing_for_a_rebuild(
    points: dict[str, int],
    tmp_path: Path,
    kind: Kind,
    neighbour: Neighbour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dboxfs.store.write.promises.UNDER_ONE_LOCK", 1)
    first = Location(kind, str(tmp_path / "first"))
    await prepared(first)
    recorder = Recorder()
    await remove(copied(first, tmp_path / "last"), neighbour, recorder)
    every = list(points_of(recorder.kinds))
    for number, point in enumerate(every):
        left = copied(first, tmp_path / f"left{number}")
        answered = await remove(left, neighbour, FaultsDriver(ThreadsDriver(1), point.plan(), depth=1))
        where = f"{point} after {recorder.kinds[max(point.nth - 1, 0)]}"
        await check_removed(left, answered, where)
        at_once = await contents(left)
        await recovered(left, neighbour)
        assert await contents(left) == at_once, where
        assert await nobodys(left) == [], where
    points[f"at once: remove-{kind.value}-{neighbour.value}"] = len(every)


@pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index", "Inconsistency in map")
@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.value)
async def test_the_next_mount_takes_away_again_what_a_rebuild_of_dovecots_brought_back(
    dovecot: Dovecot, points: dict[str, int], kind: Kind, neighbour: Neighbour
) -> None:
    first = dovecot.account(f"{kind.value}:{{home}}/mail")
    first.doveadm("mailbox create", "Work")
    for n, mailbox in ((1, "INBOX"), (2, "INBOX"), (3, "INBOX"), (10, "Work")):
        first.save(body(n), mailbox)
    recorder = Recorder()
    await remove(Location(kind, str(clone(dovecot, first).root)), neighbour, recorder)
    # Dovecot takes a torn log for damaged: there the next mount has to come first
    every = [point for point in points_of(recorder.kinds) if not point.torn]
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for point in chosen:
        account = clone(dovecot, first)
        left = Location(kind, str(account.root))
        answered = await remove(left, neighbour, FaultsDriver(ThreadsDriver(1), point.plan(), depth=1))
        where = f"{point} after {recorder.kinds[max(point.nth - 1, 0)]}"
        account.force_resync()
        await recovered(left, neighbour)
        await check_removed(left, answered, where)
        account.force_resync()
        await check_removed(left, answered, f"{where}, rebuilt again")
    points[f"at once: remove-rebuilt-{kind.value}-{neighbour.value}"] = len(chosen)


def copied(location: Location, root: Path) -> Location:
    """A copy of a store."""
    shutil.copytree(location.root, root)
    return Location(location.kind, str(root))
