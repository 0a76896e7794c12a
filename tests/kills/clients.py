"""The processes that use a mount until its daemon is killed.

Each is forked, does one thing after the other, and ends with the first call that says that the daemon is
gone. A writer keeps a journal beside the mount: what it begins, and what was acknowledged. Every message
has an id, which is in its text and belongs to one writer.
"""

from __future__ import annotations

import errno
import imaplib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.live.dovecot import Account

GONE = {errno.ENOTCONN, errno.ECONNABORTED}
MAILBOXES = ("INBOX", "Work")
KEEP = 12
"""So many messages of a writer are there at most."""


def text(name: str) -> bytes:
    """The message with this id."""
    return b"Subject: kills\nX-Id: %s\n\n" % name.encode() + b"a line of %s\n" % name.encode() * 40


def id_of(data: bytes) -> str:
    """The id in the text of a message; empty: it is Dovecot's."""
    return data.partition(b"X-Id: ")[2].partition(b"\n")[0].decode()


def fork(work: Callable[[], None]) -> int:
    """Run *work* in a process of its own; its exit status is 1 if it fails."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except OSError as exc:
        status = 0 if exc.errno in GONE else 1
        if status:
            os.write(2, f"{work}: {exc!r}\n".encode())
    finally:
        os._exit(status)


class Writer:
    """Creates, appends, replaces, renames, moves and removes messages of its own.

    :param there: its messages by id, with their paths.
    """

    def __init__(self, mnt: Path, name: str, seed: int, there: dict[str, Path], journal: Path) -> None:
        self._mnt = mnt
        self._name = name
        self._random = random.Random(seed)
        self._there = there
        self._journal = journal
        self._count = 0

    def run(self) -> None:
        """Until the daemon is gone."""
        with self._journal.open("wb", buffering=0) as journal:
            while True:
                do, what, then = self._next()
                journal.write(f"begin {what}\n".encode())
                do()
                journal.write(f"done {what}\n".encode())
                then()

    def _next(self) -> tuple[Callable[[], object], str, Callable[[], object]]:
        there, mnt = self._there, self._mnt
        verb = self._random.choice(["create", "create", "replace", "append", "rename", "move", "remove"])
        if not there or (verb == "create" and len(there) < KEEP):
            new, path = self._new()
            return lambda: path.write_bytes(text(new)), f"create {new}", lambda: there.update({new: path})
        old = self._random.choice(sorted(there))
        path = there[old]
        if verb == "replace":
            new, _ = self._new()
            return (
                (lambda: _replace(path, text(new))),
                f"replace {old} {new}",
                (lambda: (there.pop(old), there.update({new: path}))),
            )
        if verb == "append":
            return lambda: _append(path), f"change {old}", lambda: None
        if verb == "remove" or verb == "create":
            return path.unlink, f"remove {old}", lambda: there.pop(old)
        box = path.parent.name if verb == "rename" else self._random.choice(MAILBOXES)
        to = mnt / box / f"{self._name}-{self._number()}"
        return (lambda: path.rename(to)), f"change {old}", lambda: there.update({old: to})

    def _number(self) -> str:
        self._count += 1
        return f"{os.getpid()}-{self._count}"

    def _new(self) -> tuple[str, Path]:
        name = f"{self._name}-{self._number()}"
        return name, self._mnt / self._random.choice(MAILBOXES) / name


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.rename(path)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"and another one\n")


def list_and_read(mnt: Path, seed: int) -> None:
    """``ls -l`` and ``cat``, until the daemon is gone.  What goes meanwhile is no error."""
    choose = random.Random(seed)
    while True:
        for box in MAILBOXES:
            for name in choose.sample(found := os.listdir(mnt / box), min(len(found), 20)):
                try:
                    (mnt / box / name).stat()
                    (mnt / box / name).read_bytes()
                except FileNotFoundError:
                    continue


def dovecot_at_work(account: Account, seed: int) -> None:
    """Append, flag, copy and expunge messages without an id, until this process is ended."""
    choose, client = random.Random(seed), account.imap()
    while True:
        box = choose.choice(MAILBOXES)
        client.select(box)
        for _ in range(3):
            client.append(box, "", "", b"Subject: Dovecot's\r\n\r\ntext\r\n")
        own = _search(client, "SUBJECT", "Dovecot's")
        for uid in own[:-4]:
            client.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
        client.expunge()
        for uid in _search(client, "ALL")[:5]:
            client.uid("STORE", uid, choose.choice("+-") + "FLAGS", r"(\Flagged)")
        time.sleep(0.005)


def _search(client: imaplib.IMAP4, *what: str) -> list[str]:
    answer = client.uid("SEARCH", *what)[1][0]
    return answer.decode().split() if answer else []
