"""One wait for the disk for many files: syncfs(2), if it is known to be enough.

It is enough on local file systems.  A file system that passes files on to another program (FUSE) may not pass
on syncfs, so there each file has to be synced.
"""

from __future__ import annotations

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import OpenedFile
from dboxfs.fsapi.temporary import is_local
from dboxfs.store.disk import Disk


async def can_sync_all(disk: Disk, path: str) -> bool:
    """Whether :func:`sync_all` makes files in the directory *path* durable."""
    status = await disk.stat(path)
    return status is not None and is_local(status.st_dev)


async def sync_all(disk: Disk, path: str) -> None:
    """Make all files durable on the file system of *path*, if commits are durable.

    :raises OSError: that failed.
    """
    if not disk.options.durable:
        return

    def program() -> Steps[None]:
        opened: OpenedFile = yield ops.Open(path)
        try:
            yield ops.SyncAll(opened.fd)
        finally:
            yield ops.Close(opened.fd)

    await disk.chain(program)
