"""One mailbox through the library: what went meanwhile, what is damaged, what is repaired."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from dboxfs.errors import CorruptFile, NoSuchMailbox, NoSuchMessage
from dboxfs.fsapi import Driver, Fault, FaultsDriver, ThreadsDriver
from dboxfs.store import KNOWN
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.opened import box_of, opened, soon

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def message(n: int) -> bytes:
    return b"Subject: %d\n\n" % n + b"body of %d\n" % n * (n + 1)


def made(dovecot: Dovecot, driver: str, count: int = 6, **settings: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.append(Append(message(n)) for n in range(1, count + 1))
    return account


def expunge(account: Account, uids: str) -> None:
    account.doveadm("expunge", "mailbox", "INBOX", "uid", uids)


def file_of(account: Account, uid: int) -> Path:
    return account.root / "mailboxes/INBOX/dbox-Mails" / f"u.{uid}"


@BOTH
async def test_facts_are_those_of_dovecot(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    expected = account.fetch()
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        assert box.facts.unknown == 0
        for m in expected:
            facts = await box.facts_of(m.uid)
            assert (facts.state, facts.size, facts.received, facts.saved) == (
                KNOWN, m.physical_size, m.received, m.saved,
            )  # fmt: skip


@BOTH
async def test_dates_before_1970_are_dates(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(b"x\n", date="01-Jan-1960 00:00:00 +0000"), Append(b"y\n")])
    async with opened(account) as (store, _):
        await box_of(store).scan()
        assert (await box_of(store).facts_of(1)).received == -315619200
        assert (await box_of(store).facts_of(2)).state == KNOWN


@BOTH
async def test_what_was_expunged_a_moment_ago_is_gone_not_damaged(
    dovecot: Dovecot, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, driver)
    async with opened(account, follow=False) as (store, told):
        expunge(account, "1:3")
        if driver == "mdbox":
            account.purge()
        box = box_of(store)
        assert len(box) == 6  # not heard of it yet
        with pytest.raises(NoSuchMessage):
            await box.facts_of(1)
        assert told.expunged == [("INBOX", 1), ("INBOX", 2), ("INBOX", 3)]
        with pytest.raises(NoSuchMessage):
            await box.open(2)
        assert (await box.facts_of(4)).size == len(message(4))
    async with opened(account, follow=False) as (store, told):
        box = box_of(store)
        expunge(account, "4")
        if driver == "mdbox":
            account.purge()
        await box.scan()
        assert box.facts.unknown == 0
        assert box.uids.tolist() == [5, 6]
        assert told.expunged == [("INBOX", 4)]
    assert caplog.records == []
    assert store.damaged_messages == 0


@BOTH
async def test_an_open_message_goes_on_after_expunge_and_purge(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with opened(account) as (store, _):
        body = await box_of(store).open(3)
        expunge(account, "3")
        if driver == "mdbox":
            account.purge()
        await soon(lambda: 3 not in box_of(store))
        assert await body.read(body.size, 0) == message(3)
        body.close()
        assert store.fs.stats()["open_handles"] <= 1


async def test_a_message_that_a_purge_moved_is_found(
    dovecot: Dovecot, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "mdbox")
    async with opened(account, follow=False) as (store, _):
        body = await box_of(store).open(5)
        body.close()
        expunge(account, "1:2")
        account.purge()
        for uid in (5, 6):
            body = await box_of(store).open(uid)
            assert await body.read(body.size, 0) == message(uid)
            body.close()
    assert caplog.records == []


@pytest.mark.expected_log("Rebuilding")
async def test_messages_of_a_rebuilt_mailbox_are_read_again(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox")
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        assert (await box.facts_of(2)).size == len(message(2))
        file_of(account, 2).write_bytes(file_of(account, 5).read_bytes())  # as a repair would, by name
        account.force_resync()
        expected = {uid: len(message(5 if uid == 2 else uid)) for uid in range(1, 7)}

        async def sizes() -> dict[int, int]:
            return {uid: (await box.facts_of(uid)).size for uid in box.uids.tolist()}

        with trio.fail_after(1):
            while await sizes() != expected:
                await trio.sleep(0.01)


async def test_a_file_that_is_put_back_is_read_again(
    dovecot: Dovecot, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "sdbox")
    path = file_of(account, 2)
    path.rename(path.with_suffix(".away"))
    async with opened(account) as (store, _):
        box = box_of(store)
        for _ in range(3):
            assert (await box.facts_of(2)).damaged
            with pytest.raises(CorruptFile, match=r"u\.2: damaged at offset 0: .*missing"):
                await box.open(2)
        assert len(caplog.records) == 1
        path.with_suffix(".away").rename(path)
        assert (await box.facts_of(2)).size == len(message(2))
        body = await box.open(2)
        assert await body.read(body.size, 0) == message(2)
        body.close()


@pytest.mark.parametrize("how", ["cut", "empty", "missing"])
async def test_without_its_map_a_store_can_be_listed_but_not_read(
    dovecot: Dovecot, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "mdbox")
    log = account.root / "storage" / "dovecot.map.index.log"
    if how != "missing":
        log.write_bytes(b"" if how == "empty" else log.read_bytes()[:20])
    async with opened(account) as (store, _):
        if how == "missing":  # a store without a map is not opened, but one that is open may lose it
            log.unlink()
        box = box_of(store)
        assert len(box) == 6
        for _ in range(2):
            await box.scan()
            assert (await box.facts_of(1)).damaged
            with pytest.raises(CorruptFile, match=r"dovecot\.map\.index\.log"):
                await box.open(1)
        assert box.flags(1) == ()
    assert 1 <= len(caplog.records) <= 2  # the map; the message that was opened


async def test_a_saved_date_that_dovecot_settles_later_is_taken(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox", count=2)
    account.doveadm("mailbox create", "Copies")
    async with opened(account) as (store, told):
        box = box_of(store)
        await box.scan()
        before = (await box.facts_of(1)).saved
        await trio.sleep(1.1)
        account.doveadm("copy", "Copies", "mailbox", "INBOX", "uid", "1")  # a hard link: another ctime
        (saved,) = {m.saved for m in account.fetch(search="uid 1")}
        assert saved > before
        with trio.fail_after(1):
            while (await box.facts_of(1)).saved != saved:
                await trio.sleep(0.01)
        assert ("INBOX", 1) in told.updated


async def test_one_bad_date_costs_one_message(dovecot: Dovecot, caplog: pytest.LogCaptureFixture) -> None:
    for driver in ("sdbox", "mdbox"):
        account = made(dovecot, driver)
        path = file_of(account, 2) if driver == "sdbox" else account.root / "storage" / "m.1"
        data = path.read_bytes()
        at = data.index(b"\nR", data.index(message(2))) + 2
        path.write_bytes(data[:at] + b"zz" + data[at + 2 :])
        async with opened(account) as (store, _):
            box = box_of(store)
            await box.scan()
            assert [(await box.facts_of(uid)).damaged for uid in range(1, 7)] == [False, True] + [False] * 4
        assert len(caplog.records) == 1
        caplog.clear()


async def test_one_bad_map_record_costs_one_message(dovecot: Dovecot) -> None:
    account = made(dovecot, "mdbox", count=40)
    log = account.root / "storage" / "dovecot.map.index.log"
    data = bytearray(log.read_bytes())
    body = (account.root / "storage" / "m.1").read_bytes()
    at = data.index((body.index(message(2)) - 30).to_bytes(4, "little")) + 4
    data[at + 3] ^= 0x30  # its size becomes 800 million
    log.write_bytes(data)
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        damaged = [uid for uid in range(1, 41) if (await box.facts_of(uid)).damaged]
        assert damaged == [2]


@BOTH
async def test_files_that_cannot_be_read_are_an_error_each_time(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    where = "u.2" if driver == "sdbox" else "m.1"
    inner: Driver = ThreadsDriver()
    faults = FaultsDriver(inner, [Fault("peek", path=where, error=errno.EIO)])
    async with opened(account, driver=faults) as (store, _):
        box = box_of(store)
        await box.scan()
        with pytest.raises(OSError, match="Input/output") as caught:
            await box.facts_of(2)
        assert caught.value.errno == errno.EIO
        assert not box.scanning


async def test_facts_of_an_old_mailbox_do_not_reach_the_new_one(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.doveadm("mailbox create", "Box")
    account.save(message(1), "Box")
    faults = FaultsDriver(ThreadsDriver(), [Fault("peek", path="/u.1", nth=1, delay=0.3)])
    async with opened(account, driver=faults) as (store, _):
        old = box_of(store, "Box")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.scan)
            await trio.sleep(0.05)
            account.doveadm("mailbox delete", "Box")
            account.doveadm("mailbox create", "Box")
            account.save(message(200), "Box")
        guid = bytes.fromhex(account.status()["Box"].guid)
        await soon(lambda: "Box" in store.folders and box_of(store, "Box").guid == guid)
        assert (await box_of(store, "Box").facts_of(1)).size == len(message(200))


async def test_alternative_storage_with_long_metadata(dovecot: Dovecot) -> None:
    attachment = b"".join(
        b"--b\nContent-Type: application/x%d\nContent-Transfer-Encoding: base64\n\n%s\n"
        % (n, b"QUJD" * 40000)
        for n in range(8)
    )
    text = b'Subject: x\nContent-Type: multipart/mixed; boundary="b"\n\n' + attachment + b"--b--\n"
    account = dovecot.account("sdbox:{home}/mail:ALT={home}/alt", mail_attachment_dir="{home}/att")
    account.append([Append(text), Append(message(2))])
    account.doveadm("altmove", "mailbox", "INBOX", "uid", "1")
    assert (account.home / "alt/mailboxes/INBOX/dbox-Mails/u.1").exists()
    async with opened(account) as (store, _):
        await box_of(store).scan()
        assert (await box_of(store).facts_of(1)).size == len(text)
        assert (await box_of(store).facts_of(2)).size == len(message(2))


async def test_a_log_that_stays_damaged_is_not_read_again_and_again(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox")
    faults = FaultsDriver(ThreadsDriver())
    async with opened(account, driver=faults) as (store, _):
        log = file_of(account, 1).with_name("dovecot.index.log")
        log.write_bytes(b"\x01\x03" + bytes(300))
        await soon(lambda: "INBOX" in store.index_errors)
        await trio.sleep(0.5)
        before = faults.counts.copy()
        for _ in range(20):
            await store.refresh_mailbox(store.folders["INBOX"])
        assert faults.counts - before == {"peek": 20}  # whether it is still the same
        assert len(box_of(store)) == 6  # what was known stays


def test_no_file_of_a_store_is_ever_written(dovecot: Dovecot) -> None:
    """The times of all files are what they were after everything was read."""
    for driver in ("sdbox", "mdbox"):
        account = made(dovecot, driver)

        def times(account: Account = account) -> dict[str, tuple[int, int]]:
            return {
                os.path.join(top, name): (st.st_mtime_ns, st.st_size)
                for top, directories, files in os.walk(account.home)
                for name in [*directories, *files]
                for st in [os.lstat(os.path.join(top, name))]
            }

        before = times()

        async def read(account: Account = account) -> None:
            async with opened(account) as (store, _):
                box = box_of(store)
                await box.scan()
                for uid in box.uids.tolist():
                    body = await box.open(uid)
                    await body.read(body.size, 0)
                    body.close()

        trio.run(read)
        assert times() == before


async def test_a_mailbox_that_was_renamed_a_moment_ago_is_gone_and_not_damaged(
    dovecot: Dovecot, caplog: pytest.LogCaptureFixture
) -> None:
    account = dovecot.account("sdbox:{home}/mail:INDEX={home}/index")
    account.doveadm("mailbox create", "Work")
    account.save(b"Subject: one\n\n", "Work")
    boxes = account.root / "mailboxes"
    async with opened(account, follow=False) as (store, _):
        box = box_of(store, "Work")
        (boxes / "Work").rename(boxes / "Else")  # the first step; the index is the second
        with pytest.raises(NoSuchMailbox):
            await box.facts_of(1)
        with pytest.raises(NoSuchMessage):
            await box.open(1)
        assert caplog.messages == []
        (boxes / "Else").rename(boxes / "Work")
        assert (await box.facts_of(1)).size == 14
