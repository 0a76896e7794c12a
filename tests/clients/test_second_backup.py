"""A store that is backed up again: what has not changed is not read.

The mount is a new one for each backup, so that nothing is in the kernel's cache. Its trace says which
messages it was asked for, and which it has put into that cache. A program that reads several at once may ask
for one while it is put there: that is one message.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.mounts import Mounts, dboxfs

pytestmark = pytest.mark.mount

COUNT = 6
FIRST_READ = 4096
"""Bytes of a message: less than any program reads at once."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A mailbox with some messages."""
    made = tmp_path / "store"
    done = dboxfs("init", "--format", "mdbox", made)
    assert done.returncode == 0, done.stderr
    tree = tmp_path / "tree" / "Work"
    tree.mkdir(parents=True)
    for number in range(1, COUNT + 1):
        (tree / f"{number}.eml").write_bytes(b"Subject: %d\n\n" % number + b"x" * FIRST_READ)
    done = dboxfs("import", "--alone", tree.parent, made)
    assert done.returncode == 0, done.stderr
    return made


@contextlib.contextmanager
def mounted(mounts: Mounts, store: Path, mnt: Path, *options: str) -> Iterator[None]:
    """Mounted in the same place each time, since these programs go by the whole path."""
    done = dboxfs("mount", *options, "--log-file", mounts.log_file(mnt), store, mnt)
    assert done.returncode == 0, done.stderr
    yield
    mounts.umount(mnt)


def backed_up(mounts: Mounts, store: Path, mnt: Path, *command: str | Path) -> int:
    """How many messages a backup reads."""
    home = store.parent / "home"
    home.mkdir(exist_ok=True)
    environment = os.environ | {
        "HOME": str(home), "RESTIC_PASSWORD": "x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }  # fmt: skip
    with mounted(mounts, store, mnt):
        log = mounts.log_file(mnt)
        (mounted_now,) = json.loads(dboxfs("status", mnt, "--json").stdout)
        before = len(log.read_text())
        os.kill(mounted_now["pid"], signal.SIGUSR2)
        deadline = time.monotonic() + 20
        while "requests are logged from now on" not in log.read_text()[before:]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        done = subprocess.run(
            command, cwd=mnt, env=environment, capture_output=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
    return len(handed(log.read_text()[before:]))


def handed(trace: str) -> set[str]:
    """Inodes (handles, where files are opened) of the messages whose bytes the kernel was given."""
    lines = re.findall(r"trace: (?:read (\d+):|push ([\d ]+))", trace)
    return {number for read, pushed in lines for number in (read, *pushed.split()) if number}


def flag(mounts: Mounts, store: Path, mnt: Path, name: str) -> None:
    """A program has marked a message."""
    with mounted(mounts, store, mnt, "-o", "rw,alone"):
        os.setxattr(mnt / "Work" / name, "user.dbox.flags", b"\\Seen")


def test_restic_reads_nothing_of_an_unchanged_store_and_of_a_changed_one_what_changed(
    mounts: Mounts, store: Path, tmp_path: Path
) -> None:
    repository, mnt = tmp_path / "repository", mounts.mountpoint()
    environment = os.environ | {"RESTIC_PASSWORD": "x", "HOME": str(tmp_path)}
    subprocess.run(["restic", "-q", "-r", repository, "init"], check=True, env=environment)
    again = ("restic", "-q", "-r", repository, "backup", ".")
    assert backed_up(mounts, store, mnt, *again) == COUNT
    assert backed_up(mounts, store, mnt, *again) == 0
    flag(mounts, store, mnt, "3.eml")
    assert backed_up(mounts, store, mnt, *again) == 1


def test_borg_reads_of_an_unchanged_store_what_is_newest_and_else_what_changed(
    mounts: Mounts, store: Path, tmp_path: Path
) -> None:
    """borg reads the files whose ctime is the newest of all again: here that is one message."""
    repository, mnt = tmp_path / "repository", mounts.mountpoint()
    environment = os.environ | {"HOME": str(tmp_path)}
    subprocess.run(["borg", "init", "-e", "none", repository], check=True, env=environment)
    first, second, third = (("borg", "create", f"{repository}::{number}", ".") for number in range(3))
    assert backed_up(mounts, store, mnt, *first) == COUNT
    assert backed_up(mounts, store, mnt, *second) == 1
    with mounted(mounts, store, mnt):
        oldest = min((mnt / "Work").iterdir(), key=lambda path: path.stat().st_ctime_ns).name
    flag(mounts, store, mnt, oldest)
    assert backed_up(mounts, store, mnt, *third) == 2


def test_a_backup_of_a_mount_that_is_gone_removes_nothing(
    mounts: Mounts, store: Path, tmp_path: Path
) -> None:
    mnt, copy = mounts.mountpoint(), tmp_path / "copy"
    page = (Path(__file__).parents[2] / "docs/back-up-and-restore.md").read_text()
    lines = re.findall(r"^    (.+ && rsync -aX --delete .+)$", page, re.MULTILINE)
    assert len(lines) == 2
    lines = [line.replace("/mnt/mail", str(mnt)).replace("/backup/mail", str(copy)) for line in lines]
    for shell, line in zip(("sh", "bash"), lines, strict=True):
        with mounted(mounts, store, mnt):
            subprocess.run([shell, "-ec", line], check=True)
            told = dboxfs("doctor").stdout
            (remark,) = [one for one in told.splitlines() if f" {mnt}: when the mount is gone" in one]
            assert remark.startswith("note: ")
            assert f"begin a backup with {lines[0].partition(' && ')[0]} which fails then" in told
        assert list(mnt.iterdir()) == [], "what a program sees that looks into the mountpoint now"
        gone = subprocess.run([shell, "-c", line], capture_output=True, check=False)
        assert gone.returncode != 0
        assert len(list((copy / "Work").iterdir())) == COUNT
