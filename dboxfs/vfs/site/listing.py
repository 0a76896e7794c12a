"""Open files and directories of a site: those of users and domains, and those of the users' stores, in the
site's inode numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.listing import ListingBlock, ListingRow, OpenDirectory
from dboxfs.vfs.node import ROOT, UID_MASK
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.site.user import SiteUser
from dboxfs.vfs.waiting import Polled, Wake


class UserFile:
    """An open file of a user's file system; it keeps the user's store open."""

    __slots__ = ("_released", "_user", "inner", "read")

    def __init__(self, inner: OpenFile, user: SiteUser) -> None:
        self.inner = inner
        self.read = inner.read
        self._user = user
        user.stay()

    async def write(self, data: bytes, offset: int) -> int:
        return await self.inner.write(data, offset)

    async def flush(self) -> None:
        await self.inner.flush()

    async def fsync(self) -> None:
        await self.inner.fsync()

    def is_ready(self, wake: Wake | None) -> bool:
        return not isinstance(self.inner, Polled) or self.inner.is_ready(wake)

    async def release(self) -> None:
        try:
            await self.inner.release()
        finally:
            self._user.leave()


class UserDirectory:
    """A directory of a user's file system that is open (:class:`~dboxfs.vfs.listing.OpenDirectory`).

    :param inode: of the directory, in the user's numbers.
    :ivar blocks: gives its messages as blocks; not there if the user's file system gives none.
    """

    __slots__ = ("_is_top", "blocks", "inner", "prepare", "sizes", "user")

    def __init__(self, inner: OpenDirectory, user: SiteUser, inode: int) -> None:
        self.inner = inner
        self._is_top = inode == ROOT
        self.prepare = inner.prepare
        self.sizes = inner.sizes
        self.user = user
        blocks = getattr(inner, "blocks", None)
        if blocks is not None:
            self.blocks = partial(self._blocks, blocks)

    def _blocks(self, inner: Callable[[int], Iterator[ListingBlock]], start: int) -> Iterator[ListingBlock]:
        """The messages of *inner* from offset *start* on, in the site's numbers."""
        for block in inner(start):
            rows = block.rows.copy()
            inodes, folders = rows["inode"], rows["inode"] >> np.uint64(32)
            for folder in np.unique(folders):
                here = folders == folder
                base = self.user.numbers.out(int(inodes[here][0])) & ~UID_MASK
                inodes[here] = inodes[here] & np.uint64(UID_MASK) | np.uint64(base)
            yield ListingBlock(rows, block.names)

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        out = self.user.numbers.out
        for behind, name, attrs in self.inner.above(start):
            attrs.inode = self.user.above if self._is_top and name == b".." else out(attrs.inode)
            yield behind, name, attrs

    def attributes(self) -> Attrs:
        return self.inner.attributes()

    def messages(self, start: int) -> Iterator[ListingRow]:
        out, before, base = self.user.numbers.out, -1, 0
        for row in self.inner.messages(start):
            folder = row.inode >> 32
            if folder != before:
                before, base = folder, out(row.inode) & ~UID_MASK
            yield ListingRow(
                row.next, row.name, base | row.inode & UID_MASK, row.size, row.received, row.changed_ns,
                row.attr_timeout,
            )  # fmt: skip

    def stay(self) -> None:
        """The kernel has it open: it keeps the user's store open until :meth:`release`."""
        self.user.stay()

    def release(self) -> None:
        """The kernel has closed it."""
        self.user.leave()


class TopDirectory:
    """The open top directory, or that of a domain: a snapshot of its entries.

    :param entries: name and inode of each.
    """

    def __init__(self, entries: Sequence[tuple[bytes, int]], attributes: Callable[[int], Attrs]) -> None:
        self._entries = entries
        self._attributes = attributes

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._entries)):
            name, inode = self._entries[position]
            yield position + 1, name, self._attributes(inode)

    async def sizes(self, start: int) -> None:
        """Does nothing: there are no messages."""

    def attributes(self) -> Attrs:
        return self._attributes(self._entries[0][1])

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
