"""SIGHUP: a mount forgets what it has read, and reads store and configuration again while it is used."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from dboxfs.cli.mounted import look
from dboxfs.util.mounts import mounted_on
from tests.live.mounts import DBOXFS, IO, Mounts, is_mounted, opened, wait_until_unmounted

pytestmark = [pytest.mark.mount, pytest.mark.root]
SAMPLES = Path(__file__).parent.parent.parent / "samples"
BEFORE, AFTER = b"Plain email", b"Other email"


def hang_up(mounts: Mounts, mountpoint: Path, times: int = 1) -> list[str]:
    """Send SIGHUP, wait until the daemon has done what it says; gives what it has logged of it."""
    mount = mounted_on(str(mountpoint))
    assert mount is not None
    pid = look(mount).pid
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + 20
    while True:
        lines = mounts.log_file(mountpoint).read_text().splitlines()
        said = [line.partition(" dboxfs ")[2] for line in lines if "SIGHUP: " in line]
        if sum("store" in line for line in said) == times:
            return said
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)


def other_bytes(root: Path) -> Path:
    """Change bytes of one message in its file, as no Dovecot does; gives its name in a mount."""
    for path in sorted(root.rglob("[um].*")):
        data = path.read_bytes()
        if path.is_file() and BEFORE in data:
            with path.open("r+b") as file:
                file.seek(data.index(BEFORE))
                file.write(AFTER)
            return path
    raise AssertionError("no such message in the sample")


@pytest.mark.parametrize(
    ("kind", "way"),
    [("mdbox", "open=auto"), ("sdbox", "open=classic"), ("mdbox", "rw,alone"), ("sdbox", "view=maildir")],
)
def test_bytes_that_were_changed_behind_everybodys_back_are_shown_after_a_sighup(
    mounts: Mounts, tmp_path: Path, kind: str, way: str
) -> None:
    root = tmp_path / "mail"
    shutil.copytree(SAMPLES / kind, root)
    mnt = mounts.mount(root, way)

    def texts() -> dict[Path, bytes]:
        found = subprocess.run(["find", mnt, "-type", "f"], capture_output=True, check=True).stdout
        names = [Path(os.fsdecode(name)) for name in found.splitlines() if b"dovecot-" not in name]
        return {name: name.read_bytes() for name in names}

    before = texts()
    (name,) = [name for name, text in before.items() if BEFORE in text]
    with name.open("rb") as open_before:
        other_bytes(root)
        assert texts() == before, "nothing has told the kernel"
        assert hang_up(mounts, mnt) == ["INFO: SIGHUP: caches dropped, the store read again"]
        deadline = time.monotonic() + 20  # the kernel's pages are dropped by a thread
        while name.read_bytes() == before[name]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert texts() == before | {name: before[name].replace(BEFORE, AFTER)}
        assert len(open_before.read()) == len(before[name])


@pytest.mark.expected_log("the configuration stays as it was")
def test_the_configuration_is_read_again_and_what_is_wrong_in_it_changes_nothing(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dboxfs.toml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBOXFS_CONFIG", file.name)  # from the caller's directory, which a daemon leaves
    file.write_text('[mount]\nlog-level = "info"\ncache-size = "1M"\n')
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail")

    def stats() -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = json.loads((mnt / ".dboxfs/stats.json").read_text())
        return found

    assert stats()["files"]["cache_size"] == 1 << 20
    file.write_text('[mount]\ncache-size = "2M"\ntable-size = 7\nworkers = 3\noptions = "umask=0077"\n')
    read = "INFO: SIGHUP: caches dropped, the store read again"
    assert hang_up(mounts, mnt) == [
        "INFO: SIGHUP: options has changed, which counts at the next mount",
        "INFO: SIGHUP: workers has changed, which counts at the next mount",
        "INFO: SIGHUP: table-size is 7 now",
        "INFO: SIGHUP: cache-size is 2097152 now",
        read,
    ]
    assert (stats()["files"]["cache_size"], stats()["location_table"]["limit"]) == (2 << 20, 7)

    file.write_text('[mount]\ncache-siz = "3M"\n')
    assert hang_up(mounts, mnt, 2)[5:] == [
        f"ERROR: SIGHUP: the configuration stays as it was: {file} [mount]: cache-siz: no option of this "
        "command; did you mean cache-size?",
        read,
    ]
    assert stats()["files"]["cache_size"] == 2 << 20
    file.write_text('[mount]\nlog-level = "debug"\ncache-size = "2M"\ntable-size = 7\nworkers = 3\n')
    assert hang_up(mounts, mnt, 3)[7:9] == [
        "INFO: SIGHUP: options has changed, which counts at the next mount",
        "INFO: SIGHUP: log-level is debug now",
    ]


@pytest.mark.expected_log("No such file or directory", "can't be read again")
def test_a_store_that_is_gone_for_a_moment_stays_shown(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", "open=classic")
    names = sorted(os.listdir(mnt))
    (tmp_path / "mail").rename(tmp_path / "away")
    (gone,) = hang_up(mounts, mnt)
    assert gone.startswith("ERROR: SIGHUP: the store can't be read again, and is shown as it was: ")
    (tmp_path / "away").rename(tmp_path / "mail")
    assert hang_up(mounts, mnt, 2)[1:] == ["INFO: SIGHUP: caches dropped, the store read again"]
    assert sorted(os.listdir(mnt)) == names


def test_systemd_hears_that_a_daemon_reloads_and_is_ready_again(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt = mounts.mountpoint()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        told = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [str(DBOXFS), "mount", "-f", "--io", IO, *way(), str(tmp_path / "mail"), str(mnt)]
        with subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL) as daemon:
            assert manager.recv(4096).startswith(b"READY=1\n")
            begun = time.monotonic_ns() // 1000
            daemon.send_signal(signal.SIGHUP)
            reloading, _, since = manager.recv(4096).decode().partition("\nMONOTONIC_USEC=")
            assert reloading == "RELOADING=1"
            assert begun <= int(since) <= time.monotonic_ns() // 1000
            assert manager.recv(4096) == b"READY=1"
            assert is_mounted(mnt)
            mounts.umount(mnt)
            assert daemon.wait(60) == 0


def test_a_mount_in_the_foreground_ends_with_its_terminal(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt = mounts.mountpoint()
    pid, terminal = pty.fork()
    if not pid:
        command = [str(DBOXFS), "mount", "-f", "--io", IO, *way(), str(tmp_path / "mail"), str(mnt)]
        os.execv(DBOXFS, command)
    try:
        while b": mounted," not in (said := os.read(terminal, 4096)):
            assert said, "the daemon ended"
        os.kill(pid, signal.SIGHUP)
        while b"the store read again" not in os.read(terminal, 4096):
            pass
        assert is_mounted(mnt)
    finally:
        os.close(terminal)  # the kernel sends SIGHUP
    wait_until_unmounted(mnt)
    assert os.waitpid(pid, 0)[1] == 0


def way() -> list[str]:
    options = opened("")
    return ["-o", options] if options else []
