"""The stores of many users, to be mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio
from msgspec import Struct

from dboxfs.fsapi import FileSystem
from dboxfs.store import Kind
from dboxfs.util.mounts import Mount
from dboxfs.vfs.control import Control
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.host import Host, Pages
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.serving import MakeHost, Serving, UnopenedRequests
from dboxfs.vfs.site.numbers import SiteNumbers
from dboxfs.vfs.site.report import SiteReport
from dboxfs.vfs.site.site import Site
from dboxfs.vfs.site.source import UserSource
from dboxfs.vfs.site.stores import SiteLimits, Stores
from dboxfs.vfs.site.unopened import SiteUnopened
from dboxfs.vfs.site.users import SiteUsers


class ManyStores(Struct, frozen=True):
    """The stores of all users that *source* knows.

    :param by_domain: there is a directory for each domain.
    """

    fs: FileSystem
    source: UserSource
    options: MountOptions
    limits: SiteLimits
    by_domain: bool = False

    @property
    def name(self) -> str:
        return self.source.described

    @property
    def kind(self) -> Kind | None:
        return self.source.kind

    @asynccontextmanager
    async def serving(self, make_host: MakeHost) -> AsyncIterator[Serving]:
        async with trio.open_nursery() as nursery:
            host, numbers = make_host(nursery), SiteNumbers()
            stores = Stores(self.fs, self.source, self.options, host, nursery, self.limits)
            users = SiteUsers(self.source, numbers, host.kernel, stores.open, by_domain=self.by_domain)
            stores.after = users.after
            await users.load()
            report = SiteReport(self.fs, users, stores, host)
            site = Site(users, stores, numbers, Control(report.makers()), self.options, self.source.place)
            try:
                yield ServingMany(site, host, report, self.options.write is not None)
            finally:
                nursery.cancel_scope.cancel()
                stores.inotify.close()


class ServingMany(Struct, frozen=True):
    """A site that is mounted."""

    site: Site
    host: Host
    report: SiteReport
    writable: bool

    @property
    def top(self) -> ReadableFileSystem:
        return self.site

    @property
    def writes(self) -> WritableFileSystem | None:
        return self.site if self.writable else None

    @property
    def owner(self) -> int | None:
        return None

    def unopen(self, pages: Pages, stats: Callable[[], Mapping[str, object]]) -> UnopenedRequests:
        self.report.more.append(stats)
        self.site.stores.pages = pages
        return SiteUnopened(self.site)

    def released(self, directory: OpenDirectory) -> None:
        self.site.released(directory)

    def start(self, mount: Mount | None) -> None:
        self.site.stores.mount = mount
        self.host.spawn(self.site.stores.run)
        self.host.spawn(self.site.users.run)

    async def finish(self) -> None:
        await self.site.stores.close_all()

    async def drop_caches(self) -> None:
        await self.site.users.load()
        await self.site.stores.drop_caches()

    def resize_table(self, messages: int) -> None:
        self.site.stores.resize_tables(messages)

    def metrics(self) -> str:
        return self.report.metrics()
