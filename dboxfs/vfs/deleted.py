"""``.dboxfs/deleted/<mailbox>/<guid>.eml``: messages of an mdbox that are expunged and not purged.

The tree has the mailboxes that the messages were first saved to, even if these are deleted by now.  A mailbox
name that can't be shown (a part is empty or longer than 255 bytes) is shown as INBOX; the attribute
``user.dbox.orig_mailbox`` has the name as it is stored.  Messages with the same guid get their map uid into
the name.  No message of the mount has such a name, so a message that is moved out of here meets no other one.

::

    63 | 62 | 61 | 35 ......... 0
    1  | 1  | 0  | map uid         a message
    1  | 1  | 1  | of its path     a directory

A request makes the tree anew if it is older than half a second.  The kernel keeps nothing of it but the bytes
of a message that is open.  Only the store's owner may look into it, even if ``umask`` allows more.

Concurrency: :meth:`Deleted.tree` awaits; a tree that it has returned does not change.
"""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Iterator

import trio
from msgspec import Struct, field

from dboxfs.store import Body, Store
from dboxfs.store.deleted import DEFAULT_MAILBOX, DeletedMessage, DeletedMessages
from dboxfs.store.mailbox_names import shown_part
from dboxfs.store.names.of_mailbox import encode
from dboxfs.util.dates import rfc3339
from dboxfs.vfs.attrs import NS, Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import ListingRow
from dboxfs.vfs.node import DELETED, is_deleted

NAME = b"deleted"

_DIRECTORY = 1 << 61
ROOT = DELETED | _DIRECTORY
_LONGEST_PART = 255
_PATH_BITS = 36
_FRESH = 0.5
"""Seconds for which a tree is good."""


class Branch(Struct, eq=False):
    """A directory of the tree: its inode, and its entries by name."""

    inode: int
    directories: dict[bytes, Branch] = field(default_factory=dict)
    messages: dict[bytes, DeletedMessage] = field(default_factory=dict)


class OpenDeleted:
    """A message that is open to be read."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    async def read(self, size: int, offset: int) -> bytes:
        return await self._body.read(size, offset)

    async def write(self, data: bytes, offset: int) -> int:
        raise Refused(errno.EBADF)

    async def flush(self) -> None:
        """Does nothing: nothing was written."""

    async def fsync(self) -> None:
        """Does nothing: nothing was written."""

    async def release(self) -> None:
        self._body.close()


class OpenBranch:
    """A directory of the tree, opened."""

    def __init__(self, branch: Branch, deleted: Deleted) -> None:
        self._deleted = deleted
        self._branch = branch
        self._entries: list[tuple[bytes, Branch | DeletedMessage]] = [
            *branch.directories.items(), *branch.messages.items(),
        ]  # fmt: skip

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position, (name, what) in enumerate(self._entries[start:], start + 1):
            yield position, name, self._deleted.attributes_of(what)

    async def sizes(self, start: int) -> None:
        """Does nothing: the sizes are known."""

    def attributes(self) -> Attrs:
        return self._deleted.attributes_of(self._branch)

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())


class Deleted:
    """The tree of one mount.

    :raises Unsupported: the store is an sdbox.
    """

    name = NAME
    root = ROOT

    def __init__(self, store: Store, attributes: Attributes) -> None:
        self._store = store
        self._attributes = attributes
        self._messages = DeletedMessages(store)
        self._root = Branch(ROOT)
        self._branches = {ROOT: self._root}
        self._by_map_uid: dict[int, DeletedMessage] = {}
        self._made = -_FRESH
        self._reading = trio.Lock()

    # -- the tree ------------------------------------------------------------------------------

    async def tree(self) -> Branch:
        """The tree, half a second old at most."""
        async with self._reading:
            if trio.current_time() >= self._made + _FRESH:
                found = await self._messages.look()
                self._root, self._branches, self._by_map_uid = Branch(ROOT), {}, {}
                self._branches[ROOT] = self._root
                for message in found:
                    self._add(message)
                self._made = trio.current_time()
        return self._root

    def forget(self) -> None:
        """A message has come back: make the tree anew next time."""
        self._made = -_FRESH

    def _add(self, message: DeletedMessage) -> None:
        branch, path = self._root, b""
        for part in self._parts(message.mailbox):
            path += b"/" + part
            child = branch.directories.get(part)
            if child is None:
                digest = hashlib.sha256(path).digest()
                child = Branch(ROOT | int.from_bytes(digest[:8], "big") >> (64 - _PATH_BITS) or 1)
                branch.directories[part] = self._branches[child.inode] = child
            branch = child
        name = b"%s.eml" % message.what.guid.hex().encode()
        if name in branch.messages or name in branch.directories:
            name = b"%s-%d.eml" % (message.what.guid.hex().encode(), message.map_uid)
        branch.messages[name] = self._by_map_uid[message.map_uid] = message

    def _parts(self, mailbox: str) -> list[bytes]:
        parts = [encode(shown_part(part, utf8=self._store.location.utf8)) for part in mailbox.split("/")]
        if all(part and len(part) <= _LONGEST_PART and b"\0" not in part for part in parts):
            return parts
        return [DEFAULT_MAILBOX.encode()]

    def owns(self, inode: int) -> bool:
        """Whether a number is one of the tree."""
        return is_deleted(inode)

    # -- requests ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        await self.tree()
        branch = self._branch(parent)
        what = branch.directories.get(name) or branch.messages.get(name)
        if what is None:
            raise Refused(errno.ENOENT)
        return self.attributes_of(what)

    def _branch(self, inode: int) -> Branch:
        branch = self._branches.get(inode)
        if branch is None:
            raise Refused(errno.ENOENT)
        return branch

    async def message(self, parent: int, name: bytes) -> DeletedMessage:
        """The message called *name* in the directory *parent*.

        :raises Refused: ENOENT: there is none; EPERM: it is a directory.
        """
        await self.tree()
        branch = self._branch(parent)
        if name in branch.directories:
            raise Refused(errno.EPERM)
        if name not in branch.messages:
            raise Refused(errno.ENOENT)
        return branch.messages[name]

    async def getattr(self, inode: int) -> Attrs:
        """The attributes of a message or directory.

        :raises Refused: ESTALE: the message came back, or was purged; ENOENT: the directory is gone.
        """
        if inode == ROOT:
            return self.attributes_of(self._root)
        await self.tree()
        return self.attributes_of(self._branch(inode) if inode & _DIRECTORY else self._of(inode))

    def _of(self, inode: int) -> DeletedMessage:
        message = self._by_map_uid.get(inode & ~DELETED)
        if message is None:
            raise Refused(errno.ESTALE)
        return message

    async def opendir(self, inode: int) -> OpenBranch:
        """Open a directory.

        :raises Refused: ENOENT: there is none (any more).
        """
        await self.tree()
        return OpenBranch(self._branch(inode), self)

    async def body(self, inode: int) -> Body:
        """The bytes of a message.

        :raises Refused: ESTALE: it came back, or was purged; EISDIR: it is a directory.
        :raises DboxfsError, OSError: it was purged, or can't be read.
        """
        if inode & _DIRECTORY:
            raise Refused(errno.EISDIR)
        await self.tree()
        return await self._messages.open(self._of(inode))

    async def open(self, inode: int) -> OpenDeleted:
        """Open a message to be read; raises as :meth:`body`."""
        return OpenDeleted(await self.body(inode))

    async def xattrs(self, inode: int) -> dict[str, str]:
        """The attributes ``user.dbox.*``: the rest of the name -> the value."""
        if inode & _DIRECTORY:
            return {}
        await self.tree()
        message = self._of(inode)
        size = message.virtual_size
        return {
            "guid": message.guid_text,
            "received": rfc3339(message.received),
            "orig_mailbox": message.mailbox,
            **({} if size is None else {"virtual_size": str(size)}),
            "location": message.location,
        }

    def attributes_of(self, what: Branch | DeletedMessage) -> Attrs:
        """The attributes of an entry; the kernel keeps them no time."""
        if isinstance(what, Branch):
            attrs = self._attributes.control_dir(what.inode)
            attrs.nlink += len(what.directories)
        else:
            attrs = self._attributes.control_file(DELETED | what.map_uid, what.size)
            attrs.modified_ns = attrs.changed_ns = what.received * NS
            attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs
