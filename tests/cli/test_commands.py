"""``ls``, ``info``, ``dump``, and the daemon's manners, by running the installed command."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import DBOXFS, Mounts, dboxfs, is_mounted, wait_until_unmounted

MESSAGE = b"Subject: x\n\nbody\n"


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    made = dovecot.account("sdbox:{home}/mail")
    made.append([Append(MESSAGE, flags="\\Seen"), Append(MESSAGE * 3)])
    return made


def box(account: Account, name: str = "INBOX") -> Path:
    return account.root / "mailboxes" / name / "dbox-Mails"


def daemon_of(mountpoint: Path) -> int:
    """The process that serves a mount, found by its arguments."""
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and os.fsencode(mountpoint) in arguments and b"mount" in arguments:
            return int(entry.name)
    raise AssertionError(f"no daemon for {mountpoint}")


def test_ls_says_what_each_message_is(account: Account) -> None:
    one, two = account.fetch()
    done = dboxfs("ls", account.root, "INBOX")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[str(m.uid), str(m.physical_size)] for m in (one, two)]
    assert [row[3:] for row in rows] == [["\\Seen"], []]


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_ls_says_of_each_message_that_it_cannot_read_which_and_why(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(MESSAGE), Append(MESSAGE * 3)])
    victim = box(account) / "u.2" if driver == "sdbox" else account.root / "storage/m.1"
    victim.unlink()
    victim.mkdir()
    done = dboxfs("ls", account.root, "INBOX")
    lines = [line for line in done.stderr.splitlines() if "a directory stands in the place" in line]
    assert done.returncode == 1
    assert [line for line in lines if line.startswith("dboxfs: INBOX: uid 2: ") and str(victim) in line]
    assert len(lines) == done.stdout.count("damaged") == len(done.stderr.splitlines())


def test_ls_and_info_show_odd_names_in_one_line_each(account: Account) -> None:
    for name in (b"two\nlines", b"\xe9", b"Tr&AOk-s"):
        os.makedirs(os.fsencode(account.root) + b"/mailboxes/" + name + b"/dbox-Mails")
    for command in ("ls", "info"):
        environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        done = subprocess.run(
            [DBOXFS, command, account.root], capture_output=True, env=environment, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        for shown in (b"two%0Alines\n", b"%E9\n", b"Tr\\xe9s\n", b"INBOX\n"):
            assert b"  " + shown in done.stdout


def test_ls_goes_on_after_damage_and_fails(account: Account) -> None:
    (box(account) / "u.1").write_bytes(b"nonsense")
    done = dboxfs("ls", account.root, "INBOX")
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert "damaged" in first
    assert second.split()[0] == "2"
    assert done.stderr.count("\n") == 1
    assert f"{box(account)}/u.1: damaged at offset" in done.stderr


def test_ls_of_a_mailbox_whose_index_is_damaged_is_no_empty_list(account: Account) -> None:
    (box(account) / "dovecot.index.log").write_bytes(b"nonsense" * 10)
    done = dboxfs("ls", account.root, "INBOX")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "dovecot.index.log: damaged at offset 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_date_beyond_all_calendars_is_no_traceback(account: Account) -> None:
    path = box(account) / "u.1"
    data = path.read_bytes()
    at = data.index(b"\nR") + 2
    end = data.index(b"\n", at)
    path.write_bytes(data[:at] + b"7fffffffffffffff" + data[end:])
    done = dboxfs("ls", account.root, "INBOX")
    assert (done.returncode, done.stderr) == (0, "")
    assert "@9223372036854775807" in done.stdout


def test_output_that_nobody_reads_is_no_error(account: Account) -> None:
    log = box(account) / "dovecot.index.log"
    for command in (["dump", str(log)], ["dump", str(box(account) / "u.1")], ["info", str(account.root)]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [DBOXFS, *command], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=30
        )
        os.close(writer)
        assert done.stderr == b"", command


@pytest.mark.parametrize(
    "content", [b"", b"\x07", b"\x01\x03\x28\x00", b"\x01\x08", b"2 ", b"2 M1e C0\n", b"hello"]
)
def test_dump_of_a_damaged_or_foreign_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = dboxfs("dump", path)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert done.returncode in (0, 1)
    assert (done.returncode == 1) == bool(done.stderr)


def test_dump_of_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    done = dboxfs("dump", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dboxfs: {tmp_path}: Is a directory\n"


def test_a_mountpoint_inside_of_the_store_is_refused(account: Account, mounts: Mounts) -> None:
    inside = account.root / "mailboxes" / "Inside"
    inside.mkdir()
    done = dboxfs("mount", account.root, inside)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "inside of the store" in done.stderr
    assert not is_mounted(inside)


def test_umount_knows_a_mountpoint_by_any_name(account: Account, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    mountpoint = mounts.mount(account.root)
    assert dboxfs("umount", tmp_path / "link" / mountpoint.name).returncode == 0
    wait_until_unmounted(mountpoint)
    mountpoint = mounts.mount(account.root)
    (tmp_path / "direct").symlink_to(mountpoint)
    assert dboxfs("umount", tmp_path / "direct").returncode == 0
    wait_until_unmounted(mountpoint)


def test_umount_of_a_mount_in_use_names_who_uses_it_and_the_way_out(account: Account, mounts: Mounts) -> None:
    mountpoint = mounts.mount(account.root)
    with open(mountpoint / "INBOX" / "1.eml", "rb") as message:
        done = dboxfs("umount", mountpoint)
        assert (done.returncode, done.stderr.count("\n")) == (4, 1)
        assert f"in use by process {os.getpid()} (" in done.stderr
        assert f"dboxfs umount --lazy {mountpoint}" in done.stderr
        assert message.read()
    assert dboxfs("umount", mountpoint).returncode == 0


def test_a_killed_daemon_leaves_a_mount_that_umount_takes_away(account: Account, mounts: Mounts) -> None:
    mountpoint = mounts.mount(account.root)
    os.kill(daemon_of(mountpoint), signal.SIGKILL)
    done = dboxfs("mount", account.root, mountpoint)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert f"dboxfs umount {mountpoint}" in done.stderr
    assert dboxfs("umount", mountpoint).returncode == 0
    assert dboxfs("mount", account.root, mountpoint).returncode == 0
    assert sorted(os.listdir(mountpoint / "INBOX")) == ["1.eml", "2.eml"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_and_its_mount(
    account: Account, mounts: Mounts, number: signal.Signals
) -> None:
    mountpoint = mounts.mount(account.root)
    os.kill(daemon_of(mountpoint), number)
    wait_until_unmounted(mountpoint)
    assert number.name in mounts.log_file(mountpoint).read_text()


def test_the_daemon_keeps_nothing_of_its_caller(account: Account, mounts: Mounts, tmp_path: Path) -> None:
    mountpoint = mounts.mountpoint()
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [str(DBOXFS), "mount", "--log-file", "relative.log", str(account.root), str(mountpoint)]
        subprocess.run(command, pass_fds=[lock.fileno()], cwd=tmp_path, check=True, timeout=30)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pid = daemon_of(mountpoint)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3
    assert (tmp_path / "relative.log").exists()


def test_a_store_with_a_name_of_any_bytes_can_be_mounted(
    account: Account, mounts: Mounts, tmp_path: Path
) -> None:
    odd = os.path.join(os.fsencode(tmp_path), b"st\xe9re, \\ \n")
    os.rename(account.root, odd)
    mountpoint = mounts.mountpoint()
    command = [os.fsencode(DBOXFS), b"mount", odd, os.fsencode(mountpoint)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(mountpoint / "INBOX")) == ["1.eml", "2.eml"]
