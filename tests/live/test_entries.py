"""Names that the kernel remembers, and how it hears that they mean something else: each way that there is.

That ``entries=epoch`` mounts at all shows that a connection of an older protocol takes the notification:
libfuse negotiates the minor version that it knows, which is below 44 before its version 3.18.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dboxfs.vfs.options import Entries
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts

MEANS = pytest.mark.parametrize("entries", [means.value for means in Entries if means is not Entries.AUTO])


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    made = dovecot.account("mdbox:{home}/mail")
    made.append(Append(b"Subject: %d\n\ntext\n" % n) for n in range(6))
    for name in ("Work", "Work/Deep", "Other"):
        made.doveadm("mailbox create", name)
    made.append([Append(b"Subject: work\n\ntext\n")], "Work")
    return made


def stats(mnt: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mnt / ".dboxfs" / "stats.json").read_text())
    return found


def within_a_second(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 1
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@MEANS
def test_what_dovecot_takes_away_is_gone_within_a_second(
    account: Account, mounts: Mounts, entries: str
) -> None:
    mnt = mounts.mount(account.location, f"entries={entries}")
    inbox = mnt / "INBOX"
    assert stats(mnt)["entries"]["by"] == entries
    assert [(inbox / f"{n}.eml").exists() for n in range(1, 7)] == [True] * 6
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2:3")
    within_a_second(lambda: not (inbox / "2.eml").exists() and not (inbox / "3.eml").exists())
    assert sorted(os.listdir(inbox)) == ["1.eml", "4.eml", "5.eml", "6.eml"]
    number = (mnt / "Work" / "1.eml").stat().st_ino
    assert (mnt / "Work" / "Deep").is_dir()
    account.doveadm("mailbox rename", "Work", "Play")
    within_a_second(lambda: not (mnt / "Work").exists() and (mnt / "Play" / "Deep").is_dir())
    assert (mnt / "Play" / "1.eml").stat().st_ino == number
    account.doveadm("mailbox delete", "Other")
    within_a_second(lambda: not (mnt / "Other").exists())


@MEANS
def test_a_name_that_is_missing_is_asked_for_each_time(
    account: Account, mounts: Mounts, entries: str
) -> None:
    mnt = mounts.mount(account.location, f"entries={entries}")
    inbox = mnt / "INBOX"
    (inbox / "1.eml").stat()
    before = stats(mnt)["requests"]["lookup"]
    assert [(inbox / "7.eml").exists() for _ in range(5)] == [False] * 5
    assert stats(mnt)["requests"]["lookup"] - before >= 5
    account.save(b"Subject: seven\n\ntext\n")
    within_a_second((inbox / "7.eml").exists)


@MEANS
def test_what_is_written_over_is_seen_when_close_returns(
    account: Account, mounts: Mounts, entries: str
) -> None:
    mnt = mounts.mount(account.location, f"rw,entries={entries}")
    path = mnt / "INBOX" / "1.eml"
    text = path.read_bytes()
    for n in range(10):
        with path.open("ab") as file:
            file.write(b"line %d\n" % n)
        text += b"line %d\n" % n
        assert path.stat().st_size == len(text)
        assert path.read_bytes() == text


@MEANS
def test_a_name_that_another_mount_gives_away_is_gone_within_a_second(
    account: Account, mounts: Mounts, entries: str
) -> None:
    first = mounts.mount(account.location, "rw")
    second = mounts.mount(account.location, f"rw,entries={entries}")
    (first / "INBOX" / "1.eml").rename(first / "INBOX" / "one")
    within_a_second((second / "INBOX" / "one").exists)
    (first / "INBOX" / "one").rename(first / "INBOX" / "uno")
    within_a_second(lambda: not (second / "INBOX" / "one").exists() and (second / "INBOX" / "uno").exists())
    (first / "INBOX" / "2.eml").rename(first / "INBOX" / "uno")
    within_a_second(lambda: (second / "INBOX" / "uno").read_bytes() == b"Subject: 1\n\ntext\n")


def test_new_messages_and_names_make_no_epoch(account: Account, mounts: Mounts) -> None:
    """Nothing that the kernel remembers gets old by them: no name of it was missing."""
    mnt = mounts.mount(account.location, "rw,entries=epoch")
    (mnt / "INBOX" / "first").write_bytes(b"Subject: first\n\ntext\n")  # the file of names is new, too
    for path in (mnt / "INBOX").iterdir():
        path.read_bytes()
    time.sleep(0.2)
    before = stats(mnt)
    for n in range(5):
        account.save(b"Subject: more %d\n\ntext\n" % n)
        (mnt / "INBOX" / f"new{n}").write_bytes(b"Subject: new %d\n\ntext\n" % n)
        (mnt / "INBOX" / f"new{n}").rename(mnt / "INBOX" / f"newer{n}")
    within_a_second(lambda: len(os.listdir(mnt / "INBOX")) == 17)
    for n in range(1, 7):
        (mnt / "INBOX" / f"{n}.eml").read_bytes()
    after = stats(mnt)
    assert after["entries"]["epochs"] == before["entries"]["epochs"]
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:6")
    within_a_second(lambda: stats(mnt)["entries"]["epochs"] > before["entries"]["epochs"])
    time.sleep(0.2)
    assert stats(mnt)["entries"]["epochs"] <= before["entries"]["epochs"] + 2, "one for all of them"
