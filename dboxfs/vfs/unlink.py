"""unlink(2) in a writable mount: of a draft, a message, or the name of a temporary that is a message."""

from __future__ import annotations

import errno

from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.names import Names
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
    ) -> None:
        self._staging = staging
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self._drafts = drafts
        self._removals = removals

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*.

        :raises Refused: ENOENT: nothing has this name.
        :raises Exception: what the removal, or an earlier one, has met.
        """
        draft = self._drafts.seen(parent, name, pid)
        if draft is not None:  # nothing in the store stands for it, whatever becomes of its directory
            async with draft.lock:
                self._drafts.discard(draft)
            if draft.uid is None:
                return
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
            was_there = await self._removals.remove(folder, uid)
        except BaseException:
            for writer in writers:
                writer.kept()
            raise
        for writer in writers:  # its inode stands for what is written, and nothing else, from now on
            self._drafts.discard(writer)
            writer.expunged()
        if not was_there:  # another mount was faster: it has replaced the message, or removed it
            await self._names.know(folder)
            if self._names.resolve(folder, name) not in (None, uid):
                await self.unlink(parent, name, pid)
