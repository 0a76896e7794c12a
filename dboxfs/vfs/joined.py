"""The stores of one user's namespaces, to be mounted (``-o namespaces``).

Each is opened like a single store (:mod:`dboxfs.vfs.serving`); :mod:`dboxfs.vfs.namespaces` makes one tree of
them.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import MountError
from dboxfs.fsapi import FileSystem
from dboxfs.store import Kind, Location, Store
from dboxfs.store.names.of_mailbox import encode
from dboxfs.store.owner_rights import open_owned_store
from dboxfs.util.mounts import Mount
from dboxfs.vfs.attrs import NS, Attrs
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.host import Host, Pages
from dboxfs.vfs.kernel_pages import Pushed
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.namespaces import JoinedFileSystem, JoinedStore
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.serving import MakeHost, Served, Serving, UnopenedRequests, look_for_hidden_mail, serve
from dboxfs.vfs.site.numbers import SiteNumbers, UserNumbers
from dboxfs.vfs.site.told import UserKernel


class MountedNamespace(Struct, frozen=True):
    """One more store of a mount.

    ``path``: the names of the directories that lead to it.  ``prefix``, ``separator``: of the names of its
    mailboxes.  ``writable``: it is writable if the mount is.
    """

    location: Location
    path: tuple[str, ...]
    prefix: str
    separator: str
    writable: bool


class JoinedStores(Struct, frozen=True):
    """The store with the INBOX, which is the root, and those of the user's other namespaces.

    :param warn: called with a warning for the user, one line.
    """

    fs: FileSystem
    location: Location
    others: Sequence[MountedNamespace]
    options: MountOptions
    warn: Callable[[str], None]

    @property
    def name(self) -> str:
        return f"{self.location.kind.value}:{self.location.root}"

    @property
    def kind(self) -> Kind | None:
        """None: a mount of several stores always has OPEN."""
        return None

    @asynccontextmanager
    async def serving(self, make_host: MakeHost) -> AsyncIterator[Serving]:
        async with AsyncExitStack() as stack:
            stores = [await self._opened(stack, self.location)]
            stores += [await self._opened(stack, one.location) for one in self.others]
            async with trio.open_nursery() as nursery:
                yield await self._served(stores, make_host(nursery))
                nursery.cancel_scope.cancel()

    async def _opened(self, stack: AsyncExitStack, location: Location) -> Store:
        cache, table = self.options.cache_dir, self.options.table_size
        return await stack.enter_async_context(
            open_owned_store(
                self.fs,
                location,
                strict=self.options.is_open_to_others,
                warn=self.warn,
                cache_dir=cache,
                table_size=table,
            )
        )

    async def _served(self, stores: Sequence[Store], host: Host) -> _ServingJoined:
        numbers, joined, each = SiteNumbers(), list[JoinedStore](), list[Served]()
        for at, store in enumerate(stores):
            one = self.others[at - 1] if at else None
            own = UserNumbers(numbers, (one.prefix if one else "").encode(), is_top=one is None)
            own.begin()
            options = self.options if one is None else _options_of(one, self.options)
            await look_for_hidden_mail(store, options, self.warn)
            kernel = UserKernel(host.kernel, own)
            told = replace(host, kernel=kernel, pushed=Pushed(), outside=own.out)
            each.append(await serve(store, options, told))
            path = tuple(encode(part) for part in one.path) if one is not None else ()
            joined.append(JoinedStore(path, own, each[-1].top, each[-1].writes))
        self._tell_covered(stores[0])
        top = JoinedFileSystem(joined, numbers, self._leading(each[0]))
        writes = any(one.writable is not None for one in joined)
        owners = {store.owner.st_uid for store in stores}
        return _ServingJoined(
            top, top if writes else None, owners.pop() if len(owners) == 1 else None, each, host
        )

    def _tell_covered(self, store: Store) -> None:
        """Warn of the mailboxes that directories of namespaces hide."""
        for one in self.others:
            folder = store.root.children.get(one.path[0]) if one.path else None
            if folder is not None and folder.mailbox is not None:
                self.warn(f"mailbox {folder}: not shown, its name is that of the namespace {one.prefix}")

    def _leading(self, first: Served) -> Callable[[int, int], Attrs]:
        """Makes the attributes of a directory that only leads to others."""
        view, owner, report = self.options.view, first.reading.store.owner, first.reading.report
        mode = stat.S_IFDIR | (0o500 if view.directory_mode is None else view.directory_mode) & ~view.umask
        uid = owner.st_uid if view.uid is None else view.uid
        gid = owner.st_gid if view.gid is None else view.gid

        def attrs(inode: int, nlink: int) -> Attrs:
            made = Attrs(inode, mode, nlink, uid, gid)
            made.modified_ns = made.changed_ns = report.mounted_at * NS
            return made

        return attrs


def _options_of(namespace: MountedNamespace, options: MountOptions) -> MountOptions:
    """The options of the mount for the store of *namespace*."""
    view = replace(options.view, separator=namespace.separator, prefix=namespace.prefix, has_inbox=False)
    return replace(options, view=view, write=options.write if namespace.writable else None)


class _ServingJoined(Struct, frozen=True):
    """Stores that are mounted as one tree."""

    top: ReadableFileSystem
    writes: WritableFileSystem | None
    owner: int | None
    each: Sequence[Served]
    host: Host

    def unopen(self, pages: Pages, stats: Callable[[], Mapping[str, object]]) -> UnopenedRequests:
        """
        :raises MountError: always: a mount of several stores needs OPEN.
        """
        raise MountError("a mount of several namespaces can't do without OPEN; leave out -o open=none")

    def released(self, directory: OpenDirectory) -> None:
        """Does nothing: the stores stay open as long as the mount."""

    def start(self, mount: Mount | None) -> None:
        for one in self.each:
            one.begin(self.host.spawn, mount)

    async def finish(self) -> None:
        async with AsyncExitStack() as stack:
            for one in self.each:
                stack.push_async_callback(one.finish)

    async def drop_caches(self) -> None:
        for one in self.each:
            await one.reading.drop_caches()

    def resize_table(self, messages: int) -> None:
        for one in self.each:
            one.reading.store.records.resize(messages)

    def metrics(self) -> str:
        """The metrics of the first store."""
        return self.each[0].reading.report.metrics()
