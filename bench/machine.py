"""What the numbers were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from dboxfs import __version__


def describe(work: Path) -> dict[str, str | int | float]:
    """Machine, versions, and the file system that *work* is on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "filesystem": _filesystem(work),
        "python": platform.python_version(),
        "pyfuse3": importlib.metadata.version("pyfuse3"),
        "trio": importlib.metadata.version("trio"),
        "dovecot": _said(
            shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin") or "dovecot", "--version"
        ).split(" ")[0],
        "libfuse": _said("pkg-config", "--modversion", "fuse3"),
        "dboxfs": f"{__version__} {_said('git', 'describe', '--always', '--dirty')}".strip(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(path: Path) -> str:
    """Type and options of the mount that *path* is in."""
    best, told = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4]
        if (path.is_relative_to(point)) and len(point) >= len(best):
            best, told = point, f"{rest.split()[0]} {fields.split()[5]}"
    return told


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
