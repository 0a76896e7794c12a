"""What a worker of the stress uses: files of a mount, an IMAP session, an LMTP session."""

from __future__ import annotations

import contextlib
import errno
import imaplib
import os
import re
import smtplib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.stress.texts import Text, parse

PATIENCE = 10.0
"""Seconds within which another mount, or Dovecot, has to show what was done; promised is one, on a machine
that has time for it."""

AWAY = frozenset({errno.ENOENT, errno.ESTALE})


class Fault(Exception):
    """Something is not as it was acknowledged."""


def visible(path: Path) -> bool:
    """Whether the name is there.  OSError: nobody can say."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def gone(path: Path) -> bool:
    """Whether the name is not there.  OSError: nobody can say."""
    return not visible(path)


def soon(what: str, holds: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait until *holds*; gives the seconds that it took.  Fault: it never does."""
    began = time.monotonic()
    pause = 0.001
    while not holds():
        if time.monotonic() - began > seconds:
            raise Fault(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
        pause = min(0.05, pause * 2)
    return time.monotonic() - began


def words(*texts: str) -> str:
    """Flags and keywords as an :class:`~tests.stress.journal.Item` has them."""
    return " ".join(sorted({word for text in texts for word in text.split()} - {r"\Recent"}))


def flags_of(path: Path) -> str:
    """Flags and keywords of a file."""
    return words(*(os.getxattr(path, f"user.dbox.{name}").decode() for name in ("flags", "keywords")))


def uid_of(path: Path) -> int:
    return int(os.getxattr(path, "user.dbox.uid"))


def text_of(path: Path) -> Text:
    """The text of a file.  Mangled: it is none."""
    return parse(path.read_bytes())


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor; the error of its close is the caller's."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def write_all(fd: int, data: bytes, pieces: int = 1) -> None:
    step = max(1, -(-len(data) // pieces))
    for at in range(0, len(data), step):
        piece = memoryview(data)[at : at + step]
        while piece:
            piece = piece[os.write(fd, piece) :]


class Refused(Exception):
    """The server said NO or BAD."""


class Session:
    """An IMAP session of one user, which selects a mailbox for each operation."""

    def __init__(self, port: int, user: str) -> None:
        self._client = imaplib.IMAP4("127.0.0.1", port, timeout=60)
        self._client.login(user, "any")
        self._selected = ""

    def close(self) -> None:
        self._client.shutdown()

    def append(self, box: str, data: bytes, flags: str) -> int:
        """APPEND; gives the uid."""
        return _last_uid(_ok(self._client.append(box, f"({flags})", "", data)))

    def store(self, box: str, uid: int, flags: str) -> None:
        self.select(box)
        _ok(self._client.uid("STORE", str(uid), "FLAGS.SILENT", f"({flags})"))

    def copy(self, box: str, uid: int, target: str) -> int:
        """COPY; gives the new uid."""
        return self._elsewhere("COPY", box, uid, target)

    def move(self, box: str, uid: int, target: str) -> int:
        """MOVE; gives the new uid."""
        return self._elsewhere("MOVE", box, uid, target)

    def expunge(self, box: str, uid: int) -> None:
        self.select(box)
        _ok(self._client.uid("EXPUNGE", str(uid)))

    def find(self, box: str, ident: str) -> list[int]:
        """The uids of the messages whose first segment is this."""
        self.select(box)
        found: list[bytes] = _ok(self._client.uid("SEARCH", "HEADER", "X-Stress", f'"{ident} "'))
        return [int(uid) for uid in (found[0] or b"").split()]

    def fetch(self, box: str, uid: int) -> bytes:
        """The bytes, lines ended by LF.  KeyError: there is no such message."""
        self.select(box)
        for part in _ok(self._client.uid("FETCH", str(uid), "(BODY.PEEK[])")):
            if isinstance(part, tuple):
                return bytes(part[1]).replace(b"\r\n", b"\n")
        raise KeyError(uid)

    def all_of(self, box: str) -> list[bytes]:
        """Every message of one moment; one that is expunged meanwhile may be missing."""
        self.select(box)
        answer = self._client.uid("FETCH", "1:*", "(BODY.PEEK[])")
        if answer[0] != "OK" and b"expunged" not in bytes(answer[1][0]).lower():
            _ok(answer)
        return [bytes(part[1]).replace(b"\r\n", b"\n") for part in answer[1] if isinstance(part, tuple)]

    def create(self, box: str) -> None:
        _ok(self._client.create(box))

    def delete(self, box: str) -> None:
        self._leave()
        _ok(self._client.delete(box))

    def rename(self, box: str, target: str) -> None:
        self._leave()
        _ok(self._client.rename(box, target))

    def select(self, box: str) -> None:
        if self._selected == box:
            _ok(self._client.noop())
            return
        self._selected = ""
        _ok(self._client.select(box))
        self._selected = box

    def _elsewhere(self, command: str, box: str, uid: int, target: str) -> int:
        self.select(box)
        self._client.response("COPYUID")  # forgets one of before
        _ok(self._client.uid(command, str(uid), target))
        return _last_uid(self._client.response("COPYUID")[1])

    def _leave(self) -> None:
        if self._selected:
            _ok(self._client.unselect())
            self._selected = ""


def _ok(answer: tuple[str, list[Any]]) -> list[Any]:
    if answer[0] != "OK":
        raise Refused(f"{answer[0]} {answer[1]!r}")
    return answer[1]


def _last_uid(parts: list[Any]) -> int:
    """The last number of an APPENDUID or COPYUID."""
    text = b" ".join(part for part in parts if isinstance(part, bytes))
    found = re.search(rb"(\d+)(?:\]|$)", text)
    if found is None:
        raise Refused(f"no uid in {text!r}")
    return int(found[1])


def deliver(server: str, user: str, data: bytes) -> None:
    """Deliver a message, its lines ended by CRLF, over LMTP.

    :param server: path of the server's socket.
    """
    with smtplib.LMTP(server) as session:
        session.sendmail("stress@example.net", [user], data)
