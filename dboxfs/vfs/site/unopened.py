"""READ and READDIR of a site without OPEN (:mod:`dboxfs.vfs.unopened`)."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.site.listing import UserDirectory
from dboxfs.vfs.site.site import Site
from dboxfs.vfs.site.user import OpenStore, SiteUser
from dboxfs.vfs.unopened import Unopened
from dboxfs.vfs.waiting import Wake

TOP_LISTINGS = 16
"""Listings of the site's own directories that can be continued, at most."""

_SHIFT = 40


class SiteUnopened:
    """The methods of :class:`~dboxfs.vfs.unopened.Unopened`, for all users."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._own: OrderedDict[int, OpenDirectory] = OrderedDict()
        self._number = 0
        site.unopen()

    async def read(self, inode: int, size: int, offset: int) -> bytes:
        """Bytes of a file."""
        if self._site.is_own(inode):
            return self._site.control.read(inode, size, offset)
        return await self._site.use(inode, "read", lambda store, inner: _of(store).read(inner, size, offset))

    async def is_ready(self, inode: int, wake: Wake | None) -> bool:
        """Whether a file has bytes that no process has read."""
        if self._site.is_own(inode):
            return True
        return await self._site.use(inode, "poll", lambda store, inner: _of(store).is_ready(inner, wake))

    async def directory(self, inode: int, offset: int) -> tuple[OpenDirectory, int, int]:
        """The listing of a directory from *offset* on: as :meth:`Unopened.directory` of one store."""
        if self._site.is_own(inode):
            return await self._own_directory(inode, offset)
        user, number = self._site.user_of(inode)

        async def listed(store: OpenStore, inner: int) -> tuple[OpenDirectory, int, int]:
            found, above, start = await _of(store).directory(inner, offset)
            return UserDirectory(found, user, number), above, start

        return await self._site.use(inode, "readdir", listed)

    async def _own_directory(self, inode: int, offset: int) -> tuple[OpenDirectory, int, int]:
        number, start = offset >> _SHIFT, offset & (1 << _SHIFT) - 1
        found = self._own.get(number) if start else None
        if found is None:
            self._number = number = self._number % (1 << 22) + 1
            found = self._own[number] = await self._site.opendir(inode)
            if len(self._own) > TOP_LISTINGS:
                self._own.popitem(last=False)
        return found, number << _SHIFT, start

    def forget(self, inodes: Iterable[int]) -> None:
        """The kernel has no inodes of these numbers any more."""
        by_user: defaultdict[SiteUser, list[int]] = defaultdict(list)
        for inode in inodes:
            if inode == ROOT or self._site.is_own(inode):
                continue
            try:
                user, inner = self._site.user_of(inode)
            except Refused:
                continue
            if user.store is not None and user.store.unopened is not None:
                by_user[user].append(inner)
        for user, numbers in by_user.items():
            if user.store is not None and user.store.unopened is not None:
                user.store.unopened.forget(numbers)

    def close(self) -> None:
        """The mount has ended; each store closes its own kept bodies."""
        self._own.clear()


def _of(store: OpenStore) -> Unopened:
    assert store.unopened is not None, "the kernel opens nothing in any store"
    return store.unopened
