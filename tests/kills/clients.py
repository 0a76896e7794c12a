"""The processes that use a mount until its daemon is killed.

Each is forked, does one thing after the other, and ends with the first call that says that the daemon is
gone. A writer keeps a journal beside the mount: what it begins, and what was acknowledged, each with the time
(monotonic, seconds), the mailbox, and the size of the mailbox's log at that time. Every message has an id,
which is in its text and belongs to one writer.

    begin|done VERB ID... | HOW MAILBOX TIME LOG-SIZE
"""

from __future__ import annotations

import contextlib
import errno
import imaplib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.live.dovecot import Account

GONE = {errno.ENOTCONN, errno.ECONNABORTED}
MAILBOXES = ("INBOX", "Work")
KEEP = 12
"""So many messages of a writer are there at most, but for a row of removals."""

VERBS = ("create", "create", "replace", "append", "rename", "move", "remove", "link", "row")

ROW = 12
"""Messages that are made for a row of removals, at least."""


def own_mailbox(name: str) -> str:
    """The mailbox in which no other writer saves: a new message would end a row of removals."""
    return f"Of-{name}"


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


@dataclass(frozen=True, slots=True)
class _Step:
    """What a writer does next.

    :param how: the call; ``row3``: the fourth removal of a row.  ``what``: verb and ids of the journal.
    :param then: what the writer knows after it.
    """

    how: str
    path: Path
    what: str
    do: Callable[[], object]
    then: Callable[[], object] = lambda: None

    @property
    def box(self) -> str:
        """The mailbox."""
        return self.path.parent.name


class Writer:
    """Creates, appends, replaces, renames, moves, links and removes messages of its own.

    :param there: its messages by id, with their paths.
    :param logs: the log of each mailbox.
    """

    def __init__(
        self, mnt: Path, name: str, seed: int, there: dict[str, Path], journal: Path, logs: Mapping[str, Path]
    ) -> None:
        self._mnt = mnt
        self._name = name
        self._run = f"{seed:08x}"  # a pid comes again
        self._random = random.Random(seed)
        self._there = there
        self._journal = journal
        self._logs = logs
        self._count = 0

    def run(self) -> None:
        """Until the daemon is gone."""
        with self._journal.open("wb", buffering=0) as journal:
            while True:
                for step in self._next():
                    journal.write(self._line("begin", step))
                    step.do()
                    journal.write(self._line("done", step))
                    step.then()

    def _line(self, state: str, step: _Step) -> bytes:
        with contextlib.suppress(OSError):
            size = self._logs[step.box].stat().st_size
            return f"{state} {step.what} | {step.how} {step.box} {time.monotonic():.6f} {size}\n".encode()
        return f"{state} {step.what} | {step.how} {step.box} {time.monotonic():.6f} ?\n".encode()

    def _next(self) -> Iterator[_Step]:
        there, mnt = self._there, self._mnt
        verb = self._random.choice(VERBS)
        if not there or (verb == "create" and len(there) < KEEP):
            yield self._create(self._random.choice(MAILBOXES))
            return
        if verb == "row":
            yield from self._row(own_mailbox(self._name))
            return
        old = self._random.choice(sorted(there))
        path = there[old]
        if verb == "replace":
            new = self._new()
            yield _Step(
                "over", path, f"replace {old} {new}",
                lambda: _replace(path, text(new)),
                lambda: (there.pop(old), there.update({new: path})),
            )  # fmt: skip
        elif verb == "append":
            yield _Step("append", path, f"change {old}", lambda: _append(path))
        elif verb in ("remove", "create"):
            yield self._remove(old, "unlink")
        elif verb == "link":
            to = mnt / self._random.choice(MAILBOXES) / f"{self._name}-{self._number()}"
            yield _Step("link", to, f"link {old}", partial(to.hardlink_to, path))
            yield _Step("unlink", path, f"once {old}", path.unlink, lambda: there.update({old: to}))
        else:
            box = path.parent.name if verb == "rename" else self._random.choice(MAILBOXES)
            to = mnt / box / f"{self._name}-{self._number()}"
            yield _Step(
                verb, path, f"change {old}", partial(path.rename, to), lambda: there.update({old: to})
            )

    def _row(self, box: str) -> Iterator[_Step]:
        """``rm -r``: of all its messages of a mailbox, at least :data:`ROW`."""
        own = [name for name, path in self._there.items() if path.parent.name == box]
        for _ in range(ROW - len(own)):
            yield self._create(box)
        own = [name for name, path in self._there.items() if path.parent.name == box]
        for number, name in enumerate(own):
            yield self._remove(name, f"row{number}")

    def _create(self, box: str) -> _Step:
        new = self._new()
        path = self._mnt / box / new
        return _Step(
            "create", path, f"create {new}", lambda: path.write_bytes(text(new)),
            lambda: self._there.update({new: path}),
        )  # fmt: skip

    def _remove(self, name: str, how: str) -> _Step:
        path = self._there[name]
        return _Step(how, path, f"remove {name}", path.unlink, lambda: self._there.pop(name))

    def _number(self) -> str:
        self._count += 1
        return f"{self._run}-{self._count}"

    def _new(self) -> str:
        return f"{self._name}-{self._number()}"


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
