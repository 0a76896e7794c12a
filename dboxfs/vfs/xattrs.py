"""Extended attributes ``user.dbox.*`` of messages and folders.

Names that don't exist give ENODATA, other namespaces EOPNOTSUPP: after that ``ls -l`` asks no more for ACLs
and capabilities, which saves 4 requests a file.  Times are RFC 3339 in UTC.

The kernel keeps no extended attribute: ``getfattr -d`` makes 22 requests a message. A program that lists the
attributes of a message mostly reads them next, so a listing reads all of them, once (:class:`Looks`).
"""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from dboxfs.errors import NoSuchMessage
from dboxfs.store import Facts, Folder, Mailbox, Store
from dboxfs.store.mailbox import flag_names
from dboxfs.store.names.of_mailbox import decode
from dboxfs.util.dates import rfc3339
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.open_files import AtOpen
from dboxfs.vfs.options import FullNames

PREFIX = b"user.dbox."
"""The beginning of the name of each attribute."""


def word(name: bytes) -> str | None:
    """The rest of an attribute's name after ``user.dbox.``; None: another name in ``user.``.

    :raises Refused: EOPNOTSUPP: a name in another namespace.
    """
    if not name.startswith(b"user."):
        raise Refused(errno.EOPNOTSUPP)
    return decode(name[len(PREFIX) :]) if name.startswith(PREFIX) else None


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "surrogateescape") if value is not None else None


async def _guid(box: Mailbox, uid: int) -> str | None:
    """The guid of ``doveadm fetch guid``: the text of the metadata, not the 128 bits of an mdbox's index."""
    return _text((await box.details(uid)).metadata.guid)


async def _flags(box: Mailbox, uid: int) -> str | None:
    return " ".join(box.flags(uid))


async def _keywords(box: Mailbox, uid: int) -> str | None:
    return " ".join(box.keywords(uid))


async def _received(box: Mailbox, uid: int) -> str | None:
    facts = await box.facts_of(uid)
    return None if facts.damaged else rfc3339(facts.received)


async def _saved(box: Mailbox, uid: int) -> str | None:
    facts = await box.facts_of(uid)
    return None if facts.damaged else rfc3339(facts.saved)


async def _virtual_size(box: Mailbox, uid: int) -> str | None:
    size = (await box.details(uid)).metadata.virtual_size
    return str(size) if size is not None else None


async def _location(box: Mailbox, uid: int) -> str | None:
    return (await box.details(uid)).location


async def _pop3_uidl(box: Mailbox, uid: int) -> str | None:
    return _text((await box.details(uid)).metadata.pop3_uidl)


async def _orig_mailbox(box: Mailbox, uid: int) -> str | None:
    return _text((await box.details(uid)).metadata.orig_mailbox)


async def _uid(box: Mailbox, uid: int) -> str | None:
    if uid not in box:
        raise NoSuchMessage(f"{box.display_name}: no message with uid {uid}")
    return str(uid)


async def _modseq(box: Mailbox, uid: int) -> str | None:
    return str(box.modseq(uid))


MESSAGE: dict[str, Callable[[Mailbox, int], Awaitable[str | None]]] = {
    "flags": _flags,
    "keywords": _keywords,
    "guid": _guid,
    "saved": _saved,
    "received": _received,
    "uid": _uid,
    "pop3_uidl": _pop3_uidl,
    "orig_mailbox": _orig_mailbox,
    "virtual_size": _virtual_size,
    "modseq": _modseq,
    "location": _location,
}
"""Name of an attribute of a message -> its getter, which gives None if this message has none (ENODATA).

Attributes that can be set come first: a program that puts them back may stop at the first refusal.
"""

WORDS = {PREFIX + name.encode(): name for name in MESSAGE}
"""The rest of a name after ``user.dbox.``, by the whole name, of the attributes that a message may have."""

FOLDER_SETTABLE = frozenset({"subscribed", "uidvalidity", "guid"})
"""Attributes of a mailbox that can be set: ``subscribed`` always, the others while it is new."""

FOLDER = ("subscribed", "mailbox")
"""Attributes that every folder has; only a mailbox has the others."""

_MAILBOX: dict[str, Callable[[Mailbox], str | None]] = {
    "uidvalidity": lambda box: str(box.uid_validity),
    "guid": lambda box: box.guid.hex() if box.guid is not None else None,
    "uidnext": lambda box: str(box.uid_next),
    "messages": lambda box: str(len(box)),
    "unseen": lambda box: str(box.unseen),
    "highestmodseq": lambda box: str(box.highest_modseq),
}


def encoded(value: str) -> bytes:
    r"""*value* as UTF-8; bytes of the store that are no UTF-8 (damaged metadata) are shown as ``\xff``."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode("utf-8")


async def message_value(box: Mailbox, uid: int, name: str) -> str | None:
    """The value of ``user.dbox.<name>`` of a message; None: there is none."""
    getter = MESSAGE.get(name)
    return None if getter is None else await getter(box, uid)


async def message_names(box: Mailbox, uid: int) -> list[str]:
    """The names of the attributes that a message has."""
    facts = await box.facts_of(uid)
    if facts.damaged:
        return ["flags", "keywords", "uid", "modseq"]
    metadata = (await box.details(uid)).metadata
    optional = {"pop3_uidl": metadata.pop3_uidl, "orig_mailbox": metadata.orig_mailbox}
    return [name for name in MESSAGE if optional.get(name, b"") is not None]


async def folder_value(store: Store, folder: Folder, name: str, full_names: FullNames) -> str | None:
    """The value of ``user.dbox.<name>`` of a folder; None: there is none."""
    if folder.parent is None:
        return None
    if name == "mailbox":
        return full_names.of(store, folder)
    if name == "subscribed":
        return "1" if folder.name in await store.subscribed() else "0"
    getter = _MAILBOX.get(name)
    return None if getter is None or folder.mailbox is None else getter(folder.mailbox)


def kept_values(marks: AtOpen, facts: Facts) -> dict[str, str]:
    """The attributes that are still known of a message that is gone: those from when it was opened."""
    dates = {} if facts.damaged else {"saved": rfc3339(facts.saved), "received": rfc3339(facts.received)}
    named = {"flags": " ".join(flag_names(marks.flags)), "keywords": " ".join(marks.keywords)}
    return {**named, **dates, "uid": str(marks.uid)}


def folder_names(folder: Folder) -> list[str]:
    """The names of the attributes that a folder has."""
    if folder.parent is None:
        return []
    names = list(FOLDER)
    if folder.mailbox is not None:
        names += [name for name, getter in _MAILBOX.items() if getter(folder.mailbox) is not None]
    return names


# -- all attributes of a message at once -----------------------------------------------------------

MOST_SEEN = 64
"""Messages whose attributes are remembered, at most."""

LOOK_SECONDS = 0.25
"""Seconds for which they are remembered, at most: the file of a message may change without its mailbox."""


class Look(Struct, frozen=True):
    """The attributes of a message, as they were at a moment.

    ``names``: all of them, with prefix. ``values``: name -> encoded value, for those that have one.
    """

    names: Sequence[bytes]
    values: Mapping[bytes, bytes]


async def look(box: Mailbox, uid: int) -> Look:
    """Read all attributes of a message.

    :raises NoSuchMessage, CorruptFile, OSError: it is gone, or can't be read.
    """
    names = await message_names(box, uid)
    values = {PREFIX + name.encode(): await MESSAGE[name](box, uid) for name in names}
    return Look(list(values), {name: encoded(value) for name, value in values.items() if value is not None})


class Looks:
    """The last :data:`MOST_SEEN` looks, by inode; each is valid until its mailbox changes."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._looks: OrderedDict[int, tuple[Look, Mailbox, int, int, float]] = OrderedDict()

    def get(self, inode: int) -> Look | None:
        """The remembered attributes of a message; None: they have to be read."""
        found = self._looks.get(inode)
        if found is None:
            return None
        seen, box, changes, version, until = found
        folder = self._inodes.folder(inode)
        if folder is None or folder.mailbox is not box or time.monotonic() > until:
            return None
        return seen if (box.changes, box.facts.version) == (changes, version) else None

    async def take(self, inode: int, box: Mailbox, uid: int) -> Look:
        """Read the attributes of message *uid* of *box*, which has *inode*, and remember them.

        :raises NoSuchMessage, CorruptFile, OSError: as :func:`look`.
        """
        before, until = (box.changes, box.facts.version), time.monotonic() + LOOK_SECONDS
        seen = await look(box, uid)
        if before == (box.changes, box.facts.version):
            self._looks[inode] = seen, box, *before, until
            self._looks.move_to_end(inode)
            if len(self._looks) > MOST_SEEN:
                self._looks.popitem(last=False)
        return seen
