"""``scripts/test-network DIR1 DIR2``: a store on a network file system, written from two places.

DIR1 and DIR2 are one directory as two clients of the file system have it (two mounts of one volume).  A
mount over one of them reads, one over the other writes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from dboxfs.store import Kind
from tests.live.mounts import dboxfs

PATIENCE = 10.0
"""Seconds after which a change is seen elsewhere, at most: file systems keep sizes and names for a while."""


class Places:
    """A store below both directories, and mounts of it.

    :ivar slowest: seconds that a change took to be seen, at most.
    """

    def __init__(self, first: Path, second: Path, kind: Kind, scratch: Path) -> None:
        self.name = f"store-{uuid4().hex[:8]}"
        self.stores = (first / self.name, second / self.name)
        self.slowest = 0.0
        self._scratch = scratch
        self.empty = scratch / "empty"
        self.empty.mkdir()
        self.points: list[Path] = []
        self.run("init", str(self.stores[0]), "--format", kind.value)
        self.seen(lambda: (self.stores[1] / "mailboxes").is_dir())

    def run(self, *words: str) -> str:
        """A command that has to succeed; returns what it prints."""
        done = dboxfs(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def mount(self, which: int, options: str) -> Path:
        point = Path(tempfile.mkdtemp(prefix="mnt", dir=self._scratch))
        log = str(self._scratch / "log")
        self.run(
            "mount",
            "--log-file",
            log,
            "--cache-dir",
            "none",
            "-o",
            options,
            str(self.stores[which]),
            str(point),
        )
        self.points.append(point)
        return point

    def seen(self, what: Callable[[], object]) -> None:
        """Wait until *what* is true."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() < began + PATIENCE, "it was never seen"
            time.sleep(0.02)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def end(self) -> None:
        """Unmount everything."""
        while self.points:
            self.run("umount", str(self.points.pop()))

    def log(self) -> list[str]:
        """Warnings and errors of the daemons."""
        path = self._scratch / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "WARNING" in line or "ERROR" in line]


def text(name: str) -> bytes:
    return f"Subject: {name}\n\n{name * 50}\n".encode()


def followed(places: Places) -> None:
    """What is written at the second place is seen at the first, by a mount that looks for it."""
    reader, writer = places.mount(0, "ro"), places.mount(1, "rw")
    there = reader / "INBOX"
    for number in range(5):
        (writer / "INBOX" / f"note{number}").write_bytes(text(f"n{number}"))
        places.seen((there / f"note{number}").exists)
        assert (there / f"note{number}").read_bytes() == text(f"n{number}")
    os.setxattr(writer / "INBOX/note1", "user.dbox.flags", b"\\Seen \\Flagged")
    places.seen(lambda: os.getxattr(there / "note1", "user.dbox.flags") == b"\\Flagged \\Seen")
    (writer / "INBOX/note0").unlink()
    places.seen(lambda: not (there / "note0").exists())
    (writer / "Work").mkdir()
    places.seen((reader / "Work").is_dir)
    (writer / "INBOX/note2").rename(writer / "Work/moved")
    places.seen((reader / "Work/moved").exists)
    places.seen(lambda: sorted(os.listdir(there)) == ["note1", "note3", "note4"])
    places.end()


def one_writes(places: Places, each: int = 20) -> None:
    """While one mount writes the other place is refused, one line says why; then it is the other's turn."""
    reader = places.mount(1, "ro")
    before = set(os.listdir(reader / "INBOX"))
    for turn in range(2):
        writer = places.mount(turn, "rw")
        names = {f"t{turn}-{number}" for number in range(each)}
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: (writer / "INBOX" / name).write_bytes(text(name)), names))  # noqa: B023
        there = str(places.stores[1 - turn])
        mbox = places.empty.parent / "mbox"
        mbox.write_bytes(b"From a@b Thu Jul 01 08:00:00 2010\n" + text("late") + b"\n")
        for words in (["mount", "-o", "rw", there, str(places.empty)], ["import", "-q", str(mbox), there]):
            refused = dboxfs(*words)
            assert "where one mount writes at a time" in refused.stderr, (words, refused)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), (words, refused)
        before |= names
        places.seen(lambda: set(os.listdir(reader / "INBOX")) == before)  # noqa: B023
        for name in names:
            assert (reader / "INBOX" / name).read_bytes() == text(name), name
        places.run("umount", str(writer))
        places.points.remove(writer)
    places.end()


def main(first: Path, second: Path) -> int:
    """Run all checks in both formats; gives the exit status."""
    failed = 0
    for kind in Kind:
        scratch = Path(tempfile.mkdtemp(prefix="dboxfs-network-"))
        places = Places(first, second, kind, scratch)
        for check in (followed, one_writes):
            try:
                began = time.monotonic()
                check(places)
                state = "ok     "
            except (AssertionError, OSError) as error:
                failed += 1
                state = f"FAILED {error!r}"
            print(f"{kind.value} {check.__name__}: {state} in {time.monotonic() - began:.1f} s", flush=True)
            places.end()
        print(f"{kind.value}: changes were seen after {places.slowest:.2f} s at most")
        found = dboxfs("check", "--unused", str(places.stores[0]))
        print(found.stdout.rstrip())
        failed += found.returncode
        for line in places.log():
            print(line)
            failed += 1
        shutil.rmtree(places.stores[0])
        shutil.rmtree(scratch)
    print(f"{failed} failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
