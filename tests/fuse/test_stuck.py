"""A daemon that is killed while its thread waits in the kernel for a READ: nobody hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.mounts import is_mounted

PATIENCE = 5.0


def waits_in_the_kernel(pid: int) -> bool:
    """Whether a thread of a process is in an uninterruptible wait."""
    states = [
        path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return "D" in states


@pytest.mark.mount
def test_a_kill_in_the_middle_of_a_push_frees_the_program_whose_read_it_waits_for(tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.stuck_fs", str(mnt)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "mounted\n"
        client = subprocess.Popen(["cat", mnt / "two"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert daemon.stdout.readline() == "stuck\n"
        deadline = time.monotonic() + PATIENCE
        while not waits_in_the_kernel(daemon.pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        daemon.kill()
        assert client.wait(PATIENCE) != 0
        daemon.wait(PATIENCE)
    finally:
        daemon.kill()
        daemon.communicate()
        if is_mounted(mnt):
            subprocess.run(["umount", "-l", mnt], check=True)
