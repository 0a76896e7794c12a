"""``.dboxfs/parts/<mailbox>/<uid>/``: the decoded parts of a message as files.

A request for the parts of a message reads it, and a worker thread takes it apart.  The parts of the last
messages are kept (:data:`KEPT_PARTS_BYTES` in all); a message of more than :data:`PARTS_LARGEST` bytes gives
EFBIG.  The numbers of the last :data:`PART_NUMBERS` directories and files are kept.

A mailbox whose name is a number has its first byte escaped, since a number is a message here.

The kernel keeps only the bytes of files, which never change.  Only the store's owner may look into it, even
if ``umask`` allows more.

Concurrency: one message is taken apart at a time; requests that wait for the same one share its parts.
"""

from __future__ import annotations

import errno
import itertools
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import trio

from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs.attrs import NS, Attributes, Attrs
from dboxfs.vfs.control import OpenControlFile
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.mime_parts import MimePart, parts_of
from dboxfs.vfs.node import PARTS, Inodes

NAME = b"parts"

PARTS_LARGEST = 32 << 20
"""Bytes of a message that is taken apart, at most."""

KEPT_PARTS_BYTES = 48 << 20
"""Bytes of parts that are kept, at most; the message that was used last is kept even if it has more."""

PART_NUMBERS = 16384
"""Inode numbers of directories and files that are remembered, at most."""


_PART_BITS = 0b1111 << 60 | 0b111 << 34
_PART_MASK = (1 << 34) - 1
_UID = re.compile(rb"[1-9][0-9]{0,9}")


class _Item(NamedTuple):
    """A directory or a file.  ``folder``: storage name of the folder ("": the top).  ``guid``: of the mailbox
    that the uid belongs to.  ``uid`` 0: a folder.  ``part`` -1: the directory of the message.
    """

    folder: str
    guid: bytes = b""
    uid: int = 0
    part: int = -1


class MessageParts:
    """The tree of one mount."""

    name = NAME
    root = PARTS | 1

    def __init__(self, store: Store, inodes: Inodes, folders: Folders, attributes: Attributes) -> None:
        self._store = store
        self._inodes = inodes
        self._folders = folders
        self._attributes = attributes
        self._numbers = itertools.count(2)
        self._item_of: OrderedDict[int, _Item] = OrderedDict()
        self._inode_of: dict[_Item, int] = {}
        self._kept: OrderedDict[tuple[bytes, int], tuple[int, Sequence[MimePart]]] = OrderedDict()
        self._one_at_a_time = trio.Lock()

    def owns(self, inode: int) -> bool:
        """Whether a number is one of the tree."""
        return inode & _PART_BITS == PARTS & _PART_BITS

    # -- numbers -------------------------------------------------------------------------------

    def _item(self, inode: int) -> _Item:
        item = _Item("") if inode == self.root else self._item_of.get(inode)
        if item is None:
            raise Refused(errno.ESTALE)
        return item

    def _number(self, item: _Item) -> int:
        inode = self._inode_of.get(item)
        if inode is None:
            inode = self._inode_of[item] = PARTS | next(self._numbers) & _PART_MASK
            self._item_of[inode] = item
            if len(self._item_of) > PART_NUMBERS:
                del self._inode_of[self._item_of.popitem(last=False)[1]]
        self._item_of.move_to_end(inode)
        return inode

    # -- attributes of an item -----------------------------------------------------------------

    def _folder(self, item: _Item) -> Folder:
        folder = self._store.folders.get(item.folder) if item.folder else self._store.root
        if folder is None:
            raise Refused(errno.ENOENT)
        return folder

    def _mailbox(self, item: _Item) -> Mailbox:
        box = self._folder(item).mailbox
        if box is None or box.guid != item.guid:
            raise Refused(errno.ENOENT)
        return box

    def _directory(self, item: _Item) -> Attrs:
        attrs = self._attributes.control_dir(self._number(item) if item.folder else self.root)
        attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs

    async def _attrs(self, item: _Item) -> Attrs:
        if not item.uid:
            self._folder(item)
            return self._directory(item)
        facts = await self._mailbox(item).facts_of(item.uid)
        if item.part < 0:
            attrs = self._directory(item)
        else:
            part = (await self._parts(item))[item.part]
            attrs = self._attributes.control_file(self._number(item), len(part.content))
            attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
            attrs.entry_timeout = attrs.attr_timeout = 0.0
        attrs.modified_ns, attrs.changed_ns = facts.received * NS, facts.saved * NS
        return attrs

    # -- parts ---------------------------------------------------------------------------------

    async def _parts(self, item: _Item) -> Sequence[MimePart]:
        """The parts of a message.

        :raises Refused: EFBIG: it is too large.
        :raises DboxfsError, OSError: it is gone, or can't be read.
        """
        key = item.guid, item.uid
        async with self._one_at_a_time:
            kept = self._kept.get(key)
            if kept is None:
                body = await self._mailbox(item).open(item.uid)
                try:
                    if body.size > PARTS_LARGEST:
                        raise Refused(errno.EFBIG)
                    data = await body.read(body.size, 0)
                finally:
                    body.close()
                parts = await trio.to_thread.run_sync(partial(parts_of, bytes(data)))
                kept = self._kept[key] = sum(len(part.content) for part in parts), parts
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > KEPT_PARTS_BYTES:
                self._kept.popitem(last=False)
            return kept[1]

    # -- requests ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none; ENOTDIR: *parent* is a part.
        """
        item = self._item(parent)
        if item.uid:
            if item.part >= 0:
                raise Refused(errno.ENOTDIR)
            for number, part in enumerate(await self._parts(item)):
                if part.name == name:
                    return await self._attrs(item._replace(part=number))
            raise Refused(errno.ENOENT)
        folder = (await self._folders.checked(self._inodes.of(self._folder(item)))).directory()
        box = folder.mailbox
        if _UID.fullmatch(name):
            if box is None or box.guid is None or int(name) not in box:
                raise Refused(errno.ENOENT)
            return await self._attrs(_Item(folder.name, box.guid, int(name)))
        child = next((some for shown, some in folder.children.items() if _shown(shown) == name), None)
        if child is None:
            raise Refused(errno.ENOENT)
        return self._directory(_Item(child.name))

    async def getattr(self, inode: int) -> Attrs:
        """The attributes of *inode*.

        :raises Refused: ESTALE, ENOENT: it is gone.
        """
        return await self._attrs(self._item(inode))

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT, ESTALE: it is gone; EFBIG: the message is too large to be taken apart.
        """
        item, own = self._item(inode), await self.getattr(inode)
        entries = [(b".", own), (b"..", own)]
        if item.uid:
            for number, part in enumerate(await self._parts(item)):
                entries.append((part.name, await self._attrs(item._replace(part=number))))
            return _OpenParts(own, entries)
        folder = self._folder(item)
        children = sorted(
            ((_shown(shown), child) for shown, child in folder.children.items()), key=lambda pair: pair[0]
        )
        entries += [(shown, self._directory(_Item(child.name))) for shown, child in children]
        return _OpenParts(own, entries, folder, self)

    def message(self, folder: Folder, uid: int) -> Attrs:
        """The attributes of a message's directory, for a listing."""
        guid = folder.mailbox.guid if folder.mailbox is not None else None
        return self._directory(_Item(folder.name, guid or b"", uid))

    async def open(self, inode: int) -> OpenControlFile:
        """Open a part.

        :raises Refused: EISDIR: it is a directory; ESTALE, ENOENT: it is gone.
        """
        item = self._item(inode)
        if item.part < 0:
            raise Refused(errno.EISDIR)
        return OpenControlFile((await self._parts(item))[item.part].content)

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """``content_type`` of a part."""
        item = self._item(inode)
        return {"content_type": (await self._parts(item))[item.part].kind} if item.part >= 0 else {}


def _shown(name: str) -> bytes:
    """The name of a mailbox in this tree; in a name that is a number the first byte is escaped."""
    plain = encode(name)
    return b"%%%02X%s" % (plain[0], plain[1:]) if _UID.fullmatch(plain) else plain


class _OpenParts:
    """An open directory: the entries of that moment, and a directory for each message of *folder*."""

    def __init__(
        self,
        own: Attrs,
        entries: list[tuple[bytes, Attrs]],
        folder: Folder | None = None,
        parts: MessageParts | None = None,
    ) -> None:
        self._own = own
        self._entries = entries
        self._folder = folder
        self._parts = parts
        box = folder.mailbox if folder is not None else None
        self._uids: list[int] = box.uids.tolist() if box is not None else []

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._entries)):
            yield position + 1, *self._entries[position]
        if self._folder is None or self._parts is None:
            return
        first = len(self._entries)
        for position in range(max(start - first, 0), len(self._uids)):
            uid = self._uids[position]
            yield first + position + 1, b"%d" % uid, self._parts.message(self._folder, uid)

    async def sizes(self, start: int) -> None:
        """Does nothing: the sizes are known."""

    def attributes(self) -> Attrs:
        return self._own

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
