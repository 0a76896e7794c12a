"""unlink(2): what was answered is in the log, whatever becomes of the daemon; the rest comes in batches.

Without a mount: :class:`Removals` over a store of our own.  The daemon's death is that nothing which it has
put off is ever done.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from dboxfs.errors import StoreBusy
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.temporary import Process
from dboxfs.index.state import IndexState
from dboxfs.store import Folder, Kind, Location, Store, open_store, parse_location
from dboxfs.store.write import (
    Fsync,
    LockMethod,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    init_store,
    log_records,
)
from dboxfs.store.write.expunge_requests import Asking
from dboxfs.store.write.log_records import only_expunges_pending
from dboxfs.store.write.notes import Note, parse_note, promise
from dboxfs.vfs.names import Names
from dboxfs.vfs.removals import ONE_BY_ONE, Removals
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import body

MANY = 4 * ONE_BY_ONE
kinds = pytest.mark.parametrize("kind", list(Kind), ids=lambda k: k.value)
neighbours = pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
Put = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Daemon:
    """A store as a mount has it.  ``put_off``: background work that was asked for, and is not begun."""

    fs: FileSystem
    store: Store
    writer: StoreWriter
    removals: Removals
    names: Names
    put_off: list[Put]

    def folder(self, name: str = "INBOX") -> Folder:
        return self.store.folders[name]

    async def remove(self, uid: int, name: str = "INBOX") -> None:
        """Remove a message that has no other name than ``<uid>.eml``."""
        await self.removals.remove(self.folder(name), uid, b"%d.eml" % uid)


@asynccontextmanager
async def daemon(
    location: Location, options: WriteOptions, driver: Driver | None = None
) -> AsyncIterator[Daemon]:
    async with FileSystem(driver or ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        writer = StoreWriter(fs, location, store.owner, options)
        put_off: list[Put] = []
        names = Names(None)
        yield Daemon(fs, store, writer, Removals(store, writer, names, put_off.append), names, put_off)


async def made(tmp_path: Path, kind: Kind) -> Location:
    """INBOX and Work with :data:`MANY` messages each."""
    location = Location(kind, str(tmp_path / "store"))
    async with FileSystem(ThreadsDriver()) as fs:
        options = WriteOptions(Neighbour.ALONE, fsync=Fsync.NEVER)
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, await fs.stat(location.root), options)
        await writer.create_mailbox("Work")
        for name in ("INBOX", "Work"):
            await writer.save(name, [NewMessage(body(n)) for n in range(MANY)])
    return location


async def shown(location: Location, name: str = "INBOX") -> list[int]:
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        box = store.folders[name].mailbox
        assert box is not None
        return [int(uid) for uid in box.uids]


@kinds
@neighbours
@pytest.mark.parametrize("fsync", list(Fsync), ids=lambda f: f"fsync={f.value}")
async def test_an_answered_removal_survives_the_death_of_the_daemon(
    tmp_path: Path, kind: Kind, neighbour: Neighbour, fsync: Fsync, mock_clock: trio.testing.MockClock
) -> None:
    location = await made(tmp_path, kind)  # the clock stands still: all removals are one row
    async with daemon(location, WriteOptions(neighbour, fsync)) as dying:
        for uid in range(1, MANY):
            await dying.remove(uid)
            assert await shown(location) == list(range(uid + 1, MANY + 1))
        assert dying.put_off  # and never done
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, await fs.stat(location.root), WriteOptions(Neighbour.ALONE))
        await writer.recover()
        await writer.maintain()
    assert await shown(location) == [MANY]
    if kind is Kind.SDBOX:
        files = Path(location.root, "mailboxes/INBOX/dbox-Mails").glob("u.*")
        assert [file.name for file in files] == [f"u.{MANY}"]


@kinds
@neighbours
@pytest.mark.parametrize("method", list(LockMethod), ids=lambda m: m.value)
async def test_many_writers_of_one_log_lose_no_removal(
    tmp_path: Path, kind: Kind, neighbour: Neighbour, method: LockMethod
) -> None:
    location = await made(tmp_path, kind)
    options = WriteOptions(neighbour, Fsync.NEVER, lock_method=method)
    async with daemon(location, options) as one, daemon(location, options) as two:
        for uid in range(1, MANY, 4):
            await one.remove(uid)
            await two.writer.set_flags("INBOX", [MANY], add=uid % 2 + 1)
            await two.remove(uid + 1)
            await one.remove(uid + 2)
        left = [uid for uid in range(1, MANY + 1) if uid % 4 == 0]
        assert await shown(location) == left
        for each in (one, two):
            await each.removals.finish_all()
            assert not each.names.hidden(each.folder())
            assert each.folder().mailbox is not None
        await two.store.refresh_mailbox(two.folder())
        await one.store.refresh_mailbox(one.folder())
        assert [int(uid) for uid in one.folder().mailbox.uids] == left  # type: ignore[union-attr]
    assert not list(Path(location.root).rglob("*.lock"))


@kinds
@neighbours
async def test_a_removal_that_could_not_be_written_is_reported_by_its_own_unlink(
    tmp_path: Path, kind: Kind, neighbour: Neighbour
) -> None:
    location = await made(tmp_path, kind)
    driver = FaultsDriver(ThreadsDriver(1), depth=1)
    async with daemon(location, WriteOptions(neighbour), driver) as full:
        for uid in range(1, 2 * ONE_BY_ONE):
            await full.remove(uid)
        driver.replan([Fault("append", 1, short=7, error=errno.ENOSPC)])
        with pytest.raises(OSError, match="space"):
            await full.remove(20)
        driver.replan([])
        assert await shown(location) == list(range(2 * ONE_BY_ONE, MANY + 1))
        assert 20 not in full.names.hidden(full.folder())
        await full.remove(20)
        await full.removals.finish(full.folder())
    assert await shown(location) == [n for n in range(2 * ONE_BY_ONE, MANY + 1) if n != 20]


@kinds
async def test_removals_between_saves_are_no_row_and_each_is_carried_out_before_its_answer(
    tmp_path: Path, kind: Kind
) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        for uid in range(1, MANY):
            await ours.writer.save("INBOX", [NewMessage(body(uid))])
            await ours.store.refresh_mailbox(ours.folder())
            await ours.remove(uid)
            box = ours.folder().mailbox
            assert box is not None
            assert box.state is not None
            assert box.state.uids.tolist() == list(range(uid + 1, MANY + uid + 1))
        assert not ours.put_off


@kinds
async def test_a_mailbox_that_fails_keeps_no_other_from_being_finished(tmp_path: Path, kind: Kind) -> None:
    location = await made(tmp_path, kind)
    options = WriteOptions(Neighbour.ALONE, Fsync.NEVER, lock_timeout=0.1)
    async with daemon(location, options) as ours, daemon(location, options) as other:
        for name in ("INBOX", "Work"):
            for uid in range(1, MANY):
                await ours.remove(uid, name)
        async with other.writer.held("INBOX"):
            with pytest.raises(StoreBusy):
                await ours.removals.finish_all()
        work = Path(location.root, "mailboxes/Work/dbox-Mails")
        assert kind is Kind.MDBOX or [file.name for file in work.glob("u.*")] == [f"u.{MANY}"]
        box = ours.folder("Work").mailbox
        assert box is not None
        assert box.state is not None
        assert box.state.uids.tolist() == [MANY]
    assert await shown(location) == await shown(location, "Work") == [MANY]


@kinds
async def test_what_is_put_off_ends_by_itself_and_the_store_is_followed_again(
    tmp_path: Path, kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    location = await made(tmp_path, kind)
    options = WriteOptions(Neighbour.ALONE, Fsync.NEVER)
    async with daemon(location, options) as ours:
        for uid in range(1, MANY):
            await ours.remove(uid)
        assert len(ours.put_off) == 1
        await ours.put_off.pop()()
        assert not ours.names.hidden(ours.folder())
        box = ours.folder().mailbox
        assert box is not None
        assert box.state is not None
        assert box.state.uids.tolist() == [MANY]
        assert not ours.store.changes.held
        await ours.remove(MANY)
        await ours.removals.finish(ours.folder())
    assert await shown(location) == []


@pytest.mark.expected_log("Rebuilding index", "fscking index file", "rebuilding indexes")
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
async def test_a_removal_that_a_rebuild_of_dovecots_forgot_is_asked_for_again(
    dovecot: Dovecot, driver: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dboxfs.vfs.removals.ONE_BY_ONE", 0)  # as if the row was a long one already
    account = dovecot.account(f"{driver}:{{home}}/mail")
    for n in range(3):
        account.save(body(n))
    location = Location(Kind(driver), str(account.root))
    async with daemon(location, WriteOptions()) as ours:
        await ours.remove(2)
        await trio.to_thread.run_sync(partial(account.force_resync))
        await ours.removals.finish(ours.folder())
        assert not ours.names.hidden(ours.folder())
        assert "1 removals were lost in a rebuild" in caplog.text
    assert [message.uid for message in account.fetch()] == [1, 3]


REBUILT = pytest.mark.expected_log("Rebuilding index", "fscking index file", "rebuilding indexes")
drivers = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
layouts = pytest.mark.parametrize(
    "more", ["", ":LAYOUT=index:INDEX={home}/i:CONTROL={home}/c"], ids=["fs", "index"]
)


def of_dovecot(dovecot: Dovecot, driver: str, more: str = "") -> tuple[Account, Location]:
    """A store with five messages."""
    account = dovecot.account(f"{driver}:{{home}}/mail{more}")
    for n in range(5):
        account.save(body(n))
    return account, parse_location(account.location)


def notes(location: Location) -> list[Path]:
    return list(Path(location.control_dir).glob("dboxfs-note*"))


async def died(location: Location, uids: Iterable[int], mailbox: str = "INBOX") -> None:
    """Requests of a daemon that died before it has executed them."""
    async with daemon(location, WriteOptions()) as dying:
        dying.writer.disk.process = replace(Process.this(), start="1")
        for uid in uids:
            assert await dying.writer.ask_expunge(mailbox, uid)
        await dying.writer.carry_out(mailbox)
    assert len(notes(location)) == 1


async def next_mount(location: Location) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        await StoreWriter(fs, location, await fs.stat(location.root), WriteOptions()).recover()


@REBUILT
@drivers
@layouts
async def test_a_removal_of_a_dead_daemon_that_dovecots_rebuild_forgot_is_executed_by_the_next_mount(
    dovecot: Dovecot, driver: str, more: str
) -> None:
    account, location = of_dovecot(dovecot, driver, more)
    await died(location, [2, 4])
    await trio.to_thread.run_sync(account.force_resync)
    assert [message.uid for message in account.fetch()] == [1, 2, 3, 4, 5]
    await next_mount(location)
    assert not notes(location)
    await trio.to_thread.run_sync(account.force_resync)
    assert [message.uid for message in account.fetch()] == [1, 3, 5]


@REBUILT
@drivers
@layouts
async def test_a_removal_of_a_dead_daemon_is_executed_in_the_renamed_mailbox_and_not_in_another(
    dovecot: Dovecot, driver: str, more: str
) -> None:
    account, location = of_dovecot(dovecot, driver, more)
    account.doveadm("mailbox create", "Work")
    account.doveadm("copy", "Work", "all")
    await died(location, [2, 4], "Work")
    await trio.to_thread.run_sync(account.force_resync)
    account.doveadm("mailbox rename", "Work", "Else")
    account.doveadm("mailbox create", "Work")
    account.doveadm("copy", "Work", "mailbox", "INBOX")
    await next_mount(location)
    assert not notes(location)
    assert await shown(location, "Else") == [1, 3, 5]
    assert await shown(location, "Work") == await shown(location) == [1, 2, 3, 4, 5]


@drivers
async def test_a_note_removes_no_message_with_another_guid_or_mailbox_or_uidvalidity(
    dovecot: Dovecot, driver: str
) -> None:
    account, location = of_dovecot(dovecot, driver)
    await died(location, [2])
    (path,) = notes(location)
    note = parse_note(path.read_bytes())
    assert note is not None
    third = replace(note, promised=((3, note.promised[0][1] if driver == "sdbox" else bytes(16)),))
    others = [replace(third, uid_validity=note.uid_validity + 1), replace(third, guid="ab" * 16)]
    if driver == "mdbox":
        others.append(replace(note, promised=((3, bytes(15) + b"x"),)))
    for other in others:
        path.write_bytes(other.encode())
        await next_mount(location)
        assert not path.exists()
    assert [message.uid for message in account.fetch()] == [1, 3, 4, 5]


async def test_a_note_of_an_executed_removal_removes_no_file_that_was_put_back_later(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    account, location = of_dovecot(dovecot, "sdbox")
    await died(location, [2])
    (path,) = notes(location)
    shutil.copy2(path, tmp_path / path.name)
    await next_mount(location)
    directory = account.root / "mailboxes/INBOX/dbox-Mails"
    assert not path.exists()
    assert not (directory / "u.2").exists()
    shutil.copy2(directory / "u.1", directory / "u.2")
    shutil.copy2(tmp_path / path.name, path)
    await next_mount(location)
    assert not path.exists()
    assert (directory / "u.2").read_bytes() == (directory / "u.1").read_bytes()
    (directory / "u.2").unlink()


@REBUILT
@drivers
async def test_a_row_of_removals_is_executed_when_it_has_ended_whatever_dovecot_rebuilds(
    dovecot: Dovecot, driver: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("dboxfs.vfs.removals.ONE_BY_ONE", 0)  # as if the row was a long one already
    account, location = of_dovecot(dovecot, driver)
    async with daemon(location, WriteOptions()) as ours:
        for uid in (2, 4):
            await ours.remove(uid)
        await ours.put_off.pop()()
        assert len(notes(location)) == 1
        account.force_resync()  # the mount does not notice it
        await ours.put_off.pop()()
        assert not notes(location)
        assert not ours.put_off
        account.force_resync()
        assert [message.uid for message in account.fetch()] == [1, 3, 5]


@kinds
async def test_a_note_that_is_begun_while_the_row_is_finished_is_executed_with_the_others(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        begin = Asking._close_log

        async def finished_meanwhile(asking: Asking) -> None:
            await begin(asking)
            monkeypatch.setattr(Asking, "_close_log", begin)
            await ours.writer.carry_out("Work")

        monkeypatch.setattr(Asking, "_close_log", finished_meanwhile)
        assert await ours.writer.ask_expunge("Work", 2)
        assert len(notes(location)) == 1
        await ours.writer.keep_promises()
        assert not notes(location)


@kinds
async def test_the_notes_of_a_mailbox_stay_when_another_one_that_has_its_name_is_deleted(
    tmp_path: Path, kind: Kind
) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        assert await ours.writer.ask_expunge("Work", 2)
        async with daemon(location, WriteOptions()) as other:
            await other.writer.rename_mailbox("Work", "Else")
        await ours.writer.create_mailbox("Work")
        await ours.writer.delete_mailbox("Work")
        assert len(notes(location)) == 1
        await ours.writer.keep_promises()
        assert not notes(location)
    assert await shown(location, "Else") == [uid for uid in range(1, MANY + 1) if uid != 2]


@kinds
async def test_the_requests_of_a_row_are_gone_through_once_and_not_with_each_part_that_is_executed(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dboxfs.store.write.promises.UNDER_ONE_LOCK", 1)
    looks: list[int] = []

    def counted(state: IndexState) -> bool:
        looks.append(len(state.pending_requests))
        return only_expunges_pending(state)

    monkeypatch.setattr(log_records, "only_expunges_pending", counted)
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        for uid in range(1, MANY):
            await ours.remove(uid, "Work")
        await ours.removals.finish(ours.folder("Work"))
        looks.clear()
        await ours.removals.finish_all()
    assert len(looks) == 1
    assert await shown(location, "Work") == [MANY]


@kinds
@pytest.mark.parametrize("renamed", [False, True], ids=["fsync and end", "end alone"])
async def test_the_end_of_the_mount_executes_what_is_put_off(
    tmp_path: Path, kind: Kind, renamed: bool
) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        for uid in range(1, MANY):
            await ours.remove(uid, "Work")
        if not renamed:
            await ours.removals.finish(ours.folder("Work"))
            assert len(notes(location)) == 1
        else:
            async with daemon(location, WriteOptions()) as other:
                await other.writer.rename_mailbox("Work", "Else")
            await ours.store.refresh_tree()
        await ours.removals.finish_all()
    assert not notes(location)
    name = "Else" if renamed else "Work"
    assert await shown(location, name) == [MANY]
    if kind is Kind.SDBOX:
        files = Path(location.root, f"mailboxes/{name}/dbox-Mails").glob("u.*")
        assert [file.name for file in files] == [f"u.{MANY}"]


@kinds
@pytest.mark.parametrize("torn", [0, 7])
async def test_a_removal_that_can_not_be_noted_is_executed_before_its_answer(
    tmp_path: Path, kind: Kind, torn: int, caplog: pytest.LogCaptureFixture
) -> None:
    location = await made(tmp_path, kind)
    driver = FaultsDriver(ThreadsDriver(1), depth=1)
    async with daemon(location, WriteOptions(), driver) as ours:
        for uid in (1, 2):
            assert await ours.writer.ask_expunge("INBOX", uid)
        driver.replan([Fault("append", 2, short=torn, error=errno.ENOSPC)])
        assert await ours.writer.ask_expunge("INBOX", 3)
        driver.replan([Fault("create", 1, error=errno.ENOSPC)])
        assert await ours.writer.ask_expunge("INBOX", 4)
        driver.replan([])
        assert caplog.text.count("removals can't be noted") == 2
        await ours.store.refresh_mailbox(ours.folder())
        box = ours.folder().mailbox
        assert box is not None
        assert box.state is not None
        assert box.state.uids.tolist() == [1, 2, *range(5, MANY + 1)]
        (path,) = notes(location)
        note = parse_note(path.read_bytes())
        assert note is not None
        assert [uid for uid, _ in note.promised] == [1, 2]
        await ours.writer.carry_out("INBOX")
        await ours.writer.keep_promises()
    assert not notes(location)
    assert await shown(location) == list(range(5, MANY + 1))


@kinds
async def test_removals_in_a_mailbox_and_in_its_namesake_are_executed_each_in_its_own(
    tmp_path: Path, kind: Kind
) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours, daemon(location, WriteOptions()) as other:
        assert await ours.writer.ask_expunge("Work", 1)
        await other.writer.rename_mailbox("Work", "Else")
        await other.writer.create_mailbox("Work")
        await other.writer.save("Work", [NewMessage(body(n)) for n in range(3)])
        assert await ours.writer.ask_expunge("Work", 2)
        assert len(notes(location)) == 2
        await ours.writer.carry_out("Work")
        await ours.writer.keep_promises()
        for name, left in (("Work", [1, 3]), ("Else", list(range(2, MANY + 1)))):
            assert await shown(location, name) == left
            if kind is Kind.SDBOX:
                files = Path(location.root, f"mailboxes/{name}/dbox-Mails").glob("u.*")
                assert sorted(int(file.name[2:]) for file in files) == left
    assert not notes(location)


@kinds
async def test_the_notes_of_a_deleted_mailbox_go_with_it(tmp_path: Path, kind: Kind) -> None:
    location = await made(tmp_path, kind)
    async with daemon(location, WriteOptions()) as ours:
        for uid in range(1, MANY + 1):
            await ours.remove(uid, "Work")
        await ours.removals.finish(ours.folder("Work"))
        assert len(notes(location)) == 1
        await ours.writer.delete_mailbox("Work", only_empty=True)
        assert not notes(location)


@kinds
async def test_what_can_not_be_executed_now_stays_noted_and_is_executed_later(
    tmp_path: Path, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    location = await made(tmp_path, kind)
    options = WriteOptions(lock_timeout=0.1)
    async with daemon(location, options) as ours, daemon(location, options) as other:
        for uid in range(1, MANY):
            await ours.remove(uid)
        await ours.removals.finish(ours.folder())
        async with other.writer.held("INBOX"):
            await ours.removals.finish_all()
        assert "removed, but only requested" in caplog.text
        assert len(notes(location)) == 1
        await ours.removals.finish_all()
        assert not notes(location)
    assert await shown(location) == [MANY]


def test_a_promise_that_is_torn_or_damaged_counts_for_nothing() -> None:
    promised = tuple((uid, bytes([uid]) * 16) for uid in range(1, 6))
    note = Note("INBOX", "ab" * 16, uid_validity=7, promised=promised)
    data = note.encode()
    assert parse_note(data) == note
    line = len(promise(bytes(20)))
    for cut in range(1, line + 1):
        assert parse_note(data[:-cut]) == replace(note, promised=promised[:4])
    damaged = data[: -3 * line] + b"\0" * (line - 1) + data[-2 * line - 1 :]
    assert parse_note(damaged) == replace(note, promised=(*promised[:2], *promised[3:]))
    assert parse_note(data[: len(note.encode()) - 5 * line - 1]) is None
