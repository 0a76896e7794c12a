"""link(2) in a writable mount: makes a copy of a message, or a message of a temporary.

Locks: ``Draft.lock`` of the temporary that is linked.
"""

from __future__ import annotations

import errno
from functools import partial

from dboxfs.store import Folder
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.commit import Committer
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.names import Names, check_name
from dboxfs.vfs.node import Inodes, Node


class LinkRequest:
    """Answers link(2)."""

    def __init__(
        self,
        folders: Folders,
        inodes: Inodes,
        names: Names,
        forwarding: Forwarding,
        drafts: Drafts,
        changes: MessageChanges,
        committer: Committer,
    ) -> None:
        self._folders = folders
        self._inodes = inodes
        self._names = names
        self._forwarding = forwarding
        self._drafts = drafts
        self._changes = changes
        self._committer = committer

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Draft | Node:
        """link(2) by thread *pid*; gives the new message, or a ghost if the file has no byte.

        :raises Refused: the link is impossible, and nothing has changed.
        """

        async def link(source: int) -> Draft | Node:
            return await self._folders.steadily(
                new_parent, lambda target: self._link(source, target, new, pid)
            )

        return await self._folders.steadily(inode, link)

    async def _link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Draft | Node:
        target = await self._changes.look_again((await self._folders.seek(new_parent)).directory())
        await self._names.know(target)
        draft = self._drafts.by_inode(inode)
        if draft is not None and (draft.uid is None or draft.is_empty):
            return await self._link_draft(draft, self._free(target, new, pid), new)
        # another mount may have replaced the message
        return await self._forwarding.use(
            self._forwarding.follow(inode), lambda node: self._link_message(node, target, new, pid)
        )

    def _free(self, target: Folder, name: bytes, pid: int) -> Folder:
        """*target*, if the new name is valid and free there.

        :raises Refused: it isn't.
        """
        check_name(name)
        mailbox_of(target)
        self._check_free(target, name)
        if self._drafts.lay(self._inodes.of(target), name, pid) is not None:
            raise Refused(errno.EEXIST)
        return target

    def _check_free(self, target: Folder, name: bytes) -> None:
        """Check that a name is free.

        :raises Refused: EEXIST: a message or a mailbox has it.
        """
        child = self._names.child(target, name)
        if child is not None or self._names.resolve(target, name) is not None:
            raise Refused(errno.EEXIST)

    async def _link_draft(self, draft: Draft, target: Folder, name: bytes) -> Draft | Node:
        if draft.is_empty:
            ghost = self._drafts.new(target, name)
            ghost.made_by(draft.creator)
            self._drafts.haunt(ghost)
            return ghost
        if name.startswith(b"."):
            raise Refused(errno.EOPNOTSUPP)
        if not draft.is_temporary:  # both names would show a part of it
            raise Refused(errno.EBUSY)
        async with draft.lock:
            uid = await self._changes.again(lambda: target, partial(self._save, draft, target, name))
            node = self._inodes.message(target, uid)
            self._drafts.link(draft, node.inode)
            if not draft.is_removed:  # later writes through the draft replace the message
                self._forwarding.became(draft.inode, target, uid)
                draft.committed(uid)
                self._drafts.follow(draft, target, name, uid)
            return node

    async def _link_message(self, node: Node, target: Folder, name: bytes, pid: int) -> Node:
        self._free(target, name, pid)
        if not node.is_message:
            raise Refused(errno.EPERM)
        return await self._copy(node, target, name)

    async def _copy(self, node: Node, target: Folder, name: bytes) -> Node:
        source = node.directory()

        async def once() -> Node:
            self._check_free(target, name)
            return await self._changes.copy(source, node.uid, target, name)

        return await self._changes.again(lambda: target, once, source=source)

    async def _save(self, draft: Draft, target: Folder, name: bytes) -> int:
        self._check_free(target, name)
        await draft.renew()
        return await self._committer.save(draft, target, name, replaces=None)
