"""Mailboxes made, renamed, deleted and subscribed by us, and whole stores, as Dovecot sees them."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from dboxfs.errors import NoSuchMailbox, Unsupported
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, Permissions, ThreadsDriver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.ops import Job, Op
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.list_index import read_list
from dboxfs.store.location import TreeLayout
from dboxfs.store.write import (
    InvalidName,
    LockMethod,
    MailboxExists,
    MailboxInUse,
    Neighbour,
    NewMessage,
    StoreExists,
    StoreWriter,
    WriteOptions,
    init_store,
)
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

R = TypeVar("R")
pytestmark = pytest.mark.expected_log(*RESYNC)
SPLIT = ":INDEX={home}/index:CONTROL={home}/control"
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
LAYOUTS = pytest.mark.parametrize(
    "mail",
    [
        *(f"{driver}:{{home}}/mail{suffix}" for driver in ("sdbox", "mdbox") for suffix in ("", SPLIT)),
        "sdbox:{home}/mail:LAYOUT=index",
        f"mdbox:{{home}}/mail:LAYOUT=index{SPLIT}",
    ],
)


def made(dovecot: Dovecot, mail: str) -> Account:
    account = dovecot.account(mail)
    account.save(body(0))
    account.doveadm("mailbox create", "Work/Old")
    account.doveadm("mailbox list")
    return account


@LAYOUTS
async def test_create_rename_delete(dovecot: Dovecot, mail: str) -> None:
    account = made(dovecot, mail)
    client = account.imap()
    async with writing(account.location) as writer:
        await writer.create_mailbox("New")
        await writer.create_mailbox("A/B/C")
        await writer.save("A/B/C", [NewMessage(body(1))])
        await writer.save("Work/Old", [NewMessage(body(2))])
        assert account.mailboxes() == ["A", "A/B", "A/B/C", "INBOX", "New", "Work", "Work/Old"]
        await writer.rename_mailbox("A/B", "Z/Y/X")
        assert account.mailboxes() == ["INBOX", "New", "Work", "Work/Old", "Z", "Z/Y", "Z/Y/X", "Z/Y/X/C"]
        assert Shown.of(account, "Z/Y/X/C").texts == [body(1)]
        await writer.save("Z/Y/X/C", [NewMessage(body(3))])
        await writer.delete_mailbox("Work/Old")
        await writer.create_mailbox("Work/Old")
    names = {line.split(b'"/" ')[1].decode() for line in client.list()[1] if isinstance(line, bytes)}
    assert names == {"INBOX", "New", "Work", "Work/Old", "Z", "Z/Y", "Z/Y/X", "Z/Y/X/C"}
    client.logout()
    assert Shown.of(account, "Z/Y/X/C").texts == [body(1), body(3)]
    assert Shown.of(account, "Work/Old").texts == []
    status = account.status()
    validities = [s.uidvalidity for s in status.values()]
    assert len(set(validities)) == len(validities)
    assert len({s.guid for s in status.values()}) == len(status)
    account.doveadm("mailbox create", "Theirs")
    assert account.status()["Theirs"].uidvalidity == max(validities) + 1
    assert_resync_changes_nothing(account)
    assert not list(account.root.glob("..DOVECOT*"))
    if mail.startswith("mdbox"):
        account.purge()
        assert_resync_changes_nothing(account)


@BOTH
async def test_what_cannot_be_made_or_removed(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, f"{driver}:{{home}}/mail")
    async with writing(account.location) as writer:
        await writer.save("Work/Old", [NewMessage(body(1))])
        for name in ("INBOX", "Work/Old"):
            with pytest.raises(MailboxExists):
                await writer.create_mailbox(name)
        for name in ("", "a//b", "..", "a/.", "~x", "dbox-Mails", "a\nb", "b&d", "caf\udce9", "x" * 300):
            with pytest.raises(InvalidName):
                await writer.create_mailbox(name)
        with pytest.raises(InvalidName):
            await writer.rename_mailbox("Work", "Work/Old/Deeper")
        await writer.create_mailbox("Other")
        with pytest.raises(MailboxExists):
            await writer.rename_mailbox("Work", "Other")
        for name in ("INBOX", "Nowhere"):
            with pytest.raises((Unsupported, NoSuchMailbox)):
                await writer.delete_mailbox(name)
            with pytest.raises((Unsupported, NoSuchMailbox)):
                await writer.rename_mailbox(name, "Else")
        for name in ("Work", "Work/Old"):
            with pytest.raises(MailboxInUse):
                await writer.delete_mailbox(name, only_empty=True)
        await writer.expunge("Work/Old", [1])
        await writer.delete_mailbox("Work/Old", only_empty=True)
        await writer.delete_mailbox("Other", only_empty=True)
    parents = ["Work"] if dovecot.dialect.version < (2, 4) else []  # 2.4 shows none without a mailbox in it
    assert account.mailboxes() == ["INBOX", *parents]
    assert Shown.of(account).texts == [body(0)]
    assert_resync_changes_nothing(account)


async def test_subscriptions(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    async with writing(account.location) as writer:
        assert await writer.subscribe("Work/Old")
        assert not await writer.subscribe("Work/Old")
        assert await writer.subscribe("INBOX")
        assert account.subscriptions() == ["INBOX", "Work/Old"]
        account.doveadm("mailbox subscribe", "Work")
        assert await writer.subscribe("Work/Old", False)
        assert not await writer.subscribe("Work/Old", False)
    assert account.subscriptions() == ["INBOX", "Work"]
    account.doveadm("mailbox unsubscribe", "INBOX")
    assert account.subscriptions() == ["Work"]
    assert not list(account.root.glob("subscriptions.lock"))


@BOTH
@pytest.mark.parametrize("suffix", ["", SPLIT, ":UTF-8:DIRNAME=msgs:MAILBOXDIR=boxes", ":LAYOUT=index"])
@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
async def test_a_store_made_by_us_alone(
    dovecot: Dovecot, driver: str, suffix: str, neighbour: Neighbour
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail{suffix}")
    os.chown(account.home, dovecot.mail_uid, -1)
    options = WriteOptions(neighbour)
    entry = account.home.stat()
    async with FileSystem(ThreadsDriver()) as fs:
        where = as_location(account)
        await init_store(fs, where, Permissions(0o700, entry.st_gid, entry.st_uid), options)
        writer = StoreWriter(fs, parse_location(account.location), await fs.stat(where.root), options)
        saved = await writer.save("INBOX", [NewMessage(body(n)) for n in range(20)])
        await writer.create_mailbox("Work")
        await writer.create_mailbox("Work/Sub")
        await writer.copy("INBOX", saved.uids[:5], "Work/Sub")
        await writer.expunge("INBOX", saved.uids[3:6])
        with pytest.raises(StoreExists):
            await init_store(fs, where, options=options)
    shown = Shown.of(account)
    assert shown.texts == [body(n) for n in range(20) if n not in (3, 4, 5)]
    assert Shown.of(account, "Work/Sub").texts == [body(n) for n in range(5)]
    assert account.mailboxes() == ["INBOX", "Work", "Work/Sub"]
    account.save(body(20))
    assert Shown.of(account).texts == [*shown.texts, body(20)]
    for path in account.home.rglob("*"):
        st = path.lstat()
        assert (st.st_uid, st.st_gid) == (entry.st_uid, entry.st_gid), path
        assert not stat.S_IMODE(st.st_mode) & 0o077 or path.name.startswith("dovecot-uidvalidity."), path
    assert_resync_changes_nothing(account)


def as_location(account: Account) -> Location:
    """What ``parse_location`` would say if the store were there."""
    root, home = account.root, account.home
    kind = Kind.MDBOX if account.location.startswith("mdbox") else Kind.SDBOX
    if "INDEX" in account.location:
        return Location(kind, str(root), index=f"{home}/index", control=f"{home}/control")
    if "DIRNAME" in account.location:
        return Location(kind, str(root), dirname="msgs", mailbox_dir="boxes", utf8=True)
    if "LAYOUT" in account.location:
        return Location(kind, str(root), layout=TreeLayout.INDEX, escape="^")
    return Location(kind, str(root))


@BOTH
async def test_a_shared_store_keeps_group_and_modes(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    group = 12345
    async with FileSystem(ThreadsDriver()) as fs:
        where = as_location(account)
        await init_store(fs, where, Permissions(0o2770, group, dovecot.mail_uid))
        writer = StoreWriter(fs, where, await fs.stat(where.root))
        await writer.save("INBOX", [NewMessage(body(1))])
        await writer.create_mailbox("Work")
    for path in Path(where.root).rglob("*"):
        st = path.lstat()
        assert (st.st_uid, st.st_gid) == (dovecot.mail_uid, group), path
        if path.is_dir():
            assert stat.S_IMODE(st.st_mode) == 0o2770, path
        elif not path.name.startswith("dovecot-uidvalidity."):
            assert stat.S_IMODE(st.st_mode) == 0o660, path


async def test_a_mailbox_whose_creation_reports_an_error_is_not_there_whatever_has_failed() -> None:
    location = Location(Kind.SDBOX, "/store", layout=TreeLayout.INDEX)
    for nth in itertools.count(1):
        memory = MemoryDriver()
        async with FileSystem(memory) as fs:
            await init_store(fs, location)
            await StoreWriter(fs, location, await fs.stat("/store")).create_mailbox("Work")
        faults = FaultsDriver(MemoryDriver(tree=memory.tree), depth=1)
        async with FileSystem(faults) as fs:
            writer = StoreWriter(fs, location, await fs.stat("/store"))
            faults.replan([Fault("*", nth, error=errno.EIO)])
            before = sum(faults.counts.values())
            try:
                await writer.create_mailbox("New/Deep")
                is_made = True
            except OSError:
                is_made = False
            operations = sum(faults.counts.values()) - before
            faults.replan([])
            listed = await read_list(fs, location)
            directories = {entry.name for entry in await fs.listdir("/store/mailboxes")}
        shown = {name for name, node in listed.nodes.items() if node.guid is not None}
        assert shown == ({"INBOX", "Work", "New/Deep"} if is_made else {"INBOX", "Work"}), nth
        assert ("New" in listed.nodes) == is_made, nth
        assert directories == {node.guid.hex() for node in listed.nodes.values() if node.guid}, nth
        if operations < nth:
            break


@pytest.mark.parametrize("lock_method", list(LockMethod))
async def test_a_renamed_mailbox_is_locked_by_nobody(lock_method: LockMethod) -> None:
    location, options = Location(Kind.SDBOX, "/store"), WriteOptions(lock_method=lock_method)
    async with FileSystem(MemoryDriver()) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, await fs.stat("/store"), options)
        await writer.create_mailbox("Old")
        await writer.save("Old", [NewMessage(body(0))])
        await writer.rename_mailbox("Old", "New")
        names = {entry.name for entry in await fs.listdir(os.path.dirname(location.index_path("New") + "/x"))}
        assert "u.1" in names
        assert not [name for name in names if name.endswith(".lock")]
        with trio.fail_after(options.lock_timeout / 2):
            assert (await writer.save("New", [NewMessage(body(1))])).uids == (2,)


class _ReadBetween(FaultsDriver):
    """At each operation the store's own reader has just read a list index without these mailboxes."""

    def __init__(self, inner: MemoryDriver, location: Location, unlisted: str) -> None:
        super().__init__(inner)
        self._location, self._unlisted = location, unlisted

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        directories = self._location.directories
        directories.take({name: guid for name, guid in directories.all.items() if name != self._unlisted})
        return super().submit(op, done, background=background)


async def test_a_mailbox_is_made_and_removed_whole_while_somebody_reads_the_list_index() -> None:
    for index in (None, "/index"):
        location = Location(
            Kind.SDBOX, "/store", layout=TreeLayout.INDEX, mailbox_dir="mailboxes", index=index
        )
        memory = MemoryDriver()
        async with FileSystem(memory) as fs:
            await init_store(fs, location)
        async with FileSystem(_ReadBetween(MemoryDriver(tree=memory.tree), location, "New")) as fs:
            writer = StoreWriter(fs, location, await fs.stat("/store"))
            await writer.create_mailbox("New")
            made = (await read_list(fs, location)).nodes["New"].guid
            assert made is not None
            assert made.hex() in {entry.name for entry in await fs.listdir("/store/mailboxes")}
            await writer.delete_mailbox("New")
            assert list((await read_list(fs, location)).nodes) == ["INBOX"]
            for tree in filter(None, ("/store", index)):
                assert made.hex() not in {entry.name for entry in await fs.listdir(f"{tree}/mailboxes")}
