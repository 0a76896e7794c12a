"""A machine without FUSE is where a store is rescued: everything but ``mount`` works there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import sys
sys.modules["pyfuse3"] = None  # importing it fails, as where it is not installed
from dboxfs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def dboxfs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False
    )


def test_a_store_is_made_shown_checked_converted_and_rescued_without_fuse(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for arguments in (
        ["init", store, "--format", "mdbox"],
        ["ls", store],
        ["info", store],
        ["check", store],
        ["convert", store, str(tmp_path / "copy"), "--format", "sdbox", "--verify"],
        ["rescue", store, str(tmp_path / "rescued")],
        ["purge", store],
    ):
        done = dboxfs(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert (tmp_path / "copy/mailboxes/INBOX").is_dir()
    assert (tmp_path / "rescued/mailboxes/INBOX").is_dir()


def test_mount_without_fuse_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert dboxfs("init", store, "--format", "sdbox").returncode == 0
    (tmp_path / "mnt").mkdir()
    done = dboxfs("mount", store, str(tmp_path / "mnt"))
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("dboxfs: can't mount here: ")
    assert done.stderr.endswith("; install pyfuse3 and libfuse 3\n")


def test_unmounting_loads_nothing_that_only_mounting_needs(tmp_path: Path) -> None:
    """A script that unmounts a hundred stores does not wait for numpy a hundred times."""
    code = "import sys; from dboxfs.cli.main import main; status = main(sys.argv[1:])\n" \
        "print(status, sorted({'numpy', 'trio', 'pyfuse3', 'dboxfs.store'} & set(sys.modules)))"  # fmt: skip
    command = [sys.executable, "-c", code, "umount", "--quiet", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"
