"""Plain files, as a mount shows them: a directory for each mailbox, a file for each message.

The mtime is the received date.  With ``xattrs`` the other facts that an import can set again are kept as
``user.dbox.*``; without, only the uids are kept, in the names (``17.eml``), but no flags, keywords, guids and
subscriptions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from shlex import quote

from msgspec import Struct

from dboxfs.fsapi import ops
from dboxfs.store import Folder
from dboxfs.store.disk import Disk
from dboxfs.store.mailbox import FLAG_NAMES
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.store.names.table import WrittenNames
from dboxfs.tools.exporting.formats import BoxFacts, MailboxWriter, write_file
from dboxfs.tools.exporting.message import Outgoing
from dboxfs.tools.formats.attributes import PREFIX
from dboxfs.util.dates import rfc3339


class EmlFormat(Struct, frozen=True):
    """Writes plain files.  ``names``: of messages, as a mount shows them.  ``coding``: of mailbox names."""

    xattrs: bool
    names: WrittenNames
    coding: NameCoding

    def place(self, folder: Folder) -> str:
        """The path of a mailbox, as a mount shows it (:class:`~dboxfs.tools.exporting.formats.Format`)."""
        return "/".join(self.coding.shown_part(part) for part in folder.name.split("/"))

    async def begin(self, disk: Disk, path: str, box: BoxFacts) -> MailboxWriter:
        """Make the directory of a mailbox, with its attributes."""
        await disk.mkdir(path)
        if self.xattrs:
            values = {
                "mailbox": box.shown.encode("utf-8", "surrogateescape"),
                "guid": box.guid.hex().encode("ascii"),
                "uidvalidity": b"%d" % box.uid_validity,
                "uidnext": b"%d" % box.next_uid,
                "subscribed": b"1" if box.subscribed else b"0",
            }
            for name, value in values.items():
                await disk.run(ops.SetXattr(path, PREFIX + name, value))
        return _Directory(disk, path, box, self)

    async def finish(
        self, disk: Disk, root: str, boxes: Sequence[BoxFacts], subscriptions: Iterable[str]
    ) -> None:
        """Does nothing: subscriptions are attributes of the directories."""

    def advice(self, root: str) -> list[str]:
        """A line about the way back."""
        return [f"the way back: dboxfs import {quote(root)} STORE --format mdbox"]


class _Directory(Struct):
    disk: Disk
    path: str
    box: BoxFacts
    format: EmlFormat

    async def put(self, message: Outgoing) -> str:
        name = os.fsdecode(self.format.names.name(self.box.folder, message.uid))
        values = _attributes(message) if self.format.xattrs else None
        await write_file(self.disk, os.path.join(self.path, name), message, message.received, values)
        return ""

    async def close(self, *, done: bool) -> None:
        """Does nothing: no file is open."""


def _attributes(message: Outgoing) -> dict[str, bytes]:
    flags = " ".join(name for bit, name in FLAG_NAMES if message.flags & bit)
    metadata = message.metadata
    values = {
        "uid": b"%d" % message.uid,
        "guid": metadata.guid,
        "flags": flags.encode("ascii"),
        "keywords": " ".join(message.keywords).encode("utf-8", "surrogateescape"),
        "received": rfc3339(message.received).encode("ascii"),
        "saved": rfc3339(message.saved).encode("ascii"),
        "pop3_uidl": metadata.pop3_uidl,
        "orig_mailbox": metadata.orig_mailbox,
    }
    return {PREFIX + name: value for name, value in values.items() if value is not None}
