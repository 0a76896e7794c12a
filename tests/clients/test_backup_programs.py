"""What people make backups with puts a store back through ``-o restore`` exactly: ``doveadm`` says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, LONG, ONE, TWO, both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts, dboxfs

pytestmark = [both, resynced]

BOXES = ("INBOX", "Work", "Work/Sub", "Entw\u00fcrfe")
Run = Callable[..., None]


def keep_tar(run: Run, mnt: Path, kept: Path) -> None:
    run("tar", "--xattrs", "-cf", kept / "tar", "-C", mnt, ".")


def back_tar(run: Run, mnt: Path, kept: Path) -> None:
    run("tar", "--xattrs", "--xattrs-include=user.*", "-xf", kept / "tar", "-C", mnt)


def keep_rsync(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-aX", f"{mnt}/", kept / "tree")


def back_rsync(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-aX", f"{kept}/tree/", f"{mnt}/")


def keep_cp(run: Run, mnt: Path, kept: Path) -> None:
    run("cp", "-a", f"{mnt}/.", kept / "tree")


def back_cp(run: Run, mnt: Path, kept: Path) -> None:
    run("cp", "-a", f"{kept}/tree/.", mnt)


def keep_restic(run: Run, mnt: Path, kept: Path) -> None:
    run("restic", "-q", "-r", kept / "repository", "init")
    run("restic", "-q", "-r", kept / "repository", "backup", ".", cwd=mnt)


def back_restic(run: Run, mnt: Path, kept: Path) -> None:
    run("restic", "-q", "-r", kept / "repository", "restore", "latest", "--target", mnt)


def keep_borg(run: Run, mnt: Path, kept: Path) -> None:
    run("borg", "init", "-e", "none", kept / "repository")
    run("borg", "create", f"{kept}/repository::mail", ".", cwd=mnt)


def back_borg(run: Run, mnt: Path, kept: Path) -> None:
    run("borg", "extract", f"{kept}/repository::mail", cwd=mnt)


def keep_rclone(run: Run, mnt: Path, kept: Path) -> None:
    run("rclone", "-q", "copy", "-M", mnt, kept / "tree")


def back_rclone(run: Run, mnt: Path, kept: Path) -> None:
    run("rclone", "-q", "copy", "-M", kept / "tree", mnt)


def keep_bup(run: Run, mnt: Path, kept: Path) -> None:
    run("bup", "init")
    run("bup", "index", mnt)
    run("bup", "save", "-q", "-n", "mail", "--strip", mnt)


def back_bup(run: Run, mnt: Path, kept: Path) -> None:
    run("bup", "restore", "-q", "-C", mnt, "mail/latest/.")


PROGRAMS = {
    "tar": (keep_tar, back_tar),
    "rsync": (keep_rsync, back_rsync),
    "cp": (keep_cp, back_cp),
    "restic": (keep_restic, back_restic),
    "borg": (keep_borg, back_borg),
    "rclone": (keep_rclone, back_rclone),
    "bup": (keep_bup, back_bup),
}


def filled(account: Account, mounts: Mounts) -> None:
    """Messages of four mailboxes, with gaps in the uids, flags, keywords, dates, a copy, a large one."""
    for number in range(12):
        account.save(TWO + b"%d\n" % number)
    for name in BOXES[1:]:
        account.doveadm("mailbox create", name)
    account.doveadm("mailbox subscribe", "Work")
    mnt = mounts.mount(account.location, "rw")
    for number, name in enumerate(BOXES[1:] * 3):
        (mnt / name / f"m{number}").write_bytes(ONE * (number + 1))
        os.utime(mnt / name / f"m{number}", (JULY + number, JULY + number))
    (mnt / "Work" / "large").write_bytes(LONG * 3)
    (mnt / "INBOX" / "3.eml").unlink()
    (mnt / "Work" / "m0").unlink()
    os.link(mnt / "INBOX" / "5.eml", mnt / "Work" / "copy")
    os.link(mnt / "INBOX" / "5.eml", mnt / "INBOX" / "again")
    os.setxattr(mnt / "INBOX" / "7.eml", "user.dbox.flags", b"\\Answered \\Seen")
    os.setxattr(mnt / "Work" / "large", "user.dbox.keywords", b"$Label other")
    mounts.umount(mnt)


def everything(account: Account) -> dict[str, list[tuple[object, ...]]]:
    """What Dovecot says of every message, by mailbox."""
    return {
        name: [(m.uid, m.guid, m.flags, m.keywords, m.received, m.saved, m.text) for m in account.fetch(name)]
        for name in account.status()
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_store_comes_back_exactly(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str, program: str
) -> None:
    environment = os.environ | {
        "HOME": str(tmp_path), "RESTIC_PASSWORD": "x", "BUP_DIR": str(tmp_path / "bup"), "LC_ALL": "C.UTF-8",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }  # fmt: skip

    def run(*args: str | Path, cwd: Path = tmp_path) -> None:
        done = subprocess.run(args, capture_output=True, check=False, env=environment, cwd=cwd, timeout=120)
        assert done.returncode == 0, (args, done.stderr)

    (kept := tmp_path / "kept").mkdir()
    keep, put_back = PROGRAMS[program]
    account = dovecot.account(f"{driver}:{{home}}/mail")
    filled(account, mounts)
    mnt = mounts.mount(account.location)
    keep(run, mnt, kept)
    mounts.umount(mnt)
    other = dovecot.account(f"{driver}:{{home}}/mail")
    made = dboxfs("init", "--format", driver, "--owner", "vmail", other.root)
    assert made.returncode == 0, made.stderr
    mnt = mounts.mount(other.location, "restore,alone")
    put_back(run, mnt, kept)
    done = dboxfs("umount", mnt)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    count = sum(len(messages) for messages in everything(account).values())
    assert f"{count} kept their uid, {count} their guid" in done.stdout
    assert everything(other) == everything(account)
    if program != "rclone":  # which keeps no attributes of directories
        had, has = account.status(), other.status()
        assert {n: (s.guid, s.uidvalidity, s.uidnext) for n, s in has.items()} == {
            n: (s.guid, s.uidvalidity, s.uidnext) for n, s in had.items()
        }
        assert other.subscriptions() == account.subscriptions()
    found = dboxfs("check", other.root)
    assert found.returncode == 0, found.stdout
