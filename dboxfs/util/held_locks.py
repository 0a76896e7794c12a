"""The file locks that this process holds, by its descriptors (``lock:`` lines of /proc/self/fdinfo)."""

from __future__ import annotations

import os
from contextlib import suppress

_FDINFO, _FD = "/proc/self/fdinfo", "/proc/self/fd"


def held_locks() -> str:
    """A line for each lock: kind (``OFDLCK``, ``FLOCK``, ``POSIX``), ``READ`` or ``WRITE``, path; sorted."""
    found = []
    for name in os.listdir(_FDINFO):
        with suppress(OSError):
            with open(f"{_FDINFO}/{name}") as file:
                locks = [line.split() for line in file if line.startswith("lock:")]
            path = os.readlink(f"{_FD}/{name}") if locks else ""
            found += [f"{words[2]} {words[4]} {_one_line(path)}\n" for words in locks]
    return "".join(sorted(found))


def _one_line(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
