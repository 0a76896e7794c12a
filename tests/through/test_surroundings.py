"""Who runs the daemon, what the store lies on, and what somebody has planted in it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.points import contents
from tests.fuse_rw.rw import JULY, ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import DBOXFS, Mounts, dboxfs

pytestmark = [both, resynced]


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()


def test_all_that_is_new_belongs_to_the_owner_of_the_store(rw: Writable) -> None:
    rw.account.root.chmod(0o750)
    rw.remount()
    before = set(rw.account.root.rglob("*"))
    source = rw.file("two", TWO)
    for script in (
        f"mkdir -p New/Deep && cp -a {source} INBOX/named && cp {source} New/Deep/",
        f"ln INBOX/named Work/copy && cat {source} >> INBOX/1.eml && mv INBOX/1.eml Work/",
        "setfattr -n user.dbox.subscribed -v 1 Work",
        "dd if=/dev/zero bs=1M count=1 2> /dev/null | tr '\\0' x > INBOX/large",
        "setfattr -n user.dbox.keywords -v Some INBOX/large && rm INBOX/named && mv New Other",
    ):
        rw.sh(script)
    root = rw.account.root.stat()
    new = sorted(set(rw.account.root.rglob("*")) - before)
    kinds = {path.name.partition(".")[0] for path in new}
    assert {"dboxfs-names", "subscriptions"} <= kinds
    for path in new:
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (root.st_uid, root.st_gid), path
        wanted = 0o750 if path.is_dir() else 0o640
        if path.name.startswith("dovecot-uidvalidity."):
            wanted = 0o444  # as Dovecot makes it
        assert stat.S_IMODE(found.st_mode) == wanted, f"{path}: {stat.S_IMODE(found.st_mode):o}"


def test_planted_links_are_not_followed(rw: Writable, driver: str) -> None:
    root, home = rw.account.root, rw.account.home
    precious = home / "precious"
    precious.write_bytes(b"precious")
    away = home / "away"
    away.mkdir()
    os.chown(away, rw.account.dovecot.mail_uid, -1)
    box = root / "mailboxes/INBOX/dbox-Mails"
    # The names that come next.
    planted = [root / "subscriptions", root / "dboxfs-names"]
    planted += (
        [box / f"u.{uid}" for uid in (2, 3)]
        if driver == "sdbox"
        else [root / f"storage/m.{n}" for n in (2, 3)]
    )
    planted.append(root / "mailboxes" / "Linked")
    for path in planted[:-1]:
        path.unlink(missing_ok=True)
        path.symlink_to(away if path.name == "dboxfs-names" else precious)
    planted[-1].symlink_to(home / "nowhere")
    source = rw.file("two", TWO)
    for script in (
        f"cp {source} INBOX/",
        f"cp {source} INBOX/.new && mv INBOX/.new INBOX/other",
        "setfattr -n user.dbox.subscribed -v 1 Work",
        "mkdir Linked",
        "mkdir Linked/Below",
    ):
        subprocess.run(["sh", "-c", script], cwd=rw.mnt, capture_output=True, check=False)
    assert precious.read_bytes() == b"precious"
    assert not (home / "nowhere").exists()
    assert precious.stat().st_uid == os.geteuid()
    for path in planted:
        if path.is_symlink():
            path.unlink()
    rw.remount()  # the written names went with their directory: the mount learns of it at any moment


def test_a_store_of_somebody_else(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(ONE)
    before = contents(account)
    mountpoint = mounts.mountpoint()
    mountpoint.chmod(0o777)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    done = subprocess.run(
        [*command, DBOXFS, "mount", "-o", "rw", "--cache-dir", "none", account.root, mountpoint],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    assert "ermission denied" in done.stderr
    assert contents(account) == before


@pytest.fixture
def small(dovecot: Dovecot, tmp_path: Path, driver: str) -> Iterator[Account]:
    """A store on a file system of its own, with 1.5 MB."""
    account = dovecot.account(f"{driver}:{{home}}/disk/mail")
    disk = account.home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "none", disk], check=True)
    try:
        owner = account.home.stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        account.save(ONE)
        account.doveadm("mailbox create", "Work")
        yield account
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.expected_log("No space left on device")
def test_a_full_disk(small: Account, mounts: Mounts, tmp_path: Path) -> None:
    mnt = mounts.mount(small.location, "rw")
    big = tmp_path / "big"
    big.write_bytes(b"Subject: big\n\n" + b"x" * (4 << 20))
    done = subprocess.run(["cp", big, mnt / "INBOX"], capture_output=True, text=True, check=False)
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    assert sorted(os.listdir(mnt / "INBOX")) == ["1.eml"]
    count = fill(mnt / "INBOX")
    found = contents(small)["INBOX"]
    assert [text[:20] for text, *_ in found[1:]] == [
        (b"Subject: %d\n\n" % n + b"y" * 20)[:20] for n in range(count)
    ]
    assert len(os.listdir(mnt / "INBOX")) == count + 1
    if small.location.startswith("sdbox"):  # a full disk can be emptied, and then be written
        for n in range(count // 2):
            (mnt / "INBOX" / f"m{n}").unlink()
        small.fetch()
        (mnt / "INBOX" / "after").write_bytes(TWO)
        assert [text for text, *_ in contents(small)["INBOX"]][-1] == TWO
        before = contents(small)
        small.force_resync()
        assert contents(small) == before


def fill(directory: Path) -> int:
    """Write messages until the disk is full; how many there are."""
    for count in range(1000):
        try:
            (directory / f"m{count}").write_bytes(b"Subject: %d\n\n" % count + b"y" * 40_000)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            return count
    raise AssertionError("the disk is never full")


@pytest.mark.expected_log("Read-only file system")
def test_a_file_system_that_becomes_read_only(small: Account, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(TWO)
    mnt = mounts.mount(small.location, "rw")
    disk = small.home / "disk"
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = sorted(os.listdir(mnt / "INBOX"))
    for script in (
        "cp $T/two INBOX/new",
        "rm INBOX/1.eml",
        "mv INBOX/1.eml Work/",
        "ln INBOX/1.eml INBOX/l",
        "mkdir New",
        "rmdir Work",
        "mv Work Play",
        "mv INBOX/1.eml INBOX/name",
        "touch -d @5 INBOX/1.eml",
        "dd if=$T/two of=INBOX/1.eml oflag=append conv=notrunc status=none",
        r"setfattr -n user.dbox.flags -v '\Seen' INBOX/1.eml",
    ):
        done = subprocess.run(
            ["bash", "-c", script], cwd=mnt, env={**os.environ, "T": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0, script
        assert "Read-only file system" in done.stderr, f"{script}: {done.stderr}"
        assert sorted(os.listdir(mnt / "INBOX")) == before, script
        assert (mnt / "INBOX/1.eml").read_bytes() == ONE, script
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    (mnt / "INBOX/new").write_bytes(TWO)
    os.utime(mnt / "INBOX/new", (JULY, JULY))
    assert [text for text, *_ in contents(small)["INBOX"]] == [ONE, TWO]


def test_writing_needs_a_file_system_that_can_be_written(small: Account, mounts: Mounts) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small.home / "disk"], check=True)
    done = dboxfs("mount", "-o", "rw", small.location, mounts.mountpoint())
    assert done.returncode == 3, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert "ead-only" in done.stderr
    assert (mounts.mount(small.location) / "INBOX/1.eml").read_bytes() == ONE
