"""A reading client of the stress: compares every message that it can get with what that says of itself.

It gets its :class:`Reading` as JSON on stdin and reads until SIGTERM: the whole tree of a mount, or all
mailboxes through an IMAP session.  Each fault is a line on stdout, the last line is what it has read.

The names that are *standing* (and in IMAP the messages that begin as they do) are replaced all the time, and
must be there whenever somebody looks.
"""

from __future__ import annotations

import dataclasses
import errno
import imaplib
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.stress.clients import Refused, Session
from tests.stress.texts import Mangled, parse

GONE = (FileNotFoundError, NotADirectoryError)
DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader is told: a mountpoint, or a port and a user.

    :ivar standing: mailbox and name of what is there at any time.
    """

    mount: str = ""
    port: int = 0
    user: str = ""
    boxes: tuple[str, ...] = ()
    standing: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> Reading:
        values = json.loads(text)
        values["standing"] = tuple((box, name) for box, name in values["standing"])
        return cls(**values)

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Reader:
    """Reads, and tells faults."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.stopping = False
        self.count: Counter[str] = Counter()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        try:
            if self.reading.mount:
                while not self.stopping:
                    self.tree()
            else:
                self.imap()
        except OSError as exc:
            if exc.errno not in DEAD:
                self.fault(f"{type(exc).__name__} {exc}")
        print(json.dumps(self.count), flush=True)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def fault(self, what: str) -> None:
        print(f"{time.time():.3f} {what}", flush=True)

    def tree(self) -> None:
        """All of a mount, once."""
        boxes = [Path(self.reading.mount)]
        while boxes and not self.stopping:
            box = boxes.pop()
            try:
                with os.scandir(box) as entries:
                    found = list(entries)
            except GONE:
                continue
            names = Counter(entry.name for entry in found)
            for name in (name for name, times in names.items() if times > 1):
                self.fault(f"{box} lists {name} {names[name]} times")
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    boxes.append(Path(entry.path))
                else:
                    self.message(Path(entry.path))
            self.look()
            time.sleep(0.01)  # the machine is there for others, too

    def look(self) -> None:
        """What stands for something at any time."""
        for box, name in self.reading.standing:
            path = Path(self.reading.mount, box, name)
            try:
                path.stat()
                parse(path.read_bytes() or path.read_bytes())
            except FileNotFoundError as exc:
                self.fault(f"{path} is there at any time, and {exc}")
            except Mangled as exc:
                self.fault(f"{path}: {exc}")
            self.count["standing"] += 1

    def message(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read()
                if size and not data:  # the kernel's answer in the moment of an O_TRUNC elsewhere
                    data = file.read()
                    self.count["read again"] += 1
        except FileNotFoundError:
            self.count["gone"] += 1
            return
        self.count["read"] += 1
        if len(data) != size:
            self.fault(f"{path}: {len(data)} bytes, and a size of {size}")
        try:
            parse(data)
        except Mangled as exc:
            self.fault(f"{path}: {exc}")

    def imap(self) -> None:
        session = Session(self.reading.port, self.reading.user)
        try:
            while not self.stopping:
                for box in self.reading.boxes:
                    self._box(session, box)
                    time.sleep(0.05)
        except (Refused, imaplib.IMAP4.error) as exc:
            self.fault(f"IMAP: {type(exc).__name__} {exc}")

    def _box(self, session: Session, box: str) -> None:
        for data in session.all_of(box):
            self.count["fetched"] += 1
            try:
                parse(data)
            except Mangled as exc:
                self.fault(f"IMAP, {box}: {exc}")


def main() -> None:
    Reader(Reading.of(sys.stdin.read())).run()


if __name__ == "__main__":
    main()
