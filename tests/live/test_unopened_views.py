"""The Maildir and the MH view of a mount whose kernel opens nothing: few requests, and what is true now."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts
from tests.live.test_unopened import asked_by, made, requests
from tests.stress import readers
from tests.stress.clients import soon

COUNT = 200

_SIZES = re.compile(r"U(\d+)F[^ ]*,W=(\d+)")


def shown(holds: Callable[[], bool]) -> None:
    """Wait until the mount shows what is true now."""
    soon("the mount shows it", holds, seconds=60)


def read_all(directory: Path) -> int:
    """Read each message of a directory, in the order of the listing; gives how many there are."""
    names = [name for name in os.listdir(directory) if not name.startswith(".")]
    for name in names:
        assert readers.is_whole((directory / name).read_bytes()), name
    return len(names)


def test_a_walk_through_maildirs_costs_few_requests_and_a_second_one_none(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot, "mdbox", COUNT)
    account.doveadm("flags add", "\\Seen", "mailbox", "INBOX", "uid", f"1:{COUNT // 2}")
    mnt = mounts.mount(account.location, "view=maildir")
    inbox = mnt / "INBOX"
    first = requests(mnt)
    assert read_all(inbox / "cur") == read_all(inbox / "new") == COUNT // 2
    asked = asked_by(mnt, first)
    assert asked["read"] < COUNT / 2  # messages come ahead of their reader
    assert asked["open"] <= 1  # the kernel hears with the first that it needs not ask
    assert asked["release"] == 0
    said = {int(match[1]): int(match[2]) for match in _SIZES.finditer(" ".join(os.listdir(inbox / "new")))}
    virtual = {message.uid: message.virtual_size for message in account.fetch()}
    assert said == {uid: virtual[uid] for uid in range(COUNT // 2 + 1, COUNT + 1)}
    second = requests(mnt)
    assert read_all(inbox / "cur") == read_all(inbox / "new") == COUNT // 2
    asked = asked_by(mnt, second)
    assert (asked["read"], asked["open"], asked["release"]) == (0, 0, 0)


def test_flags_and_mailboxes_are_in_the_listings_of_maildirs_that_the_kernel_keeps(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot, "mdbox", 3)
    mnt = mounts.mount(account.location, "view=maildir,maildir=++")

    def letters() -> list[str]:
        return sorted(name.partition(":2,")[2] for name in os.listdir(mnt / "cur"))

    def becomes(*expected: str) -> None:
        shown(lambda: letters() == sorted(expected))

    def keywords() -> bytes:
        path = mnt / "dovecot-keywords"
        return path.read_bytes() if path.exists() else b""

    becomes()
    assert len(os.listdir(mnt / "new")) == 3
    account.doveadm("flags add", "\\Seen", "mailbox", "INBOX", "uid", "1")
    becomes("S")
    assert len(os.listdir(mnt / "new")) == 2
    account.doveadm("flags replace", "\\Seen \\Flagged one", "mailbox", "INBOX", "uid", "1")
    becomes("FSa")
    shown(lambda: keywords() == b"0 one\n")
    account.doveadm("flags add", "another", "mailbox", "INBOX", "uid", "2")
    becomes("FSa", "b")
    shown(lambda: keywords() == b"0 one\n1 another\n")
    assert "dovecot-keywords" in os.listdir(mnt)
    account.doveadm("mailbox create", "Work")
    account.doveadm("mailbox create", "Work/Deep")
    shown(lambda: {".Work", ".Work.Deep"} <= set(os.listdir(mnt)))
    account.doveadm("mailbox delete", "Work/Deep")
    shown(lambda: ".Work.Deep" not in os.listdir(mnt))
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1")
    becomes("b")
    assert sum(read_all(mnt / sub) for sub in ("cur", "new")) == 2


def test_sequences_of_an_mh_folder_that_is_never_opened_are_those_of_now(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot, "mdbox", COUNT)
    mnt = mounts.mount(account.location, "view=mh")
    inbox, sequences = mnt / "INBOX", mnt / "INBOX/.mh_sequences"
    first = requests(mnt)
    assert read_all(inbox) == COUNT
    assert asked_by(mnt, first)["read"] < COUNT / 2
    second = requests(mnt)
    assert read_all(inbox) == COUNT
    assert asked_by(mnt, second)["read"] == 0
    assert sequences.read_bytes() == b"unseen: 1-%d\n" % COUNT
    assert sequences.stat().st_size == len(sequences.read_bytes())
    account.doveadm("flags add", "\\Seen", "mailbox", "INBOX", "uid", "2:3")
    shown(lambda: sequences.read_bytes() == b"unseen: 1 4-%d\n" % COUNT)
    account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "uid", "2")
    shown(lambda: sequences.read_bytes() == b"unseen: 1 4-%d\nflagged: 2\n" % COUNT)
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:3")
    shown(lambda: "3" not in os.listdir(inbox) and len(os.listdir(inbox)) == COUNT - 2)
    shown(lambda: sequences.read_bytes() == b"unseen: 4-%d\n" % COUNT)
