"""Users with encryption keys of their own (mail_crypt): a mount of many users, and undelete."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs
from tests.live.test_site import mounted

TEXT = b"Subject: to be encrypted\n\nthe body of it\n"
PASSWORD = "geheim"


def with_keys(dovecot: Dovecot, driver: str, password: str = "") -> Account:
    """A user with a message in INBOX, and a key for each mailbox."""
    keys = dovecot.dialect.folder_keys("prime256v1", password)
    account = dovecot.account(f"{driver}:{{home}}/mail", **keys)
    account.save(TEXT)
    return account


def stored(account: Account) -> bytes:
    return b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))


def refused(path: Path) -> None:
    with pytest.raises(PermissionError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EACCES


def encrypted_lines(mounts: Mounts, mnt: Path) -> list[str]:
    return [line for line in mounts.log_file(mnt).read_text().splitlines() if "is encrypted" in line]


def test_a_mount_of_dovecots_users_reads_and_writes_each_one_s_mail_with_the_user_s_keys(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    accounts = [with_keys(dovecot, "sdbox"), with_keys(dovecot, "mdbox", PASSWORD)]
    plain = dovecot.account("sdbox:{home}/mail")
    plain.save(TEXT)
    users = tmp_path / "users"
    users.write_text("".join(f"{account.name}\n" for account in (*accounts, plain)))
    mnt = mounted(mounts, str(users), "-c", dovecot.config, "-o", "rw")
    for account in (*accounts, plain):
        user = mnt / account.name
        assert (user / "INBOX/1.eml").read_bytes() == TEXT, "Dovecot has the password, too"
        (user / "INBOX/two").write_bytes(TEXT * 2)
        (user / "New").mkdir()
        (user / "New/three").write_bytes(TEXT * 3)
        assert (user / "New/three").read_bytes() == TEXT * 3
    mounts.umount(mnt)
    for account in accounts:
        assert [message.text for message in account.fetch()] == [TEXT, TEXT * 2]
        assert [message.text for message in account.fetch("New")] == [TEXT * 3]
        assert b"the body of it" not in stored(account)
    assert [message.text for message in plain.fetch("New")] == [TEXT * 3]
    assert stored(plain).count(b"the body of it") == 6


@pytest.mark.root
@pytest.mark.expected_log("is encrypted")
def test_a_user_s_key_is_found_by_the_user_s_name_and_a_locked_or_planted_one_is_eacces_with_one_line(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account, locked, planted, without, waiting = (
        with_keys(dovecot, "mdbox", password) for password in ("", PASSWORD, "", "", "")
    )
    keys = "dovecot-attributes"
    secret = dovecot.root / "secret-keys"
    (planted.home / keys).rename(secret)
    secret.chmod(0o600)
    os.chown(secret, 0, 0)
    (planted.home / keys).symlink_to(secret)
    (without.home / keys).unlink()
    (waiting.home / keys).unlink()
    os.mkfifo(waiting.home / keys)
    os.chown(waiting.home / keys, dovecot.mail_uid, -1)
    each = f"{dovecot.root}/home/%u/{keys}"
    source = f"mdbox:{dovecot.root}/home/%u/mail"
    mnt = mounted(mounts, source, "-o", f"rw,crypt_key={each},encrypt={each}")
    (mnt / account.name / "INBOX/two").write_bytes(TEXT * 2)
    assert (mnt / account.name / "INBOX/two").read_bytes() == TEXT * 2
    for user, why in (  # not in their order, which would be a walk, and open the user of another test ahead
        (waiting, "not a regular file"), (without, "No such file"), (planted, "Permission denied"),
        (locked, "it needs a password"),
    ):  # fmt: skip
        before = len(encrypted_lines(mounts, mnt))
        for _ in range(3):
            refused(mnt / user.name / "INBOX/1.eml")
        lines = encrypted_lines(mounts, mnt)[before:]
        assert len(lines) == 1, lines
        assert f"{user.home}/{keys}: {why}" in lines[0]
    mounts.umount(mnt)
    assert [message.text for message in account.fetch()] == [TEXT, TEXT * 2]
    ours, theirs = os.pipe()
    os.write(theirs, f"{PASSWORD}\n".encode())
    os.close(theirs)
    mnt = mounts.mountpoint()
    done = dboxfs(
        "mount", "--log-file", mounts.log_file(mnt), f"--users={source}",
        "-o", f"crypt_key={each},crypt_password_fd={ours}", mnt, pass_fds=(ours,),
    )  # fmt: skip
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert (mnt / locked.name / "INBOX/1.eml").read_bytes() == TEXT
    assert (mnt / account.name / "INBOX/1.eml").read_bytes() == TEXT


def test_undelete_brings_encrypted_messages_where_dovecot_can_read_them(dovecot: Dovecot) -> None:
    account = with_keys(dovecot, "mdbox")
    keys = account.home / "dovecot-attributes"
    for name in ("Work", "Old"):
        account.doveadm("mailbox create", name)
        account.append([Append(TEXT * 2, "\\Flagged"), Append(TEXT * 3)], name)
    old_keys = account.home / "keys-before"
    shutil.copy(keys, old_keys)
    account.doveadm("expunge", "mailbox", "INBOX", "all")
    account.doveadm("expunge", "mailbox", "Work", "uid", "1")
    account.doveadm("mailbox delete", "Old")  # with its key
    account.doveadm("mailbox create", "Old")
    to_work = ("--all", "--mailbox", "INBOX", "--to", "Work")
    blind = dboxfs("undelete", account.location, *to_work, "--encrypt", keys)
    assert (blind.returncode, blind.stderr.count("\n")) == (1, 1), blind.stderr
    assert "not brought back" in blind.stderr
    assert "give its key" in blind.stderr
    assert [message.text for message in account.fetch("Work")] == [TEXT * 3]
    user = ("--user", account.name, "-c", dovecot.config)
    done = dboxfs("undelete", *user, *to_work)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Work: 1 messages brought back" in done.stdout
    users = account.home / "users"
    users.write_text(f"{account.name}\n")
    everybody = ("--users", users, "-c", dovecot.config, "--all")
    done = dboxfs("undelete", *everybody)
    assert (done.returncode, done.stdout.count("for another key than was given")) == (1, 2), done.stdout
    assert sorted(message.text for message in account.fetch("Work")) == [TEXT, TEXT * 2, TEXT * 3]
    assert account.fetch("Old") == []
    done = dboxfs("undelete", *everybody, "--crypt-key", old_keys)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert sorted(message.text for message in account.fetch("Old")) == [TEXT * 2, TEXT * 3]
    assert b"the body of it" not in stored(account)
    again = dboxfs("undelete", *user, "--list")
    assert "0 messages can be brought back" in again.stdout
