"""An mbox file, or a directory of them; see :mod:`dboxfs.tools.formats.mbox`.

A file is read once from its beginning to its end, through a window; no list of its messages is made.  A
message begins and ends where Dovecot has it (checked against 2.3.19): ``Content-Length`` if it fits, else the
next From_ line; the LF before that line, or at the end of the file, does not belong to the message.

In a directory the names of files are the names of mailboxes, and directories are their parents; Dovecot's
``DIRNAME=mBoX-MeSsAgEs`` and Thunderbird's ``Name.sbd`` directories are understood.

The standard library's ``mailbox.mbox`` ignores ``Content-Length``: it cuts a message at every line that
begins with ``From ``, and mail that Dovecot has stored has many such lines.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator

from msgspec import Struct, field

from dboxfs.errors import DboxfsError, FormatError
from dboxfs.tools.formats.mbox import FROM, OWN, Own, header_name, parse_from_line, take_own
from dboxfs.tools.importing.maildir import inbox, shown, subscriptions
from dboxfs.tools.importing.source import (
    MESSAGES_AT_ONCE,
    READ_WHOLE,
    Arrival,
    FileText,
    Identity,
    Incoming,
    MailSource,
    in_worker,
    read_exactly,
    reason_of,
)
from dboxfs.util.regular import open_regular

DIRNAME = "mBoX-MeSsAgEs"
"""The file with the messages of a mailbox that is a directory (Dovecot's ``DIRNAME=``, as in its manual)."""

_NO_MAIL = (".", "dovecot.", "dovecot-")
_READ_WINDOW = 1 << 20
_LINE_LIMIT = 1 << 20
_CHUNK_BYTES = 8 << 20


class _Window:
    """A file that is read forward, through a buffer."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self._start = 0
        self._data = b""

    def at(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes at *offset*."""
        if not self._start <= offset or offset + size > self._start + len(self._data):
            self._start, self._data = offset, read_exactly(self.fd, max(size, _READ_WINDOW), offset)
        return self._data[offset - self._start : offset - self._start + size]

    def line(self, offset: int) -> bytes:
        """The line at *offset*, with its LF if it has one; of a very long one only the beginning."""
        size = 4096
        while True:
            data = self.at(offset, size)
            end = data.find(b"\n")
            if end >= 0:
                return data[: end + 1]
            if len(data) < size or size >= _LINE_LIMIT:
                return data
            size *= 4

    def from_line(self, offset: int) -> bool:
        """Whether a message begins at *offset*."""
        if self.at(offset, len(FROM)) != FROM:
            return False
        return parse_from_line(self.line(offset).rstrip(b"\n")) is not None

    def next_message(self, offset: int) -> int:
        """The offset of the next message behind *offset*; the size of the file: there is none."""
        pattern = b"\n" + FROM
        while offset < self.size:
            data = self.at(offset, _READ_WINDOW)
            found = data.find(pattern)
            if found >= 0:
                offset += found + 1
                if self.from_line(offset):
                    return offset
            elif len(data) < _READ_WINDOW:
                break
            else:
                offset += len(data) - len(pattern)
        return self.size


class MboxMailbox(Struct):
    """One mbox, a :class:`~dboxfs.tools.importing.source.SourceMailbox`."""

    path: str
    parts: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    _base: tuple[int, int] | None = None
    _highest: int = 0

    async def look(self) -> tuple[Identity, int | None]:
        """Read the header of the first message, which has the uidvalidity.  The number of messages: None."""
        await in_worker(self._look)
        return self.bounds(), None

    def _look(self) -> None:
        fd = open_regular(self.path)
        try:
            window = _Window(fd)
            if window.size and not window.from_line(0):
                raise FormatError(0, "it is no mbox: it doesn't begin with a From_ line")
            if window.size:
                self._base = _headers(window, 0)[1].base
        finally:
            os.close(fd)

    async def messages(self) -> AsyncGenerator[list[Arrival], None]:
        """The messages, a chunk at a time, in the order of the file."""
        self._highest = 0
        offset: int | None = 0
        while offset is not None:
            found, offset = await in_worker(self._chunk, offset)
            yield found

    def _chunk(self, offset: int) -> tuple[list[Arrival], int | None]:
        """A chunk of the messages from *offset* on, and the offset of the next one; None: there is none."""
        found: list[Arrival] = []
        size = 0
        fd = open_regular(self.path)
        try:
            window = _Window(fd)
            while offset < window.size and len(found) < MESSAGES_AT_ONCE and size < _CHUNK_BYTES:
                message, offset = self._message(window, offset)
                if message is not None:
                    found.append(message)
                    size += len(message.text) if isinstance(message.text, bytes) else 0
            return found, offset if offset < window.size else None
        finally:
            os.close(fd)

    def _message(self, window: _Window, offset: int) -> tuple[Incoming | None, int]:
        received = parse_from_line(window.line(offset).rstrip(b"\n"))
        head, own, body = _headers(window, offset)
        end, following, doubt = _extent(window, body, own.length)
        if body == following and head.endswith(b"\n\n"):
            head = head[:-1]  # that LF is the one before the next message
        if own.pseudo and offset == 0:
            return None, following
        text: bytes | FileText = FileText(self.path, head, body, end - body)
        if len(head) + end - body <= READ_WHOLE:
            text = head + read_exactly(window.fd, end - body, body)
        uid = own.uid if self._base is not None and (own.uid or 0) > self._highest else None
        self._highest = uid or self._highest
        where = f"{self.path} at {offset}"
        message = Incoming(
            where, text, uid, None, received, None, own.flags, own.keywords, doubt=doubt
        )  # fmt: skip
        return message, following

    def bounds(self) -> Identity:
        """The mailbox's identity.  If its messages have no uids, they get new ones, and a new uidvalidity."""
        if self._base is None:
            return Identity()
        return Identity(None, self._base[0], max(self._base[1], self._highest) + 1)


def _headers(window: _Window, offset: int) -> tuple[bytes, Own, int]:
    """The message's header with the empty line, the facts in the mbox's own lines, and the body's offset."""
    own, kept = Own(), []
    offset += len(window.line(offset))
    folded = b""  # a line of the mbox's own, and those that continue it
    while offset < window.size:
        line = window.line(offset)
        if line.startswith(FROM) and window.from_line(offset):
            break
        offset += len(line)
        if line.rstrip(b"\r\n") == b"":
            kept.append(line)
            break
        if line[:1] in b" \t" and folded:
            folded += line
            continue
        take_own(own, folded)
        folded = line if header_name(line) in OWN and b":" in line else b""
        if not folded:
            kept.append(line)
    take_own(own, folded)
    return b"".join(kept), own, offset


def _extent(window: _Window, body: int, length: int | None) -> tuple[int, int, str]:
    """The end of a body, the offset of the next message, and a line about a problem or an empty string."""
    if length is not None and body + length <= window.size:
        end = body + length
        rest = window.at(end, 2)
        gap = 2 if rest == b"\r\n" else 1
        if end == window.size or (rest[:1] in (b"\n", b"\r") and end + gap == window.size):
            return end, window.size, ""
        if rest[:1] in (b"\n", b"\r") and window.from_line(end + gap):
            return end, end + gap, ""
    following = window.next_message(max(body - 1, 0))
    end = max(following, body)
    before = window.at(max(body, end - 2), min(2, end - body))
    end -= 2 if before == b"\r\n" else 1 if before.endswith(b"\n") else 0
    doubt = ""
    if length is not None and body + length > window.size and following == window.size:
        missing = body + length - end
        doubt = f"it ends {missing} bytes before its Content-Length: the file may be cut off"
    return end, following, doubt


def is_mbox(path: str) -> bool:
    """Whether a file begins like an mbox.  An empty file: False.

    :raises OSError: the file can't be read.
    """
    fd = open_regular(path)
    try:
        return _Window(fd).from_line(0)
    finally:
        os.close(fd)


def one_mbox(path: str) -> MailSource:
    """A single mbox."""
    return MailSource("mbox", [MboxMailbox(path, ("INBOX",))], single=True)


def find_mboxes(root: str) -> MailSource | None:
    """The mboxes below *root*; None: there is none."""
    notes: list[str] = []
    boxes = sorted(_find(root, (), notes), key=lambda box: box.parts)
    if not any(os.path.getsize(box.path) for box in boxes):
        return None
    subscribed, told = subscriptions(root, (".subscriptions", "subscriptions"))
    return MailSource("mbox", boxes, subscribed, notes=notes + told)


def _find(path: str, above: tuple[str, ...], notes: list[str]) -> Iterator[MboxMailbox]:
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(_NO_MAIL) or entry.name == "subscriptions":
            continue
        if entry.is_dir(follow_symlinks=False):
            parent = (*above, shown(entry.name.removesuffix(".sbd")))
            yield from _find(entry.path, parent, notes)
            continue
        parts = above if entry.name == DIRNAME and above else (*above, shown(entry.name))
        try:
            wanted = os.path.getsize(entry.path) == 0 or is_mbox(entry.path)
        except (OSError, DboxfsError) as exc:
            notes.append(f"{entry.path}: left out: {reason_of(exc)}")
            continue
        if wanted and not entry.name.endswith(".msf"):
            yield MboxMailbox(entry.path, inbox(parts))
        elif not wanted and not entry.name.endswith((".msf", ".log", ".cache", ".index")):
            notes.append(f"{entry.path}: left out: it is no mbox (it doesn't begin with a From_ line)")
