"""Stores that a Dovecot 2.3 wrote (``samples/``), and what dboxfs makes of them, with the Dovecot that is
installed.

On Debian 13 these are stores that 2.3 wrote and 2.4 goes on with.  Nothing of it may make Dovecot log a line.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_shows, assert_shows_soon
from tests.live.mounts import Mounts, dboxfs

SAMPLES = Path(__file__).parents[2] / "samples"
both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def given_to(account: Account) -> None:
    """The store's files are the mail user's."""
    for path in (account.root, *account.root.rglob("*")):
        os.chown(path, account.dovecot.mail_uid, -1, follow_symlinks=False)


def taken_over(dovecot: Dovecot, driver: str) -> Account:
    """A user whose store is a copy of the sample."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    shutil.copytree(SAMPLES / driver, account.root, symlinks=True)
    given_to(account)
    return account


def go_on(account: Account) -> None:
    """Dovecot does a little of everything."""
    account.append(
        [Append(b"Subject: new\n\ntext\n", "\\Flagged $Label1"), Append(b"Subject: newer\n\ntext\n")]
    )
    account.doveadm("flags add", r"\Seen $Label2", "mailbox", "INBOX", "1")
    account.doveadm("copy", "Trash", "mailbox", "INBOX", "1:2")
    account.doveadm("move", "Lists", "mailbox", "INBOX", "3")
    account.doveadm("expunge", "mailbox", "INBOX", "2")
    account.doveadm("mailbox rename", "Lists", "Boards")
    account.doveadm("mailbox create", "-s", "New")
    account.purge()


@both
def test_a_store_that_dovecot_2_3_wrote_goes_on(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    account = taken_over(dovecot, driver)
    mnt = mounts.mount(account.location)
    assert_shows(mnt, Expected.of(account), tally)
    go_on(account)
    assert_shows_soon(account, mnt, tally)
    done = dboxfs("check", account.location)
    assert (done.returncode, done.stdout.splitlines()[-1].split(",")[0]) == (0, "0 errors"), done.stdout


@both
def test_what_dboxfs_makes_of_it_is_dovecots_without_a_word(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    original = taken_over(dovecot, "mdbox" if driver == "sdbox" else "sdbox")
    account = dovecot.account(f"{driver}:{{home}}/mail")
    done = dboxfs("convert", original.root, account.root, "--format", driver, "--verify")
    assert done.returncode == 0, done.stderr
    given_to(account)
    wanted, found = Expected.of(original), Expected.of(account)
    assert (found.names, found.subscribed) == (wanted.names, wanted.subscribed)
    for name, messages in wanted.messages.items():
        kept = [(m.uid, m.guid, m.flags, m.keywords, m.received, m.text) for m in messages]
        assert [
            (m.uid, m.guid, m.flags, m.keywords, m.received, m.text) for m in found.messages[name]
        ] == kept
    go_on(account)
    assert_shows(mounts.mount(account.location), Expected.of(account), tally)
