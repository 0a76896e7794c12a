"""Directories of a writable mount: mailboxes are made, deleted, renamed and subscribed to.

The kernel takes a directory that it has removed or renamed out of its tree itself.  To tell it of the name
would drop what has come there since, with the working directory of whoever is in it: so the kernel hears
only of directories that have got another inode number by a rename (parents without messages).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyfuse3 import FUSEError

from dboxfs.errors import DboxfsError
from dboxfs.store import Folder
from dboxfs.store.mailbox_names import shown_part, storage_part
from dboxfs.store.names.table import decode, encode
from dboxfs.vfs.commit import check_name
from dboxfs.vfs.control import NAME as CONTROL_NAME
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.shared import Shared


class Mailboxes:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._store = shared.store
        self._writer = shared.writer
        self._going: list[str] = []

    @contextmanager
    def _takes_away(self, folder: Folder) -> Iterator[None]:
        """The kernel has told us that this directory goes, with what is below it.

        Whoever reads the tree first, the kernel is not told of it, unless it was told that it failed.
        """
        inodes, parent = self._shared.inodes, folder.parent
        self._going.append(folder.name)
        try:
            yield
        except BaseException:
            if folder not in inodes and parent is not None and parent in inodes:
                self._shared.notifier.entry(inodes.of(parent), encode(folder.shown))
            raise
        finally:
            self._going.remove(folder.name)

    def is_taken_away(self, folder: Folder) -> bool:
        """Whether the kernel removes or renames this directory, or one above it, just now."""
        return any(f"{folder.name}/".startswith(f"{name}/") for name in self._going)

    def _storage_name(self, parent: Folder, name: bytes) -> str:
        """The storage name of a mailbox that is shown as *name*.

        :raises FUSEError: EINVAL: there can't be one (``5.eml``, or an escape that stands for nothing).
        """
        check_name(name)
        shown, utf8 = decode(name), self._store.location.utf8
        try:
            part = storage_part(shown, utf8=utf8)
        except ValueError:
            raise FUSEError(errno.EINVAL) from None
        if shown_part(part, utf8=utf8) != shown:
            raise FUSEError(errno.EINVAL)
        return f"{parent.name}/{part}" if parent.name else part

    async def create(self, parent_inode: int, name: bytes) -> tuple[Folder, Folder]:
        """mkdir(2); gives the parent and the new folder."""
        parent = self._shared.folder(parent_inode)
        if name == CONTROL_NAME and parent_inode == ROOT:
            raise FUSEError(errno.EEXIST)
        storage = self._storage_name(parent, name)
        if self._shared.resolve(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        try:
            await self._writer.create_mailbox(storage)
        except OSError:
            await self._store.refresh_tree()  # it may have been seen before it was taken back
            raise
        return parent, await self._made(parent, storage)

    async def _made(self, parent: Folder, storage: str) -> Folder:
        """The new mailbox, as the store shows it: what could not be read is read once more.

        Its inode number is computed from what is in its index, and must not be another one a moment later.

        :raises OSError, DboxfsError: it was made, but can't be read.
        """
        for again in (False, True):
            await self._store.refresh_tree()
            child = self._store.folders.get(storage)
            if child is None or child not in self._shared.inodes:
                continue
            try:
                await self._store.check(child)
            except (OSError, DboxfsError):
                if again:
                    raise
            else:
                return child
        await self._store.check(parent)
        raise FUSEError(errno.EIO)

    async def delete(self, parent_inode: int, name: bytes) -> None:
        """rmdir(2)."""
        folder = self._shared.child(parent_inode, name)
        await self._shared.removals.finish(folder)
        uploads = self._shared.uploads
        if any(upload.handles for upload in uploads.of_folder(folder)):
            raise FUSEError(errno.ENOTEMPTY)
        with self._takes_away(folder):
            try:
                await self._writer.delete_mailbox(folder.name, only_empty=True)
                for upload in uploads.of_folder(folder):
                    uploads.drop(upload)
            finally:
                await self._store.refresh_tree()

    async def rename(self, folder: Folder, target: Folder, name: bytes) -> None:
        """Rename a mailbox with its children."""
        await self._shared.removals.finish_all()
        new = self._storage_name(target, name)
        if target.children.get(decode(name)) is not None:
            raise FUSEError(errno.EEXIST)
        old = folder.name
        before = {was: self._shared.inodes.of(some) for was, some in self._below(old)}
        with self._takes_away(folder):
            try:
                await self._writer.rename_mailbox(old, new)
            finally:
                await self._store.refresh_tree()
        for upload in self._shared.uploads.all():
            if f"{upload.folder.name}/".startswith(f"{old}/"):
                now = new + upload.folder.name.removeprefix(old)
                upload.folder = self._store.folders.get(now, upload.folder)
        for now, some in self._below(new):
            with suppress(OSError, DboxfsError):  # what could not be read is read once more
                await self._store.check(some)
            if some in self._shared.inodes:
                self._tell_number(before.get(old + now.removeprefix(new), 0), some)

    def _tell_number(self, inode: int, folder: Folder) -> None:
        """Have the kernel look *folder* up again, if it knows it by another inode number."""
        inodes = self._shared.inodes
        if folder.parent is not None and inode not in (0, inodes.of(folder)):
            inodes.was(inode, folder)
            self._shared.notifier.entry(inodes.of(folder.parent), encode(folder.shown))

    def _below(self, name: str) -> list[tuple[str, Folder]]:
        """A folder and all below it, the upper ones first."""
        folders, inodes = self._store.folders, self._shared.inodes
        return [
            (some, folders[some])
            for some in sorted(folders)
            if f"{some}/".startswith(f"{name}/") and folders[some] in inodes
        ]
