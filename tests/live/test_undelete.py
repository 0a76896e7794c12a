"""``dboxfs undelete`` beside a real Dovecot."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress

import pytest

from dboxfs.cli.main import main
from dboxfs.errors import NoSuchMessage
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store, parse_location
from dboxfs.store.deleted import DeletedMessages
from dboxfs.store.write import StoreWriter
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts
from tests.store.write.stores import RESYNC, assert_resync_changes_nothing, body


def made(dovecot: Dovecot, messages: int = 4) -> Account:
    account = dovecot.account("mdbox:{home}/mail")
    for n in range(messages):
        account.save(body(n))
    account.doveadm("mailbox create", "Work", "Späße")
    account.save(body(10), "Work")
    account.save(b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\ntext\n", "Späße")
    return account


@pytest.mark.expected_log(*RESYNC)
def test_dovecot_shows_what_comes_back_with_guid_and_date_and_keeps_it_over_purge_and_resync(
    dovecot: Dovecot, capsys: pytest.CaptureFixture[str]
) -> None:
    account = made(dovecot)
    before = {message.guid: message for message in account.fetch()}
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2:3")
    assert main(["undelete", str(account.root), "--list"]) == 0
    listed = capsys.readouterr().out
    for guid in sorted(before.keys() - {message.guid for message in account.fetch()}):
        assert re.search(rf"^\S+Z +\d+ {guid} INBOX  number [12]$", listed, re.MULTILINE), listed
    assert "2 messages can be brought back" in listed
    assert main(["undelete", str(account.root), "--mailbox", "INBOX"]) == 0
    assert capsys.readouterr().out == "INBOX: 2 messages brought back\n"
    after = {message.guid: message for message in account.fetch()}
    assert after.keys() == before.keys()
    for guid, message in after.items():
        assert (message.text, message.received) == (before[guid].text, before[guid].received)
    account.purge()
    assert {message.guid for message in account.fetch()} == before.keys()
    assert_resync_changes_nothing(account)


def test_a_mailbox_that_dovecot_deleted_is_made_again_with_its_messages(
    dovecot: Dovecot, capsys: pytest.CaptureFixture[str]
) -> None:
    account = made(dovecot)
    account.doveadm("mailbox delete", "Späße")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1")
    assert main(["undelete", str(account.root), "--list"]) == 0
    assert " Späße  Grüße\n" in capsys.readouterr().out
    assert main(["undelete", str(account.root), "--all"]) == 0
    out = capsys.readouterr().out
    assert "Späße: the mailbox did not exist any more, and was made\n" in out
    assert "Späße: 1 messages brought back\n" in out
    assert len(account.fetch("Späße")) == 1
    assert len(account.fetch()) == 4


def test_what_is_asked_for_comes_back_and_nothing_else(
    dovecot: Dovecot, capsys: pytest.CaptureFixture[str]
) -> None:
    account = made(dovecot)
    root = str(account.root)
    guids = [message.guid for message in account.fetch()]
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:4")
    assert main(["undelete", root, "--guid", guids[1], "--to", "Work"]) == 0
    assert [message.guid for message in account.fetch("Work")][1:] == [guids[1]]
    assert main(["undelete", root, "--since", "2100-01-01"]) == 0
    assert "no deleted message fits: nothing was changed" in capsys.readouterr().out
    assert main(["undelete", root, "--mailbox", "INBOX", "--since", "2020-01-01"]) == 0
    assert len(account.fetch()) == 3
    for wrong, status, text in (
        ([], 2, "say which messages"),
        (["--guid", guids[1]], 1, "no deleted message"),
        (["--all", "--to", "None"], 1, "None: no such mailbox"),
    ):
        capsys.readouterr()
        assert main(["undelete", root, *wrong]) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
    with pytest.raises(SystemExit):
        main(["undelete", root, "--since", "yesterday"])
    assert "give a date (2026-06-30) or days (7d)" in capsys.readouterr().err


async def test_while_dovecot_purges_again_and_again_each_message_is_back_or_purged(dovecot: Dovecot) -> None:
    account = made(dovecot, messages=0)
    location = parse_location(account.location)
    back: set[str] = set()
    async with FileSystem(ThreadsDriver()) as fs:
        for turn in range(4):
            for n in range(6):
                account.save(body(100 * turn + n))
            account.doveadm("expunge", "mailbox", "INBOX", "subject", "number")
            async with open_store(fs, location, follow=False) as store:
                found = await DeletedMessages(store).look()
                writer = StoreWriter(fs, location, store.owner)
                command = ["doveadm", "-c", str(dovecot.config), "purge", "-u", account.name]
                with subprocess.Popen(command, stderr=subprocess.PIPE) as purging:
                    for message in found:
                        with suppress(NoSuchMessage):  # purged
                            await writer.undelete("Work", [message.what])
                            back.add(message.guid_text)
                    assert purging.wait() == 0
            shown = {message.guid for message in account.fetch("Work")}
            assert back <= shown
    assert back
    assert len(shown) == len(back) + 1


@pytest.mark.mount
def test_mv_out_of_a_mount_brings_a_message_back_and_another_user_sees_nothing_of_it(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot)
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2:3")
    mnt = mounts.mount(account.location, "rw,allow_other,fmode=0644,dmode=0755", for_all=True)
    deleted = mnt / ".dboxfs/deleted/INBOX"
    first, second = sorted(deleted.iterdir())
    assert {first.read_bytes(), second.read_bytes()} == {body(1), body(2)}
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    shown = subprocess.run([*other, "ls", mnt / "INBOX"], capture_output=True, text=True)
    assert shown.stdout == "1.eml\n4.eml\n"
    for command in (["ls", deleted], ["cat", first], ["stat", first], ["cat", mnt / ".dboxfs/store.json"]):
        refused = subprocess.run([*other, *map(str, command)], capture_output=True, text=True)
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr
    text = first.read_bytes()
    subprocess.run(["mv", first, mnt / "Work"], check=True)
    assert (mnt / "Work" / first.name).read_bytes() == text
    assert [name.name for name in deleted.iterdir()] == [second.name]
    back = account.fetch("Work")[-1]
    assert (back.text, back.guid) == (text, first.stem)
    again = subprocess.run(["mv", "-n", second, mnt / "Work" / first.name], capture_output=True)
    assert second.exists(), again
    mounts.umount(mnt)
