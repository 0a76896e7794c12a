"""``.dboxfs/unseen`` and its like on a real mount: what Dovecot's own search finds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

SEARCHES = {
    "unseen": "unseen",
    "flagged": "flagged",
    "keyword/later": "keyword later",
    "since/2021-06-01": "since 01-Jun-2021",
}


def links(directory: Path) -> dict[str, list[str]]:
    """The names of the links below a directory, by mailbox."""
    found: dict[str, list[str]] = {}
    for above, _, names in os.walk(directory):
        if names:
            found[os.path.relpath(above, directory)] = sorted(names)
    return found


@pytest.mark.parametrize("options", ["ro", "ro,open=classic", "rw", "ro,view=maildir"])
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_the_links_are_what_dovecot_finds_before_and_after_a_change(
    dovecot: Dovecot, mounts: Mounts, driver: str, options: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(corpus.with_flags(dict(list(corpus.real().items())[:20])))
    account.doveadm("mailbox create", "Work/Deep")
    account.append([Append(b"Subject: deep\n\nx\n", r"\Flagged")], "Work/Deep")
    account.doveadm("flags add", "later", "mailbox", "INBOX", "1:4")
    mnt = mounts.mount(account.location, options)

    def theirs() -> dict[str, dict[str, list[str]]]:
        return {path: found(search) for path, search in SEARCHES.items()}

    def found(search: str) -> dict[str, list[str]]:
        by_box: dict[str, list[str]] = {}
        for box in ("INBOX", "Work/Deep"):
            names = sorted(f"{message.uid}.eml" for message in account.fetch(box, search))
            by_box |= {box: names} if names else {}
        return by_box

    def ours() -> dict[str, dict[str, list[str]]]:
        return {path: links(mnt / ".dboxfs" / path) for path in SEARCHES}

    before = theirs()
    assert ours() == before
    account.doveadm("flags add", "\\Seen \\Flagged later", "mailbox", "INBOX", "5:9")
    account.doveadm("expunge", "mailbox", "INBOX", "2")
    after = theirs()
    assert after != before
    deadline = time.monotonic() + 5
    while ours() != after and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours() == after
    name = links(mnt / ".dboxfs/flagged")["INBOX"][0]
    (text,) = [m.text for m in account.fetch() if f"{m.uid}.eml" == name]
    assert (mnt / ".dboxfs/flagged/INBOX" / name).read_bytes() == text
