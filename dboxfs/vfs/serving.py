"""One store as a mount serves it: the file system over it, read-only or writable, in the chosen view.

This module makes its parts, both for a mount of one store (:mod:`dboxfs.fuse`) and for a site of many users
(:mod:`dboxfs.vfs.site`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import MailHidden, NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.store import Kind, Location, Store
from dboxfs.store.hidden import Cause, hidden_in, summary
from dboxfs.store.names.read import NameReader
from dboxfs.store.owner_rights import open_owned_store
from dboxfs.store.write import StoreWriter, with_version
from dboxfs.store.write.claim import claim
from dboxfs.util.mounts import Mount
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.generations import GenerationTree
from dboxfs.vfs.host import Host, Pages, Spawn
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.options import MountOptions, View
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.unopened import Unopened, UnopenedView
from dboxfs.vfs.waiting import Wake
from dboxfs.vfs.writable import WritableVfs


class UnopenedRequests(Protocol):
    """Answers READ and READDIR of a mount without OPEN (:mod:`dboxfs.vfs.unopened`)."""

    async def read(self, inode: int, size: int, offset: int) -> bytes: ...

    async def is_ready(self, inode: int, wake: Wake | None) -> bool: ...

    async def directory(self, inode: int, offset: int) -> tuple[OpenDirectory, int, int]: ...

    def forget(self, inodes: Iterable[int]) -> None: ...

    def close(self) -> None: ...


class Serving(Protocol):
    """The file systems that a mount serves, while it is mounted.

    :ivar top: answers the requests.  :ivar writes: answers those that write; None: it is read-only.
    :ivar owner: uid of the owner of all stores; None: there are several.
    """

    @property
    def top(self) -> ReadableFileSystem: ...

    @property
    def writes(self) -> WritableFileSystem | None: ...

    @property
    def owner(self) -> int | None: ...

    def unopen(self, pages: Pages, stats: Callable[[], Mapping[str, object]]) -> UnopenedRequests:
        """Serve the mount without OPEN.

        :param pages: the kernel's page cache.  :param stats: gives the part of stats.json about it.
        """

    def released(self, directory: OpenDirectory) -> None:
        """A directory was closed."""

    def start(self, mount: Mount | None) -> None:
        """Start the background tasks; the mount is made."""

    async def finish(self) -> None:
        """Finish the work of requests that were answered before it was done; no more requests come."""

    async def drop_caches(self) -> None:
        """Read the stores again, and have the kernel ask again for everything but names.

        :raises DboxfsError, OSError: a store can't be read again, and is shown as before.
        """

    def resize_table(self, messages: int) -> None:
        """Keep the metadata of *messages* messages in memory, at most."""

    def metrics(self) -> str:
        """The content of the control file ``metrics``."""


MakeHost = Callable[[trio.Nursery], Host]
"""Makes the host whose background tasks live in a nursery."""


class Mountable(Protocol):
    """A store, or stores, to be mounted.

    :ivar name: its name in the kernel's table of mounts and in the log.
    :ivar kind: the kind of all stores; None: there may be both kinds.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind | None: ...

    def serving(self, make_host: MakeHost) -> AbstractAsyncContextManager[Serving]:
        """Open the stores and serve them.

        :raises DboxfsError, OSError: a store can't be opened or read.
        """


class Served(Struct, frozen=True):
    """A store that is served.

    :ivar top: answers the requests.  :ivar writes: answers those that write; None: it is read-only.
    :ivar vfs: the file system below the view.  :ivar view: the read-only view; None: there is none.
    """

    vfs: ReadOnlyVfs | WritableVfs
    top: ReadableFileSystem
    writes: WritableFileSystem | None
    view: UnopenedView | None = None

    @property
    def reading(self) -> ReadOnlyVfs:
        """The part that reads."""
        return self.vfs.reading if isinstance(self.vfs, WritableVfs) else self.vfs

    def unopen(self, pages: Pages) -> Unopened:
        """Answer READ and READDIR of a mount without OPEN."""
        return Unopened(self.reading, pages, self.view)

    def begin(self, spawn: Spawn, mount: Mount | None) -> None:
        """Start the background tasks that run as long as the store is served."""
        vfs = self.vfs
        if vfs.follower is not None:
            spawn(vfs.follower.run)
        if isinstance(vfs, WritableVfs):
            vfs.mounted(mount)
            spawn(vfs.sweep)
            if vfs.staging is not None:
                spawn(vfs.staging.run)
            if vfs.maintenance is not None:
                spawn(vfs.maintenance.run)

    async def finish(self) -> None:
        """Finish the work of requests that were answered before it was done."""
        if isinstance(self.vfs, WritableVfs):
            await self.vfs.finish()


class OneStore(Struct, frozen=True):
    """One store, to be mounted.

    :param warn: called with a warning for the user, one line.
    """

    fs: FileSystem
    location: Location
    options: MountOptions
    warn: Callable[[str], None]

    @property
    def name(self) -> str:
        return f"{self.location.kind.value}:{self.location.root}"

    @property
    def kind(self) -> Kind | None:
        return self.location.kind

    @asynccontextmanager
    async def serving(self, make_host: MakeHost) -> AsyncIterator[Serving]:
        cache, table = self.options.cache_dir, self.options.table_size
        async with (
            open_owned_store(
                self.fs,
                self.location,
                strict=self.options.is_open_to_others,
                warn=self.warn,
                cache_dir=cache,
                table_size=table,
            ) as store,
            trio.open_nursery() as nursery,
        ):
            await look_for_hidden_mail(store, self.options, self.warn)
            host = make_host(nursery)
            yield _ServingOne(await serve(store, self.options, host), host, store.owner.st_uid)
            nursery.cancel_scope.cancel()


class _ServingOne(Struct, frozen=True):
    """A store that is mounted by itself."""

    served: Served
    host: Host
    owner: int | None

    @property
    def top(self) -> ReadableFileSystem:
        return self.served.top

    @property
    def writes(self) -> WritableFileSystem | None:
        return self.served.writes

    def unopen(self, pages: Pages, stats: Callable[[], Mapping[str, object]]) -> UnopenedRequests:
        self.served.reading.report.more.append(stats)
        return self.served.unopen(pages)

    def released(self, directory: OpenDirectory) -> None:
        """Does nothing: one store needs no count of open directories."""

    def start(self, mount: Mount | None) -> None:
        self.served.begin(self.host.spawn, mount)

    async def finish(self) -> None:
        await self.served.finish()

    async def drop_caches(self) -> None:
        await self.served.reading.drop_caches()

    def resize_table(self, messages: int) -> None:
        self.served.reading.store.records.resize(messages)

    def metrics(self) -> str:
        return self.served.reading.report.metrics()


async def serve(store: Store, options: MountOptions, host: Host) -> Served:
    """Make the file system over *store*; recovers the store first if the mount is writable.

    :param host: its kernel knows nothing of views.
    :raises DboxfsError, OSError: the store can't be read, or written.
    """
    names = NameReader(store)
    await names.load()
    if options.view.view is View.EML:
        vfs = await _file_system(store, options, host, names)
        return Served(vfs, vfs, vfs if isinstance(vfs, WritableVfs) else None)
    from dboxfs.vfs.views.told_names import ViewKernel  # most mounts have no view
    from dboxfs.vfs.views.views import shown

    kernel = ViewKernel(host.kernel)
    vfs = await _file_system(store, options, replace(host, kernel=kernel), names)
    view, writes = shown(vfs, options.view, kernel, names)
    return Served(vfs, view if writes is None else writes, writes, view.without_open)


async def _file_system(
    store: Store, options: MountOptions, host: Host, names: NameReader
) -> ReadOnlyVfs | WritableVfs:
    if options.write is None:
        vfs = ReadOnlyVfs(store, options.view, host, names)
        if options.generations:
            vfs.trees.append(GenerationTree(options.generations, vfs.attributes))
        return vfs
    write = await with_version(store, options.write, options.dbox_version, force=options.force)
    if (await store.statvfs()).f_flag & os.ST_RDONLY:
        root = store.location.root
        raise NoSuchStore(f"{root}: lies on a read-only file system; mount it without -o rw")
    await claim(store, write)
    writer = StoreWriter(store.fs, store.location, store.owner, write, views=store)
    await writer.recover(name for name, folder in store.folders.items() if folder.mailbox is not None)
    reading = ReadOnlyVfs(store, replace(options.view, writable=True), host, names)
    writable = WritableVfs(reading, writer, names, restore=options.restore)
    await writable.begin()
    return writable


async def look_for_hidden_mail(store: Store, options: MountOptions, warn: Callable[[str], None]) -> None:
    """Warn if the store has mail that it doesn't show: a mirror of such a mount would lose it.

    :raises MailHidden: there is such mail, and the mount is writable without *force*.
    """
    if store.location.only is not None:
        return  # this mount shows a part of the store on purpose
    found = [
        one for one in await hidden_in(store)
        if options.view.has_inbox or one.messages or one.cause is not Cause.NO_INBOX
    ]  # fmt: skip
    if found and options.write is not None and not options.force:
        raise MailHidden(f"{summary(found)}; not mounted with -o rw (--force: write it all the same)")
    if found:
        warn(summary(found))
