"""A converted store is, to Dovecot, the store that it was."""

from __future__ import annotations

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.store_converting.showing import Showing, assert_shows, converted, tree
from tests.store_writing.stores import RESYNC, assert_resync_changes_nothing, body


def fill(account: Account) -> None:
    """A store with something of everything."""
    account.append(corpus.with_flags(corpus.nasty() | corpus.real()))
    account.doveadm("mailbox create", "Work/Sub", "Work", "Größe & Co/日本語", "Empty")
    account.doveadm("mailbox delete", "Work")
    account.doveadm("mailbox subscribe", "Work/Sub", "Größe & Co/日本語", "Nowhere")
    account.append(
        [Append(body(n, 3000), r"\Seen z", "01-Feb-2020 00:00:00 +0000") for n in range(20)], "Work/Sub"
    )
    account.doveadm("flags add", "later $Label1", "mailbox", "Work/Sub", "uid", "3,5")
    account.doveadm("copy", "Größe & Co/日本語", "mailbox", "INBOX", "uid", "1:9")
    account.doveadm("copy", "Work/Sub", "mailbox", "Work/Sub", "uid", "2")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "3,7:11,40:*")
    account.doveadm("flags remove", r"\Seen", "mailbox", "INBOX", "uid", "12")


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.parametrize(("kind", "zlib"), [("sdbox", ""), ("mdbox", "gz")])
def test_there_and_back_it_is_the_same_to_dovecot(dovecot: Dovecot, kind: str, zlib: str) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail", **({"zlib_save": zlib} if zlib else {}))
    fill(account)
    expected = Showing.of(account)
    before = tree(account.root)
    other = converted(dovecot, account.location, "mdbox" if kind == "sdbox" else "sdbox", "--verify")
    assert tree(account.root) == before
    assert_shows(other, expected)
    back = converted(dovecot, other.location, kind, "--verify")
    assert_shows(back, expected)
    for one in (other, back):
        one.append([Append(b"Subject: new\n\ntext\n")])
    assert_resync_changes_nothing(other)
