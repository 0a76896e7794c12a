"""rename(2), link(2) and unlink(2) in a writable mount.

A rename of a directory renames a mailbox.  A file is an upload, whose new name may commit it, or a message,
which gets another name or is moved to another mailbox.  Over a message: it is replaced.
"""

from __future__ import annotations

import errno
from functools import partial

import pyfuse3
from pyfuse3 import FUSEError

from dboxfs.store import Folder
from dboxfs.store.names.table import decode
from dboxfs.vfs.commit import check_name
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.node import UID_MASK
from dboxfs.vfs.shared import Shared


class Renaming:
    """See the module."""

    def __init__(self, shared: Shared, mailboxes: Mailboxes) -> None:
        self._shared = shared
        self._uploads = shared.uploads
        self._commits = shared.commits
        self._inodes = shared.inodes
        self._mailboxes = mailboxes

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2).

        :raises FUSEError: it can't be done, and nothing has changed.
        """
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        check_name(new)
        source, target = self._shared.folder(old_parent), self._shared.folder(new_parent)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        upload = self._uploads.seen(old_parent, old, pid)
        other = self._uploads.lay(new_parent, new, pid)
        if not replace and other is not None and other is not upload:
            raise FUSEError(errno.EEXIST)
        child = source.children.get(decode(old))
        if child is not None:
            self._over(target, new, replace=replace, directory=True)
            await self._mailboxes.rename(child, target, new)
            return
        self._over(target, new, replace=replace)
        self._commits.box(target)
        if upload is not None:
            await self._rename_upload(upload, target, new, replace=replace)
            return
        await self._commits.again(
            lambda: target, lambda: self._rename_message(source, old, target, new, replace=replace)
        )
        if source is not target:  # the kernel moves the name with the inode, which is another one now
            self._shared.notifier.entry(new_parent, new)

    def _over(self, target: Folder, new: bytes, *, replace: bool, directory: bool = False) -> int | None:
        """The message that a rename goes over; None: none.

        :raises FUSEError: something is there that it can't go over.
        """
        over = self._shared.resolve(target, new)
        taken = target.children.get(decode(new)) is not None
        if not replace and (over is not None or taken):
            raise FUSEError(errno.EEXIST)
        if directory and over is not None:
            raise FUSEError(errno.ENOTDIR)
        if taken and not directory:
            raise FUSEError(errno.EISDIR)
        return over

    async def _rename_upload(self, upload: Upload, target: Folder, name: bytes, *, replace: bool) -> None:
        async with upload.lock:
            upload.check()
            over = self._over(target, name, replace=replace)
            was_temporary, before = upload.temporary, (upload.folder, upload.name, upload.uid)
            self._uploads.rename(upload, target, name, over)
            upload.renamed = replace
            if was_temporary and not upload.temporary:
                try:
                    await self._commits.commit(upload)
                except BaseException:  # nothing has changed: neither its name, and it may be tried again
                    self._uploads.rename(upload, *before)
                    upload.failed, upload.renamed = 0, False
                    raise
            self._uploads.give_name(target, name, over, upload)
            if was_temporary and not upload.temporary and not upload.handles:
                if upload.uid is None and not upload.size:
                    self._uploads.haunt(upload)
                else:
                    self._uploads.drop(upload)

    async def _rename_message(
        self, source: Folder, old: bytes, target: Folder, new: bytes, *, replace: bool
    ) -> None:
        uid = self._shared.resolve(source, old)
        if uid is None:
            uid = self._linked(source, old)
        if uid is None:
            raise FUSEError(errno.ENOENT)
        over = self._over(target, new, replace=replace)
        over = over if over != uid or source is not target else None
        followers = self._uploads.of_message(source, uid)
        if source is target:
            await self._commits.rename(source, uid, new, over=over)
            now = uid
        else:
            now = await self._commits.move(source, uid, target, new, over=over)
        if not self._uploads.give_name(target, new, over) and over is not None:
            self._commits.became(self._inodes.of(target) | over, target, now)
        for upload in followers:  # whoever writes it goes on writing it
            self._uploads.rename(upload, target, new, now)
        self._uploads.unlink(self._inodes.of(source), old)

    def _linked(self, folder: Folder, name: bytes) -> int | None:
        """The message of this folder that a temporary of this name has become."""
        inode = self._uploads.linked(self._inodes.of(folder), name)
        now = self._commits.follow(inode) if inode is not None else 0
        return now & UID_MASK if self._inodes.folder(now) is folder and now & UID_MASK else None

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> tuple[Folder, int | Upload]:
        """link(2) by thread *pid*; gives the folder and uid of the new message, or the name of nothing yet.

        :raises FUSEError: it can't be done, and nothing has changed.
        """
        check_name(new)
        target = self._shared.folder(new_parent)
        self._commits.box(target)
        self._check_free(target, new)
        if self._uploads.lay(new_parent, new, pid) is not None:
            raise FUSEError(errno.EEXIST)
        upload = self._uploads.by_inode(inode)
        if upload is not None and self._uploads.is_empty(upload):
            ghost = self._uploads.new(target, new)
            ghost.creator = upload.creator
            self._uploads.haunt(ghost)
            return target, ghost
        if upload is not None and upload.uid is None:
            if new.startswith(b"."):
                raise FUSEError(errno.EOPNOTSUPP)
            if not upload.temporary:  # both names would show a part of it
                raise FUSEError(errno.EBUSY)
            async with upload.lock:
                uid = await self._commits.again(lambda: target, partial(self._save, upload, target, new))
                self._uploads.link(upload, self._inodes.of(target) | uid)
                if not upload.discarded:  # what is written now changes the message
                    self._commits.became(upload.inode, target, uid)
                    self._uploads.rename(upload, target, new, uid)
                    upload.committed(uid)
                return target, uid
        now = self._commits.follow(inode)
        if now >> 32 == 0 or not now & UID_MASK:
            raise FUSEError(errno.EPERM)
        source, uid = self._shared.folder(now), now & UID_MASK
        return target, await self._commits.again(
            lambda: target, partial(self._copy, source, uid, target, new)
        )

    def _check_free(self, target: Folder, name: bytes) -> None:
        """
        :raises FUSEError: EEXIST: a message or a mailbox has this name.
        """
        if decode(name) in target.children or self._shared.resolve(target, name) is not None:
            raise FUSEError(errno.EEXIST)

    async def _save(self, upload: Upload, target: Folder, name: bytes) -> int:
        self._check_free(target, name)
        await upload.renew()
        return await self._commits.save(target, upload, name, replaces=None)

    async def _copy(self, source: Folder, uid: int, target: Folder, name: bytes) -> int:
        self._check_free(target, name)
        return await self._commits.copy(source, uid, target, name)

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*.

        :raises Exception: what the expunge, or an earlier one, has met.
        """
        upload = self._uploads.seen(parent, name, pid)
        if upload is not None:
            async with upload.lock:
                self._uploads.discard(upload)
            if upload.uid is None:
                return
        folder = self._shared.folder(parent)
        uid = self._shared.resolve(folder, name)
        if uid is None and self._uploads.unlink(parent, name):
            return
        if uid is None:
            raise FUSEError(errno.ENOENT)
        writers = self._uploads.of_message(folder, uid)
        for writer in writers:
            writer.discarded = True
        try:
            await self._shared.removals.remove(folder, uid)
        except BaseException:
            for writer in writers:
                writer.discarded = False
            raise
        for writer in writers:
            self._uploads.discard(writer)
