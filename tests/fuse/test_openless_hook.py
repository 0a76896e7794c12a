"""The hook that gives READ and READDIRPLUS their inode, with a real kernel and whatever libfuse is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dboxfs.fuse.openless import load


def run(mountpoint: Path, *arguments: str) -> dict[str, Any]:
    mountpoint.mkdir()
    command = [sys.executable, "-m", "tests.fuse.openless_fs", str(mountpoint), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.mount
def test_files_and_directories_are_read_without_ever_being_opened(tmp_path: Path) -> None:
    answer = run(tmp_path / "mnt")
    assert answer["why_not"] == ""
    assert answer["found"] == {"two": "the second file\n" * 5000, "three": "3", "four": ""}
    requests = answer["requests"]
    assert requests["open"] == requests["opendir"] == 1  # refused once, and never asked again
    assert set(requests) == {"open", "opendir", "readdir 1", "read 2", "read 3"}
    reads = sum(count for name, count in requests.items() if name.startswith("read"))
    assert answer["filled"] == reads


@pytest.mark.mount
def test_messages_in_a_block_are_listed_each_with_its_name_and_attributes(tmp_path: Path) -> None:
    answer = run(tmp_path / "mnt", "many")
    assert answer["found"] == {
        f"{number}{'n' * (number * 7 % 196)}": [
            number + (5 << 32),
            number * 1_431_655,
            (number * 500_000 - 100_000_000) * 10**9,
            (number * 500_000 - 200_000_000) * 10**9 + number,
        ]
        for number in range(1, 3001)
    }
    assert "getattr" not in answer["requests"]
    assert answer["singly"] == 3, "pyfuse3 was given the files one by one, and no message"


@pytest.mark.mount
def test_a_hook_that_came_too_late_says_so_and_changes_nothing(tmp_path: Path) -> None:
    answer = run(tmp_path / "mnt", "early")
    assert answer["why_not"] == "pyfuse3's handlers did not go through the hook"
    assert answer["filled"] == 0


def test_an_installation_without_the_extension_says_what_it_takes() -> None:
    hook = load("dboxfs.fuse.no_such_extension")
    assert "libfuse3-dev" in hook.why_not()
    assert hook.filled == 0


def test_a_library_that_is_no_hook_is_not_taken_for_one() -> None:
    hook = load("numpy._core._multiarray_umath")  # some other shared object
    assert "dboxfs_hook_ready" in hook.why_not()
    assert hook.filled == 0
