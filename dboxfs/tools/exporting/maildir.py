"""Maildir as Dovecot has it, Maildir++ or with plain directories (``LAYOUT=fs``).

The name of a message is ``<saved>.<uid>_<mailbox guid>.dboxfs,S=<size>[,W=<virtual size>]:2,<flags>``; its
received date is the mtime; uid, guid and POP3 uidl stand in ``dovecot-uidlist``, keywords in
``dovecot-keywords``.  A Maildir can't hold saved dates (the ctime of a file), keywords beyond the 26th of a
mailbox, modseqs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from dboxfs.store import Folder
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.create import set_uid_validity
from dboxfs.store.location import Kind, Location
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.store.write.subscriptions import changed_subscriptions
from dboxfs.tools.buffered_file import BufferedFile
from dboxfs.tools.exporting.errors import NoPlace
from dboxfs.tools.exporting.formats import BoxFacts, MailboxWriter, mutf7_part, mutf7_parts, write_file
from dboxfs.tools.exporting.message import Outgoing
from dboxfs.tools.formats.maildir import (
    MOST_KEYWORDS,
    Listed,
    encode_keywords,
    encode_listed,
    encode_uidlist_header,
    file_name,
)

_OWN = frozenset((b"cur", b"new", b"tmp"))
_LONGEST_NAME = 255


class MaildirFormat(Struct, frozen=True):
    """Writes Maildirs.  ``plain``: plain directories.  ``coding``: of the store's names."""

    plain: bool
    coding: NameCoding

    def place(self, folder: Folder) -> str:
        """The path of a mailbox (:class:`~dboxfs.tools.exporting.formats.Format`); INBOX: the root itself."""
        if folder.name == "INBOX":
            return ""
        parts = mutf7_parts(folder, coding=self.coding)
        if self.plain:
            if _OWN.intersection(parts) or any(part.startswith(b".") for part in parts):
                raise NoPlace(f"{folder.name}: a Maildir can't have such a name; rename the mailbox first")
            return os.fsdecode(b"/".join(parts))
        name = b"." + b".".join(parts)
        if any(b"." in part for part in parts):
            raise NoPlace(f"{folder.name}: Maildir++ has no place for a dot in a name; --layout fs has")
        if len(name) > _LONGEST_NAME:
            raise NoPlace(f"{folder.name}: the name is too long for Maildir++; --layout fs has room for it")
        return os.fsdecode(name)

    async def begin(self, disk: Disk, path: str, box: BoxFacts) -> MailboxWriter:
        """Make an empty Maildir with its uidlist and keywords."""
        await disk.mkdir(path)
        for name in ("cur", "new", "tmp"):
            await disk.mkdir(os.path.join(path, name))
        if box.folder.name != "INBOX":
            await disk.write_new(os.path.join(path, "maildirfolder"), b"")
        words = list(box.keywords)[:MOST_KEYWORDS]
        if words:
            await disk.write_new(os.path.join(path, "dovecot-keywords"), encode_keywords(words))
        file = await disk.create(os.path.join(path, "dovecot-uidlist"))
        header = encode_uidlist_header(box.uid_validity, box.next_uid, box.guid)
        numbers = {word.lower(): number for number, word in enumerate(words)}
        return _Maildir(disk, path, box, BufferedFile(file, header), numbers)

    async def finish(
        self, disk: Disk, root: str, boxes: Sequence[BoxFacts], subscriptions: Iterable[str]
    ) -> None:
        """Write the subscriptions and the last UIDVALIDITY."""
        await write_subscriptions(
            disk, os.path.join(root, "subscriptions"), subscriptions, coding=self.coding
        )
        highest = max((box.uid_validity for box in boxes), default=0)
        if highest:
            await disk.unlink(os.path.join(root, f"dovecot-uidvalidity.{highest:08x}"))
            await set_uid_validity(disk, Location(Kind.SDBOX, root), highest)

    def advice(self, root: str) -> list[str]:
        """The mail location for a Dovecot."""
        return [f"for Dovecot 2.3: mail_location = maildir:{root}" + (":LAYOUT=fs" if self.plain else "")]


class _Maildir(Struct):
    disk: Disk
    path: str
    box: BoxFacts
    uidlist: BufferedFile
    numbers: dict[str, int]
    done: list[str] = field(default_factory=list)

    async def put(self, message: Outgoing) -> str:
        metadata, trouble = message.metadata, []
        base = f"{max(message.saved, 0)}.{message.uid}_{self.box.guid.hex()}.dboxfs,S={message.size}"
        if metadata.virtual_size is not None:
            base += f",W={metadata.virtual_size}"
        wanted = [self.numbers.get(word.lower()) for word in message.keywords]
        numbers = [number for number in wanted if number is not None]
        if len(numbers) < len(wanted):
            trouble.append("keywords beyond the 26th of the mailbox have no letter: left out")
        guid, uidl = metadata.guid, metadata.pop3_uidl
        if guid is not None and any(byte <= 0x20 for byte in guid):
            guid = None
            trouble.append("its guid has a space, which the uidlist can't hold: it has another one")
        name = os.fsdecode(file_name(base.encode("ascii"), message.flags, numbers))
        path = os.path.join(self.path, "cur", name)
        await write_file(self.disk, path, message, message.received)
        listed = Listed(message.uid, guid, None, uidl, metadata.pop3_order)
        await self.uidlist.append(encode_listed(listed, base.encode("ascii")))
        return "; ".join(trouble)

    async def close(self, *, done: bool) -> None:
        try:
            if done:
                await self.uidlist.flush()
        finally:
            await self.uidlist.file.close()


async def write_subscriptions(disk: Disk, path: str, names: Iterable[str], *, coding: NameCoding) -> None:
    """Write a file of subscriptions, in place of an older one; none, if there are no subscriptions."""
    data: bytes | None = None
    for name in sorted(names):
        parts = [mutf7_part(part, coding=coding) for part in name.split("/")]
        changed = changed_subscriptions(data, os.fsdecode(b"/".join(parts)), subscribed=True)
        data = changed if changed is not None else data
    await disk.unlink(path)
    if data is not None:
        await disk.write_new(path, data)
