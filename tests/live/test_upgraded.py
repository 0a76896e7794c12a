"""A mount goes on while its program is replaced, and a new mount takes its place with the same inodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.mounts import IO, Mounts, is_mounted
from tests.live.test_reload import hang_up

pytestmark = [pytest.mark.mount, pytest.mark.root]
ROOT = Path(__file__).parent.parent.parent


def inodes(mnt: Path) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(above, name), mnt): os.lstat(os.path.join(above, name)).st_ino
        for above, directories, files in os.walk(mnt)
        for name in (*directories, *files)
    }


@pytest.mark.parametrize("options", ["ro", "rw,alone,compress=zstd"])
def test_a_mount_goes_on_without_the_files_of_its_program(
    mounts: Mounts, tmp_path: Path, options: str
) -> None:
    shutil.copytree(ROOT / "dboxfs", tmp_path / "old/dboxfs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "samples/mdbox", tmp_path / "mail")
    mnt = mounts.mountpoint()
    log = mounts.log_file(mnt)
    old = [sys.executable, "-P", "-m", "dboxfs.cli.main", "mount", "--io", IO, "--log-file", str(log)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "old"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*old, "-o", options, str(tmp_path / "mail"), str(mnt)], env=environment, check=True)
    shutil.rmtree(tmp_path / "old")  # harder than a package: nothing can be loaded any more

    seen = inodes(mnt)
    for name in seen:
        if name.endswith(".eml"):
            assert (mnt / name).read_bytes()
            assert os.getxattr(mnt / name, "user.dbox.guid")
    control = list((mnt / ".dboxfs").iterdir())
    assert {"metrics", "stats.json", "store.json", "events", "deleted"} <= {path.name for path in control}
    for path in control:
        if path.is_dir():
            os.listdir(path)
        else:
            path.read_bytes()
    if "rw" in options:
        (mnt / "INBOX/new").write_bytes(b"Subject: x\n\n" + b"y" * 5000)
        os.setxattr(mnt / "INBOX/new", "user.dbox.flags", b"\\Seen")
        (mnt / "INBOX/new").rename(mnt / "Trash/newer")
        assert (mnt / "Trash/newer").read_bytes().endswith(b"yyy")
        (mnt / "Made").mkdir()
        (mnt / "Trash/newer").unlink()
    hang_up(mounts, mnt)
    (pid,) = subprocess.run(["pgrep", "-of", f"main mount .*{mnt}$"], capture_output=True).stdout.split()
    os.kill(int(pid), signal.SIGUSR1)
    deadline = time.monotonic() + 20
    while "task" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = inodes(mnt)

    mounts.umount(mnt)  # with the new program, as the package's commands are
    assert not is_mounted(mnt)
    assert inodes(mounts.mount(tmp_path / "mail", options)) == before
