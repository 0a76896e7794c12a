"""Stores that Dovecot made, what ``dboxfs check`` says of them, and whether it left them alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.live import corpus
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import dboxfs
from tests.store.write.stores import body

DRIVERS = ("sdbox", "mdbox")


def lively_account(dovecot: Dovecot, driver: str, **settings: str) -> Account:
    """A store in which everything that is normal has happened: copies, expunges, keywords, a purge."""
    account = dovecot.account(f"{driver}:{{home}}/mail", mdbox_rotate_size="64k", **settings)
    account.append(corpus.with_flags(corpus.real()))
    account.doveadm("mailbox create", "Work/Sub", "Other")
    account.doveadm("copy", "Work/Sub", "mailbox", "INBOX", "uid", "1:20")
    account.doveadm("copy", "INBOX", "mailbox", "INBOX", "uid", "3:5")
    account.doveadm("move", "Other", "mailbox", "INBOX", "uid", "7:9")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "10:14")
    account.doveadm("flags add", "$Junk \\Flagged", "mailbox", "Other", "all")
    if driver == "mdbox":
        account.purge()
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "30:33")
    for number in range(5):
        account.save(body(number, 3000), "Other")
    return account


@dataclass(frozen=True, slots=True)
class Report:
    """What ``dboxfs check --json`` said."""

    status: int
    findings: list[dict[str, object]]
    summary: dict[str, int]
    stderr: str

    def loud(self) -> list[dict[str, object]]:
        """What is more than a note."""
        return [finding for finding in self.findings if finding["severity"] != "note"]

    def codes(self) -> set[object]:
        """The kinds of what is more than a note."""
        return {finding["code"] for finding in self.loud()}


def check(store: str | Path, *options: str) -> Report:
    """Run the command on a store that nobody writes meanwhile, and look that it changed nothing."""
    root = Path(str(store).split(":", 1)[-1].split(":")[0])
    before = tree(root)
    done = dboxfs("check", "--json", *options, store)
    assert tree(root) == before
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    summary = lines.pop()["summary"] if lines and "summary" in lines[-1] else {}
    assert "Traceback" not in done.stderr, done.stderr
    return Report(done.returncode, lines, summary, done.stderr)


def tree(root: Path) -> dict[str, object]:
    """All that a write of any kind would change."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in (".", *names, *files):
            path = Path(directory, name)
            stat = path.lstat()
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            key = str(path.relative_to(root))
            found[key] = (stat.st_ino, stat.st_mode, stat.st_nlink, stat.st_size, stat.st_mtime_ns,
                          stat.st_ctime_ns, data)  # fmt: skip
    return found
