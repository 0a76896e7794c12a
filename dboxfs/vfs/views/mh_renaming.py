"""rename(2) and link(2) in a writable MH view; their meaning: :mod:`dboxfs.vfs.views.mh_writing`.

A file that becomes a message is read and saved again.  If a program is still writing it, this is refused with
EBUSY: its next bytes would be lost.

Concurrency: the locks are those of the file system that the view is around.
"""

from __future__ import annotations

import errno
import os

from dboxfs.store import Folder
from dboxfs.store.names.of_mailbox import encode
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.changes import mailbox_of
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.rename import NOREPLACE
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.mh import MhView
from dboxfs.vfs.views.mh_editing import SequenceEdits
from dboxfs.vfs.views.mh_names import DELETED, MhName, name_of
from dboxfs.vfs.views.mh_numbering import MhNumbering
from dboxfs.vfs.views.mh_sequences import NAME
from dboxfs.vfs.views.places import is_foreign
from dboxfs.vfs.writable import WritableVfs


class MhMailboxes:
    """Steps that the requests about names in a mailbox share."""

    def __init__(
        self, view: MhView, inner: WritableVfs, numbering: MhNumbering, edits: SequenceEdits
    ) -> None:
        self._view = view
        self._inner = inner
        self._numbering = numbering
        self._edits = edits
        self._inodes = view.reading.inodes
        self._names = view.names

    async def mailbox(self, parent: int) -> Folder:
        """The mailbox of a directory, whose names are known then.

        :raises Refused: EPERM: there are no messages in this directory.
        """
        folder = (await self._view.reading.folders.checked(parent)).directory()
        mailbox_of(folder)
        await self._names.know(folder)
        return folder

    async def begin(self, folder: Folder, number: MhName, uid: int | None, attrs: Attrs, pid: int) -> None:
        """A file that will be a message was made: note the uid that it asks for, and its number."""
        if uid is not None and self._inodes.node(attrs.inode).is_draft:
            await self._inner.setxattr(attrs.inode, b"user.dbox.uid", b"%d" % uid)
        if self._names.resolve(folder, number) is None:
            self._edits.brings(self._inodes.of(folder), pid, number.number)

    def check_foreign(self, parent: int, name: bytes) -> None:
        """Check whether a program's file can have this name.

        :raises Refused: EPERM: no file can be there; EEXIST: a mailbox, or the view itself, has this name.
        """
        if is_foreign(parent):
            return
        if self._view.is_beside(parent):
            raise Refused(errno.EPERM)
        folder = self._inodes.node(parent).directory()
        if name == NAME or name_of(name) is not None or self._view.layout.child(folder, name) is not None:
            raise Refused(errno.EEXIST)

    def inner_name(self, folder: Folder, number: MhName) -> bytes:
        """The name without the view of the message or file with this number.

        :raises Refused: ENOENT: there is none.
        """
        uid = self._names.resolve(folder, number)
        if uid is not None:
            return self._names.inner(folder, uid)
        written = self._numbering.being_written(folder, number)
        if written is None:
            raise Refused(errno.ENOENT)
        return written


class MhRenames:
    """Answers rename and link."""

    def __init__(
        self,
        view: MhView,
        inner: WritableVfs,
        foreign: Foreign,
        numbering: MhNumbering,
        edits: SequenceEdits,
        there: MhMailboxes,
    ) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        self._numbering = numbering
        self._edits = edits
        self._there = there
        self._inodes = view.reading.inodes
        self._names = view.names

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2)."""
        if flags & ~NOREPLACE:
            raise Refused(errno.EINVAL)
        source = name_of(old) if self._is_for_messages(old_parent) else None
        target = name_of(new) if self._is_for_messages(new_parent) else None
        if source is not None:
            if target is None:  # mv would copy it, and take it out of the mail
                raise Refused(errno.EPERM)
            folders = await self._there.mailbox(old_parent), await self._there.mailbox(new_parent)
            await self._rename_message(folders[0], source, folders[1], target, flags, pid)
        elif self._view.is_beside(old_parent):
            if target is None:
                raise Refused(errno.EPERM)
            folder = await self._there.mailbox(new_parent)
            self._numbering.check_below(target, mailbox_of(folder).uid_next)
            inner = self._numbering.free(folder, target)
            await self._inner.rename(old_parent, old, self._inodes.of(folder), inner, flags, pid)
        elif not is_foreign(old_parent) and old == NAME:
            raise Refused(errno.EPERM)
        else:
            await self._rename_foreign(old_parent, old, new_parent, new, flags, pid)

    def _is_for_messages(self, parent: int) -> bool:
        """Whether a number in this directory is a message."""
        return not is_foreign(parent) and not self._view.is_beside(parent)

    async def _rename_foreign(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """A mailbox, or a file or directory of a program, which may become a message."""
        if not is_foreign(old_parent) and await self._rename_mailbox(
            old_parent, old, new_parent, new, flags, pid
        ):
            return
        target = name_of(new) if self._is_for_messages(new_parent) else None
        if target is None and (is_foreign(new_parent) or new != NAME):
            self._there.check_foreign(new_parent, new)
            await self._foreign.rename(old_parent, old, new_parent, new, noreplace=bool(flags & NOREPLACE))
            return
        folder, inode = (
            await self._there.mailbox(new_parent),
            (await self._foreign.lookup(old_parent, old)).inode,
        )
        content = await self._foreign.content(inode)
        if target is not None:
            await self._save(folder, target, content, pid, replace=not flags & NOREPLACE)
        else:
            await self._edits.replaced(self._inodes.of(folder), content, pid)
        await self._foreign.unlink(old_parent, old)

    async def _rename_mailbox(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> bool:
        """Rename a mailbox; False: *old* is none."""
        folder = self._inodes.node(old_parent).directory()
        child = self._view.layout.child(folder, old)
        if child is None or child.parent is None:
            return False
        wanted = self._view.layout.target(self._inodes.node(new_parent).directory(), new)
        if wanted is None:
            raise Refused(errno.EINVAL)
        parents = self._inodes.of(child.parent), self._inodes.of(wanted.parent)
        await self._inner.rename(parents[0], encode(child.shown), parents[1], wanted.name, flags, pid)
        return True

    async def _save(self, folder: Folder, number: MhName, content: bytes, pid: int, *, replace: bool) -> None:
        """Make a message of a file, or replace one by it; returns when it is on disk.

        :raises Refused: EEXIST: a message has this number, and is not to be replaced.
        """
        inode, uid = self._inodes.of(folder), self._names.resolve(folder, number)
        if not content:
            raise Refused(errno.EINVAL)
        if uid is not None:
            if not replace:
                raise Refused(errno.EEXIST)
            flags = os.O_WRONLY | os.O_TRUNC
            opened = await self._inner.open(inode | uid, flags, pid)
        else:
            wish, inner = self._numbering.wish(folder, number), self._numbering.free(folder, number)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            opened, attrs = await self._inner.create(inode, inner, flags, pid)
            await self._there.begin(folder, number, wish, attrs, pid)
        try:
            await opened.file.write(content, 0)
            await opened.file.flush()
        finally:
            await opened.file.release()

    async def _rename_message(
        self, source: Folder, old: MhName, target: Folder, new: MhName, flags: int, pid: int
    ) -> None:
        uid, inner = self._names.resolve(source, old), self._there.inner_name(source, old)
        seen = as_seen(source)
        inodes = self._inodes.of(source), self._inodes.of(target)
        if source is target and old == new:
            return
        is_there = self._names.resolve(target, new) is not None
        if is_there and flags & NOREPLACE:
            raise Refused(errno.EEXIST)
        if uid is None or source is not target:  # a file that is being written, or a move
            if new.removed:
                raise Refused(errno.EINVAL)
            self._numbering.check_below(new, mailbox_of(target).uid_next)
            name = self._there.inner_name(target, new) if is_there else self._numbering.free(target, new)
            await self._inner.rename(inodes[0], inner, inodes[1], name, flags, pid)
            return
        self._numbering.check_below(new, uid)
        if new.removed and not old.removed:
            if is_there:  # which was removed before
                await self._inner.unlink(inodes[0], self._there.inner_name(target, new), pid)
            with seen:
                await self._mark_deleted(source, uid, deleted=True)
            is_there = False
        name = self._there.inner_name(target, new) if is_there else self._numbering.free(target, new, uid)
        await self._inner.rename(inodes[0], inner, inodes[0], name, flags, pid)
        if old.removed and not new.removed:
            with seen:
                await self._mark_deleted(source, uid, deleted=False)

    async def _mark_deleted(self, folder: Folder, uid: int, *, deleted: bool) -> None:
        add, remove = (DELETED, 0) if deleted else (0, DELETED)
        await self._inner.writer.set_flags(folder.name, [uid], add=add, remove=remove)
        await self._view.reading.store.see(folder)

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs | None:
        """link(2) by thread *pid*; gives the attributes of what is new; None: they are to be looked up."""
        target = name_of(new) if self._is_for_messages(new_parent) else None
        if not is_foreign(inode):
            if target is None or target.removed:
                raise Refused(errno.EPERM)
            folder = await self._there.mailbox(new_parent)
            self._numbering.check_below(target, mailbox_of(folder).uid_next)
            name = self._numbering.free(folder, target)
            return await self._inner.link(inode, self._inodes.of(folder), name, pid)
        if target is None and (is_foreign(new_parent) or new != NAME):
            self._there.check_foreign(new_parent, new)
            return await self._foreign.link(inode, new_parent, new)
        folder, content = await self._there.mailbox(new_parent), await self._foreign.content(inode)
        if target is not None:
            await self._save(folder, target, content, pid, replace=False)
        elif not self._edits.hides(self._inodes.of(folder)):
            raise Refused(errno.EEXIST)
        else:
            await self._edits.replaced(self._inodes.of(folder), content, pid)
        return None
