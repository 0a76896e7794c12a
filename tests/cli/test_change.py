"""``init`` and ``purge``, beside what Dovecot says of the result."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import dboxfs


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
def test_a_new_store_is_opened_by_dovecot_without_a_word(dovecot: Dovecot, kind: str) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail")
    done = dboxfs("init", "--format", kind, account.root)
    assert (done.returncode, done.stderr) == (0, "")
    for directory, _, files in os.walk(account.root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            os.chown(path, dovecot.mail_uid, account.home.stat().st_gid)
    assert list(account.status()) == ["INBOX"]
    account.append([Append(b"Subject: first\n\n")])
    assert [message.uid for message in account.fetch()] == [1]


def test_init_leaves_alone_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "precious").write_text("x")
    done = dboxfs("init", "--format", "mdbox", tmp_path / "mail")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "mail") == ["precious"]


@pytest.mark.expected_log("fscking index file", "rebuilding indexes", "Rebuilding index")
def test_purge_gives_back_what_it_said_it_would(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(b"Subject: %d\n\n" % n + b"x" * 5000) for n in range(20)])
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:15")
    before = {message.uid: message.text for message in account.fetch()}
    copy = tmp_path / "mail"
    shutil.copytree(account.root, copy)
    would = dboxfs("purge", "--dry-run", copy)
    assert would.returncode == 0, would.stderr
    assert sum(path.stat().st_size for path in (copy / "storage").glob("m.*")) > 100_000
    done = dboxfs("purge", account.root)
    assert done.returncode == 0, done.stderr
    said = would.stdout.splitlines()[-1].removeprefix("would free ")
    assert done.stdout.splitlines()[-1].removeprefix("freed ") == said
    assert "15 messages" in said
    assert sum(path.stat().st_size for path in (account.root / "storage").glob("m.*")) < 40_000
    account.force_resync()
    assert {message.uid: message.text for message in account.fetch()} == before


def test_purge_has_nothing_to_do_in_an_sdbox(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(b"Subject: x\n\n")
    done = dboxfs("purge", account.root)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
