"""unlink(2) in a writable mount: of a draft, a message, or the name of a temporary that became a message."""

from __future__ import annotations

import errno

from dboxfs.store.write import Superseded
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names, tell_owner
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.removals import Removals
from dboxfs.vfs.staging import Staging


class UnlinkRequest:
    """Answers unlink(2)."""

    def __init__(
        self,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        drafts: Drafts,
        removals: Removals,
        staging: Staging | None,
        kernel: Kernel,
    ) -> None:
        self._staging = staging
        self._kernel = kernel
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self._drafts = drafts
        self._removals = removals

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*.

        :raises Refused: ENOENT: no file has this name; EEXIST: a restore did not bring this message.
        :raises Exception: the message is not removed.
        """
        draft = self._drafts.seen(parent, name, pid)
        if draft is not None:  # it is not in the store, so this works even if its directory is gone
            async with draft.lock:
                self._drafts.discard(draft)
            if draft.uid is None:
                return
        await self._folders.steadily(parent, lambda found: self._unlink(found, name, pid))

    async def _unlink(self, parent: int, name: bytes, pid: int) -> None:
        await self._names.know((await self._folders.seek(parent)).directory())
        folder = self._inodes.node(parent).directory()
        uid = self._names.resolve(folder, name)
        if uid is None:
            if not self._drafts.unlink(parent, name):
                raise Refused(errno.ENOENT)
            return
        if self._staging is not None:
            self._staging.may_replace(folder, uid)
        writers = [some for some in self._drafts.of_message(folder, uid) if not some.is_removed]
        for writer in writers:
            writer.removed()
        try:
            was_there = await self._removals.remove(folder, uid, name)
        except BaseException as exc:
            for writer in writers:
                writer.kept()
            if not isinstance(exc, Superseded):
                raise
            await self.unlink(parent, name, pid)  # the name stands for another message by now, or for none
            return
        await tell_owner(self._kernel, self._inodes, folder, name, uid)
        for writer in writers:  # from now on the inode stands for the draft alone
            self._drafts.discard(writer)
            writer.expunged()
        if not was_there:  # another process has replaced the message, or removed it, before this request
            await self._names.be_sure(folder)
            if self._names.resolve(folder, name) not in (None, uid):
                await self.unlink(parent, name, pid)
