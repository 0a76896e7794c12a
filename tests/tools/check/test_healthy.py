"""A store that is as it should be gives no finding, also while Dovecot works with it."""

from __future__ import annotations

import threading

import pytest

from tests.live import corpus
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import dboxfs
from tests.store.write.stores import body
from tests.tools.check.stores import DRIVERS, check, lively_account


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_healthy_store_has_no_findings(dovecot: Dovecot, driver: str) -> None:
    account = lively_account(dovecot, driver)
    report = check(account.location)
    assert (report.status, report.loud(), report.stderr) == (0, [], "")
    messages = sum(status.messages for status in account.status().values())
    assert report.summary["mailboxes"] == 3
    assert report.summary["messages"] == messages
    assert report.summary["unowned"] == (4 if driver == "mdbox" else 0)  # expunged after the purge
    quick = check(account.root, "--quick")
    assert (quick.status, quick.loud()) == (0, [])
    assert quick.summary["bytes"] <= report.summary["bytes"]


@pytest.mark.parametrize(
    ("driver", "save"), [("sdbox", "gz"), ("sdbox", ""), ("mdbox", "bz2"), ("mdbox", "lz4")]
)
def test_texts_that_are_hard_to_count_are_counted_as_dovecot_does(
    dovecot: Dovecot, driver: str, save: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", **({"zlib_save": save} if save else {}))
    account.append([Append(data) for data in corpus.nasty().values()])
    report = check(account.location)
    assert (report.status, report.loud()) == (0, [])
    assert report.summary["messages"] == len(corpus.nasty())


def test_copies_that_dovecot_encrypts_anew_for_another_mailbox_are_healthy(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail", **dovecot.dialect.folder_keys("prime256v1", ""))
    for number in range(2):
        account.save(body(number, 300))
    account.doveadm("mailbox create", "Work")
    account.doveadm("copy", "Work", "mailbox", "INBOX", "uid", "1:2")
    account.doveadm("copy", "Work", "mailbox", "Work", "uid", "1")
    # A copy inside of its mailbox has the same key: 2.4 refers to the text that is there, 2.3 encrypts anew.
    anew = 2 if dovecot.dialect.version >= (2, 4) else 3
    for options in ([], ["--quick"]):
        report = check(account.location, *options)
        assert (report.status, report.loud()) == (0, [])
        (note,) = [one for one in report.findings if one["code"] == "encrypted-copies"]
        assert f"{anew} messages are copies of others, encrypted anew" in str(note["what"])
        assert "avoid doveadm force-resync" in str(note["todo"])


def test_messages_with_one_guid_that_are_not_encrypted_are_told(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    for number in range(2):
        account.save(body(number, 300))
    path = account.root / "storage/m.1"
    data = path.read_bytes()
    first, second = (data[at + 2 : at + 34] for at in (data.index(b"\nG"), data.rindex(b"\nG")))
    path.write_bytes(data.replace(second, first))
    report = check(account.location)
    assert report.codes() == {"same-guid", "guid"}
    (twins,) = [one for one in report.findings if one["code"] == "same-guid"]
    assert f"have the same guid {first.decode()}" in str(twins["what"])


@pytest.mark.parametrize("driver", DRIVERS)
def test_attachments_in_files_of_their_own_are_looked_for(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", mail_attachment_dir="{home}/attachments")
    account.append([Append(data) for data in corpus.attachments().values()])
    account.doveadm("mailbox create", "Copies")
    account.doveadm("copy", "Copies", "mailbox", "INBOX", "all")
    report = check(account.location)
    assert (report.status, {finding["code"] for finding in report.findings}) == (0, {"external"})
    directory = account.home / "attachments"
    report = check(account.location, "--attachments", str(directory))
    assert (report.status, report.findings) == (0, [])
    victims = sorted(p for p in directory.rglob("*") if p.is_file() and "hashes" not in p.parts)
    victims[0].unlink()
    victims[1].write_bytes(victims[1].read_bytes() + b"x")
    report = check(account.location, "--unused", "--attachments", str(directory))
    assert (report.status, report.codes()) == (1, {"attachment"})


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_store_that_dovecot_is_changing_has_no_findings(dovecot: Dovecot, driver: str) -> None:
    account = lively_account(dovecot, driver)
    over = threading.Event()

    def work() -> None:
        number = 100
        while not over.is_set():
            account.save(body(number, 2000))
            account.doveadm("copy", "Other", "mailbox", "INBOX", "subject", f"number {number}")
            account.doveadm("expunge", "mailbox", "INBOX", "subject", f"number {number}")
            if driver == "mdbox" and number % 5 == 0:
                account.purge()
            number += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            done = dboxfs("check", account.location)
            loud = [line for line in done.stdout.splitlines() if line.startswith(("error", "warning"))]
            assert (done.returncode, loud) == (0, [])
    finally:
        over.set()
        worker.join()
    assert check(account.location).status == 0
