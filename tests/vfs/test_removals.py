"""unlink(2): what was answered is in the log, whatever becomes of the daemon; the rest comes in batches.

Without a mount: :class:`Removals` over a store of our own.  The daemon's death is that nothing which it has
put off is ever done.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from dboxfs.errors import StoreBusy
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.store import Folder, Kind, Location, Store, open_store
from dboxfs.store.write import (
    Fsync,
    LockMethod,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    init_store,
)
from dboxfs.vfs.names import Names
from dboxfs.vfs.removals import ONE_BY_ONE, Removals
from tests.live.dovecot import Dovecot
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
            await dying.removals.remove(dying.folder(), uid)
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
            await one.removals.remove(one.folder(), uid)
            await two.writer.set_flags("INBOX", [MANY], add=uid % 2 + 1)
            await two.removals.remove(two.folder(), uid + 1)
            await one.removals.remove(one.folder(), uid + 2)
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
            await full.removals.remove(full.folder(), uid)
        driver.replan([Fault("append", 1, short=7, error=errno.ENOSPC)])
        with pytest.raises(OSError, match="space"):
            await full.removals.remove(full.folder(), 20)
        driver.replan([])
        assert await shown(location) == list(range(2 * ONE_BY_ONE, MANY + 1))
        assert 20 not in full.names.hidden(full.folder())
        await full.removals.remove(full.folder(), 20)
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
            await ours.removals.remove(ours.folder(), uid)
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
                await ours.removals.remove(ours.folder(name), uid)
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
            await ours.removals.remove(ours.folder(), uid)
        assert len(ours.put_off) == 1
        await ours.put_off.pop()()
        assert not ours.names.hidden(ours.folder())
        box = ours.folder().mailbox
        assert box is not None
        assert box.state is not None
        assert box.state.uids.tolist() == [MANY]
        assert not ours.store.held
        await ours.removals.remove(ours.folder(), MANY)
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
        await ours.removals.remove(ours.folder(), 2)
        await trio.to_thread.run_sync(partial(account.force_resync))
        await ours.removals.finish(ours.folder())
        assert not ours.names.hidden(ours.folder())
        assert "1 removals were lost in a rebuild" in caplog.text
    assert [message.uid for message in account.fetch()] == [1, 3]
