"""Directories of a writable Maildir view: mailboxes, and directories that programs make beside them.

A program that makes a Maildir makes its directory, then ``cur/``, ``new/`` and ``tmp/`` in it.  For many
programs it is an error if one of these is there already (Python's ``mailbox``, mutt, maildirmake).  So in a
mailbox that was made through the mount they are hidden for :data:`MAKING_SECONDS`, each until it is made.
The same holds for a Maildir whose directories a program removes one by one.

Concurrency: the locks are those of the file system that the view is around.
"""

from __future__ import annotations

import errno

import trio

from dboxfs.store import Folder
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.layout import NewName
from dboxfs.vfs.views.listing import MessageDirectory
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.places import DIRECTORIES, KEYWORDS_NAME, MaildirPlace, Sub, is_foreign
from dboxfs.vfs.writable import WritableVfs

MAKING_SECONDS = 5.0
"""A program has so many seconds to make, or remove, the directories of a Maildir one by one."""

FOREIGN_DIRECTORIES = (b".notmuch", b".mbsync", b".nnmaildir", b"courierimap")
"""Beginnings of the names of programs' directories, where a name with a dot can be a mailbox."""


class MaildirDirectories:
    """Answers mkdir, rmdir and rename of directories."""

    def __init__(self, view: MaildirView, inner: WritableVfs, foreign: Foreign) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        self._inodes = view.reading.inodes
        self._unmade: dict[int, tuple[float, set[Sub]]] = {}

    # -- hidden directories --------------------------------------------------------------------

    def hides(self, place: MaildirPlace) -> bool:
        """Whether a directory is still to be made by the program that makes the mailbox."""
        until, subs = self._unmade.get(place.folder, (0.0, set[Sub]()))
        if subs and trio.current_time() >= until:
            del self._unmade[place.folder]
            return False
        return place.sub in subs

    def _hide(self, folder: int, *subs: Sub) -> None:
        hidden = {sub for sub in DIRECTORIES.values() if self.hides(MaildirPlace(folder, sub))}
        self._unmade[folder] = trio.current_time() + MAKING_SECONDS, hidden | set(subs)

    # -- mailboxes -----------------------------------------------------------------------------

    def _maildir(self, folder: Folder) -> int | None:
        maildir = self._view.layout.maildir(folder)
        return self._inodes.of(maildir) if maildir is not None else None

    def _new_name(self, folder: Folder, name: bytes) -> NewName:
        """The name without the view of a mailbox that is made here.

        :raises Refused: EINVAL: no mailbox can have this name.
        """
        found = self._view.layout.target(folder, name)
        if found is None:
            raise Refused(errno.EINVAL)
        return found

    def _is_foreign_name(self, folder: Folder, name: bytes) -> bool:
        """Whether a directory that is made under this name is no mailbox."""
        is_known = name.startswith(FOREIGN_DIRECTORIES)
        return is_known or (name.startswith(b".") and self._view.layout.target(folder, b".x") is None)

    def check_foreign(self, parent: int, name: bytes) -> None:
        """Check whether a program's file can have this name.

        :raises Refused: EPERM: no file can be there; EEXIST: a mailbox, or the view itself, has this name.
        """
        if self._view.is_beside(parent):
            raise Refused(errno.EPERM)
        folder = self._inodes.node(parent).directory()
        if name in DIRECTORIES or name == KEYWORDS_NAME or self._view.layout.child(folder, name) is not None:
            raise Refused(errno.EEXIST)

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """mkdir(2).

        :raises Refused: it can't be made.
        """
        if is_foreign(parent):
            return await self._foreign.mkdir(parent, name)
        folder = (await self._view.reading.folders.checked(parent)).directory()
        maildir = self._maildir(folder)
        if name in DIRECTORIES:
            place = MaildirPlace(maildir or 0, DIRECTORIES[name])
            if maildir is None or not self.hides(place):
                raise Refused(errno.EEXIST if maildir is not None else errno.EPERM)
            self._unmade[place.folder][1].discard(place.sub)
            return await self._view.directory(place)
        if self._is_foreign_name(folder, name):
            self.check_foreign(parent, name)
            return await self._foreign.mkdir(parent, name)
        wanted = self._new_name(folder, name)
        made = await self._inner.mkdir(self._inodes.of(wanted.parent), wanted.name)
        self._hide(made.inode, *DIRECTORIES.values())
        return await self._view.getattr(made.inode)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2).

        :raises Refused: ENOTEMPTY: it is not empty; ENOENT: there is no such directory.
        """
        folder = self._inodes.node(parent).folder
        if is_foreign(parent) or folder is None:
            await self._foreign.rmdir(parent, name)
            return
        maildir, child = self._maildir(folder), self._view.layout.child(folder, name)
        if maildir is not None and name in DIRECTORIES:
            await self._take_apart(MaildirPlace(maildir, DIRECTORIES[name]))
        elif child is None or child.parent is None:
            await self._foreign.rmdir(parent, name)
        else:
            if await self._foreign.entries(self._inodes.of(child)):
                raise Refused(errno.ENOTEMPTY)
            self._unmade.pop(self._inodes.of(child), None)
            await self._inner.rmdir(self._inodes.of(child.parent), encode(child.shown))

    async def _take_apart(self, place: MaildirPlace) -> None:
        if self.hides(place):
            raise Refused(errno.ENOENT)
        directory = MessageDirectory(self._view, place)
        await directory.prepare(0)
        if any(True for _ in directory.above(2)) or any(True for _ in directory.messages(2)):
            raise Refused(errno.ENOTEMPTY)
        self._hide(place.folder, place.sub)

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> bool:
        """Rename a mailbox; False: *old* is no mailbox.

        :raises Refused: it can't get this name.
        """
        node = self._inodes.node(old_parent)
        folder = node.folder
        child = self._view.layout.child(folder, old) if folder is not None else None
        if folder is None or child is None or child.parent is None:
            return False
        wanted = self._new_name(self._inodes.node(new_parent).directory(), new)
        before = [name for name, some in self._view.layout.children(folder) if _is_below(some, child)]
        await self._inner.rename(
            self._inodes.of(child.parent),
            encode(child.shown),
            self._inodes.of(wanted.parent),
            wanted.name,
            flags,
            pid,
        )
        # With Maildir++ the kernel knows its children as directories beside the one that it renames.
        for name in before:
            self._view.forget_directory(old_parent, name)
        return True


def _is_below(folder: Folder, above: Folder) -> bool:
    return folder is not above and f"{folder.name}/".startswith(f"{above.name}/")
