"""Maildir, Maildir++ and its layout with plain directories (``LAYOUT=fs``; mbsync: Verbatim).

::

    ROOT/{cur,new,tmp}            INBOX
    ROOT/.Work.Sub/{cur,new}      Maildir++: Work/Sub
    ROOT/Work/Sub/{cur,new}       plain directories: Work/Sub
    ROOT/subscriptions            Dovecot's; or courierimapsubscribed

Names are modified UTF-7, or UTF-8 where they are no canonical modified UTF-7.  Messages that are not in the
uidlist follow the others, in the order of their names, with uids from the next uid on, as in Dovecot.  The
guid of such a message is its base, as in Dovecot.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import NamedTuple

from msgspec import Struct, field

from dboxfs.errors import DboxfsError, FormatError
from dboxfs.store.mailbox_names import decode_mutf7, shown_part
from dboxfs.store.subscriptions import parse_subscriptions
from dboxfs.tools.formats.maildir import (
    UidList,
    base_of,
    flags_of,
    parse_keywords,
    parse_uidlist,
)
from dboxfs.tools.importing.source import (
    Arrival,
    Identity,
    Incoming,
    MailSource,
    NoArrival,
    in_chunks,
    in_worker,
    read_small,
    reason_of,
    text_of,
)
from dboxfs.util.regular import open_regular

_DIGITS = re.compile(rb"[0-9]+")
_OWN = frozenset(("cur", "new", "tmp"))


class _Row(NamedTuple):
    """A message file: *name* in ``cur/`` or ``new/``.  ``guid``: None: it is the base."""

    uid: int
    directory: str
    name: bytes
    guid: bytes | None
    uidl: bytes | None


class MaildirMailbox(Struct):
    """One Maildir, a :class:`~dboxfs.tools.importing.source.SourceMailbox`."""

    path: str
    parts: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    _identity: Identity = field(default_factory=Identity)
    _rows: list[_Row] = field(default_factory=list)
    _keywords: dict[int, str] = field(default_factory=dict)

    async def look(self) -> tuple[Identity, int | None]:
        """Read the uidlist, the keywords, and the names of all messages."""
        await in_worker(self._look)
        return self._identity, len(self._rows)

    def _look(self) -> None:
        listed = self._uidlist()
        try:
            self._keywords = parse_keywords(read_small(os.path.join(self.path, "dovecot-keywords")) or b"")
        except OSError as exc:
            self.notes.append(f"{exc.filename}: keywords are not known: {reason_of(exc)}")
        known: list[_Row] = []
        others: list[tuple[str, bytes]] = []
        for directory, name in self._files():
            entry = listed.messages.get(base_of(name))
            if entry is None:
                others.append((directory, name))
            else:
                known.append(_Row(entry.uid, directory, name, entry.guid, entry.uidl))
        known.sort(key=lambda row: (row.uid, row.directory, row.name))
        others.sort(key=lambda other: (_began(other[1]), other[1]))
        known += [_Row(uid, *other, None, None) for uid, other in enumerate(others, listed.next_uid)]
        self._rows = known
        next_uid = listed.next_uid + len(others)
        self._identity = Identity(listed.guid, listed.uid_validity, next_uid)

    def _uidlist(self) -> UidList:
        path = os.path.join(self.path, "dovecot-uidlist")
        try:
            data = read_small(path)
            listed = UidList() if data is None else parse_uidlist(data)
        except FormatError as exc:
            self.notes.append(f"{path}: uids and guids are not known: {exc.reason}")
            return UidList()
        except OSError as exc:
            self.notes.append(f"{path}: uids and guids are not known: {reason_of(exc)}")
            return UidList()
        self.notes += [f"{path}: {line}" for line in listed.doubtful]
        return listed

    def _files(self) -> Iterator[tuple[str, bytes]]:
        for directory in ("cur", "new"):
            try:
                with os.scandir(os.fsencode(os.path.join(self.path, directory))) as entries:
                    for entry in entries:
                        if not entry.name.startswith(b".") and not _leads_to_directory(entry):
                            yield directory, entry.name
            except FileNotFoundError:
                continue

    def messages(self) -> AsyncGenerator[list[Arrival], None]:
        """The messages, a chunk at a time, ascending by uid; after :meth:`look`."""
        return in_chunks(self._rows, self._read)

    def _read(self, row: _Row) -> Arrival:
        path = os.path.join(self.path, row.directory, os.fsdecode(row.name))
        name = row.name
        try:
            try:
                fd = open_regular(path)
            except FileNotFoundError:
                path, name = self._again(row)
                fd = open_regular(path)
            try:
                status = os.fstat(fd)
                text = text_of(path, fd, status.st_size)
            finally:
                os.close(fd)
        except (OSError, DboxfsError) as exc:
            return NoArrival(path, reason_of(exc))
        flags, keywords = flags_of(name, self._keywords)
        return Incoming(
            path, text, row.uid, row.guid or base_of(name), int(status.st_mtime_ns // 10**9),
            int(status.st_ctime_ns // 10**9), flags, keywords, pop3_uidl=row.uidl,
        )  # fmt: skip

    def _again(self, row: _Row) -> tuple[str, bytes]:
        """The message's present path and name: mail programs rename it for flags, and move it to ``cur/``.

        :raises FileNotFoundError: it is gone.
        """
        base = base_of(row.name)
        for directory, name in self._files():
            if base_of(name) == base:
                return os.path.join(self.path, directory, os.fsdecode(name)), name
        raise FileNotFoundError(2, "it has vanished meanwhile", self.path)

    def bounds(self) -> Identity:
        """The mailbox's identity."""
        return self._identity


def _leads_to_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that can't be followed: reading the message reports the error


def _began(name: bytes) -> int:
    """The number at the beginning of a name: the time when the message came."""
    found = _DIGITS.match(name)
    return int(found[0]) if found else 0


def is_maildir(path: str) -> bool:
    """Whether a directory is a Maildir: it has ``cur``, and ``new`` or ``tmp``."""
    return os.path.isdir(os.path.join(path, "cur")) and (
        os.path.isdir(os.path.join(path, "new")) or os.path.isdir(os.path.join(path, "tmp"))
    )


def find_maildirs(root: str) -> MailSource | None:
    """The Maildirs at and below *root*; None: there is none."""
    boxes: list[MaildirMailbox] = []
    if is_maildir(root):
        boxes.append(MaildirMailbox(root, ("INBOX",)))
    for name in sorted(_directories(root)):
        if name.startswith(".") and len(name) > 1 and is_maildir(os.path.join(root, name)):
            parts = tuple(shown(part) for part in name[1:].split("."))
            boxes.append(MaildirMailbox(os.path.join(root, name), inbox(parts)))
    boxes += _nested(root, ())
    if not boxes:
        return None
    subscribed, notes = subscriptions(root)
    alone = len(boxes) == 1 and boxes[0].path == root and subscribed is None
    return MailSource("Maildir", boxes, subscribed, single=alone, notes=notes)


def _nested(path: str, above: tuple[str, ...]) -> Iterator[MaildirMailbox]:
    """Maildirs in plain directories."""
    for name in sorted(_directories(path)):
        if name.startswith(".") or (name in _OWN and is_maildir(path)):
            continue
        inner, parts = os.path.join(path, name), (*above, shown(name))
        if is_maildir(inner):
            yield MaildirMailbox(inner, inbox(parts))
        yield from _nested(inner, parts)


def _directories(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def inbox(parts: tuple[str, ...]) -> tuple[str, ...]:
    """*parts* with ``INBOX`` in capitals, as every store has it."""
    return ("INBOX", *parts[1:]) if parts[0].upper() == "INBOX" else parts


def shown(part: str) -> str:
    """A part of a name as a mount shows it."""
    try:
        decode_mutf7(os.fsencode(part))
    except ValueError:
        return shown_part(part, utf8=True)
    return shown_part(part, utf8=False)


def subscriptions(
    root: str, files: tuple[str, ...] = ("subscriptions",)
) -> tuple[frozenset[tuple[str, ...]] | None, list[str]]:
    """The subscriptions in the root (None: not known), and a line for each problem.

    :param files: names of the files in which Dovecot may have them.
    """
    try:
        for file in files:
            data = read_small(os.path.join(root, file))
            if data is not None:
                split = "/" if data.startswith(b"V\t2\n") or b"/" in data else "."
                return _names(parse_subscriptions(data), split), []
        data = read_small(os.path.join(root, "courierimapsubscribed"))
    except OSError as exc:
        return None, [f"{exc.filename}: subscriptions are not known: {reason_of(exc)}"]
    if data is None:
        return None, []
    names = (os.fsdecode(line) for line in data.split(b"\n") if line)
    return _names((name if name == "INBOX" else name.removeprefix("INBOX.") for name in names), "."), []


def _names(names: Iterable[str], separator: str) -> frozenset[tuple[str, ...]]:
    return frozenset(inbox(tuple(shown(part) for part in name.split(separator))) for name in names)
