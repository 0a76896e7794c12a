"""Files that are created, or opened for writing: finds or makes their draft.

A message that is opened for writing stays unchanged for other processes, until the commit replaces it.

Locks: an OPEN of a draft takes ``Draft.lock``, and so waits until no task commits or ends the draft.
"""

from __future__ import annotations

import errno
import os

from dboxfs.store import Folder, Store
from dboxfs.vfs.apart import Apart
from dboxfs.vfs.changes import look_again, mailbox_of
from dboxfs.vfs.close_policy import ClosePolicy
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.draft_stages import Stage
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.names import Names, check_name
from dboxfs.vfs.node import ROOT, Inodes, Node
from dboxfs.vfs.reader import Opened, Reader
from dboxfs.vfs.staging import Staging


class Opening:
    """Answers CREATE, and OPEN for writing.

    :ivar apart: the drafts that writers of messages open which another process is reading.
    """

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        forwarding: Forwarding,
        drafts: Drafts,
        close_policy: ClosePolicy,
        staging: Staging | None,
        mailboxes: Mailboxes,
        apart: Apart,
    ) -> None:
        self.apart = apart
        self._staging = staging
        self._mailboxes = mailboxes
        self._store = store
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self._forwarding = forwarding
        self._drafts = drafts
        self._close_policy = close_policy

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Draft]:
        """open(2) with O_CREAT by thread *pid*.

        :raises Refused: the file can't be made.
        """
        return await self._folders.steadily(parent, lambda found: self._create(found, name, flags, pid))

    async def _create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Draft]:
        check_name(name)
        folder = await look_again(self._store, (await self._folders.seek(parent)).directory())
        box = mailbox_of(await self._mailboxes.need_mailbox(folder))
        await self._store.check(folder)
        await self._names.know(folder)
        if self._names.child(folder, name) is not None:
            raise Refused(errno.EISDIR)
        there, uid = self._drafts.lay(parent, name, pid), self._names.resolve(folder, name)
        if flags & os.O_EXCL and (there is not None or uid is not None):
            raise Refused(errno.EEXIST)
        while there is not None and (there.is_temporary or there.stage in (Stage.GHOST, Stage.STAGED)):
            if await self._is_there(there, flags):
                return self.opened(there, flags, pid), there
            there, uid = self._drafts.lay(parent, name, pid), self._names.resolve(folder, name)
        if uid is not None and self._staging is not None:
            self._staging.may_replace(folder, uid)
        truncates = bool(flags & os.O_TRUNC)
        draft = self._drafts.new(
            folder,
            name,
            uid=uid,
            base=await box.open(uid) if uid is not None and not truncates else None,
            exclusive=bool(flags & os.O_EXCL),
            appends=bool(flags & os.O_APPEND) and not truncates,
        )
        return self.opened(draft, flags, pid), draft

    async def hold(self, parent: int, name: bytes, pid: int) -> Draft:
        """mknod(2) of a regular file by thread *pid*: like a create that writes nothing.

        :raises Refused: the file can't be made.
        """
        return await self._folders.steadily(parent, lambda found: self._hold(found, name, pid))

    async def _hold(self, parent: int, name: bytes, pid: int) -> Draft:
        check_name(name)
        folder = (await self._folders.seek(parent)).directory()
        mailbox_of(await self._mailboxes.need_mailbox(folder))
        await self._store.check(folder)
        await self._names.know(folder)
        there = self._drafts.lay(parent, name, pid)
        if there is not None or self._names.resolve(folder, name) is not None:
            raise Refused(errno.EEXIST)
        draft = self._drafts.new(folder, name, exclusive=True)
        self._close_policy.hold(draft, pid)
        return draft

    async def open_draft(self, draft: Draft, flags: int, pid: int) -> Opened | None:
        """Open a draft; None: it is no draft any more."""
        return self.opened(draft, flags, pid) if await self._is_there(draft, flags) else None

    async def open_message(self, inode: int, flags: int, pid: int) -> Opened:
        """Open the message *inode*, or its replacement, for writing.

        :raises Refused: EACCES: it is a control file; ENOENT: it is gone; ESTALE: it is removed meanwhile, or
            is to be looked up again.
        """
        node = await self._folders.seek(self._forwarding.follow(inode))
        if node.is_control or node.inode == ROOT:
            raise Refused(errno.EACCES)
        now, body, _ = await self._forwarding.use(node.inode, Reader.body)
        try:
            folder = self._inodes.node(now.inode).directory()  # it may have been renamed meanwhile
            if self._is_removed(folder, now):  # a draft would bring it back
                raise Refused(errno.ESTALE)
            if self._staging is not None:
                self._staging.may_replace(folder, now.uid)
        except Refused:
            body.close()
            raise
        base = None if flags & os.O_TRUNC else body
        if self._drafts.emptied.take(inode, pid) or base is None:
            base = None
            body.close()
        name = self._names.name(folder, now.uid)
        if self.apart.is_needed(inode, pid):
            self.apart.put(now.inode, pid, self._drafts.new(folder, name, uid=now.uid, base=base))
            raise Refused(errno.ESTALE)
        draft = self._drafts.replacement(inode, folder, name, now.uid, base)
        return self.opened(draft, flags, pid)

    def _is_removed(self, folder: Folder, node: Node) -> bool:
        """Whether a message was removed, or is being removed, and none has replaced it."""
        box = folder.mailbox
        is_gone = box is not None and node.uid not in box and self._forwarding.heir(node.inode) == node
        return is_gone or node.uid in self._names.hidden(folder)

    async def _is_there(self, draft: Draft, flags: int) -> bool:
        """Wait until no task commits or ends a draft; whether it is still one then (O_TRUNC empties it)."""
        async with draft.lock:
            if self._drafts.by_inode(draft.inode) is not draft:
                return False
            if flags & os.O_TRUNC:
                draft.truncate(0)
            return True

    def opened(self, draft: Draft, flags: int, pid: int) -> Opened:
        """The answer to an OPEN: reads and writes go past the kernel's cache, so no reader gets a mixture."""
        self.apart.opened(draft)
        file = self._close_policy.open(draft, pid, append=bool(flags & os.O_APPEND))
        return Opened(file, direct_io=True, keep_cache=False)
