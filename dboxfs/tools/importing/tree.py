"""A tree that was copied out of a mount: a directory for each mailbox, a file for each message.

With the ``user.dbox.*`` attributes everything is known; without them the received date is the file's mtime,
and ``17.eml`` has uid 17.  A file without attributes counts as a message if its name ends in ``.eml`` or it
begins like one.  Messages without a uid follow the others, by date.  Names that begin with a dot are skipped.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from msgspec import Struct, field

from dboxfs.errors import DboxfsError
from dboxfs.tools.formats.attributes import PREFIX, flag_bits, mailbox_guid, number, seconds
from dboxfs.tools.importing.maildir import inbox
from dboxfs.tools.importing.source import (
    Arrival,
    Identity,
    Incoming,
    MailSource,
    NoArrival,
    in_chunks,
    in_worker,
    reason_of,
    text_of,
)
from dboxfs.util.regular import open_regular

_NUMBERED = re.compile(r"(?:uid-)*([1-9][0-9]{0,9})\.eml")
_LIKE_MAIL = re.compile(rb"(?:From [^\n]*\n)?[!-9;-~]+[ \t]*:")
_NONE = frozenset((errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT))


class _Row(NamedTuple):
    uid: int
    date: int
    name: str


def attribute(target: str | int, name: str) -> bytes | None:
    """``user.dbox.<name>`` of a file or directory; None: it has none.

    :raises OSError: the attribute can't be read.
    """
    try:
        return os.getxattr(target, PREFIX + name)
    except OSError as exc:
        if exc.errno in _NONE:
            return None
        raise


class TreeMailbox(Struct):
    """One directory, a :class:`~dboxfs.tools.importing.source.SourceMailbox`."""

    path: str
    parts: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    _identity: Identity = field(default_factory=Identity)
    _rows: list[_Row] = field(default_factory=list)

    async def look(self) -> tuple[Identity, int | None]:
        """Read the names of all messages, and their uids."""
        await in_worker(self._look)
        return self._identity, len(self._rows)

    def _look(self) -> None:
        with os.scandir(self.path) as entries:
            found = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and not entry.is_dir(follow_symlinks=False)
            ]
        rows = []
        for name in found:
            path = os.path.join(self.path, name)
            try:
                uid = number(attribute(path, "uid"))
                date = int(os.stat(path).st_mtime)
            except OSError:
                uid, date = None, 0  # the later read of the message reports the error
            match = _NUMBERED.fullmatch(name)
            if uid is None and match is not None:
                uid = number(match[1].encode("ascii"))
            rows.append(_Row(uid or 0, date, name))
        rows.sort(key=lambda row: (row.uid == 0, row))
        self._rows = rows
        highest = max((row.uid for row in rows), default=0)
        next_uid = max(number(attribute(self.path, "uidnext")) or 0, highest + 1)
        guid = mailbox_guid(attribute(self.path, "guid"))
        self._identity = Identity(guid, number(attribute(self.path, "uidvalidity")) or 0, next_uid)

    def messages(self) -> AsyncGenerator[list[Arrival], None]:
        """The messages, a chunk at a time: by uid, those without one last."""
        return in_chunks(self._rows, self._read)

    def _read(self, row: _Row) -> Arrival:
        path = os.path.join(self.path, row.name)
        try:
            fd = open_regular(path)
            try:
                return self._message(path, fd, row)
            finally:
                os.close(fd)
        except (OSError, DboxfsError) as exc:
            return NoArrival(path, reason_of(exc))

    def _message(self, path: str, fd: int, row: _Row) -> Arrival:
        status = os.fstat(fd)
        known = attribute(fd, "uid") is not None
        if not known and not row.name.endswith(".eml") and not _LIKE_MAIL.match(os.pread(fd, 4096, 0)):
            return NoArrival(path, "it is no mail: it doesn't begin with a header line")
        received = seconds(attribute(fd, "received"))
        words = (attribute(fd, "keywords") or b"").decode("utf-8", "surrogateescape").split()
        return Incoming(
            path,
            text_of(path, fd, status.st_size),
            row.uid or None,
            attribute(fd, "guid") or None,
            received if received is not None else status.st_mtime_ns // 10**9,
            seconds(attribute(fd, "saved")),
            flag_bits(attribute(fd, "flags")),
            tuple(words),
            attribute(fd, "orig_mailbox"),
            os.fsencode(row.name),
            attribute(fd, "pop3_uidl") or None,
        )

    def bounds(self) -> Identity:
        """The mailbox's identity."""
        return self._identity


def find_tree(root: str) -> MailSource | None:
    """The mailboxes below *root*, or *root* itself if messages lie in it; None: there is no message."""
    boxes: list[TreeMailbox] = []
    subscribed: set[tuple[str, ...]] = set()
    known = False
    for path, parts, files in _directories(root, ()):
        has = attribute(path, "mailbox") is not None
        known = known or has
        if attribute(path, "subscribed") == b"1":
            subscribed.add(parts)
        if files or attribute(path, "guid") is not None or (not has and _is_leaf(path)):
            boxes.append(TreeMailbox(path, parts))
    here = [name for name in os.listdir(root) if _is_message(os.path.join(root, name))]
    if here and not boxes:
        name = (attribute(root, "mailbox") or b"").decode("utf-8", "surrogateescape")
        parts = tuple(name.split("/")) if name else ("INBOX",)
        return MailSource("a copied mailbox", [TreeMailbox(root, parts)], single=not name)
    if not known and not any(_has_messages(box.path) for box in boxes):
        return None
    return MailSource("a copied tree", boxes, frozenset(subscribed) if known else None)


def _directories(path: str, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Directories below *path*, their names, and whether files lie in them."""
    with os.scandir(path) as entries:
        inner = sorted(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        )
    for name in inner:
        where, parts = os.path.join(path, name), inbox((*above, name))
        with os.scandir(where) as entries:
            files = any(not e.name.startswith(".") and not e.is_dir(follow_symlinks=False) for e in entries)
        yield where, parts, files
        yield from _directories(where, parts)


def _is_leaf(path: str) -> bool:
    return not os.listdir(path)


def _has_messages(path: str) -> bool:
    with os.scandir(path) as entries:
        return any(_is_message(entry.path) for entry in entries)


def _is_message(path: str) -> bool:
    """Whether a file is certainly a copied message: its name ends in ``.eml``, or it has a uid."""
    if not os.path.isfile(path) or os.path.basename(path).startswith("."):
        return False
    return path.endswith(".eml") or attribute(path, "uid") is not None
