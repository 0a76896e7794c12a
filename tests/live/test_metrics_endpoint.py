"""``-o metrics=``: Prometheus asks a mount without looking into it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.live.mounts import Mounts, dboxfs

pytestmark = [pytest.mark.mount, pytest.mark.root]
SAMPLES = Path(__file__).parent.parent.parent / "samples"


def test_metrics_are_told_on_a_socket_while_the_mount_lives(mounts: Mounts, tmp_path: Path) -> None:
    root, path = tmp_path / "mail", mounts.mountpoint(for_all=True).with_name("metrics.sock")
    shutil.copytree(SAMPLES / "mdbox", root)
    mnt = mounts.mount(root, f"metrics=unix:{path}")

    def ask(*as_user: str) -> subprocess.CompletedProcess[str]:
        curl = ["curl", "-sS", "--unix-socket", str(path), "http://localhost/metrics"]
        return subprocess.run([*as_user, *curl], capture_output=True, text=True)

    assert "\ndboxfs_messages 18\n" in ask().stdout
    other = ask("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert (other.returncode, other.stdout) == (7, "")
    taken = dboxfs("mount", "-o", f"metrics=unix:{path}", root, mounts.mountpoint())
    assert taken.returncode == 4
    assert taken.stderr == (f"dboxfs: -o metrics=unix:{path}: Address already in use; give another address\n")
    inside = dboxfs("mount", "-o", f"metrics=unix:{tmp_path}/mnt4/s", root, mounts.mountpoint())
    assert inside.returncode == 4
    assert inside.stderr.endswith("lies in the mount; give a path elsewhere\n")
    mounts.umount(mnt)
    assert not path.exists()


def test_a_port_is_one_of_the_loopback_address_alone(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mounts.mount(tmp_path / "mail", f"metrics={port}")
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
