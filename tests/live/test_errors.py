"""What goes wrong before anything is mounted: one line that says what, and the documented exit status.

0 done, 1 failed, 2 wrong usage, 3 the store, 4 the mountpoint or FUSE.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import DBOXFS, Mounts, dboxfs, is_mounted, wait_until_unmounted

FAILURE, USAGE, STORE, MOUNT = 1, 2, 3, 4


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    made = dovecot.account("sdbox:{home}/mail")
    made.save(corpus.real()["plain_emails-basic_email"])
    return made


def refused(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """The command ended with this status and one line on stderr that holds the parts."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("dboxfs: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("form", ["mount", "mount -f"])
class TestStore:
    def test_does_not_exist(self, mounts: Mounts, tmp_path: Path, form: str) -> None:
        gone = tmp_path / "gone"
        refused(dboxfs(*form.split(), gone, mounts.mountpoint()), STORE, str(gone), "no such")

    def test_a_mail_location_does_not_exist(self, mounts: Mounts, tmp_path: Path, form: str) -> None:
        gone = tmp_path / "gone"
        refused(dboxfs(*form.split(), f"mdbox:{gone}", mounts.mountpoint()), STORE, str(gone), "no such")

    def test_is_an_empty_directory(self, mounts: Mounts, tmp_path: Path, form: str) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        refused(dboxfs(*form.split(), empty, mounts.mountpoint()), STORE, str(empty), "no dbox")

    def test_is_a_file(self, mounts: Mounts, tmp_path: Path, form: str) -> None:
        file = tmp_path / "file"
        file.write_text("x")
        refused(dboxfs(*form.split(), file, mounts.mountpoint()), STORE, str(file), "not a directory")

    def test_is_a_maildir(self, mounts: Mounts, tmp_path: Path, form: str) -> None:
        for name in ("cur", "new", "tmp"):
            (tmp_path / "Maildir" / name).mkdir(parents=True)
        refused(dboxfs(*form.split(), tmp_path / "Maildir", mounts.mountpoint()), STORE, "Maildir")
        refused(dboxfs(*form.split(), f"maildir:{tmp_path}/Maildir", mounts.mountpoint()), STORE, "maildir")

    def test_can_not_be_read(self, account: Account, mounts: Mounts, form: str) -> None:
        # Root without the capability to ignore permissions; the store belongs to the mail user alone.
        bounded = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        command = [*bounded, str(DBOXFS), *form.split(), str(account.root), str(mounts.mountpoint())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        refused(done, STORE, str(account.root), "ermission denied")


@pytest.mark.parametrize("form", ["mount", "mount -f"])
class TestMountpoint:
    def test_is_missing(self, account: Account, tmp_path: Path, form: str) -> None:
        gone = tmp_path / "gone"
        refused(dboxfs(*form.split(), account.root, gone), MOUNT, str(gone))

    def test_is_a_file(self, account: Account, tmp_path: Path, form: str) -> None:
        file = tmp_path / "file"
        file.write_text("x")
        refused(dboxfs(*form.split(), account.root, file), MOUNT, str(file), "directory")

    def test_is_not_empty(self, account: Account, mounts: Mounts, form: str) -> None:
        mountpoint = mounts.mountpoint()
        (mountpoint / "precious").touch()
        refused(dboxfs(*form.split(), account.root, mountpoint), MOUNT, str(mountpoint), "empty")
        assert not is_mounted(mountpoint)

    def test_is_busy(self, account: Account, mounts: Mounts, form: str) -> None:
        mountpoint = mounts.mount(account.root)
        refused(dboxfs(*form.split(), account.root, mountpoint), MOUNT, str(mountpoint), "mount")
        assert (mountpoint / "INBOX" / "1.eml").is_file()

    def test_was_left_by_a_killed_daemon(self, account: Account, mounts: Mounts, form: str) -> None:
        with mounts.foreground(account.root) as (mountpoint, process):
            process.kill()
            process.wait()
        refused(dboxfs(*form.split(), account.root, mountpoint), MOUNT, str(mountpoint), "umount")
        mounts.umount(mountpoint)

    def test_no_dev_fuse(self, account: Account, mounts: Mounts, form: str) -> None:
        mountpoint = mounts.mountpoint()
        nodes = "mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9"
        script = f'mount -t tmpfs none /dev; {nodes}; exec "$@"'
        arguments = [str(DBOXFS), *form.split(), str(account.root), str(mountpoint)]
        command = ["unshare", "-m", "sh", "-ec", script, "sh", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        refused(done, MOUNT, "/dev/fuse")


def test_wrong_usage(account: Account, mounts: Mounts) -> None:
    for args in (
        [],
        ["nonsense"],
        ["mount"],
        ["mount", str(account.root)],
        ["mount", "--nonsense", "a", "b"],
    ):
        done = dboxfs(*args)
        assert done.returncode == USAGE, args
        assert "usage: dboxfs" in done.stderr
    refused(dboxfs("mount", "-o", "nonsense", account.root, mounts.mountpoint()), USAGE, "nonsense")


def test_a_log_file_that_can_not_be_written(account: Account, mounts: Mounts, tmp_path: Path) -> None:
    done = dboxfs("mount", "--log-file", tmp_path / "no" / "log", account.root, mounts.mountpoint())
    refused(done, FAILURE, str(tmp_path / "no" / "log"))


def test_umount_where_nothing_is_mounted(tmp_path: Path) -> None:
    refused(dboxfs("umount", tmp_path), MOUNT, str(tmp_path))


def test_umount_while_it_is_used(account: Account, mounts: Mounts) -> None:
    mountpoint = mounts.mount(account.root)
    with (mountpoint / "INBOX" / "1.eml").open("rb") as file:
        refused(dboxfs("umount", mountpoint), MOUNT, str(mountpoint), "in use by process", "--lazy")
        assert file.read()
    mounts.umount(mountpoint)


def test_ls_info_and_dump_of_what_is_not_there(account: Account, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    refused(dboxfs("ls", gone), STORE, str(gone))
    refused(dboxfs("info", gone), STORE, str(gone))
    refused(dboxfs("ls", account.root, "No Such"), FAILURE, "No Such")
    refused(dboxfs("dump", gone), FAILURE, str(gone))


def test_help_teaches() -> None:
    done = dboxfs("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("mount", "umount", "ls", "info", "dump", "exit status"):
        assert word in done.stdout
    for command in ("mount", "umount", "ls", "info", "dump"):
        assert dboxfs(command, "--help").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_cleanly(account: Account, mounts: Mounts, number: signal.Signals) -> None:
    with mounts.foreground(account.root) as (mountpoint, process):
        assert (mountpoint / "INBOX" / "1.eml").read_bytes()
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert not is_mounted(mountpoint)


def test_the_daemon_goes_when_its_mount_is_taken_away(account: Account, mounts: Mounts) -> None:
    with mounts.foreground(account.root) as (mountpoint, process):
        deadline = time.monotonic() + 10
        while subprocess.run(["fusermount3", "-u", mountpoint]).returncode:  # somebody looks at it
            assert time.monotonic() < deadline, "still busy after 10 seconds"
            time.sleep(0.05)
        assert process.wait(timeout=10) == 0
        wait_until_unmounted(mountpoint)


def test_mount_returns_when_the_mount_is_usable(account: Account, mounts: Mounts) -> None:
    mountpoint = mounts.mountpoint()
    assert dboxfs("mount", account.root, mountpoint).returncode == 0
    assert os.listdir(mountpoint / "INBOX") == ["1.eml"]
    mounts.umount(mountpoint)
    assert os.listdir(mountpoint) == []
