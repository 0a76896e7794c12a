"""Directories of a writable mount: mailboxes are made, deleted and renamed.

The kernel takes a directory that it has removed or renamed out of its tree itself.  An invalidation of the
name would drop a new directory that is there by then, and the working directory of every process in it.  So
the kernel is told only of directories that have got another inode number by a rename (parents without
messages).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.store.names.of_mailbox import decode, encode
from dboxfs.store.write import MailboxExists, StoreWriter
from dboxfs.vfs.control import NAME as CONTROL_NAME
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names, check_name
from dboxfs.vfs.node import ROOT, Inodes
from dboxfs.vfs.removals import Removals
from dboxfs.vfs.staging import Staging


class Mailboxes:
    """Answers mkdir, rmdir and the rename of directories."""

    def __init__(
        self,
        store: Store,
        writer: StoreWriter,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        drafts: Drafts,
        removals: Removals,
        kernel: Kernel,
        staging: Staging | None,
    ) -> None:
        self._staging = staging
        self._store = store
        self._writer = writer
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self._drafts = drafts
        self._removals = removals
        self._kernel = kernel

    @contextmanager
    def _takes_away(self, folder: Folder) -> Iterator[None]:
        """Wraps the removal or rename of a directory, and of all below it, that the kernel has asked for.

        No task tells the kernel that it is gone, unless the request fails and the directory is gone all the
        same.
        """
        parent = folder.parent
        with self._folders.going(folder):
            try:
                yield
            except BaseException:
                if folder not in self._inodes and parent is not None and parent in self._inodes:
                    self._kernel.entry(self._inodes.of(parent), encode(folder.shown))
                raise

    def _storage_name(self, parent: Folder, name: bytes) -> str:
        """The storage name of a mailbox that is shown as *name*.

        :raises Refused: EINVAL: no mailbox can have this name (``5.eml``, or an escape without a meaning).
        """
        check_name(name)
        shown, names = decode(name), self._store.location.names
        try:
            part = names.storage_part(shown)
        except ValueError:
            raise Refused(errno.EINVAL) from None
        if names.shown_part(part) != shown or "\0" in part:
            raise Refused(errno.EINVAL)
        return f"{parent.name}/{part}" if parent.name else part

    async def create(self, parent_inode: int, name: bytes) -> Folder:
        """mkdir(2); gives the new folder."""
        return await self._folders.steadily(parent_inode, lambda found: self._create(found, name))

    async def _create(self, parent_inode: int, name: bytes) -> Folder:
        parent = (await self._folders.seek(parent_inode)).directory()
        if name == CONTROL_NAME and parent_inode == ROOT:
            raise Refused(errno.EEXIST)
        storage = self._storage_name(parent, name)
        if self._staging is not None and self._staging.appear(storage):
            return self._store.folders[storage]
        if self._names.resolve(parent, name) is not None:
            raise Refused(errno.EEXIST)
        try:
            await self._writer.create_mailbox(storage, parents=False)
        except (OSError, NoSuchMailbox):
            await self._store.refresh_tree(storage)  # it may have been seen before the writer took it back
            raise
        return await self._made(parent_inode, storage, name)

    async def need_mailbox(self, folder: Folder) -> Folder:
        """The folder with a mailbox, for a restore: one without a mailbox gets one, also one that a crash has
        left half made.  Without ``-o restore`` it is *folder* as it is.

        :raises Refused: ESTALE: its inode number has changed; the kernel then looks its name up again.
        """
        if self._staging is None or folder.mailbox is not None or folder.parent is None:
            return folder
        before = self._inodes.of(folder)
        with suppress(MailboxExists):
            await self._writer.create_mailbox(folder.name)
        made = await self._made(self._inodes.of(folder.parent), folder.name, encode(folder.shown))
        if self._inodes.of(made) != before:
            self._tell_number(before, made)
            raise Refused(errno.ESTALE)
        return made

    async def _made(self, parent_inode: int, storage: str, name: bytes) -> Folder:
        """The new mailbox, as the store shows it; reads it once more if the first reading has failed.

        Its inode number is computed from its index, so the index has to be read before the answer.

        :param parent_inode: of the directory that it was made in, which may have been renamed since.
        :raises OSError, DboxfsError: it was made, but can't be read.
        """
        for again in (False, True):
            await self._store.refresh_tree(*([] if again else [storage]))
            child = self._store.folders.get(storage)
            parent = self._inodes.folder(parent_inode)
            if child is None and parent is not None:
                child = self._names.child(parent, name)
            if child is None or child not in self._inodes:
                continue
            try:
                await self._store.check(child)
            except (OSError, DboxfsError):
                if again:
                    raise
            else:
                return child
        raise Refused(errno.ENOENT)  # another program has removed it, or its parent

    async def delete(self, parent_inode: int, name: bytes) -> None:
        """rmdir(2)."""
        await self._folders.steadily(parent_inode, lambda found: self._delete(found, name))

    async def _delete(self, parent_inode: int, name: bytes) -> None:
        folder = self._names.child((await self._folders.seek(parent_inode)).directory(), name)
        if folder is None:
            raise Refused(errno.ENOENT)
        await self._removals.finish(folder)
        if self._staging is not None and self._staging.vanish(folder):
            return
        awake = self._drafts.awake(folder)
        if self._drafts.packed(folder) or any(draft.handles or draft.is_staged for draft in awake):
            raise Refused(errno.ENOTEMPTY)
        with self._takes_away(folder):
            try:
                await self._writer.delete_mailbox(folder.name, only_empty=True)
                for draft in self._drafts.awake(folder):
                    self._drafts.drop(draft)
                if self._staging is not None:
                    self._staging.mailbox_is(folder, None)
            finally:
                await self._store.refresh_tree(folder.name)

    async def rename(self, folder: Folder, target: Folder, name: bytes) -> None:
        """Rename a mailbox with its children."""
        await self._removals.finish_all()
        new = self._storage_name(target, name)
        if self._names.child(target, name) is not None:
            raise Refused(errno.EEXIST)
        old = folder.name
        before = {was: self._inodes.of(some) for was, some in self._below(old)}
        with self._takes_away(folder):
            try:
                await self._writer.rename_mailbox(old, new, parents=False)
            finally:
                await self._store.refresh_tree(old, new)
        for was in self._drafts.folders() | (self._staging.brought if self._staging is not None else set()):
            if f"{was.name}/".startswith(f"{old}/"):
                now_is = self._store.folders.get(new + was.name.removeprefix(old), was)
                self._drafts.mailbox_is(was, now_is)
                if self._staging is not None:
                    self._staging.mailbox_is(was, now_is)
        for now, some in self._below(new):
            with suppress(OSError, DboxfsError):  # the next request reads it again
                await self._store.check(some)
            if some in self._inodes:
                self._tell_number(before.get(old + now.removeprefix(new), 0), some)

    def _tell_number(self, inode: int, folder: Folder) -> None:
        """Have the kernel look *folder* up again, if it knows it by another inode number."""
        if folder.parent is not None and inode not in (0, self._inodes.of(folder)):
            self._inodes.was(inode, folder)
            self._kernel.entry(self._inodes.of(folder.parent), encode(folder.shown))

    def _below(self, name: str) -> list[tuple[str, Folder]]:
        """(storage name, folder) of a folder and all below it, the upper ones first."""
        folders, inodes = self._store.folders, self._inodes
        return [
            (some, folders[some])
            for some in sorted(folders)
            if f"{some}/".startswith(f"{name}/") and folders[some] in inodes
        ]
