"""Without Dovecot: purge, maintenance, recovery; Dovecot accepts what is left."""

from __future__ import annotations

import os

import pytest
import trio

from dboxfs.errors import StoreBusy, Unsupported
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store, parse_location
from dboxfs.store.write import (
    Fsync,
    LockMethod,
    Neighbour,
    NewMessage,
    PurgeProgress,
    StoreWriter,
    WriteOptions,
)
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC)
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
ALONE = WriteOptions(Neighbour.ALONE)


def made(dovecot: Dovecot, driver: str, count: int = 1, **settings: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    for n in range(count):
        account.save(body(n))
    account.doveadm("mailbox create", "Work")
    return account


def stored(account: Account) -> int:
    return sum(p.stat().st_size for p in account.root.glob("storage/m.*"))


async def test_purge_gives_back_what_it_says(dovecot: Dovecot) -> None:
    account = made(dovecot, "mdbox")
    options = WriteOptions(Neighbour.ALONE, rotate_size=50_000)
    async with writing(account.location, options) as writer:
        saved = await writer.save("INBOX", [NewMessage(body(n, 5000)) for n in range(100)])
        await writer.copy("INBOX", saved.uids[:10], "Work")
        gone = [*saved.uids[:30], *saved.uids[50:75:2]]
        await writer.expunge("INBOX", gone)
        before = stored(account)
        said = await writer.purge(dry_run=True)
        assert stored(account) == before
        told: list[PurgeProgress] = []
        done = await writer.purge(report=told.append)
        assert (done.messages, done.bytes_freed) == (said.messages, said.bytes_freed)
        assert done.left == ()
        assert done.messages == len(gone) - 10
        assert before - stored(account) >= done.bytes_freed
        assert [p.files_done for p in told] == list(range(told[-1].files + 1))
        assert [p.bytes_at_once > 0 for p in told] == [True] + [False] * told[-1].files
        assert (await writer.purge()).files == 0
    kept = [body(n, 5000) for n in range(100) if saved.uids[n] not in gone]
    assert Shown.of(account).texts == [body(0), *kept]
    assert Shown.of(account, "Work").texts == [body(n, 5000) for n in range(10)]
    assert_resync_changes_nothing(account)
    account.purge()
    account.save(body(200))
    assert_resync_changes_nothing(account)
    assert not (account.root / "storage/dboxfs.purge").exists()


async def test_purge_is_refused_where_it_must_not_be(dovecot: Dovecot) -> None:
    async with writing(made(dovecot, "sdbox").location, ALONE) as writer:
        with pytest.raises(Unsupported):
            await writer.purge()
    async with writing(made(dovecot, "mdbox").location) as writer:
        with pytest.raises(Unsupported):
            await writer.purge()


async def test_a_file_that_the_map_does_not_describe_is_left_alone(dovecot: Dovecot) -> None:
    account = made(dovecot, "mdbox", 3)
    async with writing(account.location, ALONE) as writer:
        await writer.expunge("INBOX", [2])
        (path,) = account.root.glob("storage/m.*")
        with path.open("ab") as file:
            file.write(b"something else")
        before = path.read_bytes()
        done = await writer.purge()
        assert done.files == 0
        assert "m.1: damaged" in done.left[0]
        assert path.read_bytes() == before
        assert await writer.recover() == 1
        assert (await writer.purge()).messages == 1
    assert Shown.of(account).texts == [body(0), body(2)]
    assert_resync_changes_nothing(account)


@BOTH
async def test_maintenance_leaves_what_is_young(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver, 3)
    directory = account.root / "mailboxes/INBOX/dbox-Mails"
    (directory / ".temp.1.P1Q1M1.host").write_bytes(b"somebody is writing this")
    async with writing(account.location, ALONE) as writer:
        done = await writer.maintain()
    assert (done.removed, done.recovered, done.expunged) == (0, 0, 0)
    assert (directory / ".temp.1.P1Q1M1.host").exists()
    assert_resync_changes_nothing(account)


@BOTH
async def test_maintenance_takes_away_what_is_nobodys(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver, 3)
    directory = account.root / "mailboxes/INBOX/dbox-Mails"
    storage = account.root / "storage" if driver == "mdbox" else directory
    left = [directory / ".temp.1.P1Q1M1.host", storage / ".temp.2.P1Q1M1.host"]
    for path in left:
        path.write_bytes(b"somebody died while writing this")
    async with writing(account.location, WriteOptions(Neighbour.ALONE, temporary_age=-1)) as writer:
        done = await writer.maintain()
    assert (done.removed, done.mailboxes, done.failed) == (2, 2, 0)
    assert not any(path.exists() for path in left)
    assert Shown.of(account).texts == [body(n) for n in range(3)]
    assert_resync_changes_nothing(account)


async def test_maintenance_can_be_ended_between_two_mailboxes(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox")
    looked_at = 0

    async def pause() -> None:
        nonlocal looked_at
        looked_at += 1
        if looked_at == 2:
            scope.cancel()
            await trio.lowlevel.checkpoint()

    async with writing(account.location, ALONE) as writer:
        with trio.CancelScope() as scope:
            await writer.maintain(pause)
        assert scope.cancelled_caught
        assert (await writer.save("INBOX", [NewMessage(body(1))])).uids == (2,)
    assert looked_at == 2


async def test_files_without_a_record(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox", 3)
    directory = account.root / "mailboxes/INBOX/dbox-Mails"
    os.link(directory / "u.1", directory / "u.20")
    (directory / "u.30").write_bytes(b"no message")
    async with writing(account.location, ALONE) as writer:
        done = await writer.maintain()
        assert (done.removed, done.recovered) == (0, 1)
        (saved,) = (await writer.save("INBOX", [NewMessage(body(9))])).uids
    assert saved == 21
    (directory / "u.30").unlink()
    assert Shown.of(account).texts == [body(0), body(1), body(2), body(0), body(9)]


@BOTH
async def test_a_torn_log_is_cut_before_dovecot_sees_it(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver, 3)
    client = account.imap()
    client.select("INBOX")
    logs = list(account.root.rglob("*.log"))
    for path in logs:
        with path.open("ab") as file:
            file.write(b"\x80\x80\x80\x90\x02\0\0\x10half")
    async with writing(account.location) as writer:
        assert await writer.recover() == len(logs)
        assert await writer.recover() == 0
        await writer.save("INBOX", [NewMessage(body(3))])
    client.noop()
    client.logout()
    assert Shown.of(account).texts == [body(n) for n in range(4)]
    assert_resync_changes_nothing(account)


@BOTH
@pytest.mark.parametrize("method", list(LockMethod), ids=lambda m: m.value)
async def test_every_lock_method_is_dovecots(dovecot: Dovecot, driver: str, method: LockMethod) -> None:
    account = made(dovecot, driver, 1, lock_method=method.value)
    first = WriteOptions(lock_method=method, lock_timeout=0.2)
    where = parse_location(account.location)
    async with FileSystem(ThreadsDriver()) as fs:
        owner = await fs.stat(where.root)
        one, two = StoreWriter(fs, where, owner, first), StoreWriter(fs, where, owner, first)
        await one.save("INBOX", [NewMessage(body(1))])
        async with one.held("INBOX"):
            with pytest.raises(StoreBusy, match=r"dovecot\.index\.log"):
                await two.set_flags("INBOX", [1], add=8)
        await two.set_flags("INBOX", [1], add=8)
    assert [m.flags for m in Shown.of(account).messages] == [r"\Seen", ""]
    assert not list(account.root.rglob("*.lock"))
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_store_written_without_waiting_for_the_disk(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location, WriteOptions(fsync=Fsync.NEVER)) as writer:
        for n in range(1, 30):
            await writer.save("INBOX", [NewMessage(body(n))])
    assert Shown.of(account).texts == [body(n) for n in range(30)]
    assert_resync_changes_nothing(account)


@BOTH
async def test_the_reading_side_sees_every_change(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    where = parse_location(account.location)
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, where, follow=False) as store:
        writer = StoreWriter(fs, where, store.owner, ALONE)
        inbox = store.folders["INBOX"].mailbox
        assert inbox is not None
        saved = await writer.save("INBOX", [NewMessage(body(n, 30_000), flags=8) for n in range(1, 60)])
        await writer.expunge("INBOX", [1, *saved.uids[:5]])
        await inbox.refresh()
        assert inbox.uids.tolist() == list(saved.uids[5:])
        for uid in saved.uids[5:]:
            opened = await inbox.open(uid)
            assert await opened.read(opened.size, 0) == body(uid - 1, 30_000)
            opened.close()
            assert inbox.flags(uid) == ("\\Seen",)
        if driver == "mdbox":
            await writer.purge()
            opened = await inbox.open(saved.uids[-1])
            assert await opened.read(opened.size, 0) == body(59, 30_000)
            opened.close()
        await writer.create_mailbox("New")
        await store.refresh_tree()
        assert "New" in store.folders
    assert os.path.isdir(account.root / "mailboxes/New")
