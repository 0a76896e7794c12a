"""Directories of a writable mount: mailboxes are made, deleted, renamed and subscribed to."""

from __future__ import annotations

import errno

from pyfuse3 import FUSEError

from dboxfs.fuse.commits import check_name
from dboxfs.fuse.control import NAME as CONTROL_NAME
from dboxfs.fuse.inodes import ROOT
from dboxfs.fuse.shared import Shared, decode
from dboxfs.store import Folder
from dboxfs.store.names import storage_part


class Mailboxes:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._store = shared.store
        self._writer = shared.writer

    def _storage_name(self, parent: Folder, name: bytes) -> str:
        """The storage name of a mailbox that is shown as *name*.

        :raises FUSEError: EINVAL: there can't be one.
        """
        check_name(name)
        try:
            part = storage_part(decode(name), utf8=self._store.location.utf8)
        except ValueError:
            raise FUSEError(errno.EINVAL) from None
        return f"{parent.name}/{part}" if parent.name else part

    async def create(self, parent_inode: int, name: bytes) -> tuple[Folder, Folder]:
        """mkdir(2); gives the parent and the new folder."""
        parent = self._shared.folder(parent_inode)
        if name == CONTROL_NAME and parent_inode == ROOT:
            raise FUSEError(errno.EEXIST)
        storage = self._storage_name(parent, name)
        if self._shared.resolve(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        await self._writer.create_mailbox(storage)
        await self._store.refresh_tree()
        child = self._store.folders.get(storage)
        if child is None or child not in self._shared.inodes:
            raise FUSEError(errno.EIO)
        return parent, child

    async def delete(self, parent_inode: int, name: bytes) -> None:
        """rmdir(2)."""
        folder = self._shared.child(parent_inode, name)
        await self._shared.removals.finish(folder)
        uploads = self._shared.uploads
        if any(upload.handles for upload in uploads.of_folder(folder)):
            raise FUSEError(errno.ENOTEMPTY)
        await self._writer.delete_mailbox(folder.name, only_empty=True)
        for upload in uploads.of_folder(folder):
            uploads.drop(upload)
        await self._store.refresh_tree()

    async def rename(self, folder: Folder, target: Folder, name: bytes) -> None:
        """Rename a mailbox with its children."""
        await self._shared.removals.finish_all()
        new = self._storage_name(target, name)
        if target.children.get(decode(name)) is not None:
            raise FUSEError(errno.EEXIST)
        await self._writer.rename_mailbox(folder.name, new)
        await self._store.refresh_tree()
