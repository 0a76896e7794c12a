"""``user.xdg.tags`` and ``user.mail.*`` on a real mount: what Dovecot has, both ways."""

from __future__ import annotations

import os

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

MAIL = b"From: a@example.org\nTo: b@example.org\nSubject: hello\nMessage-ID: <1@example.org>\n\nx\n"


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_tags_are_keywords_and_fields_are_headers(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(MAIL)])
    account.doveadm("flags add", "later", "mailbox", "INBOX", "1")
    path = mounts.mount(account.location, "rw") / "INBOX/1.eml"
    assert os.getxattr(path, "user.xdg.tags") == b"later"
    for name in ("subject", "from", "to", "message-id"):
        theirs = account.doveadm("fetch", f"hdr.{name}", "mailbox", "INBOX", "1").decode()
        assert os.getxattr(path, f"user.mail.{name}").decode() == theirs.partition(": ")[2].strip()
    assert not [name for name in os.listxattr(path) if not name.startswith("user.dbox.")]
    os.setxattr(path, "user.xdg.tags", b"done,kept")
    (message,) = account.fetch()
    assert set(message.keywords.split()) == {"done", "kept"}
