"""``python -m bench.filer MESSAGE COUNT DIRECTORY PREFIX``: save messages as cp does, by making files.

A process that starts fast, since many are started (:mod:`bench.saves`).  It prints ``ready``, waits for a
line on its standard input, makes the files, and prints ``done``.
"""

from __future__ import annotations

import os
import sys


def main(message: str, count: str, directory: str, prefix: str) -> None:
    """Save."""
    with open(message, "rb") as file:
        text = file.read()
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        path = os.path.join(directory, f"{prefix}{number}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
