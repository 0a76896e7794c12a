"""Follows an old inode to its new one: a message that was replaced or moved goes on under another uid.

There are two memories.  This mount's own changes are remembered by inode (:meth:`Forwarding.became`; bounded,
:data:`FOLLOWED`): a draft has become a message, a message has got another uid or mailbox.  Replacements by
other mounts are found by uid in the files of names (:meth:`Forwarding.heir`).

The kernel is told of every name that has another inode.  So this only matters for a request that carries the
old inode because the kernel's invalidation has not arrived yet, and for programs that have it open.

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
"""Old inodes that are remembered at most."""


class Forwarding:
    """Remembers the new inodes of old ones."""

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
        """The inode that *inode* has become by this mount's changes; *inode* itself if there were none."""
        seen = 0
        while (now := self._became.get(inode)) is not None and seen < FOLLOWED:
            inode = now
            seen += 1
        return inode

    def now(self, inode: int) -> Node:
        """The node of the inode that *inode* has become by this mount's changes."""
        return self._inodes.node(self.follow(inode) if self._became else inode)

    def heir(self, inode: int) -> Node:
        """The node of the message that has replaced *inode*, through any mount; that of *inode* if none has.

        While a process has *inode* open, a message that was renamed over it is another file and doesn't
        count.  If no process has it open, the request is about the name, and so about that message.
        """
        node = self._inodes.node(inode)
        box = node.folder.mailbox if node.folder is not None else None
        if node.folder is None or box is None or not node.uid or node.uid in box:
            return node
        renamed = inode not in self._open_files
        heir = self._names.written.heir(node.folder, node.uid, renamed=renamed)
        return node if heir is None else self._inodes.message(node.folder, heir)

    async def use(self, inode: int, use: Callable[[Node], Awaitable[R]], *, anew: bool = False) -> R:
        """Call *use* with the node of a message, or of its replacement, even if it is replaced meanwhile.

        :param anew: take the replacement also if a process has the message open for reading.
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
