"""The Maildir view, written (``-o rw,view=maildir``): how a change of a name changes the mail.

=================================  =======================================================================
a program does                     the store does
=================================  =======================================================================
create in ``tmp/``                 a file of the mount that is no message (a temporary draft,
                                   ``.tmp.<name>``)
rename or link from ``tmp/`` to    the delivery: one commit, with the flags and keywords of the name; the
``cur/`` or ``new/``               base is the message's written name
create in ``cur/`` or ``new/``     the same at the last close
rename in a mailbox                written name (the base, or that it is in ``cur/``), then flags, then
                                   keywords
rename to another mailbox          MOVE with the written name, then flags and keywords that differ
link of a message                  COPY with the written name, then the same
unlink                             expunge
mkdir, rmdir, rename of a          create, delete, rename a mailbox
directory
=================================  =======================================================================

Each step is a transaction of its own.  A crash leaves the message with some of the steps done; no step
removes the message.  A change of letters adds and removes the flags and keywords that differ between the old
name and the new one.  Flags that another program has changed meanwhile stay.

A base is given once in a mailbox: a second name with it is refused with EEXIST.

Concurrency: the locks are those of the file system that the view is around.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from dboxfs.store import Folder
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.changes import mailbox_of
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.rename import NOREPLACE
from dboxfs.vfs.views.by_inode import WrittenByInode
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.letters import Marks, split
from dboxfs.vfs.views.listing import Entry, MessageDirectory
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.maildir_directories import MaildirDirectories
from dboxfs.vfs.views.maildir_names import written_name
from dboxfs.vfs.views.places import MaildirPlace, Sub, is_foreign, place_of
from dboxfs.vfs.views.wishes import MaildirWishes
from dboxfs.vfs.writable import WritableVfs

TMP = b".tmp."
"""What the name of a file in ``tmp/`` begins with where no view is: it is no message before a rename."""


class WritableMaildirView:
    """Answers the requests of a writable mount with ``view=maildir``.

    :param view: the same, to be read.
    :param inner: the writable file system without the view.
    :param foreign: the files that programs keep beside the mail.
    """

    def __init__(self, view: MaildirView, inner: WritableVfs, foreign: Foreign) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        by_inode = WrittenByInode(view, inner, foreign)
        self.getxattr, self.listxattr = by_inode.getxattr, by_inode.listxattr
        self.setxattr, self.removexattr = by_inode.setxattr, by_inode.removexattr
        self.opendir, self.statfs = by_inode.opendir, by_inode.statfs
        self._directories = MaildirDirectories(view, inner, foreign)
        self._inodes = view.reading.inodes
        self._names = view.names
        self._given = MaildirWishes(view, inner)
        view.temporaries = self._temporaries
        view.hides = self._directories.hides
        view.more = foreign.entries

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The file or directory of this name in the directory *parent*, for thread *pid*.

        :raises Refused: ENOENT: there is none.
        """
        place = place_of(parent)
        if place is None:
            return await self._lookup_beside(parent, name, pid)
        if place.sub is Sub.TMP:
            return await self._inner.lookup(place.folder, TMP + name, pid)
        try:
            return await self._view.lookup(parent, name, pid)
        except Refused as exc:
            if exc.errno != errno.ENOENT:
                raise
        return await self._draft(place, name, pid)

    async def _lookup_beside(self, parent: int, name: bytes, pid: int) -> Attrs:
        if is_foreign(parent):
            return await self._foreign.lookup(parent, name)
        try:
            return await self._view.lookup(parent, name, pid)
        except Refused as exc:
            if exc.errno != errno.ENOENT or self._view.is_beside(parent):
                raise
        return await self._foreign.lookup(parent, name)

    async def _draft(self, place: MaildirPlace, name: bytes, pid: int) -> Attrs:
        """The file that the process is writing in ``cur/`` or ``new/`` and that is no message yet.

        :raises Refused: ENOENT: there is none.
        """
        found = await self._inner.lookup(place.folder, _draft_name(place.sub, name), pid)
        if not self._inodes.node(found.inode).is_draft and not name.startswith(b"."):
            raise Refused(errno.ENOENT)
        return found

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*."""
        return await (self._foreign if is_foreign(inode) else self._view).getattr(inode, pid)

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        """See :meth:`dboxfs.vfs.writable.WritableVfs.setattr`."""
        if is_foreign(inode):
            return await self._foreign.setattr(inode, size, received)
        if place_of(inode) is None and self._inodes.node(inode).uid | self._inodes.node(inode).is_draft:
            return await self._inner.setattr(inode, size, received, file, pid)
        return await self.getattr(inode, pid)

    async def _temporaries(self, place: MaildirPlace) -> Sequence[Entry]:
        found = []
        folder = self._inodes.node(place.folder).folder
        if place.sub is Sub.TMP and folder is not None:
            for draft in self._inner.drafts.of_folder(folder):
                if draft.name.startswith(TMP) and draft.is_temporary:
                    found.append((draft.name.removeprefix(TMP), await self._inner.getattr(draft.inode)))
        return found

    # -- files ---------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT by thread *pid*.

        :raises Refused: it can't be made.
        """
        place = place_of(parent)
        if place is None:
            return await self._foreign.create(await self._foreign_parent(parent, name), name, flags)
        wanted = None if _is_temporary(place, name) else await self._given.wanted(place, name)
        inner = wanted.inner if wanted is not None else _temporary_name(place, name)
        opened, attrs = await self._inner.create(place.folder, inner, flags, pid)
        if wanted is not None:
            await self._given.bring(attrs.inode, wanted.marks)
        return opened, attrs

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs:
        """mknod(2) of a regular file by thread *pid*.

        :raises Refused: it can't be made.
        """
        place = place_of(parent)
        if place is None:
            opened, attrs = await self._foreign.create(
                await self._foreign_parent(parent, name), name, os.O_CREAT | os.O_EXCL
            )
            await opened.file.release()
            return attrs
        wanted = None if _is_temporary(place, name) else await self._given.wanted(place, name)
        inner = wanted.inner if wanted is not None else _temporary_name(place, name)
        attrs = await self._inner.mknod(place.folder, inner, pid)
        if wanted is not None:
            await self._given.bring(attrs.inode, wanted.marks)
        return attrs

    async def _foreign_parent(self, parent: int, name: bytes) -> int:
        """The directory in which a foreign file is made.

        :raises Refused: EPERM: it is no directory for files; EEXIST: the view needs the name for itself.
        """
        if not is_foreign(parent):
            self._directories.check_foreign(parent, name)
        return parent

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """open(2) of a file by thread *pid*."""
        if is_foreign(inode):
            return await self._foreign.open(inode, flags)
        return await self._view.open(inode, flags, pid)

    async def fsyncdir(self, directory: OpenDirectory) -> None:
        """Return when all removals from a directory are on disk."""
        if isinstance(directory, MessageDirectory):
            await self._inner.removals.finish(directory.folder)
        else:
            await self._inner.fsyncdir(directory)

    # -- unlink, rename, link ------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*: an expunge; in ``tmp/`` the end of a file that is no message."""
        place = place_of(parent)
        if place is None and self._view.is_beside(parent):
            await self._inner.unlink(parent, name, pid)
        elif place is None:
            await self._foreign.unlink(parent, name)
        elif _is_temporary(place, name):
            await self._inner.unlink(place.folder, _temporary_name(place, name), pid)
        else:
            folder = await self._view.checked(place)
            uid = await self._names.resolve(folder, place.sub, name)
            if uid is None:
                await self._inner.unlink(place.folder, _draft_name(place.sub, name), pid)
                return
            with self._view.moving(folder, uid):
                await self._inner.unlink(place.folder, self._names.inner(folder, uid), pid)
                self._view.has_moved(folder, uid, None)

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2)."""
        source, target = place_of(old_parent), place_of(new_parent)
        if flags & ~NOREPLACE:
            raise Refused(errno.EINVAL)
        if source is None and target is None:
            await self._rename_beside(old_parent, old, new_parent, new, flags, pid)
        elif target is None:
            raise Refused(errno.EXDEV)
        elif source is None:
            if not self._view.is_beside(old_parent):  # mv copies it, and that is a delivery
                raise Refused(errno.EXDEV)
            wanted = await self._given.wanted(target, new)
            await self._inner.rename(old_parent, old, target.folder, wanted.inner, flags, pid)
        elif _is_temporary(source, old):
            await self._deliver(source, old, target, new, flags, pid)
        else:
            await self._rename_message(source, old, target, new, flags, pid)

    async def _rename_beside(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        if not is_foreign(old_parent) and await self._directories.rename(
            old_parent, old, new_parent, new, flags, pid
        ):
            return
        if not is_foreign(new_parent):
            self._directories.check_foreign(new_parent, new)
        await self._foreign.rename(old_parent, old, new_parent, new, noreplace=bool(flags & NOREPLACE))

    async def _deliver(
        self, source: MaildirPlace, old: bytes, target: MaildirPlace, new: bytes, flags: int, pid: int
    ) -> None:
        """Give a file that is no message another name, which may make it a message."""
        inner = _temporary_name(source, old)
        if _is_temporary(target, new):
            await self._inner.rename(
                source.folder, inner, target.folder, _temporary_name(target, new), flags, pid
            )
            return
        wanted = await self._given.wanted(target, new, replace=not flags & NOREPLACE)
        inode = (await self._inner.lookup(source.folder, inner, pid)).inode
        if self._inodes.node(inode).is_draft:
            await self._given.bring(inode, wanted.marks)
        await self._inner.rename(source.folder, inner, target.folder, wanted.inner, flags, pid)

    async def _rename_message(
        self, source: MaildirPlace, old: bytes, target: MaildirPlace, new: bytes, flags: int, pid: int
    ) -> None:
        folder = await self._view.checked(source)
        uid = await self._names.resolve(folder, source.sub, old)
        if uid is None:  # a file that is being written
            inner = _draft_name(source.sub, old)
            wanted = await self._given.wanted(target, new, replace=not flags & NOREPLACE)
            await self._inner.rename(source.folder, inner, target.folder, wanted.inner, flags, pid)
            return
        if _is_temporary(target, new):
            raise Refused(errno.EPERM)
        before, seen = self._names.marks(mailbox_of(folder), uid), as_seen(folder)
        after = before if split(new)[1] == split(old)[1] else self._given.said(folder, new)
        with self._view.moving(folder, uid):
            if source.folder == target.folder:
                await self._rename_here(folder, uid, (source.sub, old), (target.sub, new), after, flags, pid)
                with seen:
                    await self._given.mark(folder, uid, before, after)
                self._view.has_moved(folder, uid, target, new)
            else:
                wanted = await self._given.wanted(target, new, replace=not flags & NOREPLACE, marks=after)
                inner = self._names.inner(folder, uid)
                await self._inner.rename(source.folder, inner, target.folder, wanted.inner, flags, pid)
                self._view.has_moved(folder, uid, None)
                await self._given.mark_by_name(wanted, before)
        if source.folder != target.folder:  # the kernel moves the name with the inode, which is another one
            self._view.look_up_again(target, new)

    async def _rename_here(
        self,
        folder: Folder,
        uid: int,
        old: tuple[Sub, bytes],
        new: tuple[Sub, bytes],
        after: Marks,
        flags: int,
        pid: int,
    ) -> None:
        """Give a message the written name that puts it into the directory of its new name, if its own
        doesn't.
        """
        inode, inner = self._inodes.of(folder), self._names.inner(folder, uid)
        (old_sub, old_name), (new_sub, new_name) = old, new
        base = split(new_name)[0]
        if base != split(old_name)[0]:
            wanted = await self._given.wanted(
                MaildirPlace(inode, new_sub), new_name, replace=not flags & NOREPLACE
            )
            written: bytes | None = wanted.inner
        else:
            written = self._names.written_to_be_in(folder, uid, old_sub, new_sub, base, after)
        if written is not None and written != inner:
            await self._inner.rename(inode, inner, inode, written, flags, pid)

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs:
        """link(2) by thread *pid*: a delivery, or a copy of a message; gives the attributes of the new
        message.
        """
        target = place_of(new_parent)
        if target is None or is_foreign(inode) or _is_temporary(target, new):
            raise Refused(errno.EPERM)
        wanted = await self._given.wanted(target, new)
        is_draft = self._inodes.node(inode).is_draft
        before = None
        if is_draft:
            await self._given.bring(inode, wanted.marks)
        else:
            node = self._view.reading.forwarding.now(inode)
            before = self._names.marks(node.mailbox(), node.uid)
        attrs = await self._inner.link(inode, target.folder, wanted.inner, pid)
        if before is not None:
            await self._given.mark_by_name(wanted, before)
        attrs.entry_timeout = 0.0
        return attrs

    # -- directories ---------------------------------------------------------------------------

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """mkdir(2): a mailbox, one of its own directories, or a directory that a program keeps."""
        return await self._directories.mkdir(parent, name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2)."""
        await self._directories.rmdir(parent, name)


def _is_temporary(place: MaildirPlace, name: bytes) -> bool:
    """Whether a file of this name is no message: in ``tmp/``, or with a dot (rsync)."""
    return place.sub is Sub.TMP or name.startswith(b".")


def _temporary_name(place: MaildirPlace, name: bytes) -> bytes:
    return TMP + name if place.sub is Sub.TMP else name


def _draft_name(sub: Sub, name: bytes) -> bytes:
    """The name without the view of a file that is being written in ``cur/`` or ``new/``."""
    return name if name.startswith(b".") else written_name(sub, split(name)[0])
