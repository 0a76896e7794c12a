"""A store with the mailboxes INBOX, Work and Entwürfe, mounted in one of the views, and programs that use it;
``doveadm`` says what came of it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts

ONE = b"From: a@example.org\nTo: b@example.org\nSubject: one\nMessage-ID: <one@example.org>\n\nfirst\n"
TWO = b"From: a@example.org\nTo: b@example.org\nSubject: two\nMessage-ID: <two@example.org>\n\nsecond\n"
LETTERS = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}


@dataclass(slots=True)
class Shown:
    """A mounted store; a view has a class of its own, which knows its names."""

    account: Account
    dovecot: Dovecot
    mounts: Mounts
    mnt: Path
    tmp: Path
    logged: int

    def run(self, *args: str | Path, status: int = 0, **more: str) -> str:
        """A program that has to end with *status*; gives what it says."""
        return self.feed(b"", *args, status=status, **more)

    def feed(self, data: bytes, *args: str | Path, status: int = 0, **more: str) -> str:
        """The same, with *data* to read."""
        environment = os.environ | {"LC_ALL": "C.UTF-8", "HOME": str(self.tmp)} | more
        done = subprocess.run(
            args, input=data, capture_output=True, timeout=60, check=False, env=environment, cwd=self.mnt
        )
        assert done.returncode == status, f"{args}: {done.returncode}: {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode(errors="replace")

    def file(self, name: str, text: str) -> Path:
        path = self.tmp / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def flags(self, box: str = "INBOX") -> dict[str, set[str]]:
        """Flags and keywords of each message as Dovecot has them, by subject."""
        return {subject_of(m.text): {*m.flags.split(), *m.keywords.split()} for m in self.account.fetch(box)}

    def settled(self) -> None:
        """Dovecot has not complained, and the mount shows what it has, under names that say its flags."""
        assert self.dovecot.log_lines()[self.logged :] == []
        for box in self.account.status():
            self.check(box)

    def check(self, box: str) -> None:
        """The mount shows of a mailbox what Dovecot has of it."""
        raise NotImplementedError


def subject_of(text: bytes) -> str:
    line = next((line for line in text.splitlines() if line.lower().startswith(b"subject:")), b"")
    return line.partition(b":")[2].strip().decode()


class ShownMaildir(Shown):
    """Mounted as Maildirs."""

    def names(self, box: str = "INBOX") -> dict[str, str]:
        """The names of the messages by subject, with their directory."""
        found = {}
        for sub in ("cur", "new"):
            for path in (self.mnt / box / sub).iterdir():
                found[subject_of(path.read_bytes())] = f"{sub}/{path.name}"
        return found

    def check(self, box: str) -> None:
        shown = {(path.name, path.read_bytes()) for path in (self.mnt / box).glob("*/*") if path.is_file()}
        theirs = self.account.fetch(box)
        assert sorted(text for _, text in shown) == sorted(m.text for m in theirs), box
        for name, text in shown:
            letters = name.partition(":2,")[2]
            said = {LETTERS[letter] for letter in letters if letter in LETTERS}
            assert any(m.text == text and said == set(m.flags.split()) for m in theirs), name


class ShownMh(Shown):
    """Mounted as MH folders."""

    def numbers(self, box: str = "INBOX") -> dict[str, str]:
        """The names of the messages, by subject."""
        return {subject_of(text): name for name, text in self.texts(box).items()}

    def texts(self, box: str = "INBOX") -> dict[str, bytes]:
        """The messages, those that were removed with a comma too, by name."""
        paths = [path for path in (self.mnt / box).iterdir() if path.name.strip(",").isdigit()]
        return {path.name: path.read_bytes() for path in paths}

    def sequences(self, box: str = "INBOX") -> dict[str, str]:
        """The lines of ``.mh_sequences``, by name."""
        lines = (self.mnt / box / ".mh_sequences").read_text().splitlines()
        return {name: numbers for name, _, numbers in (line.partition(": ") for line in lines)}

    def check(self, box: str) -> None:
        texts, theirs, said = self.texts(box), self.account.fetch(box), self.sequences(box)
        assert sorted(texts.values()) == sorted(m.text for m in theirs), box
        listed = {name: members(numbers) for name, numbers in said.items()}
        for name, text in texts.items():
            same = [set(m.flags.split()) for m in theirs if m.text == text]
            if name.startswith(","):
                assert any("\\Deleted" in flags for flags in same), name
                continue
            has = {
                sequence
                for sequence in ("unseen", "flagged", "replied")
                if int(name) in listed.get(sequence, ())
            }
            assert any(has == sequences_of(flags) for flags in same), name


def sequences_of(flags: set[str]) -> set[str]:
    """The sequences that a message with these flags is in."""
    found = {"unseen"} if "\\Seen" not in flags else set()
    found |= {"flagged"} if "\\Flagged" in flags else set()
    return found | ({"replied"} if "\\Answered" in flags else set())


def members(numbers: str) -> set[int]:
    """The numbers of a sequence."""
    spans = [span.split("-") for span in numbers.split()]
    return {number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)}


@dataclass(slots=True)
class Showing:
    """Makes stores and mounts them."""

    dovecot: Dovecot
    mounts: Mounts
    tmp: Path
    made: list[Shown] = field(default_factory=list)

    def maildir(self, driver: str, options: str, messages: list[Append]) -> ShownMaildir:
        """Mounted as Maildirs."""
        shown = ShownMaildir(*self._mounted(driver, f"view=maildir,{options}", messages))
        self.made.append(shown)
        return shown

    def mh(self, driver: str, options: str, messages: list[Append]) -> ShownMh:
        """Mounted as MH folders."""
        shown = ShownMh(*self._mounted(driver, f"view=mh,{options}", messages))
        self.made.append(shown)
        return shown

    def _mounted(
        self, driver: str, options: str, messages: list[Append]
    ) -> tuple[Account, Dovecot, Mounts, Path, Path, int]:
        logged = len(self.dovecot.log_lines())
        account = self.dovecot.account(f"{driver}:{{home}}/mail")
        account.append(messages)
        for name in ("Work", "Entwürfe"):
            account.doveadm("mailbox create", name)
        mnt = self.mounts.mount(account.location, options, for_all="uid=" in options)
        return account, self.dovecot, self.mounts, mnt, self.tmp, logged


@contextmanager
def showing(dovecot: Dovecot, mounts: Mounts, tmp: Path) -> Iterator[Showing]:
    """Every store that was made is looked at in the end."""
    made = Showing(dovecot, mounts, tmp)
    yield made
    for shown in made.made:
        shown.settled()


_WHAT_ARE_YOU, _A_VT220 = b"\x1b[c", b"\x1b[?62;22c"
"""The request for a terminal's kind and its answer (DA1 of ECMA-48): aerc 0.20 does not end without one."""


class Typed(NamedTuple):
    """What is typed once this holds; it is given what the terminal has said since the last time."""

    when: Callable[[bytes], bool]
    keys: bytes


def in_terminal(
    shown: Shown, *args: str | Path, seconds: float = 20, typed: Iterable[Typed] = (), **environment: str
) -> None:
    """Run a program in a terminal until it ends by itself.

    :param typed: in this order.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(shown.mnt)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # Debian 13's mutt needs one
        os.environ.update(TERM="xterm", HOME=str(shown.tmp), LC_ALL="C.UTF-8", **environment)
        os.execvp(str(args[0]), [str(arg) for arg in args])
    deadline, said, keys = time.monotonic() + seconds, b"", deque(typed)
    while time.monotonic() < deadline:
        if keys and keys[0].when(said):
            os.write(terminal, keys.popleft().keys)
            said = b""
        ready, _, _ = select.select([terminal], [], [], 0.2)
        try:
            new = os.read(terminal, 65536) if ready else b""
        except OSError:  # it has ended
            break
        said += new
        if _WHAT_ARE_YOU in new:
            os.write(terminal, _A_VT220)
    else:
        os.kill(pid, 9)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert (status, len(keys)) == (0, 0), said[-2000:]


def wait_for_the_next_second() -> None:
    """Return when a change would have another time, in seconds, than one that was just made."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.01)
