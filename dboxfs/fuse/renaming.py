"""rename(2), link(2) and unlink(2) in a writable mount.

A rename of a directory renames a mailbox.  A file is an upload, whose new name may commit it, or a message,
which gets another name or is moved to another mailbox.  Over a message: it is replaced.

The second name of a message, ``<uid>.eml`` beside a written one, is not the message's to lose: unlink hides
it as long as the mount lasts.
"""

from __future__ import annotations

import errno

import pyfuse3
from pyfuse3 import FUSEError

from dboxfs.fuse.commits import check_name
from dboxfs.fuse.inodes import UID_MASK
from dboxfs.fuse.mailboxes import Mailboxes
from dboxfs.fuse.names import decode
from dboxfs.fuse.shared import Shared
from dboxfs.fuse.uploads import Upload
from dboxfs.store import Folder


class Renaming:
    """See the module."""

    def __init__(self, shared: Shared, mailboxes: Mailboxes) -> None:
        self._shared = shared
        self._uploads = shared.uploads
        self._commits = shared.commits
        self._inodes = shared.inodes
        self._mailboxes = mailboxes
        self._unlinked: set[tuple[int, bytes]] = set()

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
        upload = self._uploads.seen(old_parent, old, pid)
        child = source.children.get(decode(old))
        over = self._shared.own(target, new)
        taken = target.children.get(decode(new)) is not None
        if flags & pyfuse3.RENAME_NOREPLACE:
            other = self._uploads.lay(new_parent, new, pid)
            if over is not None or taken or (other is not None and other is not upload):
                raise FUSEError(errno.EEXIST)
        if child is not None:
            if over is not None:
                raise FUSEError(errno.ENOTDIR)
            await self._mailboxes.rename(child, target, new)
            return
        if taken:
            raise FUSEError(errno.EISDIR)
        self._commits.box(target)
        if upload is not None:
            await self._rename_upload(upload, target, new, over)
        else:
            await self._rename_message(source, old, target, new, over)
        self._shared.notifier.entry(new_parent, new)

    async def _rename_upload(self, upload: Upload, target: Folder, name: bytes, over: int | None) -> None:
        async with upload.lock:
            upload.check()
            was_temporary, before = upload.temporary, (upload.folder, upload.name, upload.uid)
            self._uploads.rename(upload, target, name, over)
            if was_temporary and not upload.temporary:
                try:
                    await self._commits.commit(upload)
                except BaseException:  # nothing has changed: neither its name, and it may be tried again
                    self._uploads.rename(upload, *before)
                    upload.failed = 0
                    raise
            self._uploads.give_name(target, name, over, upload)
            if was_temporary and not upload.temporary and not upload.handles:
                if upload.uid is None and not upload.size:
                    self._uploads.haunt(upload)
                else:
                    self._uploads.drop(upload)

    async def _rename_message(
        self, source: Folder, old: bytes, target: Folder, new: bytes, over: int | None
    ) -> None:
        uid = self._shared.resolve(source, old)
        if uid is None:
            uid = self._linked(source, old)
        if uid is None:
            raise FUSEError(errno.ENOENT)
        over = over if over != uid or source is not target else None
        followers = self._uploads.of_message(source, uid)
        if source is target:
            await self._commits.rename(source, uid, new, over=over)
            now = uid
        else:
            now = await self._commits.move(source, uid, target, new, over=over)
        self._uploads.give_name(target, new, over)
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
        if self._shared.own(target, new) is not None or self._uploads.lay(new_parent, new, pid) is not None:
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
                uid = await self._commits.save(target, upload, new, replaces=None)
                self._uploads.link(upload, self._inodes.of(target) | uid)
                if not upload.discarded:  # what is written now changes the message
                    self._commits.became(upload.inode, target, uid)
                    self._uploads.rename(upload, target, new, uid)
                    upload.committed(uid)
                return target, uid
        now = self._commits.follow(inode)
        if now >> 32 == 0 or not now & UID_MASK:
            raise FUSEError(errno.EPERM)
        return target, await self._commits.copy(self._shared.folder(now), now & UID_MASK, target, new)

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
        if self._shared.own(folder, name) is None:
            self._unlinked.add((parent, name))
            return
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

    def is_hidden(self, parent: int, name: bytes) -> bool:
        """A second name that was taken away, or that an editor expects to be free."""
        if not parent >> 32:
            return False
        folder = self._shared.folder(parent)
        if (parent, name) not in self._unlinked and not self._commits.is_given_up(folder, name):
            return False
        return self._shared.own(folder, name) is None and folder.children.get(decode(name)) is None
