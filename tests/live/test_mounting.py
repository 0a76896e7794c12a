"""A mount is handled as any other: again, ro and rw, dead and replaced, listed, for a group, with a log."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from dboxfs.cli.main import main
from dboxfs.util.mounts import table
from tests.live.mounts import DBOXFS, Mounts, dboxfs, is_mounted

pytestmark = [pytest.mark.mount, pytest.mark.root]
OTHER = ["setpriv", "--reuid=65534", "--regid=8", "--clear-groups"]


def store(tmp_path: Path, name: str = "mail") -> str:
    path = tmp_path / name
    assert main(["init", str(path), "--format", "mdbox"]) == 0
    return str(path)


def mount(root: str, mountpoint: Path, options: str) -> subprocess.CompletedProcess[str]:
    return dboxfs("mount.dboxfs", root, mountpoint, "-o", options)


def test_mount_a_again_and_remount(mounts: Mounts, tmp_path: Path) -> None:
    root, mnt = store(tmp_path), mounts.mountpoint(for_all=True)
    first = mount(root, mnt, "rw,writable,allow_other,gid=8,fmode=0440,dmode=0750")
    log = tmp_path / "xdg-state/dboxfs/dboxfs.log"
    if not os.path.exists("/dev/log"):
        assert first.stdout == f"the log goes to {log}, since there is no syslog\n"
    again = mount(f"mdbox:{root}", mnt, "rw,writable,allow_other")
    assert (first.returncode, again.returncode, again.stderr) == (0, 0, "")
    another = mount(store(tmp_path, "other"), mnt, "rw")
    assert another.returncode == 32
    assert "something is mounted there already" in another.stderr
    (mnt / "INBOX/new").write_bytes(b"Subject: x\n\ny\n")

    assert mount(root, mnt, "remount,ro").returncode == 0
    with pytest.raises(OSError, match="Read-only file system"):
        (mnt / "INBOX/other").touch()
    assert mount(root, mnt, "remount,rw").returncode == 0
    with (mnt / "INBOX/other").open("w") as file:
        file.write("Subject: x\n\n")
        file.flush()
        busy = mount(root, mnt, "remount,ro")
        assert busy.stderr == f"mount.dboxfs: {mnt}: remount: Device or resource busy\n"
        assert busy.returncode == 32

    assert stat.S_IMODE((mnt / "INBOX/new").stat().st_mode) == 0o440
    seen = subprocess.run([*OTHER, "cat", mnt / "INBOX/new"], capture_output=True)
    assert seen.stdout == b"Subject: x\n\ny\n"
    for name in (".dboxfs", ".dboxfs/stats.json", ".dboxfs/store.json", ".dboxfs/deleted"):
        refused = subprocess.run([*OTHER, "ls", mnt / name], capture_output=True, text=True)
        assert "Permission denied" in refused.stderr, name
    mounts.umount(mnt)
    if not os.path.exists("/dev/log"):
        lines = log.read_text().splitlines()
        assert lines[0].endswith(f" dboxfs INFO: {mnt}: mounted, mdbox:{root}, writable")
        assert lines[-1].endswith(f" dboxfs INFO: {mnt}: unmounted")


def test_a_mount_takes_the_place_that_an_automount_keeps_for_it(mounts: Mounts, tmp_path: Path) -> None:
    """As systemd does it: a process that looks waits, but not those of the group that is to mount."""
    root, point = store(tmp_path), mounts.mountpoint()
    asking, told = os.pipe()
    words = [str(DBOXFS), "mount.dboxfs", root, str(point), "-o", "ro,replace"]
    command = ["sh", "-c", 'read go; exec "$@"', "sh", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as mounting:
        how = f"fd={told},pgrp={mounting.pid},minproto=5,maxproto=5,direct"
        subprocess.run(["mount", "-t", "autofs", "-o", how, "none", point], pass_fds=(told,), check=True)
        try:
            with subprocess.Popen(["ls", point], stdout=subprocess.DEVNULL) as looking:
                try:
                    os.read(asking, 4096)  # it waits
                    mounting.communicate(b"\n", timeout=60)
                finally:
                    looking.kill()
            assert mounting.returncode == 0
            assert os.listdir(point) == ["INBOX"]
            assert dboxfs("umount", point).returncode == 0
            assert [mount.kind for mount in table() if mount.point == str(point)] == ["autofs"]
        finally:
            mounting.kill()
            os.close(asking)
            os.close(told)
            subprocess.run(["umount", "-l", point], check=True)


def test_a_daemon_that_was_mounted_read_only_stays_so(mounts: Mounts, tmp_path: Path) -> None:
    root, mnt = store(tmp_path), mounts.mountpoint()
    assert mount(root, mnt, "rw").returncode == 0
    refused = mount(root, mnt, "remount,rw")
    assert refused.returncode == 32
    assert "its daemon was mounted read-only" in refused.stderr


def test_top_metrics_and_trace_show_a_mount_at_work(mounts: Mounts, tmp_path: Path) -> None:
    mnt = mounts.mount(store(tmp_path))
    os.stat(mnt / "INBOX")
    shown = dboxfs("top", mnt, "-n", "1", "--interval", "0.1").stdout.splitlines()
    assert shown[0].startswith(f"{mnt}: up ")
    assert shown[0].endswith(", 0 messages, ok")
    assert shown[1].startswith("request ")
    assert any(line.startswith("lookup ") for line in shown)
    assert 'dboxfs_request_duration_seconds_count{op="lookup"}' in (mnt / ".dboxfs/metrics").read_text()

    (one,) = json.loads(dboxfs("status", mnt, "--json").stdout)
    log = mounts.log_file(mnt)
    for said in ("logged from now on", "not logged any more"):
        os.kill(one["pid"], signal.SIGUSR2)
        deadline = time.monotonic() + 20
        while f"SIGUSR2: requests are {said}" not in log.read_text():
            assert time.monotonic() < deadline
        assert not (mnt / f"INBOX/{said}").exists()
    assert re.search(r"trace: lookup \d+: \d+\.\d{3} ms", log.read_text())
    elsewhere = dboxfs("top", tmp_path)
    assert elsewhere.returncode == 4
    assert "no dboxfs mount" in elsewhere.stderr
    mounts.umount(mnt)


@pytest.mark.expected_log("companion")
def test_a_dead_mount_is_listed_as_dead_and_replaced_and_one_that_lives_is_not(
    mounts: Mounts, tmp_path: Path
) -> None:
    root, mnt = store(tmp_path), mounts.mountpoint()
    assert mount(root, mnt, "writable").returncode == 0
    (one,) = json.loads(dboxfs("status", mnt, "--json").stdout)
    assert (one["mountpoint"], one["store"]) == (str(mnt), f"mdbox:{root}")
    assert (one["state"], one["writable"]) == ("alive", True)
    assert one["age"] < 60
    line = dboxfs("status", mnt).stdout
    assert line.startswith(f"{mnt}  mdbox:{root}  rw  alive  pid {one['pid']}, ")
    living = dboxfs("mount", "--replace", root, mnt)
    assert living.returncode == 4
    assert "something is mounted there already" in living.stderr

    os.kill(one["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (dead := dboxfs("status", mnt)).returncode == 0 and time.monotonic() < deadline:
        pass
    assert dead.returncode == 1
    assert "  dead  daemon not found\n" in dead.stdout
    assert f"unmount it with dboxfs umount {mnt}" in dead.stdout
    refused = dboxfs("mount", root, mnt)
    assert refused.returncode == 4
    assert "a dead mount is here" in refused.stderr
    assert dboxfs("mount", "--replace", root, mnt).returncode == 0
    assert os.listdir(mnt) == ["INBOX"]
    mounts.umount(mnt)


def test_status_without_a_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 4
    assert capsys.readouterr().err == (
        f"dboxfs: {tmp_path}: no dboxfs mount; dboxfs status lists all of them\n"
    )
    assert not is_mounted(tmp_path)
