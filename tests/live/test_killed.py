"""A daemon that is killed takes nobody along: whoever waits for it gets an error, and both processes end.

The client of the first test holds the lock of a directory in the kernel while it waits for the daemon,
which waits for a file that the test has locked; meanwhile Dovecot removes a message in that directory, and
the kernel has to be told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.cli.liveness import DAEMON_SECONDS
from dboxfs.util.mounts import mounted_on, servers
from dboxfs.vfs.options import Entries
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import DBOXFS, Mounts, dboxfs, is_mounted

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MEANS = pytest.mark.parametrize("entries", [means.value for means in Entries if means is not Entries.AUTO])
PATIENCE = 5.0
"""Seconds that nothing of what is tested here takes."""


def made(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(Append(b"Subject: %d\n\ntext\n" % n) for n in range(4))
    account.doveadm("mailbox create", "INBOX/Sub")
    return account


def processes(mnt: Path) -> list[int]:
    """The daemon of a mount and its companion, if it has one."""
    mount = mounted_on(str(mnt))
    assert mount is not None
    # The number of the connection may have been another one's, whose daemon is just ending.
    found = [pid for pid in servers(mount.connection) if os.fsencode(mnt) in _command(pid)]
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in found}
    return sorted(found, key=lambda pid: parents[pid] in found)


def _command(pid: int) -> list[bytes]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def have_ended(pids: list[int], seconds: float = PATIENCE) -> bool:
    """Whether processes soon are no more, or zombies of which all threads have ended."""
    deadline = time.monotonic() + seconds
    while any(_threads(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _threads(pid: int) -> int:
    states = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            states.append(Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0])
    return sum(state not in "ZX" for state in states)


@contextlib.contextmanager
def rename_in_flight(account: Account, mnt: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that renames a message of INBOX and waits for the daemon, and the directory's lock with
    it.
    """
    inbox = mnt / "INBOX"
    for path in inbox.iterdir():
        path.stat()
    (inbox / "1.eml").rename(inbox / "first")
    (names,) = account.root.glob("**/dboxfs-names/*")
    with names.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        client = subprocess.Popen(["mv", inbox / "2.eml", inbox / "second"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE
            while not _renames(client.pid):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            yield client
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)
            client.wait(PATIENCE)


def _renames(pid: int) -> bool:
    """Whether a process is in a rename (system calls 82, 264, 316)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("82", "264", "316")


@BOTH
@MEANS
def test_a_kill_frees_who_waits_while_names_change(
    dovecot: Dovecot, mounts: Mounts, driver: str, entries: str
) -> None:
    account = made(dovecot, driver)
    mnt = mounts.mount(account.location, f"rw,entries={entries}")
    pids = processes(mnt)
    assert len(pids) == (2 if entries == "companion" else 1)
    with rename_in_flight(account, mnt) as client:
        account.doveadm("mailbox delete", "INBOX/Sub")
        time.sleep(0.6)  # until the daemon has seen that, and its thread or its companion is on its way
        assert client.poll() is None
        os.kill(pids[0], signal.SIGKILL)
        assert client.wait(PATIENCE) != 0
        assert have_ended(pids)
    assert is_mounted(mnt), "nobody writes into the directory below"
    assert dboxfs("umount", mnt).returncode == 0
    mnt.joinpath("is empty").mkdir()
    mnt.joinpath("is empty").rmdir()
    again = mounts.mount(account.location)
    assert sorted(os.listdir(again / "INBOX")) == ["2.eml", "3.eml", "4.eml", "first"]


def test_umount_frees_who_waits_for_a_daemon_that_died_with_its_companion(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    """Both are killed at the same moment, and the companion's thread waits for the client's lock."""
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, "rw,entries=companion")
    pids = processes(mnt)
    with rename_in_flight(account, mnt) as client:
        account.doveadm("mailbox delete", "INBOX/Sub")
        time.sleep(0.6)
        os.kill(pids[1], signal.SIGKILL)
        os.kill(pids[0], signal.SIGKILL)
        time.sleep(0.2)
        assert client.poll() is None, "nobody could abort the connection"
        done = dboxfs("umount", mnt)
        assert (done.returncode, done.stderr) == (0, "")
        assert client.wait(PATIENCE) != 0
        assert have_ended(pids)
    assert not is_mounted(mnt)


def test_umount_leaves_a_daemon_alone_that_only_takes_its_time(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, "rw")
    (daemon,) = processes(mnt)
    with rename_in_flight(account, mnt) as client:
        done = dboxfs("umount", mnt)
        assert done.returncode == 4
        assert "busy" in done.stderr
        os.kill(daemon, signal.SIGSTOP)
        done = dboxfs("umount", mnt)
        os.kill(daemon, signal.SIGCONT)
        assert done.returncode == 4
        assert f"process {daemon}" in done.stderr
        assert f"dboxfs umount --force {mnt}" in done.stderr
    assert client.wait(PATIENCE) == 0, "it was given its lock"
    assert dboxfs("umount", mnt).returncode == 0
    assert have_ended([daemon])


def test_umount_waits_without_a_word_for_a_daemon_that_takes_its_time_to_end(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    location, has_waited = made(dovecot, "sdbox").location, False
    for _ in range(10):  # a daemon may have ended before it is stopped
        mnt = mounts.mount(location)
        (daemon,) = processes(mnt)
        command = [str(DBOXFS), "umount", str(mnt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as umount:
            while is_mounted(mnt):
                assert umount.poll() is None
            with contextlib.suppress(ProcessLookupError):
                # It has heard of the end, and tidies up for some 100 ms.
                os.kill(daemon, signal.SIGSTOP)
            try:
                umount.wait(DAEMON_SECONDS + 1)
            except subprocess.TimeoutExpired:
                has_waited = True
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(daemon, signal.SIGCONT)
            said = umount.communicate(timeout=30)
        assert (umount.returncode, said) == (0, ("", ""))
        assert have_ended([daemon])
        if has_waited:
            break
    assert has_waited


@pytest.mark.expected_log("fuse_reply_")
def test_umount_force_ends_what_waits_for_a_living_daemon(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, "rw")
    with rename_in_flight(account, mnt) as client:
        done = dboxfs("umount", "--force", mnt)
        assert done.returncode == 0
        assert client.wait(PATIENCE) != 0
        assert not is_mounted(mnt)


@pytest.mark.expected_log("the companion process has ended")
def test_a_companion_that_is_killed_costs_names_that_are_old_for_a_while(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, "entries=companion")
    daemon, companion = processes(mnt)
    os.kill(companion, signal.SIGKILL)
    assert have_ended([companion])
    assert sorted(os.listdir(mnt / "INBOX")) == ["1.eml", "2.eml", "3.eml", "4.eml", "Sub"]
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "3:4")
    deadline = time.monotonic() + 2
    while (mnt / "INBOX" / "3.eml").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mounts.umount(mnt)
    assert have_ended([daemon])


@MEANS
def test_a_signal_ends_daemon_and_companion_and_whoever_waits(
    dovecot: Dovecot, mounts: Mounts, entries: str
) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, f"rw,entries={entries}")
    pids = processes(mnt)
    fd, reading = os.open(mnt / "INBOX" / "2.eml", os.O_RDWR), os.open(mnt / "INBOX" / "1.eml", os.O_RDONLY)
    os.kill(pids[0], signal.SIGTERM)
    assert have_ended(pids)
    assert not is_mounted(mnt)
    uid = "user.dbox.uid"
    for ask in (lambda: os.getxattr(reading, uid), lambda: os.getxattr(fd, uid), lambda: os.close(fd)):
        with contextlib.suppress(ConnectionAbortedError), pytest.raises(OSError, match="not connected"):
            ask()
    os.close(reading)  # without a request: there was nothing to write


def test_a_mount_over_a_dead_one_says_in_one_line_what_is_there_and_what_to_do(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location)
    pids = processes(mnt)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert have_ended(pids)
    done = dboxfs("mount", account.location, mnt)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert "a dead mount is here" in line
    assert f"dboxfs umount {mnt}" in line
    assert dboxfs("umount", mnt).returncode == 0


def what_it_does(daemon: int, log_file: Path) -> str:
    """What a daemon logs when it is asked; its notifier's thread is the last that it tells of."""
    before = log_file.read_text() if log_file.exists() else ""
    os.kill(daemon, signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while "thread dboxfs-notify: " not in (text := log_file.read_text().removeprefix(before)):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
    return text


def test_a_daemon_tells_on_sigusr1_what_it_does(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location, "rw")
    (daemon,) = processes(mnt)
    log = mounts.log_file(mnt)
    with rename_in_flight(account, mnt) as client:
        deadline = time.monotonic() + PATIENCE
        # A client in its system call may be on the way to the file that is locked still: it is asked again.
        while not re.search("request Adapter.rename.*[(]names/files.py:", text := what_it_does(daemon, log)):
            assert time.monotonic() < deadline, text
        (line,) = [line for line in text.splitlines() if "request Adapter.rename" in line]
        assert "(names/files.py:" in line
    assert client.wait(PATIENCE) == 0


def test_umount_says_who_has_the_mount_too(dovecot: Dovecot, mounts: Mounts) -> None:
    """A mount namespace that was copied while the mount was there keeps it, and with it the daemon."""
    account = made(dovecot, "sdbox")
    mnt = mounts.mount(account.location)
    daemon, *companion = processes(mnt)
    with subprocess.Popen(["unshare", "-m", "sleep", "60"]) as other:
        while os.readlink(f"/proc/{other.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            time.sleep(0.005)
        done = dboxfs("umount", mnt)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert f"process {other.pid} has it too" in done.stderr
        assert f"process {daemon}" in done.stderr
        assert not have_ended([daemon], 0.1)
        other.kill()
    assert have_ended([daemon, *companion])
