"""The protocol of a source: mailboxes, and the messages of each in the order of their uids.

A source is an untrusted tree of plain files: it is read with ordinary system calls in a worker thread, a
chunk of messages at a time.  Small texts come with their message; a larger one is read piece by piece while
it is saved (:class:`FileText`).  Memory: the names of one mailbox's messages, and one chunk.

Who owns the tree may have put links into it.  So root reads it with the rights of its owner
(:func:`reading_as`): text that a link leads to would be saved as a message for that user.

A message that can't be read becomes a :class:`NoArrival` and doesn't stop the others.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, TypeVarTuple

import trio
from msgspec import Struct, field

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.drivers.acting import acting_as
from dboxfs.util.regular import open_regular

R = TypeVar("R")
Args = TypeVarTuple("Args")

READ_WHOLE = 256 << 10
"""Largest text, in bytes, that comes with its message."""

MESSAGES_AT_ONCE = 64
"""Messages that are read in one step."""


_rights: ContextVar[tuple[int, int] | None] = ContextVar("rights", default=None)
"""Uid and gid with whose rights the task reads a source; None: the process's."""


@contextmanager
def reading_as(owner: tuple[int, int] | None) -> Iterator[None]:
    """While the context lasts, the task reads sources with the rights of this uid and gid (None: its own)."""
    token = _rights.set(owner)
    try:
        yield
    finally:
        _rights.reset(token)


async def in_worker(function: Callable[[*Args], R], *arguments: *Args) -> R:
    """Call *function*, which reads a source, in a worker thread, with the rights of :func:`reading_as`."""
    return await trio.to_thread.run_sync(with_rights, function, *arguments)


def with_rights(function: Callable[[*Args], R], *arguments: *Args) -> R:
    """Call *function* with the rights of :func:`reading_as`."""
    with acting_as(*(_rights.get() or (None, None))):
        return function(*arguments)


class FileText(Struct, frozen=True):
    """*prefix*, then *length* bytes of a file from *offset* on: a ``MailSource`` of the writing side."""

    path: str
    prefix: bytes
    offset: int
    length: int

    @property
    def size(self) -> int:
        return len(self.prefix) + self.length

    async def read(self, size: int, offset: int) -> bytes:
        """Up to *size* bytes; fewer before the end: the file became shorter.

        :raises OSError: the file can't be read any more.
        """
        head = self.prefix[offset : offset + size]
        start = max(offset - len(self.prefix), 0)
        wanted = min(size - len(head), self.length - start)
        if wanted <= 0:
            return head
        return head + await in_worker(self._read, wanted, self.offset + start)

    def _read(self, size: int, offset: int) -> bytes:
        fd = open_regular(self.path)
        try:
            return read_exactly(fd, size, offset)
        finally:
            os.close(fd)

    async def descriptor(self) -> int | None:
        return None


class Incoming(Struct, frozen=True):
    """A message.  None: the source doesn't know the value.

    ``where``: its place, for messages to the user.  ``text``: bytes, if it is small.  ``guid``: as its
    metadata line shall have it.  ``received``, ``saved``: seconds since the epoch.  ``flags``: bits as in an
    index.  ``name``: of its file, as a mount shall show it.  ``doubt``: a problem in spite of which the
    message can be saved, one line.
    """

    where: str
    text: bytes | FileText
    uid: int | None = None
    guid: bytes | None = None
    received: int | None = None
    saved: int | None = None
    flags: int = 0
    keywords: tuple[str, ...] = ()
    orig_mailbox: bytes | None = None
    name: bytes | None = None
    pop3_uidl: bytes | None = None
    doubt: str = ""

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return len(self.text) if isinstance(self.text, bytes) else self.text.size


class NoArrival(Struct, frozen=True):
    """A message that can't be read, or a file that is no message.  ``reason``: one line."""

    where: str
    reason: str


Arrival = Incoming | NoArrival


class Identity(Struct, frozen=True):
    """A mailbox's identity for IMAP clients.  ``guid``: 16 bytes.  None and 0: unknown."""

    guid: bytes | None = None
    uid_validity: int = 0
    next_uid: int = 0


class SourceMailbox(Protocol):
    """One mailbox.  ``parts``: its name as a mount shows it.  ``notes``: a line for each oddity."""

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    async def look(self) -> tuple[Identity, int | None]:
        """Read the facts about the whole mailbox; returns its identity, and the number of messages (None:
        unknown).

        :raises OSError, DboxfsError: the mailbox can't be read at all.
        """

    def messages(self) -> AsyncGenerator[list[Arrival], None]:
        """The messages, a chunk at a time, ascending by uid; after :meth:`look`.  May be called again.

        A caller that stops before the last message closes the generator.
        """

    def bounds(self) -> Identity:
        """The identity; ``next_uid`` is exact after the last message."""


class MailSource(Struct, frozen=True):
    """A whole source.  ``kind``: its format, for the user.  ``subscriptions``: names as ``parts``; None: not
    known.

    ``single``: the source is one mailbox without a name.
    """

    kind: str
    mailboxes: Sequence[SourceMailbox]
    subscriptions: frozenset[tuple[str, ...]] | None = None
    single: bool = False
    notes: list[str] = field(default_factory=list)


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """*size* bytes at *offset*, fewer only at the end of the file."""
    parts = []
    while size > 0:
        data = os.pread(fd, size, offset)
        if not data:
            break
        parts.append(data)
        size -= len(data)
        offset += len(data)
    return b"".join(parts)


def read_small(path: str, limit: int = 64 << 20) -> bytes | None:
    """The contents of a small file; None: it is missing.

    :raises OSError: the file can't be read, or has more than *limit* bytes.
    """
    try:
        fd = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = read_exactly(fd, limit + 1, 0)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise OSError(0, f"it has more than {limit} bytes", path)
    return data


def text_of(path: str, fd: int, size: int) -> bytes | FileText:
    """The text of a message that is a whole file."""
    return read_exactly(fd, size, 0) if size <= READ_WHOLE else FileText(path, b"", 0, size)


def reason_of(exc: DboxfsError | OSError) -> str:
    """Why something can't be read, without the path."""
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)


async def in_chunks(rows: Sequence[R], read: Callable[[R], Arrival]) -> AsyncGenerator[list[Arrival], None]:
    """The results of *read* for each of *rows*, a chunk in one step of a worker thread."""
    for start in range(0, len(rows), MESSAGES_AT_ONCE):
        chunk = rows[start : start + MESSAGES_AT_ONCE]
        yield await in_worker(_read_all, chunk, read)


def _read_all(rows: Sequence[R], read: Callable[[R], Arrival]) -> list[Arrival]:
    return [read(row) for row in rows]
