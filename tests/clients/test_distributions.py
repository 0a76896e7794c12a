"""sdist and wheel: what is in them is what runs, and nothing else is needed beside the dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dboxfs import __version__

ROOT = Path(__file__).parent.parent.parent
_BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, to: Path) -> Path:
    """Build as pip does, without its own environment: the names of hooks are those of PEP 517."""
    command = [sys.executable, "-c", _BUILD, kind, str(to)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return to / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of what git has, and the wheel that is built of that sdist alone."""
    top = tmp_path_factory.mktemp("built")
    for name in ("source", "out"):
        (top / name).mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    there = [name for name in files.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists()]
    packed = ["tar", "-cf", str(top / "source.tar"), "--null", "-T", "-"]
    subprocess.run(packed, input=b"\0".join(there), cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", top / "source.tar", "-C", top / "source"], check=True)
    sdist = build("build_sdist", top / "source", top / "out")
    with tarfile.open(sdist) as archive:
        archive.extractall(top / "unpacked", filter="data")
    (unpacked,) = (top / "unpacked").iterdir()
    return sdist, build("build_wheel", unpacked, top / "out")


def test_the_version_stands_in_one_place_and_is_everywhere(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    assert sdist.name == f"dboxfs-{__version__}.tar.gz"
    assert wheel.name.startswith(f"dboxfs-{__version__}-")
    told = subprocess.run(
        ["git", "grep", "-lF", f'"{__version__}"'], cwd=ROOT, capture_output=True, text=True
    )
    assert told.stdout.split() == ["dboxfs/__init__.py"]


def test_the_wheel_has_every_module_and_page_of_the_program(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    files = subprocess.run(
        ["git", "ls-files", "dboxfs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {name for name in files.stdout.split() if not name.endswith(".c") and (ROOT / name).exists()}
    assert wanted <= names
    assert any(name.startswith("dboxfs/fuse/_openless.") and name.endswith(".so") for name in names)
    assert {name.partition("/")[0] for name in names} == {"dboxfs", f"dboxfs-{__version__}.dist-info"}


def test_what_is_installed_of_the_wheel_runs(built: tuple[Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(tmp_path)
    shown = subprocess.run(
        [sys.executable, "-m", "dboxfs.cli.main", "info", ROOT / "samples/mdbox"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "18 messages" in shown.stdout
    script = (tmp_path / f"dboxfs-{__version__}.dist-info/entry_points.txt").read_text()
    assert "dboxfs = dboxfs.cli.main:main" in script
