"""rename(2) in a writable mount.

A rename of a directory renames a mailbox.  A rename of a draft may commit it.  A rename of a message gives it
another name, or moves it to another mailbox.  A rename over a message replaces that message.

Locks: ``Draft.lock`` of the draft that is renamed; the locks of names that :mod:`dboxfs.vfs.changes` takes.
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
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.names import Names, check_name, tell_owner
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.staging import Staging

NOREPLACE = 1
"""RENAME_NOREPLACE of renameat2(2): refuse if the new name is taken."""


class RenameRequest:
    """Answers rename(2)."""

    def __init__(
        self,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        forwarding: Forwarding,
        drafts: Drafts,
        changes: MessageChanges,
        committer: Committer,
        mailboxes: Mailboxes,
        kernel: Kernel,
        staging: Staging | None,
    ) -> None:
        self._staging = staging
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self._forwarding = forwarding
        self._drafts = drafts
        self._changes = changes
        self._committer = committer
        self._mailboxes = mailboxes
        self._kernel = kernel

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2).

        :raises Refused: the rename is impossible, and nothing has changed.
        """

        async def rename(source: int) -> None:
            await self._folders.steadily(
                new_parent, lambda target: self._rename(source, old, target, new, flags, pid)
            )

        await self._folders.steadily(old_parent, rename)

    async def _rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        for parent in (old_parent, new_parent):
            await self._names.know((await self._folders.seek(parent)).directory())
        if flags & ~NOREPLACE:
            raise Refused(errno.EINVAL)
        check_name(new)
        source = self._inodes.node(old_parent).directory()
        target = self._inodes.node(new_parent).directory()
        replace = not flags & NOREPLACE
        draft = self._drafts.seen(old_parent, old, pid)
        other = self._drafts.lay(new_parent, new, pid)
        if not replace and other is not None and other is not draft:
            raise Refused(errno.EEXIST)
        child = self._names.child(source, old)
        self._over(target, new, replace=replace, directory=child is not None)
        if child is not None:
            await self._mailboxes.rename(child, target, new)
            return
        target = await self._changes.look_again(target)
        mailbox_of(target)
        if draft is not None:
            async with draft.lock:
                if self._drafts.by_name(old_parent, old) is draft and draft.uid is None:
                    await self._rename_draft(draft, target, new, replace=replace)
                    return
            # The draft was committed or removed meanwhile, or its name was given to another file.
        await self._changes.again(
            lambda: target,
            partial(self._rename_message, source, old, target, new, replace=replace),
            source=source,
        )
        if source is not target:  # the kernel moves the name with the inode, which is another one now
            self._kernel.entry(new_parent, new)

    def _over(self, target: Folder, new: bytes, *, replace: bool, directory: bool = False) -> int | None:
        """The message that a rename replaces; None: none.

        :raises Refused: the new name belongs to a file or directory that can't be replaced.
        """
        over = self._names.resolve(target, new)
        taken = self._names.child(target, new) is not None
        if not replace and (over is not None or taken):
            raise Refused(errno.EEXIST)
        if directory and over is not None:
            raise Refused(errno.ENOTDIR)
        if taken and not directory:
            raise Refused(errno.EISDIR)
        return over

    async def _rename_draft(self, draft: Draft, target: Folder, name: bytes, *, replace: bool) -> None:
        draft.check()
        over = self._over(target, name, replace=replace)
        if self._staging is not None and over is not None:
            self._staging.may_replace(target, over)
            if draft.is_staged:
                raise Refused(errno.EEXIST)
        was_temporary = draft.is_temporary
        before = self._drafts.rename(draft, target, name, over, takes=replace)
        is_file = was_temporary and not draft.is_temporary
        if is_file:
            try:
                if self._staging is not None and over is None:
                    if draft.dirty:
                        await self._staging.stage(draft)
                else:
                    await self._committer.commit(draft)
            except BaseException:
                self._drafts.not_renamed(draft, before)
                raise
        self._drafts.give_name(target, name, over, draft)
        if self._staging is not None and not (draft.is_staged or draft.is_temporary):
            self._staging.is_other_now(target, name)
        if is_file and not draft.handles:
            if draft.is_empty:
                self._drafts.haunt(draft)
            elif not draft.is_staged:
                self._drafts.drop(draft)

    async def _rename_message(
        self, source: Folder, old: bytes, target: Folder, new: bytes, *, replace: bool
    ) -> None:
        uid = self._names.resolve(source, old)
        if uid is None:
            uid = self._linked(source, old)
        if uid is None:
            raise Refused(errno.ENOENT)
        over = self._over(target, new, replace=replace)
        over = over if over != uid or source is not target else None
        if self._staging is not None and over is not None:
            self._staging.may_replace(target, over)
        followers, called = self._drafts.of_message(source, uid), self._names.name(source, uid)
        if source is target:
            await self._changes.rename(source, uid, called, new, over=over)
            now = uid
        else:
            now = await self._changes.move(source, uid, called, target, new, over=over)
        if not self._drafts.give_name(target, new, over) and over is not None:
            self._forwarding.became(self._inodes.message(target, over).inode, target, now)
        for draft in followers:  # a process that is writing the message goes on writing it
            self._drafts.follow(draft, target, new, now)
        self._drafts.unlink(self._inodes.of(source), old)
        await tell_owner(self._kernel, self._inodes, source, old, uid)

    def _linked(self, folder: Folder, name: bytes) -> int | None:
        """The message of this folder that a temporary with this name has become; None: none."""
        inode = self._drafts.linked(self._inodes.of(folder), name)
        now = self._forwarding.now(inode) if inode is not None else None
        return now.uid or None if now is not None and now.folder is folder else None
