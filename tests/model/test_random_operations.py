"""Random operations of Dovecot against random reads through the mount: whole messages, and all in the end.

Every message says what its own body must be, so that a reader can tell a whole message from a mixed one.
``DBOXFS_MODEL_ROUNDS`` makes it longer than the short run of every day; the seed is in the test's name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Tally, assert_shows_soon
from tests.live.mounts import Mounts

ROUNDS = int(os.environ.get("DBOXFS_MODEL_ROUNDS", "20"))
NAMES = ["INBOX", "A", "A/B", "A/B/C", "D", "Trés", "5.eml"]
FLAGS = ["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "$Forwarded", "work", "Later"]


def message(rng: random.Random) -> bytes:
    body = rng.randbytes(rng.choice([0, 1, 40, 3000, 70_000])).hex().encode() + b"\n"
    return b"Subject: %s\n\n" % hashlib.sha256(body).hexdigest().encode() + body


def is_whole(data: bytes) -> bool:
    head, _, body = data.partition(b"\n\n")
    return head == b"Subject: " + hashlib.sha256(body).hexdigest().encode()


class Operator:
    """Does to one account what its users might do."""

    def __init__(self, account: Account, rng: random.Random) -> None:
        self.account = account
        self.rng = rng
        self.done: list[str] = []

    def step(self) -> None:
        names = ["append", "append", "append", "flags", "flags", "copy", "move", "expunge", "expunge", "make",
                 "rename", "delete", "purge", "subscribe"]  # fmt: skip
        name = self.rng.choice(names)
        self.done.append(name)
        getattr(self, name)()

    def boxes(self) -> list[str]:
        return sorted(self.account.status())

    def box(self) -> str:
        return self.rng.choice(self.boxes())

    def some(self, box: str) -> list[str]:
        """A search for some of the messages in a mailbox."""
        first = self.rng.randint(1, 25)
        return ["mailbox", box, "uid", f"{first}:{first + self.rng.randint(0, 4)}"]

    def append(self) -> None:
        box = self.box()
        if box.isascii():
            count = self.rng.randint(1, 4)
            self.account.append(
                [Append(message(self.rng), " ".join(self.rng.sample(FLAGS, 2))) for _ in range(count)], box
            )
        else:
            self.account.save(message(self.rng), box)

    def flags(self) -> None:
        what = self.rng.choice(["add", "remove", "replace"])
        self.account.doveadm(
            f"flags {what}", " ".join(self.rng.sample(FLAGS, self.rng.randint(1, 3))), *self.some(self.box())
        )

    def copy(self) -> None:
        self.account.doveadm("copy", self.box(), *self.some(self.box()))

    def move(self) -> None:
        source, target = self.box(), self.box()
        if source != target:
            self.account.doveadm("move", target, *self.some(source))

    def expunge(self) -> None:
        self.account.doveadm("expunge", *self.some(self.box()))

    def make(self) -> None:
        free = [name for name in NAMES if name not in self.boxes()]
        if free:
            self.account.doveadm("mailbox create", self.rng.choice(free))

    def rename(self) -> None:
        every = self.account.mailboxes()
        source = self.rng.choice([name for name in every if name != "INBOX"] or [""])
        target = self.rng.choice(NAMES)
        if source and target not in every and not target.startswith(source + "/"):
            self.account.doveadm("mailbox rename", source, target)

    def delete(self) -> None:
        box = self.box()
        if box != "INBOX":
            self.account.doveadm("mailbox delete", box)

    def purge(self) -> None:
        self.account.purge()

    def subscribe(self) -> None:
        what = self.rng.choice(["subscribe", "unsubscribe"])
        self.account.doveadm(f"mailbox {what}", self.rng.choice(NAMES))


class Reader(threading.Thread):
    """Reads whatever it finds, until it is told to end."""

    def __init__(self, mnt: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.mnt = mnt
        self.rng = random.Random(seed)
        self.ending = threading.Event()
        self.wrong: list[str] = []
        self.read = 0

    def run(self) -> None:
        while not self.ending.is_set():
            for top, directories, files in os.walk(self.mnt):
                self.rng.shuffle(directories)
                for name in self.rng.sample(files, min(len(files), 8)):
                    try:
                        self.look(Path(top, name))
                    except FileNotFoundError:
                        continue  # it went meanwhile
                    except OSError as exc:
                        self.wrong.append(f"{top}/{name}: {exc}")
                if self.ending.is_set():
                    return

    def look(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if self.rng.random() < 0.2:
                time.sleep(0.002)  # something may happen to it while it is open
            data = file.read()
        if len(data) != size or not is_whole(data):
            self.wrong.append(f"{path}: {size} bytes by stat, {len(data)} read, whole: {is_whole(data)}")
        if self.rng.random() < 0.3:
            self.look_at_attributes(path)
        self.read += 1

    def look_at_attributes(self, path: Path) -> None:
        for name in os.listxattr(path):
            try:
                os.getxattr(path, name)
            except OSError as exc:  # a change of keywords may take one away meanwhile
                if exc.errno != errno.ENODATA or name in os.listxattr(path):
                    raise


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_random_operations_are_shown_as_they_are(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str, seed: int
) -> None:
    rng = random.Random(f"{driver} {seed}")
    settings = {"mdbox_rotate_size": "128k"} if driver == "mdbox" else {}
    split = ":INDEX={home}/index:CONTROL={home}/control" if seed % 2 else ""
    account = dovecot.account(f"{driver}:{{home}}/mail{split}", **settings)
    operator = Operator(account, rng)
    account.append([Append(message(rng)) for _ in range(5)])
    mnt = mounts.mount(account.location)
    readers = [Reader(mnt, n) for n in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(ROUNDS):
        operator.step()
    for reader in readers:
        reader.ending.set()
        reader.join(20)
        assert reader.wrong == [], operator.done
        assert reader.read > 20
    assert_shows_soon(account, mnt, tally, {"5.eml": "5%2Eeml"})
