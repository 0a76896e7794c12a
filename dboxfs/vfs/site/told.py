"""Translates the messages of one user's file system to the kernel into the site's inode numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dboxfs.vfs.host import Item, Kernel, Pages, PushWait
from dboxfs.vfs.site.numbers import UserNumbers


class UserKernel:
    """The kernel, for one user's file system (:class:`~dboxfs.vfs.host.Kernel`)."""

    def __init__(self, kernel: Kernel, numbers: UserNumbers) -> None:
        self._kernel = kernel
        self._out = numbers.out

    @property
    def names_expire(self) -> bool:
        return self._kernel.names_expire

    @property
    def keeps_missing(self) -> bool:
        """Not for a store that is closed when it isn't used: what comes meanwhile is told to no one."""
        return False

    def attributes(self, inode: int) -> None:
        self._kernel.attributes(self._out(inode))

    def at_once(self, inode: int) -> None:
        self._kernel.at_once(self._out(inode))

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        self._kernel.entry(self._out(parent), name, self._out(deleted) if deleted else 0)

    async def now(self, parent: int, name: bytes) -> None:
        await self._kernel.now(self._out(parent), name)

    def listing(self, inode: int) -> None:
        self._kernel.listing(self._out(inode))

    def push(self, inode: int, data: bytes) -> bool:
        return self._kernel.push(self._out(inode), data)


class UserPages:
    """The kernel's page cache, for one user's file system (:class:`~dboxfs.vfs.host.Pages`)."""

    def __init__(self, pages: Pages, numbers: UserNumbers) -> None:
        self._pages = pages
        self._out = numbers.out

    def begin(self, inode: int) -> PushWait | None:
        return self._pages.begin(self._out(inode))

    def end(self, inode: int) -> None:
        self._pages.end(self._out(inode))

    def wanted(self, inodes: Iterable[int]) -> set[int]:
        outside = {self._out(inode): inode for inode in inodes}
        return {outside[inode] for inode in self._pages.wanted(outside)}

    def missed(self, inode: int) -> bool:
        return self._pages.missed(self._out(inode))

    def expect(self, inodes: Sequence[int]) -> PushWait:
        return _UserBatch(self._pages.expect([self._out(inode) for inode in inodes]), self._out)

    def drop(self, inodes: Sequence[int]) -> None:
        self._pages.drop([self._out(inode) for inode in inodes])


class _UserBatch:
    """Messages of one user that are handed over together."""

    def __init__(self, batch: PushWait, out: Callable[[int], int]) -> None:
        self._batch = batch
        self._out = out
        self.wait = batch.wait

    def push(self, items: Sequence[Item]) -> None:
        self._batch.push([(self._out(inode), data) for inode, data in items])
