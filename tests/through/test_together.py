"""Many writers through the mount, and IMAP writers beside them: every acknowledged message exactly once.

Each message is unique and belongs to one writer, who knows where it has to be in the end.
``DBOXFS_THROUGH_OPS`` is the number of operations of all together (10,000 in the long run).
"""

from __future__ import annotations

import imaplib
import os
import random
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse_rw.rw import ONE, Writable, both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts
from tests.through.sessions import Idle

pytestmark = [both, resynced]

OPERATIONS = int(os.environ.get("DBOXFS_THROUGH_OPS", "240"))
MOUNT_WRITERS, IMAP_WRITERS = 8, 2
BOXES = ("INBOX", "Work")


class Writer(threading.Thread):
    """Does its share of the operations.

    :ivar where: mailbox and text of its messages, with their flags.
    """

    choices: tuple[str, ...] = ()

    def __init__(self, number: int, driver: str) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.rng = random.Random(f"{driver} {number}")
        self.where: dict[tuple[str, bytes], str] = {}
        self.made = 0
        self.error: BaseException | None = None
        self.counts: Counter[str] = Counter()

    def text(self) -> bytes:
        self.made += 1
        size = self.rng.choice([10, 1000, 30_000])
        return b"Subject: w%d-%d\n\n%s\n" % (self.number, self.made, b"x" * size)

    def run(self) -> None:
        try:
            for _ in range(OPERATIONS // (MOUNT_WRITERS + IMAP_WRITERS)):
                name = self.rng.choice(self.choices)
                if name not in ("put", "rsync") and not self.where:
                    name = "put"
                getattr(self, name)()
                self.counts[name] += 1
        except BaseException as exc:  # noqa: BLE001 - the test tells
            self.error = exc
        finally:
            self.end()

    def end(self) -> None:
        """Nothing is left open."""

    def some(self) -> tuple[str, bytes]:
        return self.rng.choice(sorted(self.where))


class Through(Writer):
    """Writes through the mount."""

    choices = ("put", "put", "put", "rsync", "move", "rename", "over", "remove", "remove", "flags", "append")

    def __init__(self, number: int, driver: str, mnt: Path, outside: Path) -> None:
        super().__init__(number, driver)
        self.mnt = mnt
        self.outside = outside / f"w{number}"
        self.outside.mkdir()
        self.paths: dict[tuple[str, bytes], Path] = {}

    def fresh(self, box: str) -> Path:
        return self.mnt / box / f"w{self.number}-{self.rng.getrandbits(40):x}"

    def put(self) -> None:
        text, box = self.text(), self.rng.choice(BOXES)
        path = self.fresh(box)
        source = self.outside / "source"
        source.write_bytes(text)
        subprocess.run(["cp", source, path], check=True)
        self.where[box, text], self.paths[box, text] = "", path

    def rsync(self) -> None:
        text, box = self.text(), self.rng.choice(BOXES)
        path = self.fresh(box)
        source = self.outside / path.name
        source.write_bytes(text)
        subprocess.run(["rsync", "-tO", source, f"{path.parent}/"], check=True)
        self.where[box, text], self.paths[box, text] = "", path

    def move(self) -> None:
        key = box, text = self.some()
        target = "Work" if box == "INBOX" else "INBOX"
        path = self.fresh(target)
        subprocess.run(["mv", self.paths.pop(key), path], check=True)
        self.where[target, text], self.paths[target, text] = self.where.pop(key), path

    def rename(self) -> None:
        key = self.some()
        path = self.fresh(key[0])
        os.rename(self.paths[key], path)
        self.paths[key] = path

    def over(self) -> None:
        key = box, _ = self.some()
        text = self.text()
        temporary = self.mnt / box / f".w{self.number}"
        temporary.write_bytes(text)
        os.rename(temporary, self.paths[key])
        self.where[box, text], self.paths[box, text] = self.where.pop(key), self.paths.pop(key)

    def remove(self) -> None:
        key = self.some()
        subprocess.run(["rm", self.paths.pop(key)], check=True)
        del self.where[key]

    def flags(self) -> None:
        key = self.some()
        self.where[key] = self.rng.choice(["", r"\Seen", r"\Answered \Flagged"])
        os.setxattr(self.paths[key], "user.dbox.flags", self.where[key].encode())

    def append(self) -> None:
        key = box, text = self.some()
        with self.paths[key].open("ab") as file:
            file.write(b"more\n")
        longer = text + b"more\n"
        self.where[box, longer], self.paths[box, longer] = self.where.pop(key), self.paths.pop(key)


class Imap(Writer):
    """Writes through an IMAP session of its own."""

    choices = ("put", "put", "store", "copy", "expunge")

    def __init__(self, number: int, driver: str, account: Account) -> None:
        super().__init__(number, driver)
        self.client: imaplib.IMAP4 = account.imap()

    def end(self) -> None:
        self.client.shutdown()

    def uids(self, box: str, text: bytes) -> str:
        assert self.client.select(box)[0] == "OK"
        subject = text.split(b"\n")[0].removeprefix(b"Subject: ").decode()
        found: list[bytes] = self.client.uid("SEARCH", "SUBJECT", f'"{subject}"', "LARGER", "0")[1]
        exact = [uid for uid in found[0].split() if self.subject(uid) == subject]
        assert exact, f"{subject} is not in {box}"
        return b",".join(exact).decode()

    def subject(self, uid: bytes) -> str:
        answers = self.client.uid("FETCH", uid.decode(), "BODY.PEEK[HEADER.FIELDS (SUBJECT)]")[1]
        answer = next(one for one in answers if isinstance(one, tuple))  # others are of flags that changed
        return str(answer[1].decode().strip().removeprefix("Subject: "))

    def put(self) -> None:
        text, box = self.text(), self.rng.choice(BOXES)
        assert self.client.append(box, "", "", text)[0] == "OK"
        self.where[box, text] = ""

    def store(self) -> None:
        key = self.some()
        self.where[key] = self.rng.choice(["", r"\Seen", r"\Answered \Flagged"])
        assert self.client.uid("STORE", self.uids(*key), "FLAGS", f"({self.where[key]})")[0] == "OK"

    def copy(self) -> None:
        key = box, text = self.some()
        target = "Work" if box == "INBOX" else "INBOX"
        if (target, text) in self.where:
            return
        assert self.client.uid("COPY", self.uids(*key), target)[0] == "OK"
        self.where[target, text] = self.where[key]

    def expunge(self) -> None:
        key = self.some()
        uids = self.uids(*key)
        assert self.client.uid("STORE", uids, "+FLAGS", r"(\Deleted)")[0] == "OK"
        assert self.client.uid("EXPUNGE", uids)[0] == "OK"
        del self.where[key]


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()


def test_many_writers_and_two_imap_writers(rw: Writable, driver: str, tmp_path: Path) -> None:
    writers: list[Writer] = [Through(number, driver, rw.mnt, tmp_path) for number in range(MOUNT_WRITERS)]
    writers += [Imap(MOUNT_WRITERS + number, driver, rw.account) for number in range(IMAP_WRITERS)]
    with Idle(rw.account) as idle:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for writer in writers:
            if writer.error is not None:
                raise writer.error
        expected = {key: flags for writer in writers for key, flags in writer.where.items()}
        found = {box: rw.account.fetch(box) for box in BOXES}
        assert idle.hears(len(found["INBOX"]))
        assert idle.wrong == []
    texts = Counter((box, message.text) for box in BOXES for message in found[box])
    assert texts == Counter([*expected, ("INBOX", ONE)])
    flags = {(box, m.text): m.flags for box in BOXES for m in found[box] if m.text != ONE}
    assert {key: set(words.split()) for key, words in flags.items()} == {
        key: set(words.split()) for key, words in expected.items()
    }
    print(sum((writer.counts for writer in writers), Counter()))
