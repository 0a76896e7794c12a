"""A writable mount beside a running Dovecot, and what both have to agree on in the end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Dovecot, Fetched
from tests.live.mounts import Mounts

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
resynced = pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")
"""What Dovecot says whenever it is told to ``force-resync``."""

ONE = b"Subject: one\n\nfirst\n"
TWO = b"Subject: two\nTo: somebody\n\nsecond\nand more\n"
LONG = b"Subject: long\n\n" + b"".join(b"line %d of a long message\n" % n for n in range(40_000))
JULY = 1_689_000_000


@dataclass(slots=True)
class Writable:
    """A store with the mailboxes INBOX (one message, uid 1) and Work (none), mounted with ``rw``."""

    dovecot: Dovecot
    account: Account
    mounts: Mounts
    mnt: Path
    tmp: Path
    logged: int

    @classmethod
    def make(cls, dovecot: Dovecot, mounts: Mounts, tmp: Path, driver: str, options: str = "rw") -> Writable:
        logged = len(dovecot.log_lines())
        account = dovecot.account(f"{driver}:{{home}}/mail")
        account.save(ONE)
        account.doveadm("mailbox create", "Work")
        return cls(dovecot, account, mounts, mounts.mount(account.location, options), tmp, logged)

    @property
    def inbox(self) -> Path:
        return self.mnt / "INBOX"

    @property
    def work(self) -> Path:
        return self.mnt / "Work"

    def file(self, name: str, data: bytes, mtime: int = JULY) -> Path:
        """A file outside of the mount."""
        path = self.tmp / name
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
        path.chmod(0o640)
        return path

    def run(self, *args: str | Path, cwd: Path | None = None, status: int = 0) -> str:
        """A program, which has to end with *status*, and say nothing on stderr if that is 0."""
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            args, capture_output=True, timeout=120, check=False, env=environment, cwd=cwd or self.mnt
        )
        assert done.returncode == status, f"{args}: {done.returncode}: {done.stderr!r}"
        assert status or done.stderr == b"", f"{args}: {done.stderr!r}"
        return done.stdout.decode()

    def sh(self, script: str, status: int = 0) -> str:
        """A shell script, in the mountpoint."""
        return self.run("bash", "-c", script, status=status)

    def names(self, mailbox: str = "INBOX") -> list[str]:
        return sorted(os.listdir(self.mnt / mailbox))

    def texts(self, mailbox: str = "INBOX") -> list[bytes]:
        """What Dovecot says is in a mailbox, in the order of the uids."""
        return [message.text for message in self.account.fetch(mailbox)]

    def last(self, mailbox: str = "INBOX") -> Fetched:
        """The newest message, as Dovecot has it."""
        return self.account.fetch(mailbox)[-1]

    def soon_keywords(self, name: str, seconds: float = 1.0) -> set[str]:
        """The keywords of a message of INBOX, which may have changed a moment ago by somebody else's hand."""
        deadline = time.monotonic() + seconds
        dovecot = set(self.account.fetch("INBOX", "all")[0].keywords.split())
        while (
            shown := set(os.getxattr(self.inbox / name, "user.dbox.keywords").decode().split())
        ) != dovecot:
            assert time.monotonic() < deadline, f"{name}: {shown}, not {dovecot}"
            time.sleep(0.01)
        return shown

    def remount(self, options: str = "rw") -> None:
        self.mounts.umount(self.mnt)
        self.mnt = self.mounts.mount(self.account.location, options)

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """uid, guid, flags, keywords, date and text of every message, by mailbox."""
        return {
            name: [(m.uid, m.guid, m.flags, m.keywords, m.received, m.text) for m in self.account.fetch(name)]
            for name in self.account.status()
        }

    def settled(self) -> None:
        """Dovecot has not complained, a repair changes nothing, and the mount shows what Dovecot has."""
        assert self.dovecot.log_lines()[self.logged :] == []
        before = self.everything()
        for name, messages in before.items():
            shown = {
                (int(os.getxattr(path, "user.dbox.uid")), path.read_bytes(), int(path.stat().st_mtime))
                for path in (self.mnt / name).iterdir()
                if path.is_file()
            }
            there = {(uid, text, received) for uid, _, _, _, received, text in messages}
            assert shown == there, f"{name}: only shown {shown - there}, not shown {there - shown}"
        self.account.force_resync()
        assert self.everything() == before


MakeWritable = Callable[..., Writable]
