"""Remove directories of deleted mailboxes.  A missing file or directory is no error."""

from __future__ import annotations

import errno
import os

from dboxfs.fsapi import ops
from dboxfs.store.disk import Disk
from dboxfs.store.write.proof import holds_messages


async def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory and all in it.

    :raises OSError: a part of it can't be removed.
    """
    for entry in await disk.listdir(path):
        child = os.path.join(path, entry.name)
        if entry.is_dir:
            await remove_tree(disk, child)
        else:
            await disk.unlink(child)
    await was_empty(disk, path)


async def empty_trash(disk: Disk, trash: str) -> None:
    """Remove the leftovers of interrupted deletions in *trash*, but no directory that holds a message file.

    Dovecot renames a deleted mailbox to this directory itself, if no other process uses the name.

    :raises OSError: a part of them can't be removed.
    """
    if not await holds_messages(disk, trash):
        await remove_tree(disk, trash)
        return
    for entry in await disk.listdir(trash):
        path = os.path.join(trash, entry.name)
        if entry.is_dir and not await holds_messages(disk, path):
            await remove_tree(disk, path)


async def remove_index_files(disk: Disk, directory: str) -> None:
    """Remove a mailbox's index files, and their directory if it is empty then.

    :raises OSError: one of them can't be removed.
    """
    for entry in await disk.listdir(directory):
        if entry.name.startswith("dovecot.") and not entry.is_dir:
            await disk.unlink(os.path.join(directory, entry.name))
    await was_empty(disk, directory)


async def was_empty(disk: Disk, path: str) -> bool:
    """Remove a directory if it is empty; False: it is not empty, or does not exist.

    :raises OSError: it can't be removed.
    """
    try:
        await disk.run(ops.Rmdir(path))
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return False
    return True
