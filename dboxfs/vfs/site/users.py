"""The users of a site, by name and inode of their directories; the source is read again from time to time.

With domains each user is in the directory of the domain, the part behind the last ``@``.  A user without a
domain is in the top directory, with ``@`` behind the name if a domain has the same name.

A user that the source doesn't list any more disappears.  If the source can't be read, all users stay.

Concurrency: one task at a time reads the names, and takes them over in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise

import trio

from dboxfs.errors import DboxfsError
from dboxfs.util.coalesce import CoalescedRuns
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.site.numbers import SiteNumbers, UserNumbers
from dboxfs.vfs.site.shown import parts, shown_user
from dboxfs.vfs.site.source import UserSource
from dboxfs.vfs.site.user import SiteUser

log = logging.getLogger(__name__)

FRESH = 1.0
"""Seconds after a reading of the source in which a missing name causes no other."""

LOOK_FOR_USERS_EVERY = 60.0
"""Seconds between two readings of the source."""

LISTED_EVERY = 10.0
"""Seconds after a reading of the source in which a listing of users causes no other."""

SOURCE_SECONDS = 2.0
"""Seconds that a request waits for the source, at most; then it is answered with the users that are known."""


class SiteUsers:
    """All users.

    :param by_domain: there is a directory for each domain.
    :param open_store: opens the store of a user.
    """

    def __init__(
        self,
        source: UserSource,
        numbers: SiteNumbers,
        kernel: Kernel,
        open_store: Callable[[SiteUser], Awaitable[None]],
        *,
        by_domain: bool = False,
    ) -> None:
        self._source = source
        self._numbers = numbers
        self._kernel = kernel
        self._open_store = open_store
        self._by_domain = by_domain
        self._all: dict[str, SiteUser] = {}
        self._former: dict[str, UserNumbers] = {}
        self._by_numbers: dict[UserNumbers, SiteUser] = {}
        self._after: dict[SiteUser, SiteUser] = {}
        self._directories: dict[int, dict[bytes, int]] = {ROOT: {}}
        self._by_name: dict[tuple[int, bytes], SiteUser] = {}
        self._read_at = -FRESH
        self._reading = CoalescedRuns()
        self._thread = trio.CapacityLimiter(1)
        self._complaint = ""

    def __len__(self) -> int:
        return len(self._all)

    @property
    def all(self) -> Mapping[str, SiteUser]:
        """The users by name."""
        return self._all

    def of(self, numbers: UserNumbers) -> SiteUser | None:
        """The user with these numbers; None: the user is gone."""
        return self._by_numbers.get(numbers)

    def after(self, user: SiteUser) -> SiteUser | None:
        """The user behind *user* in the listing of their directory; None: there is none."""
        return self._after.get(user)

    def entries(self, directory: int) -> Sequence[tuple[bytes, int]]:
        """Names and inodes in the top directory or in that of a domain, sorted."""
        return list(self._directories.get(directory, {}).items())

    def count(self, directory: int) -> int:
        """How many directories the top directory, or that of a domain, has."""
        return len(self._directories.get(directory, ()))

    def is_directory(self, inode: int) -> bool:
        """Whether it is the top directory or that of a domain."""
        return inode in self._directories

    async def find(self, directory: int, name: bytes) -> SiteUser | int | None:
        """The user with that name, or the inode of the domain; a missing name has the source read again."""
        found = self._find(directory, name)
        if found is None and trio.current_time() - self._read_at >= FRESH:
            await self._read_soon()
            found = self._find(directory, name)
        return found

    async def read_if_old(self) -> None:
        """Read the source if that is :data:`LISTED_EVERY` s ago; waits :data:`SOURCE_SECONDS` s at most."""
        if trio.current_time() - self._read_at >= LISTED_EVERY:
            await self._read_soon()

    async def _read_soon(self) -> None:
        with trio.move_on_after(SOURCE_SECONDS):
            await self.read()

    def _find(self, directory: int, name: bytes) -> SiteUser | int | None:
        user = self._by_name.get((directory, name))
        return user if user is not None else self._directories.get(directory, {}).get(name)

    # -- reading the source --------------------------------------------------------------------

    async def run(self) -> None:
        """Read the source every :data:`LOOK_FOR_USERS_EVERY` seconds, until cancelled."""
        while True:
            await trio.sleep(LOOK_FOR_USERS_EVERY)
            await self.read()

    async def read(self) -> None:
        """Read the source.  If that fails, all users stay as they are, and the error is logged once."""
        await self._reading.run(self._read)

    async def _read(self) -> None:
        try:
            await self.load()
        except (DboxfsError, OSError) as exc:
            self._read_at = trio.current_time()
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                log.error("the users can't be told; those that are known stay: %s", exc)
        else:
            self._complaint = ""

    async def load(self) -> None:
        """Read the source, and take over its names.

        :raises DboxfsError, OSError: the source can't be read.
        """
        names = await trio.to_thread.run_sync(
            self._source.names, abandon_on_cancel=True, limiter=self._thread
        )
        self._read_at = trio.current_time()
        if set(names) != self._all.keys():
            self._take(sorted(set(names)))

    def _take(self, names: list[str]) -> None:
        before = self._directories
        domains = {shown_user(parts(name)[1]) for name in names} if self._by_domain else set()
        top: dict[bytes, int] = {name: self._numbers.domain(name) for name in sorted(domains - {b"%"})}
        directories: dict[int, dict[bytes, int]] = {ROOT: top, **{inode: {} for inode in top.values()}}
        users, by_name = {}, {}
        for name in names:
            local, domain = parts(name) if self._by_domain else (name, "")
            above = top[shown_user(domain)] if domain else ROOT
            shown = shown_user(local)
            if shown in directories[above]:
                shown += b"@"
            user = self._all.get(name) or self._new(name, shown, above)
            users[name] = by_name[above, shown] = user
            directories[above][shown] = user.root
        self._all, self._by_name = users, by_name
        self._by_numbers = {user.numbers: user for user in users.values()}
        self._directories = {inode: dict(sorted(found.items())) for inode, found in directories.items()}
        ordered = [by_name[key] for key in sorted(by_name)]
        self._after = {one: two for one, two in pairwise(ordered) if one.above == two.above}
        self._tell(before)

    def _new(self, name: str, shown: bytes, above: int) -> SiteUser:
        numbers = self._former.get(name)
        if numbers is None:
            key = name.encode("utf-8", "surrogateescape")
            numbers = self._former[name] = UserNumbers(self._numbers, key)
        return SiteUser(name, shown, above, numbers, self._open_store)

    def _tell(self, before: Mapping[int, Mapping[bytes, int]]) -> None:
        """Tell the kernel of names that are gone, and of listings that have changed."""
        for inode, entries in before.items():
            now = self._directories.get(inode, {})
            for name in entries.keys() - now.keys():
                self._kernel.entry(inode, name)
            if entries.keys() != now.keys():
                self._kernel.listing(inode)
                self._kernel.attributes(inode)
