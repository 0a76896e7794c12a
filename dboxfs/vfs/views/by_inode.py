"""The requests about an inode that all views answer alike.

Messages and mailboxes have the inode numbers that they have without a view, so the file system that the view
is around answers what is about them.  The directories and files that a view adds, and those that programs
keep beside the mail, have no extended attributes.

A view takes the methods of one of these objects as its own.

Concurrency: no lock; each method is one call of the file system that answers.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from dboxfs.vfs.errors import Refused
from dboxfs.vfs.file_system import ReadableFileSystem
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.places import is_foreign, place_of
from dboxfs.vfs.views.without_open import is_of_view
from dboxfs.vfs.writable import WritableVfs


class ReadByInode:
    """What a view that is read answers.

    :param inner: the file system that the view is around.
    """

    def __init__(self, inner: ReadableFileSystem) -> None:
        self._inner = inner
        self.statfs = inner.statfs

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute.

        :raises Refused: ENODATA, EOPNOTSUPP: there is none.
        """
        if is_of_view(inode):
            raise _no_attribute(name)
        return await self._inner.getxattr(inode, name)

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes."""
        return [] if is_of_view(inode) else await self._inner.listxattr(inode)


class WrittenByInode:
    """What a view that is written answers.

    :param view: the same view, to be read.
    :param inner: the file system that the view is around.
    :param foreign: the files that programs keep beside the mail.
    """

    def __init__(self, view: ReadableFileSystem, inner: WritableVfs, foreign: Foreign) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        self.statfs = inner.statfs

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """
        return await (self._foreign if is_foreign(inode) else self._view).opendir(inode)

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute.

        :raises Refused: ENODATA, EOPNOTSUPP: there is none.
        """
        if is_foreign(inode):
            raise _no_attribute(name)
        return await self._view.getxattr(inode, name)

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes."""
        return [] if is_foreign(inode) else await self._view.listxattr(inode)

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute of a message or a mailbox.

        :raises Refused: EOPNOTSUPP: *inode* is neither.
        """
        if is_foreign(inode) or place_of(inode) is not None:
            raise Refused(errno.EOPNOTSUPP)
        await self._inner.setxattr(inode, name, value)

    async def removexattr(self, inode: int, name: bytes) -> None:
        """Remove an extended attribute of a message or a mailbox.

        :raises Refused: ENODATA: *inode* is neither.
        """
        if is_foreign(inode) or place_of(inode) is not None:
            raise Refused(errno.ENODATA)
        await self._inner.removexattr(inode, name)


def _no_attribute(name: bytes) -> Refused:
    return Refused(errno.ENODATA if name.startswith(b"user.") else errno.EOPNOTSUPP)
