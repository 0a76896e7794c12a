"""New messages whose large parts get files of their own, as Dovecot makes them."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from dboxfs.dbox.cutting import Cutting
from dboxfs.dbox.encoders import parse_method
from dboxfs.dbox.encrypt import Sealing
from dboxfs.dovecot.user import find_user
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import Location, parse_location
from dboxfs.store.write import Eol, NewMessage, StoreWriter, WriteOptions
from tests.dbox.test_cutting import MESSAGES, MIN
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs

APART = WriteOptions(apart=Cutting(MIN))
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def made(dovecot: Dovecot, driver: str, **settings: str) -> tuple[Account, Location]:
    account = dovecot.account(
        f"{driver}:{{home}}/mail",
        mail_attachment_dir="{home}/attachments", mail_attachment_min_size="2k", **settings,
    )  # fmt: skip
    account.save(b"Subject: first\n\n")
    account.doveadm("mailbox create", "Work")
    return account, replace(parse_location(account.location), attachments=f"{account.home}/attachments")


def files(account: Account) -> list[Path]:
    """The files of attachments, without those by which 2.3 finds equal ones."""
    return sorted(
        path
        for path in (account.home / "attachments").rglob("*")
        if path.is_file() and path.parent.name != "hashes"
    )


def stored(account: Account, mailbox: str = "INBOX") -> list[tuple[str, bytes]]:
    """The metadata of messages without what is random or a time, in their order in the files."""
    where = account.root / (
        "storage" if (account.root / "storage").is_dir() else f"mailboxes/{mailbox}/dbox-Mails"
    )
    data = b"".join(
        path.read_bytes() for path in sorted(where.glob("[um].*"), key=lambda p: int(p.suffix[1:]))
    )
    found = []
    for block in re.findall(rb"\n\x01\x03\n(.*?)\n\n", data, re.DOTALL):
        for line in block.split(b"\n"):
            value = re.sub(rb"-[0-9a-f]{32}(?= |$)", b"-", line[1:]) if line[:1] == b"X" else line[1:]
            if line[:1] not in b"RG":
                found.append((line[:1].decode(), value))
    return found


@BOTH
@pytest.mark.parametrize("compress", ["none", "zstd"])
async def test_messages_are_stored_as_dovecot_stores_them_and_it_reads_and_removes_them(
    dovecot: Dovecot, driver: str, compress: str
) -> None:
    settings = {} if compress == "none" else {"zlib_save": compress}
    theirs, _ = made(dovecot, driver, **settings)
    theirs.append([Append(text) for text in MESSAGES.values()])
    ours, location = made(dovecot, driver, **settings)
    options = WriteOptions(eol=Eol.LF, apart=Cutting(MIN), compress=parse_method(compress))
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, await fs.stat(location.root), options)
        texts = [text.replace(b"\n", b"\r\n").replace(b"\r\r\n", b"\r\n") for text in MESSAGES.values()]
        for text in texts:
            await writer.save("INBOX", [NewMessage(text)])
        assert [m.text for m in ours.fetch()] == [m.text for m in theirs.fetch()]
        assert [(m.physical_size, m.virtual_size) for m in ours.fetch()] == [
            (m.physical_size, m.virtual_size) for m in theirs.fetch()
        ]
        assert stored(ours) == stored(theirs)
        assert len(files(ours)) == len(files(theirs)) > 10
        assert sorted(path.read_bytes() for path in files(ours)) == sorted(
            path.read_bytes() for path in files(theirs)
        )
        modes = {(path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in files(ours)}
        assert modes == {
            (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in files(theirs)
        }
        await writer.save("Work", [NewMessage(text) for text in texts[:3]])
        await writer.copy("Work", [1, 2, 3], "INBOX")
    ours.doveadm("expunge", "mailbox", "INBOX", "all")
    ours.doveadm("expunge", "mailbox", "Work", "all")
    ours.purge()
    assert files(ours) == []


@pytest.mark.mount
@BOTH
def test_a_mount_of_a_user_stores_attachments_as_the_user_s_dovecot_does(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account, _ = made(dovecot, driver)
    mnt = mounts.mountpoint()
    user = ("--user", account.name, "-c", str(dovecot.config), "--log-file", mounts.log_file(mnt))
    done = dboxfs("mount", *user, "-o", "rw", mnt)
    assert (done.returncode, done.stderr) == (0, "")
    text = MESSAGES["two-parts"]
    (mnt / "INBOX/new").write_bytes(text)
    assert (mnt / "INBOX/new").read_bytes() == text
    assert (mnt / "INBOX/new").stat().st_size == len(text)
    assert len(files(account)) == 2
    (mnt / "INBOX/new").rename(mnt / "Work/moved")
    with (mnt / "Work/moved").open("ab") as file:
        file.write(b"more\n")
    assert (mnt / "Work/moved").read_bytes() == text + b"more\n"
    os.link(mnt / "Work/moved", mnt / "INBOX/copy")
    (mnt / "Work/moved").unlink()
    mounts.umount(mnt)
    assert [m.text for m in account.fetch()][1:] == [text + b"more\n"]
    account.purge()
    assert len(files(account)) == 2
    account.doveadm("expunge", "mailbox", "INBOX", "all")
    account.purge()
    assert files(account) == []


def test_an_import_for_a_user_stores_attachments_so_too(dovecot: Dovecot, tmp_path: Path) -> None:
    account, _ = made(dovecot, "mdbox")
    (tmp_path / "tree/INBOX").mkdir(parents=True)
    (tmp_path / "tree/INBOX/1.eml").write_bytes(MESSAGES["two-parts"])
    command = ("import", tmp_path / "tree", "--user", account.name, "-c", dovecot.config, "-q")
    assert dboxfs(*command).returncode == 0
    assert len(files(account)) == 2
    assert account.fetch()[-1].text == MESSAGES["two-parts"]
    assert "0 messages imported" in dboxfs(*command).stdout
    assert len(files(account)) == 2


@BOTH
async def test_a_part_that_can_not_be_written_leaves_no_file_and_no_message(
    dovecot: Dovecot, driver: str
) -> None:
    account, location = made(dovecot, driver)
    for nth in (1, 2, 3):  # a file of each part, then the message's own
        faults = FaultsDriver(ThreadsDriver(), [Fault("append", nth, error=errno.ENOSPC)])
        async with FileSystem(faults) as fs:
            writer = StoreWriter(fs, location, await fs.stat(location.root), APART)
            with pytest.raises(OSError, match="No space") as caught:
                await writer.save("INBOX", [NewMessage(MESSAGES["two-parts"])])
        assert caught.value.errno == errno.ENOSPC
        assert files(account) == []
        assert len(account.fetch()) == 1


async def test_a_message_whose_uid_is_taken_has_its_parts_under_the_next_one(dovecot: Dovecot) -> None:
    account, location = made(dovecot, "sdbox")
    account.append([Append(MESSAGES["two-parts"])])
    (account.root / "mailboxes/INBOX/dbox-Mails/u.3").touch()
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, location, await fs.stat(location.root), APART)
        assert (await writer.save("INBOX", [NewMessage(MESSAGES["base64-60"])])).uids == (4,)
        assert (await writer.copy("INBOX", [2], "INBOX")).uids == (5,)
    assert {path.name.rpartition("-")[2] for path in files(account)} == {"2", "4", "5"}
    assert [m.text for m in account.fetch()][1:] == [
        MESSAGES[name] for name in ("two-parts", "base64-60", "two-parts")
    ]


async def test_messages_are_stored_whole_where_parts_can_not_be_apart(dovecot: Dovecot) -> None:
    account, location = made(dovecot, "sdbox")
    key = ec.generate_private_key(ec.SECP256R1())
    for where, options in (
        (replace(location, attachments=None), APART),
        (location, WriteOptions()),
        (location, structs.replace(APART, encrypt=Sealing(key.public_key()))),
        (location, structs.replace(APART, apart=Cutting(1 << 20))),
    ):
        async with FileSystem(ThreadsDriver()) as fs:
            writer = StoreWriter(fs, where, await fs.stat(location.root), options)
            await writer.save("INBOX", [NewMessage(MESSAGES["two-parts"])])
        assert files(account) == []


def test_what_dovecot_does_is_found_in_its_settings(dovecot: Dovecot) -> None:
    def found(**settings: str) -> Cutting | None:
        account = dovecot.account("mdbox:{home}/mail", **settings)
        return find_user(account.name, str(dovecot.config)).cutting

    there = {"mail_attachment_dir": "{home}/attachments"}
    assert found() is None
    assert found(**there) == Cutting(128 << 10)
    assert found(**there, mail_attachment_min_size="2M") == Cutting(2 << 20)
    assert found(**there, mail_attachment_hash="%%{{sha256:80}}") == Cutting(128 << 10, "sha256", 80)
    assert found(**there, mail_attachment_hash="%%{{md4}}") is None
