"""What an inode has become: a message that was replaced or moved goes on under another uid.

Two memories say so.  This mount's own changes are remembered by inode (:meth:`Forwarding.became`; bounded,
:data:`FOLLOWED`): a draft has become a message, a message has another uid, or is in another mailbox.  What
other mounts have replaced is known from the files of names, by uid (:meth:`Forwarding.heir`).

The kernel is told of every name that means something else.  So this only matters for a request that carries
the old inode because the kernel's invalidation has not arrived yet, and for programs that have it open.

Concurrency: only :meth:`Forwarding.use` awaits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dboxfs.errors import NoSuchMessage
from dboxfs.store import Folder
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import Inodes, Node
from dboxfs.vfs.open_files import OpenFiles

R = TypeVar("R")

FOLLOWED = 1 << 16
"""Inodes that are followed to what has become of them."""


class Forwarding:
    """Remembers what old inodes have become, a bounded number of them."""

    def __init__(self, inodes: Inodes, names: Names, open_files: OpenFiles) -> None:
        self._inodes = inodes
        self._names = names
        self._open_files = open_files
        self._became: OrderedDict[int, int] = OrderedDict()

    def became(self, inode: int, folder: Folder, uid: int) -> None:
        """*inode* is message *uid* of *folder* now."""
        now = self._inodes.message(folder, uid).inode
        if now != inode:
            self._became[inode] = now
            self._became.move_to_end(inode)
            if len(self._became) > FOLLOWED:
                self._became.popitem(last=False)

    def follow(self, inode: int) -> int:
        """The inode of what *inode* has become by this mount's changes, or *inode*."""
        seen = 0
        while (now := self._became.get(inode)) is not None and seen < FOLLOWED:
            inode = now
            seen += 1
        return inode

    def now(self, inode: int) -> Node:
        """The node of what *inode* has become by this mount's changes."""
        return self._inodes.node(self.follow(inode) if self._became else inode)

    def heir(self, inode: int) -> Node:
        """The node of what has replaced a message that is gone, by whatever mount; else that of *inode*.

        Where nobody has it open the kernel asks for what has the name, and that is what was renamed over it.
        """
        node = self._inodes.node(inode)
        box = node.folder.mailbox if node.folder is not None else None
        if node.folder is None or box is None or not node.uid or node.uid in box:
            return node
        renamed = inode not in self._open_files
        heir = self._names.written.heir(node.folder, node.uid, renamed=renamed)
        return node if heir is None else self._inodes.message(node.folder, heir)

    async def use(self, inode: int, use: Callable[[Node], Awaitable[R]], *, anew: bool = False) -> R:
        """Use a message, given its inode; or what has replaced it, also if that happens meanwhile.

        :param anew: what has replaced it also where it is open for reading, and goes on as it was there.
        :raises NoSuchMessage: it is gone.
        """
        goes_on = not anew and inode in self._open_files.being_read
        node = self._inodes.node(inode) if goes_on else self.heir(inode)
        while True:
            try:
                return await use(node)
            except NoSuchMessage:
                await self._names.know(self._inodes.node(node.inode).directory())
                before, node = node.inode, self.heir(node.inode)
                if node.inode == before:
                    raise
