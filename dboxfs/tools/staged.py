"""Directories that are made under a hidden name, then moved: conversions, exports, stores for an import."""

from __future__ import annotations

import os

from dboxfs.fsapi import ops
from dboxfs.fsapi.temporary import PREFIX
from dboxfs.store.disk import Disk

MAILBOXES = "mailboxes"
"""The directory by which programs recognize a store."""


async def publish(disk: Disk, staging: str, root: str, *, durable: bool) -> None:
    """Move everything in *staging*, which is on disk, to *root*, and remove *staging*.

    ``mailboxes/`` is moved last, so that *root* is no store before it is complete.  Entries that an earlier
    call has moved stay; a temporary file that a writer has left is removed.  After a crash in the middle the
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
    """Remove *path*, a file or a directory with its contents, if an interrupted run has left one."""
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
