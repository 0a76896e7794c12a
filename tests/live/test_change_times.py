"""The nanoseconds of ctime tell flags and keywords apart, also after Dovecot has rebuilt the index."""

from __future__ import annotations

from pathlib import Path

from tests.fuse_rw.rw import both, resynced
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts

pytestmark = [both, resynced]

FLAGS = ("", "\\Seen", "\\Answered \\Seen", "$Label1", "\\Seen other $Label1")
DATE = "01-Jan-2020 00:00:00 +0000"


def nanoseconds(account: Account, mounts: Mounts) -> list[int]:
    """Of each message, in the order of their uids."""
    mnt = mounts.mount(account.location)
    files = sorted((Path(mnt) / "INBOX").iterdir(), key=lambda path: int(path.stem))
    found = [path.stat().st_ctime_ns % 10**9 for path in files]
    mounts.umount(mnt)
    return found


def test_they_are_the_same_after_a_repair(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(b"Subject: %d\n\n" % n, flags, DATE) for n, flags in enumerate(2 * FLAGS)])
    before = nanoseconds(account, mounts)
    assert len(set(before[: len(FLAGS)])) == len(FLAGS)
    account.force_resync("*")
    assert nanoseconds(account, mounts) == before
    assert [message.uid for message in account.fetch()] == list(range(1, 2 * len(FLAGS) + 1))
