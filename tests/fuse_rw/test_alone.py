"""Without Dovecot for a long time (``-o rw,alone``): nothing grows for ever, Dovecot takes it all over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from dboxfs.store.write import Fsync, NewMessage, WriteOptions
from tests.fuse_rw.rw import Writable, both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts, dboxfs
from tests.store.write.stores import assert_resync_changes_nothing, body, writing

pytestmark = resynced
ALONE = "rw,alone,fsync=never"
LOG = (1 << 20) + (64 << 10)
"""Bytes that a log may have: what begins a new one, and the change that did it."""


def maintenance(rw: Writable) -> dict[str, int]:
    """What stats.json says, once the run that the mount begins with is over."""
    deadline = time.monotonic() + 20
    while True:
        stats = json.loads((rw.mnt / ".dboxfs/stats.json").read_text())
        found: dict[str, int] = stats["maintenance"]
        if found["runs"]:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def long_used(account: Account) -> Path:
    """Put 400 messages into INBOX and let its log grow until it is due for a new one; gives the log.

    As next to a Dovecot, which was also asked to expunge uid 1.
    """
    index = account.root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log"
    async with writing(account.location, WriteOptions(fsync=Fsync.NEVER)) as writer:
        saved = await writer.save("INBOX", [NewMessage(body(n)) for n in range(400)])
        await writer.expunge("INBOX", [1], execute=False)
        while index.stat().st_size <= 1 << 20:
            await writer.set_keywords("INBOX", saved.uids[::2], add=["word"])
            await writer.set_keywords("INBOX", saved.uids[::2], remove=["word"])
    return index


def assert_bounded(rw: Writable) -> None:
    root = rw.account.root
    logs = list(root.rglob("dovecot*.log*"))
    assert logs
    assert {str(path): path.stat().st_size for path in logs if path.stat().st_size > LOG} == {}
    for path in root.rglob("dovecot*.index"):
        assert path.stat().st_size < 200_000, path
    for path in root.rglob("dboxfs-names/*"):
        assert len(path.read_bytes().splitlines()) < 2 * 1000 + 1000, path
    assert not [path for path in root.rglob("*") if path.name.startswith(".temp")]


def replace_and_flag(rw: Writable, source: Path) -> None:
    """A month of use, in short: messages come, are flagged, and go."""
    for n in range(3):
        rw.sh(f"cp {source}/* INBOX && ls INBOX | grep ^note | head -n 80 | (cd INBOX; xargs rm)")
        for path in sorted(rw.inbox.glob("note*"))[:20]:
            os.setxattr(path, "user.dbox.flags", b"\\Seen" if n % 2 else b"\\Flagged")


@both
async def test_logs_and_indexes_stay_bounded_and_dovecot_takes_the_store_over(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(1))
    index = await long_used(account)
    rw = Writable(dovecot, account, mounts, mounts.mount(account.location, ALONE), tmp_path, 0)
    done = maintenance(rw)
    assert (done["mailboxes"], done["expunged"], done["failed"]) == (1, 1, 0)
    assert index.stat().st_size < 1000
    assert index.with_suffix(".log.2").exists()

    source = tmp_path / "notes"
    source.mkdir()
    for n in range(100):
        (source / f"note{n}").write_bytes(body(1000 + n))
    replace_and_flag(rw, source)
    rw.sh("find INBOX -name '[0-9]*' -print0 | head -z -n 300 | xargs -0 rm")
    left = len(rw.names())
    assert left == 400 - 300 + 20
    if driver == "mdbox":
        before = sum(path.stat().st_size for path in rw.account.root.glob("storage/m.*"))
        purged = dboxfs("purge", rw.account.location)
        assert (purged.returncode, purged.stderr) == (0, "")
        assert sum(path.stat().st_size for path in rw.account.root.glob("storage/m.*")) < before
    assert_bounded(rw)
    mounts.umount(rw.mnt)
    logged = len(dovecot.log_lines())
    client = rw.account.imap()
    assert client.select("INBOX")[1] == [b"%d" % left]
    client.logout()
    assert dovecot.log_lines()[logged:] == []
    assert_resync_changes_nothing(rw.account)
