"""The daemon of a restore is killed, while files are staged and in the middle of its commit: a real mount.

All operations: ``DBOXFS_THROUGH=all``; every single one, in memory, is in ``tests/crash/test_restore.py``.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.live.mounts import dboxfs
from tests.store.write.stores import body
from tests.through.changes import CHANGING
from tests.through.daemons import Daemons

EVERY = os.environ.get("DBOXFS_THROUGH") == "all"
SOME = 3
RESTORE = 'rsync -aX "$BACKUP"/ . && echo > .dboxfs/commit'

Found = dict[str, dict[str, tuple[bytes, str, str]]]
"""By mailbox and name: text, uid, guid."""


def make_backup(tree: Path) -> None:
    """Two mailboxes of 6 messages, one of which is large, one of which has a name of its own."""
    for box in ("INBOX", "Work"):
        (tree / box).mkdir(parents=True)
        for number in range(1, 7):
            file = tree / box / (f"{2 * number}.eml" if number != 3 else "a letter")
            file.write_bytes(body(100 + number, 700_000 if number == 4 else 0))
            os.utime(file, (1_600_000_000, 1_600_000_000))
            os.setxattr(file, "user.dbox.uid", b"%d" % (2 * number))
            os.setxattr(file, "user.dbox.guid", f"{box}-{number}".encode())
    os.setxattr(tree / "Work", "user.dbox.uidvalidity", b"4711")


def shown(mnt: Path) -> Found:
    """What a mount shows of the two mailboxes."""
    found: Found = {}
    for box in (mnt / "INBOX", mnt / "Work"):
        found[box.name] = {}
        for file in box.iterdir() if box.exists() else ():
            uid, guid = (os.getxattr(file, f"user.dbox.{word}").decode() for word in ("uid", "guid"))
            found[box.name][file.name] = file.read_bytes(), uid, guid
    return found


def without_names(found: Found, box: str) -> list[tuple[bytes, str, str]]:
    return sorted(found[box].values())


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_killed_restore_leaves_whole_mailboxes_and_is_completed_by_the_same_one(
    daemons: Daemons, tmp_path: Path, through: dict[str, int], driver: str
) -> None:
    make_backup(backup := tmp_path / "backup")
    env = os.environ | {"BACKUP": str(backup)}
    first, whole = tmp_path / "first", tmp_path / "whole"
    assert dboxfs("init", "--format", driver, first).returncode == 0
    shutil.copytree(first, whole)
    with daemons.mounted(f"{driver}:{whole}", "restore,alone") as served:
        served.plan()
        assert served.run(RESTORE, env).returncode == 0
        kinds = [kind for kind in served.operations()[0] if kind in CHANGING.split()]
        after = shown(served.mnt)
    assert [len(after[box]) for box in after] == [6, 6]
    every = range(1, len(kinds))
    for point in every if EVERY else every[:: max(1, len(every) // SOME)]:
        where = f"killed after {point} of {len(kinds)} operations"
        shutil.copytree(first, store := tmp_path / f"store{point}")
        with daemons.mounted(f"{driver}:{store}", "restore,alone") as served:
            served.plan({"kind": CHANGING, "nth": point, "crash": "after"})
            assert served.run(RESTORE, env).returncode != 0, where
        with daemons.mounted(f"{driver}:{store}", "restore,alone") as served:
            found = shown(served.mnt)
            for box in found:
                assert without_names(found, box) in ([], without_names(after, box)), f"{where}: half of {box}"
            until = time.monotonic() + 10
            while left := [path for path in store.rglob("*temp.*") if "DOVECOT-TrasH" not in str(path)]:
                assert time.monotonic() < until, f"{where}: {left}"
                time.sleep(0.02)
            assert served.run(RESTORE, env).returncode == 0, where
            assert shown(served.mnt) == after, where
        shutil.rmtree(store)
        through["restores killed"] = through.get("restores killed", 0) + 1
