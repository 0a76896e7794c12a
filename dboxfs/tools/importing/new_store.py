"""Makes a store for an import: after a crash it is there as a whole, or not at all.

::

    STORE/.dboxfs-new/     being made; the next run removes it and begins again
    STORE/.dboxfs-made/    whole; the next run only does the remaining renames
    STORE/mailboxes ...    renamed to here, mailboxes/ last
"""

from __future__ import annotations

import os
from dataclasses import replace

from dboxfs.fsapi import FileSystem, Permissions, ops
from dboxfs.store.disk import Disk
from dboxfs.store.location import Location
from dboxfs.store.write import StoreExists, WriteOptions, init_store
from dboxfs.store.write.new_store import make_root
from dboxfs.tools.staged import publish, remove_tree

BEGUN = ".dboxfs-new"
MADE = ".dboxfs-made"


async def is_begun(fs: FileSystem, root: str) -> bool:
    """Whether *root* is missing, empty, or holds only the rest of an interrupted :func:`make_store`."""
    try:
        names = {entry.name for entry in await fs.listdir(root)}
    except FileNotFoundError:
        return True
    return MADE in names or names <= {BEGUN}


async def make_store(
    fs: FileSystem, location: Location, permissions: Permissions, options: WriteOptions
) -> None:
    """Make an empty store, or finish making it.

    :param permissions: of a root that has to be made; everything in the store gets those of its root.
    :raises StoreExists: *root* holds something else.
    :raises NoSuchStore: the directory above is missing, or can't be written.
    """
    root = location.root
    await make_root(fs, root, permissions)
    if not await is_begun(fs, root):
        raise StoreExists(f"{root}: the directory is not empty; a new store needs a new or an empty one")
    owner = await fs.stat(root)
    disk = Disk(fs, owner, options, root)
    begun, made = (os.path.join(root, name) for name in (BEGUN, MADE))
    if not await disk.exists(made):
        await remove_tree(disk, begun)
        await init_store(fs, replace(location, root=begun), disk.dir_permissions, options)
        await disk.run(ops.Rename(begun, made))
        await disk.sync_dir(root)
    await publish(disk, made, root, durable=options.durable)
    await disk.sync_dir(root)
