"""What is made out of sight and then moved to its place: conversions, exports, stores for an import."""

from __future__ import annotations

import os

from dboxfs.fsapi import ops
from dboxfs.fsapi.temporary import PREFIX
from dboxfs.store.disk import Disk

MAILBOXES = "mailboxes"
"""The directory that makes a store of what is beside it."""


async def publish(disk: Disk, staging: str, root: str, *, durable: bool) -> None:
    """Move everything in *staging*, which is on disk, to *root*, and remove *staging*.

    ``mailboxes/`` comes last, so that nothing is a store before all of it is there.  What an earlier attempt
    has moved stays; a temporary file that somebody has left goes.  A crash leaves a part of it moved, and the
    same call goes on.

    :param durable: wait for the disk.
    """
    names = [entry.name for entry in await disk.listdir(staging)]
    for name in sorted(names, key=lambda name: (name == MAILBOXES, name)):
        source = os.path.join(staging, name)
        if name.startswith(PREFIX):
            await disk.unlink(source)
            continue
        if name == MAILBOXES and durable:
            await disk.run(ops.SyncDir(root))
        await disk.run(ops.Rename(source, os.path.join(root, name)))
    if durable:
        await disk.run(ops.SyncDir(root))
    if await disk.exists(staging):
        await disk.run(ops.Rmdir(staging))


async def remove_tree(disk: Disk, path: str) -> None:
    """Remove what an interrupted run has left at *path*, a file or a directory with all in it."""
    for entry in await disk.listdir(path):
        child = os.path.join(path, entry.name)
        if entry.is_dir:
            await remove_tree(disk, child)
        else:
            await disk.unlink(child)
    try:
        await disk.run(ops.Rmdir(path))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        await disk.unlink(path)
