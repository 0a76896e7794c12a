"""The interface that answers the kernel's requests: the methods that ``dboxfs.fuse`` calls, in every view.

:class:`~dboxfs.vfs.readonly.ReadOnlyVfs` and :class:`~dboxfs.vfs.writable.WritableVfs` document each method.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened


class ReadableFileSystem(Protocol):
    """Answers the requests of every mount."""

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs: ...

    async def getattr(self, inode: int, pid: int = 0) -> Attrs: ...

    async def opendir(self, inode: int) -> OpenDirectory: ...

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened: ...

    async def getxattr(self, inode: int, name: bytes) -> bytes: ...

    async def listxattr(self, inode: int) -> Sequence[bytes]: ...

    async def statfs(self) -> os.statvfs_result: ...


class WritableFileSystem(ReadableFileSystem, Protocol):
    """Also answers the requests of a writable mount."""

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs: ...

    async def fsyncdir(self, directory: OpenDirectory) -> None: ...

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]: ...

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs: ...

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None: ...

    async def removexattr(self, inode: int, name: bytes) -> None: ...

    async def unlink(self, parent: int, name: bytes, pid: int) -> None: ...

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None: ...

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs: ...

    async def mkdir(self, parent: int, name: bytes) -> Attrs: ...

    async def rmdir(self, parent: int, name: bytes) -> None: ...
