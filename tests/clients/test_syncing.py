"""Programs that keep two trees the same, on a writable mount with the default view; ``doveadm`` tells more.

syncthing is too large for a test: the README says what it needs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.shown import ONE, TWO, subject_of
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts
from tests.stress.clients import soon


@pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")
def test_rclone_bisync_merges_both_sides_and_has_nothing_to_do_then(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(ONE), Append(TWO, r"\Seen")])
    mnt, far = mounts.mount(account.location, "rw"), tmp_path / "far"
    far.mkdir()

    def sync(*more: str) -> dict[str, set[str]]:
        """Subjects and flags on Dovecot's side, which has the texts of the other one."""
        command: list[str | Path] = ["rclone", "bisync", mnt, far, "--workdir", tmp_path / "work", *more]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=False, env=os.environ | {"HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        messages = account.fetch()
        assert sorted(message.text for message in messages) == sorted(
            path.read_bytes() for path in (far / "INBOX").iterdir()
        )
        return {subject_of(message.text): set(message.flags.split()) for message in messages}

    before = sync("--resync")
    assert before == {"one": set(), "two": {"\\Seen"}}
    modseqs = [message.modseq for message in account.fetch()]
    assert sync() == before
    assert [message.modseq for message in account.fetch()] == modseqs
    (far / "INBOX/theirs.eml").write_bytes(ONE.replace(b": one", b": theirs"))
    account.save(ONE.replace(b": one", b": ours"))
    soon("the mount shows it", lambda: "3.eml" in os.listdir(mnt / "INBOX"), 60)
    (far / "INBOX/2.eml").unlink()
    assert sync() == {"one": set(), "ours": set(), "theirs": set()}
    account.doveadm("expunge", "mailbox", "INBOX", "subject", "one")
    soon("the mount shows it", lambda: "1.eml" not in os.listdir(mnt / "INBOX"), 60)
    assert sync() == {"ours": set(), "theirs": set()}
    assert {path.name for path in (far / "INBOX").iterdir()} == {"3.eml", "theirs.eml"}
