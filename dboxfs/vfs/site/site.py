"""Many users' stores as one file system: ``MNT/<user>/<mailbox>/...``, or ``MNT/<domain>/<user>/...``.

A request is about the top directory, the directory of a domain or a user, the site's control directory, or a
file in a user's store.  The last kind is passed to that store's file system, in its own inode numbers: only
this package knows both kinds of numbers (:mod:`.numbers`).  The attributes of a user's directory are known
without opening the store.

A fault of one user's store only concerns requests about that user.  A rename or link from one user's
directory to another's gives EXDEV, as between file systems, and programs copy.

The daemon's user owns the top directory and those of domains: with ``allow_other`` other users can pass
through them, but not list them.  A user's directory belongs to the owner of the store.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from dboxfs.errors import DboxfsError
from dboxfs.vfs import control as control_files
from dboxfs.vfs.attrs import LONG, NS, SHORT, Attrs
from dboxfs.vfs.control import Control
from dboxfs.vfs.errors import Refused, errno_of
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import CONTROL, ROOT
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.site.listing import TopDirectory, UserDirectory, UserFile
from dboxfs.vfs.site.numbers import SiteNumbers
from dboxfs.vfs.site.stores import Stores
from dboxfs.vfs.site.user import OpenStore, SiteUser
from dboxfs.vfs.site.users import SiteUsers

R = TypeVar("R")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


class Site:
    """Answers every request of a mount of many users.

    :param control: the site's control files.
    """

    def __init__(
        self,
        users: SiteUsers,
        stores: Stores,
        numbers: SiteNumbers,
        control: Control,
        options: MountOptions,
        place: str,
    ) -> None:
        self.users = users
        self.stores = stores
        self.control = control
        self._numbers = numbers
        self._place = place
        view = options.view
        self._umask = view.umask
        self._owner = view.uid, view.gid
        writable = 0o700 if options.write is not None else 0o500
        self._user_mode = writable if view.directory_mode is None else view.directory_mode
        self._top_mode = 0o511 if options.allow_other else 0o500
        self._mounted_ns = int(time.time()) * NS
        self._is_unopened = False

    # -- the user of an inode ------------------------------------------------------------------

    def user_of(self, inode: int) -> tuple[SiteUser, int]:
        """The user of an inode, and its number in the user's file system.

        :raises Refused: ESTALE: the number has no meaning, or the user is gone.
        """
        numbers, inner = self._numbers.meant(inode)
        user = self.users.of(numbers)
        if user is None:
            raise Refused(errno.ESTALE)
        return user, inner

    def is_own(self, inode: int) -> bool:
        """Whether *inode* is the site's own: top, domain, control directory or one of its files."""
        return inode >> 32 == 0 or self.users.is_directory(inode)

    async def use(self, inode: int, what: str, ask: Callable[[OpenStore, int], Awaitable[R]]) -> R:
        """Answer a request about *inode* of a user: open the user's store if need be, and call *ask*.

        :param what: the operation, for the counters.
        """
        user, inner = self.user_of(inode)
        began = trio.current_time()
        try:
            store = await user.enter(what)
            try:
                return await ask(store, inner)
            finally:
                user.leave()
                user.seconds += trio.current_time() - began
        except (DboxfsError, OSError) as exc:
            user.errors[errno.errorcode.get(errno_of(exc), "EIO")] += 1
            raise

    async def _read(self, inode: int, what: str, ask: Callable[[ReadableFileSystem, int], Awaitable[R]]) -> R:
        return await self.use(inode, what, lambda store, inner: ask(store.served.top, inner))

    async def _write(
        self, inode: int, what: str, ask: Callable[[WritableFileSystem, int], Awaitable[R]]
    ) -> R:
        if self.is_own(inode):
            raise Refused(errno.EPERM)
        return await self.use(inode, what, lambda store, inner: ask(_writes(store), inner))

    def _outside(self, inode: int, attrs: Attrs) -> Attrs:
        """Translate *attrs* of the user of *inode* into the site's numbers."""
        attrs.inode = self._numbers.meant(inode).user.out(attrs.inode)
        return attrs

    # -- attributes of the site's own ----------------------------------------------------------

    def top_attrs(self, inode: int) -> Attrs:
        """The attributes of the top directory, a domain's or a user's; of a user's directory only those that
        are known without looking at the store: inode and type.
        """
        if self.users.is_directory(inode):
            mode = stat.S_IFDIR | self._top_mode & ~self._umask
            attrs = Attrs(inode, mode, 2 + self.users.count(inode), os.geteuid(), os.getegid())
            attrs.entry_timeout = SHORT if self._expires() else LONG
        else:
            attrs = Attrs(inode, stat.S_IFDIR, 2, 0, 0, attr_timeout=0.0)
            attrs.entry_timeout = SHORT if self._expires() else LONG
        attrs.modified_ns = attrs.changed_ns = self._mounted_ns
        return attrs

    def _expires(self) -> bool:
        return self.stores.names_expire

    async def user_attrs(self, user: SiteUser) -> Attrs:
        """The attributes of a user's directory.

        :raises Refused: the store's root can't be read.
        """
        attrs = self.top_attrs(user.root)
        uid, gid = await self.stores.owner(user)
        attrs.uid, attrs.gid = (given if given is not None else own
                                for given, own in zip(self._owner, (uid, gid), strict=True))  # fmt: skip
        attrs.mode |= self._user_mode & ~self._umask
        attrs.attr_timeout = SHORT
        return attrs

    def _control_attrs(self, inode: int) -> Attrs:
        attrs = Attrs(inode, stat.S_IFREG | 0o400, 1, os.geteuid(), os.getegid(), self.control.size(inode))
        if inode == CONTROL:
            attrs.mode, attrs.nlink, attrs.size = stat.S_IFDIR | 0o500, 2, 0
        elif self.control.is_command(inode):
            attrs.mode |= 0o200
        attrs.entry_timeout = 0.0 if self._is_unopened and inode != CONTROL else LONG
        attrs.modified_ns = attrs.changed_ns = self._mounted_ns
        return attrs

    def unopen(self) -> None:
        """The mount has no OPEN."""
        self._is_unopened = self.control.makes_snapshots = True

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        if parent == CONTROL:
            return self._control_attrs(self.control.lookup(name))
        if parent == ROOT and name == control_files.NAME:
            return self._control_attrs(CONTROL)
        if not self.is_own(parent):
            found = await self._read(parent, "lookup", lambda vfs, inner: vfs.lookup(inner, name, pid))
            return self._outside(parent, found)
        entry = await self.users.find(parent, name)
        if entry is None:
            raise Refused(errno.ENOENT)
        return self.top_attrs(entry if isinstance(entry, int) else entry.root)

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        if self.users.is_directory(inode):
            return self.top_attrs(inode)
        if self.is_own(inode):
            return self._control_attrs(inode)
        user, inner = self.user_of(inode)
        if inner == ROOT:
            return await self.user_attrs(user)
        return self._outside(
            inode, await self._read(inode, "getattr", lambda vfs, number: vfs.getattr(number, pid))
        )

    # -- directories ---------------------------------------------------------------------------

    async def opendir(self, inode: int) -> OpenDirectory:
        if self.users.is_directory(inode):
            await self.users.read_if_old()
            return self._top_directory(inode)
        if inode == CONTROL:
            files = [(name, number) for name, number in self.control.files.items()]
            return TopDirectory(files, self._control_attrs)

        async def opened(store: OpenStore, inner: int) -> UserDirectory:
            found = UserDirectory(await store.served.top.opendir(inner), self.user_of(inode)[0], inner)
            if not self._is_unopened:
                found.stay()
            return found

        return await self.use(inode, "opendir", opened)

    def _top_directory(self, inode: int) -> TopDirectory:
        entries = [(b".", inode), (b"..", ROOT), *self.users.entries(inode)]
        return TopDirectory(entries, self.top_attrs)

    @staticmethod
    def released(directory: OpenDirectory) -> None:
        """The kernel has closed a directory."""
        if isinstance(directory, UserDirectory):
            directory.release()

    async def fsyncdir(self, directory: OpenDirectory) -> None:
        if isinstance(directory, UserDirectory):
            inner = directory.inner
            await self._write(directory.user.root, "fsyncdir", lambda vfs, _: vfs.fsyncdir(inner))

    # -- files ---------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        if self.is_own(inode):
            command = self.control.command(inode) if flags & _WRITING else None
            return Opened(command or self.control.open(inode), direct_io=True, keep_cache=False)

        async def opened(store: OpenStore, inner: int) -> Opened:
            found = await store.served.top.open(inner, flags, pid)
            return found._replace(file=UserFile(found.file, self.user_of(inode)[0]))

        return await self.use(inode, "open", opened)

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]:
        async def created(vfs: WritableFileSystem, inner: int) -> tuple[Opened, Attrs]:
            found, attrs = await vfs.create(inner, name, flags, pid)
            user = self.user_of(parent)[0]
            return found._replace(file=UserFile(found.file, user)), self._outside(parent, attrs)

        return await self._write(parent, "create", created)

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs:
        made = await self._write(parent, "mknod", lambda vfs, inner: vfs.mknod(inner, name, pid))
        return self._outside(parent, made)

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        if self.is_own(inode) or self.user_of(inode)[1] == ROOT:
            return await self.getattr(inode)
        own = file.inner if isinstance(file, UserFile) else file
        found = await self._write(
            inode, "setattr", lambda vfs, inner: vfs.setattr(inner, size, received, own, pid)
        )
        return self._outside(inode, found)

    # -- extended attributes -------------------------------------------------------------------

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        if self.is_own(inode):
            raise Refused(errno.ENODATA)
        return await self._read(inode, "getxattr", lambda vfs, inner: vfs.getxattr(inner, name))

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        if self.is_own(inode):
            return []
        return await self._read(inode, "listxattr", lambda vfs, inner: vfs.listxattr(inner))

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        await self._write(inode, "setxattr", lambda vfs, inner: vfs.setxattr(inner, name, value))

    async def removexattr(self, inode: int, name: bytes) -> None:
        await self._write(inode, "removexattr", lambda vfs, inner: vfs.removexattr(inner, name))

    # -- names, and mailboxes ------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        await self._write(parent, "unlink", lambda vfs, inner: vfs.unlink(inner, name, pid))

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        target = self._same_user(old_parent, new_parent)
        await self._write(
            old_parent, "rename", lambda vfs, inner: vfs.rename(inner, old, target, new, flags, pid)
        )

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs:
        target = self._same_user(inode, new_parent)
        made = await self._write(inode, "link", lambda vfs, inner: vfs.link(inner, target, new, pid))
        return self._outside(inode, made)

    def _same_user(self, inode: int, other: int) -> int:
        """The number of *other* in the file system of the user of *inode*.

        :raises Refused: EXDEV: *other* belongs to another user; EPERM: one of them is the site's own.
        """
        if self.is_own(inode) or self.is_own(other):
            raise Refused(errno.EPERM)
        (user, _), (others, found) = self.user_of(inode), self.user_of(other)
        if user is not others:
            raise Refused(errno.EXDEV)
        return found

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        return self._outside(
            parent, await self._write(parent, "mkdir", lambda vfs, inner: vfs.mkdir(inner, name))
        )

    async def rmdir(self, parent: int, name: bytes) -> None:
        await self._write(parent, "rmdir", lambda vfs, inner: vfs.rmdir(inner, name))

    # -- the file system -----------------------------------------------------------------------

    async def statfs(self) -> os.statvfs_result:
        """The values of the file system that the stores' common directory lies on."""
        return await trio.to_thread.run_sync(os.statvfs, self._place, abandon_on_cancel=True)


def _writes(store: OpenStore) -> WritableFileSystem:
    """The part of a store that answers requests that write.

    :raises Refused: EROFS: it is read-only.
    """
    if store.served.writes is None:
        raise Refused(errno.EROFS)
    return store.served.writes
