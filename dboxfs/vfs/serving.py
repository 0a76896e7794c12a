"""One store as a mount serves it: the file system over it, read or written, in the view that was asked for.

Neither what serves it (:mod:`dboxfs.fuse`) nor a site of many users (:mod:`dboxfs.vfs.site`) makes its parts
by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from dboxfs.errors import MailHidden, NoSuchStore
from dboxfs.store import Store
from dboxfs.store.hidden import hidden_in, summary
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import StoreWriter, with_version
from dboxfs.util.mounts import Mount
from dboxfs.vfs.file_system import ReadableFileSystem, WritableFileSystem
from dboxfs.vfs.host import Host, Spawn
from dboxfs.vfs.options import MountOptions, View
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.told_names import ViewKernel
from dboxfs.vfs.views.views import maildir_view, writable_maildir_view
from dboxfs.vfs.writable import WritableVfs


@dataclass(frozen=True, slots=True)
class Served:
    """A store that is served.

    :ivar top: answers the requests.  :ivar writes: those that write; None: the store is read-only.
    :ivar vfs: the file system below the view.
    """

    vfs: ReadOnlyVfs | WritableVfs
    top: ReadableFileSystem
    writes: WritableFileSystem | None

    @property
    def reading(self) -> ReadOnlyVfs:
        """The part that reads."""
        return self.vfs.reading if isinstance(self.vfs, WritableVfs) else self.vfs

    def start(self, spawn: Spawn, mount: Mount | None) -> None:
        """Begin what goes on beside the requests as long as the store is served."""
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
        """Carry out what was answered already."""
        if isinstance(self.vfs, WritableVfs):
            await self.vfs.finish()


async def serve(store: Store, options: MountOptions, host: Host) -> Served:
    """Make the file system over *store*, recovered first if it is to be written.

    :param host: with the kernel as it is, whatever the view.
    :raises DboxfsError, OSError: it can't be read, or written.
    """
    kernel = ViewKernel(host.kernel) if options.view.view is not View.EML else host.kernel
    names = NameReader(store)
    await names.load()
    vfs = await _file_system(store, options, replace(host, kernel=kernel), names)
    if not isinstance(kernel, ViewKernel):
        return Served(vfs, vfs, vfs if isinstance(vfs, WritableVfs) else None)
    reading = vfs.reading if isinstance(vfs, WritableVfs) else vfs
    view = maildir_view(reading, vfs, options.view, kernel, names)
    if not isinstance(vfs, WritableVfs):
        return Served(vfs, view, None)
    written = writable_maildir_view(view, vfs)
    return Served(vfs, written, written)


async def _file_system(
    store: Store, options: MountOptions, host: Host, names: NameReader
) -> ReadOnlyVfs | WritableVfs:
    if options.write is None:
        return ReadOnlyVfs(store, options.view, host, names)
    write = await with_version(store, options.write, options.dbox_version, force=options.force)
    if (await store.statvfs()).f_flag & os.ST_RDONLY:
        root = store.location.root
        raise NoSuchStore(f"{root}: lies on a read-only file system; mount it without -o rw")
    writer = StoreWriter(store.fs, store.location, store.owner, write, views=store)
    await writer.recover(name for name, folder in store.folders.items() if folder.mailbox is not None)
    reading = ReadOnlyVfs(store, replace(options.view, writable=True), host, names)
    vfs = WritableVfs(reading, writer, names, restore=options.restore)
    await vfs.begin()
    return vfs


async def look_for_hidden_mail(store: Store, options: MountOptions, warn: Callable[[str], None]) -> None:
    """Say so if the store shows less mail than it has; a mirror of such a mount would lose it.

    :raises MailHidden: it was to be written, too, and not by *force*.
    """
    found = await hidden_in(store)
    if found and options.write is not None and not options.force:
        raise MailHidden(f"{summary(found)}; not mounted with -o rw (--force: write it all the same)")
    if found:
        warn(summary(found))
