"""``mount.dboxfs``: what the options of mount(8) and fstab mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.cli import mount_helper
from dboxfs.cli.main import main
from dboxfs.cli.mount_helper import MountCall, understand
from dboxfs.cli.mount_options import parse_options


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("rw", "ro"),
        ("rw,noauto,umask=0077", "ro,noauto,umask=0077"),
        ("rw,writable,alone,compress=zstd:3", "rw,alone,compress=zstd:3"),
        ("writable,fsync=never,restore,nofail,ro", "ro,nofail"),
        ("ro,gid=8,fmode=0440,dmode=0550,allow_other", "ro,gid=8,fmode=0440,dmode=0550,allow_other"),
        ("", "ro"),
    ],
)
def test_rw_is_what_mount_adds_and_writable_is_what_one_asks_for(given: str, options: str) -> None:
    assert understand(given) == MountCall(options, None)
    parse_options([understand(given).options])


@pytest.mark.parametrize(
    ("given", "read_only"),
    [("remount,ro", True), ("rw,remount", False), ("ro,remount,rw", False), ("rw,remount,ro", True)],
)
def test_of_remounts_the_last_word_counts(given: str, read_only: bool) -> None:
    assert understand(given).remount is read_only


def test_wrong_usage_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["store"], ["store", "mountpoint", "-x"]):
        assert main(["mount.dboxfs", *words]) == mount_helper.USAGE
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mount.dboxfs: ")
        assert "usage: mount.dboxfs STORE MOUNTPOINT" in line


def test_what_is_not_mounted_is_not_remounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount.dboxfs", "store", str(tmp_path), "-o", "remount,ro"]) == mount_helper.FAILED
    assert capsys.readouterr().err == f"mount.dboxfs: {tmp_path}: no dboxfs mount; mount it first\n"


def test_a_store_that_is_missing_is_status_32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount.dboxfs", str(tmp_path / "none"), str(tmp_path)]) == mount_helper.FAILED
    assert str(tmp_path / "none") in capsys.readouterr().err
