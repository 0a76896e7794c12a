"""Stores that are spread out: an alternative storage, attachments in files of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace as replace_in

from dboxfs.errors import Unsupported
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.temporary import Process
from dboxfs.store import parse_location
from dboxfs.store.indexes.locks import tree_lock
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC)
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
ALONE = WriteOptions(Neighbour.ALONE)


def files(path: Path) -> list[str]:
    return sorted(p.name for p in path.rglob("*") if p.is_file() and p.name[:2] in ("u.", "m."))


@BOTH
async def test_messages_in_the_alternative_storage(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail:ALT={{home}}/alt")
    for n in range(6):
        account.save(body(n))
    account.doveadm("mailbox create", "Work")
    account.doveadm("altmove", "mailbox", "INBOX", "uid", "1:4")
    if driver == "mdbox":
        account.purge()
    assert files(account.home / "alt")
    async with writing(account.location, ALONE) as writer:
        await writer.copy("INBOX", [1, 6], "Work")
        await writer.move("INBOX", [2], "Work")
        await writer.expunge("INBOX", [3])
        saved = await writer.save("INBOX", [NewMessage(body(7))])
        assert saved.uids == (7,)
        if driver == "mdbox":
            assert (await writer.purge()).messages == 1
    assert Shown.of(account).texts == [body(n) for n in (0, 3, 4, 5, 7)]
    assert Shown.of(account, "Work").texts == [body(0), body(5), body(1)]
    if driver == "sdbox":
        assert files(account.home / "alt") == ["u.1", "u.4"]
    assert_resync_changes_nothing(account)
    async with writing(account.location, ALONE) as writer:
        await writer.rename_mailbox("Work", "Else")
        account.doveadm("altmove", "mailbox", "Else", "all")
        assert Shown.of(account, "Else").texts == [body(0), body(5), body(1)]
        await writer.rename_mailbox("Else", "Deep/Down")
        assert Shown.of(account, "Deep/Down").texts == [body(0), body(5), body(1)]
        await writer.delete_mailbox("Deep/Down")
    assert account.mailboxes() == ["Deep", "INBOX"] or account.mailboxes() == ["INBOX"]
    assert not (account.home / "alt/mailboxes/Deep/Down").exists()
    assert_resync_changes_nothing(account)


def attachment_files(account: Account) -> list[str]:
    return sorted(p.name for p in (account.home / "attachments").rglob("*-*"))


@BOTH
async def test_attachments_follow_copies_and_go_with_the_last(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", mail_attachment_dir="{home}/attachments")
    texts = list(corpus.attachments().values())[:2]
    account.append([Append(text) for text in texts])
    account.doveadm("mailbox create", "Work")
    stored = Shown.of(account).texts
    parts = len(attachment_files(account))
    assert parts == 2
    where = replace(parse_location(account.location), attachments=f"{account.home}/attachments")
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, where, await fs.stat(where.root), ALONE)
        await writer.copy("INBOX", [1, 2], "Work")
        await writer.expunge("INBOX", [1])
        assert Shown.of(account, "Work").texts == stored
        assert Shown.of(account).texts == stored[1:]
        if driver == "mdbox":
            assert (await writer.purge()).messages == 0
        await writer.expunge("Work", [1])
        if driver == "mdbox":
            assert (await writer.purge()).messages == 1
    assert Shown.of(account, "Work").texts == Shown.of(account).texts == stored[1:]
    assert len(attachment_files(account)) == (2 if driver == "sdbox" else 1)
    assert_resync_changes_nothing(account)
    account.doveadm("expunge", "mailbox", "Work", "all")


async def test_dovecot_removes_what_has_attachments_that_only_it_can_find(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail", mail_attachment_dir="{home}/attachments")
    account.append([Append(next(iter(corpus.attachments().values()))) for _ in range(3)])
    account.save(body(4))
    async with writing(account.location) as writer:
        assert await writer.expunge("INBOX", [1]) == [1]
        await writer.save("INBOX", [NewMessage(body(5), replaces=2)])
        await writer.take_place("INBOX", 4, 3)
    assert len(files(account.root)) == 5  # they wait for Dovecot
    assert Shown.of(account).texts == [body(4), body(5)]
    assert attachment_files(account) == []
    assert files(account.root) == ["u.4", "u.5"]


async def test_what_only_dovecot_can_remove_is_asked_for_again_if_a_rebuild_of_dovecots_forgot_it(
    dovecot: Dovecot,
) -> None:
    account = dovecot.account("sdbox:{home}/mail", mail_attachment_dir="{home}/attachments")
    account.append([Append(next(iter(corpus.attachments().values()))) for _ in range(4)])
    account.save(body(5))
    async with writing(account.location) as writer:
        writer.disk.process = replace_in(Process.this(), start="1")
        assert await writer.expunge("INBOX", [1]) == [1]
        await writer.save("INBOX", [NewMessage(body(6), replaces=2)])
        await writer.take_place("INBOX", 5, 3)
        assert await writer.ask_expunge("INBOX", 4)
        await writer.carry_out("INBOX")
        await writer.keep_promises()
    (note,) = account.root.glob("dboxfs-note*")
    account.force_resync()
    assert len(Shown.of(account).texts) == 6
    for _ in range(2):
        async with writing(account.location) as writer:
            await writer.recover()
    assert not note.exists()
    assert Shown.of(account).texts == [body(5), body(6)]
    assert attachment_files(account) == []
    assert files(account.root) == ["u.5", "u.6"]


async def test_attachments_that_cannot_be_found_are_not_copied(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail", mail_attachment_dir="{home}/attachments")
    account.append([Append(next(iter(corpus.attachments().values())))])
    account.doveadm("mailbox create", "Work")
    async with writing(account.location) as writer:
        with pytest.raises(Unsupported, match="attachments"):
            await writer.copy("INBOX", [1], "Work")
    assert Shown.of(account, "Work").texts == []
    assert not list(account.root.rglob(".temp.*"))


@pytest.mark.parametrize("suffix", [":VOLATILEDIR={home}/run/volatile", ":INDEX={home}/index"])
async def test_dovecot_waits_for_our_lock_on_the_tree(dovecot: Dovecot, suffix: str) -> None:
    account = dovecot.account(f"sdbox:{{home}}/mail{suffix}")
    account.save(body(1))
    async with writing(account.location) as writer:
        await writer.create_mailbox("Ours")
        async with tree_lock(writer._work.disk, writer.location.tree_lock):
            with trio.move_on_after(0.5) as waited:
                await trio.to_thread.run_sync(
                    account.doveadm, "mailbox create", "Theirs", abandon_on_cancel=True
                )
            assert waited.cancelled_caught
            assert account.mailboxes() == ["INBOX", "Ours"]
        with trio.fail_after(10):
            while account.mailboxes() != ["INBOX", "Ours", "Theirs"]:
                await trio.sleep(0.05)
        await writer.delete_mailbox("Theirs")
    assert account.mailboxes() == ["INBOX", "Ours"]
