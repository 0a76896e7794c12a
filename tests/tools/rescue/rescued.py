"""A rescued store, and what Dovecot says of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import dboxfs
from tests.tools.check.stores import tree


@dataclass(frozen=True, slots=True)
class Rescue:
    """What ``dboxfs rescue --json`` said, and an account of Dovecot's that has the new store."""

    status: int
    events: list[dict[str, object]]
    summary: dict[str, object]
    stderr: str
    account: Account

    def codes(self) -> set[object]:
        return {event["code"] for event in self.events}


def rescue(dovecot: Dovecot, store: str | Path, driver: str, *options: str) -> Rescue:
    """Run the command, look that it left *store* alone, and give the result to Dovecot."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    root = Path(str(store).split(":", 1)[-1].split(":")[0])
    before = tree(root)
    done = dboxfs("rescue", "--json", "--format", driver, *options, store, account.root)
    assert tree(root) == before
    assert "Traceback" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    summary = lines.pop()["summary"] if lines and "summary" in lines[-1] else {}
    if account.root.exists():
        hand_over(dovecot, account.root)
    return Rescue(done.returncode, lines, summary, done.stderr, account)


def hand_over(dovecot: Dovecot, root: Path) -> None:
    """Make all of a store Dovecot's."""
    group = root.parent.stat().st_gid
    for directory, _, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            os.chown(path, dovecot.mail_uid, group)
