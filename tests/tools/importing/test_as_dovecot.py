"""An import with ``--user`` stores as the user's Dovecot does: compressed, encrypted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live.crypt_keys import global_keys
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import dboxfs

BODY = b"the body of it, " * 40 + b"\n"
TEXTS = {
    ("INBOX", "1.eml"): b"Subject: one\n\n" + BODY,
    ("INBOX", "2.eml"): b"Subject: two\n\n" + BODY * 500,
    ("Work", "1.eml"): b"Subject: three\n\n" + BODY,
}


def source(where: Path) -> Path:
    """A tree whose first message is in both mailboxes, with one guid."""
    for (mailbox, name), text in TEXTS.items():
        (where / mailbox).mkdir(parents=True, exist_ok=True)
        (where / mailbox / name).write_bytes(text)
    both = TEXTS["INBOX", "1.eml"]
    (where / "Work/2.eml").write_bytes(both)
    for path in (where / "INBOX/1.eml", where / "Work/2.eml"):
        os.setxattr(path, "user.dbox.guid", b"8f2e0c0a1b2c3d4e5f60718293a4b5c6")
    return where


def stored(account: Account) -> bytes:
    return b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))


@pytest.mark.parametrize(
    ("driver", "how"),
    [("sdbox", "global"), ("mdbox", "global"), ("sdbox", "folders"), ("mdbox", "folders"), ("mdbox", "zstd")],
)
def test_an_import_stores_as_the_user_s_dovecot_does_and_changes_nothing_the_second_time(
    dovecot: Dovecot, tmp_path: Path, driver: str, how: str
) -> None:
    if how == "zstd":
        settings, key = {"zlib_save": "zstd"}, None
    elif how == "global":
        keys = global_keys(dovecot)
        settings, key = keys.settings, keys.private
    else:
        settings, key = dovecot.dialect.folder_keys("prime256v1", ""), Path("dovecot-attributes")
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.save(b"Subject: zero\n\nfrom Dovecot\n")
    command = [
        "import",
        str(source(tmp_path / "tree")),
        "--user",
        account.name,
        "-c",
        str(dovecot.config),
        "-q",
    ]
    if key is not None:
        refused = dboxfs(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "give --crypt-key FILE" in refused.stderr
        assert len(account.fetch()) == 1
        command += ["--crypt-key", str(account.root.parent / key)]
    done = dboxfs(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 messages imported into 2 mailboxes" in done.stdout
    inbox = [message.text for message in account.fetch()]
    assert sorted(inbox[1:]) == sorted(text for (name, _), text in TEXTS.items() if name == "INBOX")
    work = [message.text for message in account.fetch("Work")]
    assert sorted(work) == sorted([TEXTS["Work", "1.eml"], TEXTS["INBOX", "1.eml"]])
    assert len(stored(account)) < 10_000 if how == "zstd" else b"the body of it" not in stored(account)
    assert ("new guid" in done.stdout) == (how == "folders"), "the copy has a key, and so a text, of its own"
    again = dboxfs(*command)
    assert again.returncode == 0
    assert "0 messages imported" in again.stdout, again.stdout
    assert dboxfs("check", account.location).returncode == 0


def test_an_import_that_shall_not_encrypt_stores_plain(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("sdbox:{home}/mail", **global_keys(dovecot).settings)
    account.save(b"Subject: zero\n\nfrom Dovecot\n")
    done = dboxfs(
        "import", source(tmp_path / "tree"), "--user", account.name, "-c", dovecot.config, "-q", "--encrypt",
        "none",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(account).count(b"Subject: two") == 1
    assert len(account.fetch("Work")) == 2
