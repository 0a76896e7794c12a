"""Finds the folder of an inode number, also while its mailbox is being renamed.

A mailbox that is renamed keeps its number, but for a moment it may be visible under neither name.  A program
that has its directory or a message of it open must not notice that.  So a folder whose number is unknown is
searched up to :data:`LOOKS` times (:meth:`Folders.seek`); requests that make, rename or remove a name do that
first.  A request that has met ENOENT is tried again if the mailbox is found after all (:meth:`Folders.steady`
for a request by inode, :meth:`Folders.steadily` for a name in a directory), also under a name of which the
store has not heard yet: the program holds the inode, which is the same.

For a message that is gone the answer is ESTALE, not ENOENT: the kernel then looks the name up again, once.

Concurrency: the folder of a number may change at every await.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.vfs.errors import Refused, errno_of
from dboxfs.vfs.node import Inodes, Node, is_file

R = TypeVar("R")

TIMES = 10
"""How often a request is tried at most, when the mailbox is renamed again and again meanwhile."""

LOOKS = 8
"""How often a missing mailbox is searched, at most."""

LOOK_AGAIN = 0.01
"""Each search waits this many seconds longer than the one before."""

MISSED = 64
"""Folder numbers that are remembered as missing, at most."""

MISSED_FOR = 1.0
"""Seconds for which a number is remembered as missing, and not searched again."""


class Folders:
    """Finds folders by inode number."""

    def __init__(self, store: Store, inodes: Inodes) -> None:
        self._store = store
        self._inodes = inodes
        self._missed: OrderedDict[int, float] = OrderedDict()
        self._going: list[str] = []

    # -- finding -------------------------------------------------------------------------------

    async def seek(self, inode: int) -> Node:
        """The node of *inode*; searches its folder if that isn't known just now."""
        node = self._inodes.node(inode)
        if node.folder is not None or node.is_draft or node.is_control:
            return node
        number = inode >> 32
        if trio.current_time() - self._missed.get(number, -MISSED_FOR) < MISSED_FOR:
            return node
        for turn in range(LOOKS):
            await trio.sleep(LOOK_AGAIN * turn)
            await self._store.refresh_tree()
            node = self._inodes.node(inode)
            if node.folder is not None:
                return node
        self._missed[number] = trio.current_time()
        self._missed.move_to_end(number)
        if len(self._missed) > MISSED:
            self._missed.popitem(last=False)
        return node

    async def checked(self, inode: int) -> Node:
        """The same; a folder that can't be watched is looked at on disk first.

        :raises Refused: ENOENT: the folder is gone.
        """
        node = await self.seek(inode)
        try:
            await self._store.check(node.directory())
        except FileNotFoundError:  # renamed between two looks
            await self._store.refresh_tree()
            await self._store.check(self._inodes.node(inode).directory())
        node = self._inodes.node(inode)
        node.directory()
        return node

    # -- trying again --------------------------------------------------------------------------

    async def steady(self, inode: int, use: Callable[[int], Awaitable[R]]) -> R:
        """Answer a request about *inode*; try again if its mailbox was only being renamed.

        :raises Refused: ESTALE: it is a message or a draft, and gone; ENOENT: a directory that is gone.
        """
        for turn in range(TIMES):
            before = self._inodes.folder(inode)
            try:
                return await use(inode)
            except (DboxfsError, OSError) as exc:
                if errno_of(exc) != errno.ENOENT:
                    raise
                again = turn + 1 < TIMES
                again = again and (await self._is_renamed(inode, before, exc) or await self._is_back(inode))
                if not again:
                    raise Refused(errno.ESTALE if is_file(inode) else errno.ENOENT) from exc
        raise AssertionError("unreachable")

    async def steadily(self, parent: int, use: Callable[[int], Awaitable[R]]) -> R:
        """Answer a request about a name in the directory *parent*, or a link to the file *parent*; try again
        if its mailbox was renamed.
        """
        for turn in range(TIMES):
            before = self._inodes.folder(parent)
            try:
                return await use(parent)
            except (DboxfsError, OSError) as exc:
                if errno_of(exc) != errno.ENOENT or turn + 1 == TIMES:
                    raise
                if await self._is_renamed(parent, before, exc):
                    continue
                if (await self.seek(parent)).folder in (None, before):
                    raise
        raise AssertionError("unreachable")

    async def _is_renamed(self, inode: int, before: Folder | None, error: Exception) -> bool:
        """Whether the mailbox that *inode* is in is another folder than *before*; after an *error* that its
        files are gone, the store may not have heard of a rename yet.
        """
        lost = isinstance(error, NoSuchMailbox | OSError) and not isinstance(error, Refused)
        if lost and before is not None and self._inodes.folder(inode) is before:
            await self._store.refresh_tree()
        return self._inodes.folder(inode) not in (None, before)

    async def _is_back(self, inode: int) -> bool:
        """Whether a message that seemed to be gone exists: its mailbox was renamed meanwhile."""
        if not self._inodes.node(inode).is_message:
            return False
        node = await self.seek(inode)
        box = node.folder.mailbox if node.folder is not None else None
        return box is not None and node.uid in box

    # -- directories that the kernel removes or renames ----------------------------------------

    @contextmanager
    def going(self, folder: Folder) -> Iterator[None]:
        """While the kernel removes or renames this directory, it is not told of it, or of those below."""
        self._going.append(folder.name)
        try:
            yield
        finally:
            self._going.remove(folder.name)

    def is_going(self, folder: Folder) -> bool:
        """Whether the kernel is removing or renaming this directory, or one above it, now."""
        return any(f"{folder.name}/".startswith(f"{name}/") for name in self._going)
