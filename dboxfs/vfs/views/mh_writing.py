"""The MH view, written (``-o rw,view=mh``): how a change of a name changes the mail.

=====================================  ===================================================================
a program does                         the store does
=====================================  ===================================================================
create, mknod of a number              a message at the last close (:mod:`dboxfs.vfs.views.mh_numbering`)
rename, link of another file to a      a message with its bytes, on disk when the call returns; behind a
number                                 rename the file goes, last
rename to a number that a message has  of another file: a replacement
rename of a message to ``,N``          \\Deleted, then the written name ``,N``
rename from ``,N`` to a number         the written name, then without \\Deleted
rename to another number               the written name
rename to another mailbox              MOVE
link of a message                      COPY
unlink                                 expunge, of ``,N`` too
a write of ``.mh_sequences``           :mod:`dboxfs.vfs.views.mh_editing`
mkdir, rmdir, rename of a directory    create, delete, rename a mailbox
=====================================  ===================================================================

Every other name is that of a file which a program keeps (:mod:`dboxfs.vfs.views.foreign`).  A message can't
be renamed to such a name.

Concurrency: the locks are those of the file system that the view is around.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from dboxfs.store import Folder
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.views.by_inode import WrittenByInode
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.listing import Entry
from dboxfs.vfs.views.mh import MhDirectory, MhView
from dboxfs.vfs.views.mh_editing import SequenceEdits
from dboxfs.vfs.views.mh_names import MhName, name_of
from dboxfs.vfs.views.mh_numbering import MhNumbering
from dboxfs.vfs.views.mh_renaming import MhMailboxes, MhRenames
from dboxfs.vfs.views.mh_sequences import NAME
from dboxfs.vfs.views.places import is_foreign, place_of
from dboxfs.vfs.writable import WritableVfs


class WritableMhView:
    """Answers the requests of a writable mount with ``view=mh``.

    :param view: the same, to be read.
    :param inner: the writable file system without the view.
    :param foreign: the files that programs keep beside the mail.
    """

    def __init__(self, view: MhView, inner: WritableVfs, foreign: Foreign) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        by_inode = WrittenByInode(view, inner, foreign)
        self.getxattr, self.listxattr = by_inode.getxattr, by_inode.listxattr
        self.setxattr, self.removexattr = by_inode.setxattr, by_inode.removexattr
        self.opendir, self.statfs = by_inode.opendir, by_inode.statfs
        self._inodes = view.reading.inodes
        self._names = view.names
        self._numbering = MhNumbering(view.names, inner, self._inodes)
        self._edits = SequenceEdits(view, inner, foreign)
        self._there = MhMailboxes(view, inner, self._numbering, self._edits)
        self._renames = MhRenames(view, inner, foreign, self._numbering, self._edits, self._there)
        view.hides = self._edits.hides
        view.more = self._kept

    async def _kept(self, inode: int) -> Sequence[Entry]:
        """The files that programs keep in a directory."""
        return [(name, attrs) for name, attrs in await self._foreign.entries(inode) if name != NAME]

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The file or directory of this name in the directory *parent*, for thread *pid*.

        :raises Refused: ENOENT: there is none.
        """
        if is_foreign(parent):
            return await self._foreign.lookup(parent, name)
        try:
            found = await self._view.lookup(parent, name, pid)
        except Refused as exc:
            if exc.errno != errno.ENOENT or self._view.is_beside(parent) or name == NAME:
                raise
            return await self._lookup_no_message(parent, name, pid)
        if name == NAME and place_of(found.inode) is not None:
            return await self._edits.attrs(parent, pid)
        return found

    async def _lookup_no_message(self, parent: int, name: bytes, pid: int) -> Attrs:
        number = name_of(name)
        if number is None:
            return await self._foreign.lookup(parent, name)
        folder = self._inodes.node(parent).directory()
        inner = self._numbering.being_written(folder, number)
        if inner is None:
            raise Refused(errno.ENOENT)
        return await self._inner.lookup(self._inodes.of(folder), inner, pid)

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*."""
        place = place_of(inode)
        if place is not None:
            return await self._edits.attrs(place.folder, pid)
        return await (self._foreign if is_foreign(inode) else self._view).getattr(inode, pid)

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        """See :meth:`dboxfs.vfs.writable.WritableVfs.setattr`."""
        place = place_of(inode)
        if place is not None:
            return await self._edits.setattr(place.folder, size, file, pid)
        if is_foreign(inode):
            return await self._foreign.setattr(inode, size, received)
        return await self._inner.setattr(inode, size, received, file, pid)

    # -- files ---------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT by thread *pid*.

        :raises Refused: it can't be made.
        """
        number = name_of(name) if not is_foreign(parent) else None
        if number is not None:
            folder = await self._there.mailbox(parent)
            inner, uid = self._new(folder, number)
            opened, attrs = await self._inner.create(self._inodes.of(folder), inner, flags, pid)
            await self._there.begin(folder, number, uid, attrs, pid)
            return opened, attrs
        if name == NAME and not is_foreign(parent):
            return await self._edits.create(self._inodes.of(await self._there.mailbox(parent)), flags, pid)
        self._there.check_foreign(parent, name)
        return await self._foreign.create(parent, name, flags)

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs:
        """mknod(2) of a regular file by thread *pid*.

        :raises Refused: it can't be made.
        """
        number = name_of(name) if not is_foreign(parent) else None
        if number is not None:
            folder = await self._there.mailbox(parent)
            inner, uid = self._new(folder, number)
            attrs = await self._inner.mknod(self._inodes.of(folder), inner, pid)
            await self._there.begin(folder, number, uid, attrs, pid)
            return attrs
        opened, attrs = await self.create(parent, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, pid)
        await opened.file.release()
        return attrs

    def _new(self, folder: Folder, number: MhName) -> tuple[bytes, int | None]:
        """The name without the view of a new file with this number, and the uid that it asks for, if any.

        If a message or a file has the number already, the name is that one's.
        """
        uid = self._names.resolve(folder, number)
        if uid is not None:
            return self._names.inner(folder, uid), None
        wish, written = self._numbering.wish(folder, number), self._numbering.being_written(folder, number)
        return written or self._numbering.free(folder, number), wish

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """open(2) of a file by thread *pid*."""
        place = place_of(inode)
        if place is not None:
            return await self._edits.open(place.folder, flags, pid)
        if is_foreign(inode):
            return await self._foreign.open(inode, flags)
        return await self._view.open(inode, flags, pid)

    async def fsyncdir(self, directory: OpenDirectory) -> None:
        """Return when all removals from a directory are on disk."""
        inner = directory.inner if isinstance(directory, MhDirectory) else directory
        await self._inner.fsyncdir(inner)

    # -- unlink --------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*; of a number: an expunge."""
        number = name_of(name)
        if self._view.is_beside(parent):
            await self._inner.unlink(parent, name, pid)
        elif is_foreign(parent) or (number is None and name != NAME):
            await self._foreign.unlink(parent, name)
        elif number is None:
            await self._edits.removed(self._inodes.of(await self._there.mailbox(parent)), pid)
        else:
            folder = await self._there.mailbox(parent)
            inner = self._there.inner_name(folder, number)
            await self._inner.unlink(self._inodes.of(folder), inner, pid)

    # -- rename and link -----------------------------------------------------------------------

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2)."""
        await self._renames.rename(old_parent, old, new_parent, new, flags, pid)

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs:
        """link(2) by thread *pid*: a copy of a message, or of a program's file that becomes a message."""
        made = await self._renames.link(inode, new_parent, new, pid)
        attrs = made if made is not None else await self.lookup(new_parent, new, pid)
        attrs.entry_timeout = 0.0
        return attrs

    # -- directories ---------------------------------------------------------------------------

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """mkdir(2): a mailbox; with a dot before its name a directory that a program keeps."""
        if is_foreign(parent):
            return await self._foreign.mkdir(parent, name)
        if self._view.is_beside(parent):
            raise Refused(errno.EPERM)
        folder = (await self._view.reading.folders.checked(parent)).directory()
        if name.startswith(b"."):
            self._there.check_foreign(parent, name)
            return await self._foreign.mkdir(parent, name)
        wanted = self._view.layout.target(folder, name)
        if wanted is None:
            raise Refused(errno.EINVAL)
        made = await self._inner.mkdir(self._inodes.of(wanted.parent), wanted.name)
        self._edits.hide(made.inode)
        return await self._view.getattr(made.inode)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2).

        :raises Refused: ENOTEMPTY: it is not empty; ENOENT: there is no such directory.
        """
        folder = self._inodes.node(parent).folder if not is_foreign(parent) else None
        child = self._view.layout.child(folder, name) if folder is not None else None
        if folder is None or child is None:
            await self._foreign.rmdir(parent, name)
            return
        inode = self._inodes.of(child)
        if await self._kept(inode):
            raise Refused(errno.ENOTEMPTY)
        await self._inner.rmdir(self._inodes.of(folder), encode(child.shown))
