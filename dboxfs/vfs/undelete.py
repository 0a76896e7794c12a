"""rename(2) out of ``.dboxfs/deleted``: a message that was expunged comes back.

It needs a name that is free: it never replaces a message.

Locks: those of :meth:`MessageChanges.bring <dboxfs.vfs.changes.MessageChanges.bring>`.
"""

from __future__ import annotations

import errno

from dboxfs.store import Folder
from dboxfs.store.deleted import DeletedMessage
from dboxfs.store.write import StoreWriter
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.deleted import Deleted
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names, check_name
from dboxfs.vfs.node import Inodes, is_deleted
from dboxfs.vfs.rename import NOREPLACE


class UndeleteRequest:
    """Answers rename(2) of a deleted message."""

    def __init__(
        self,
        deleted: Deleted,
        inodes: Inodes,
        names: Names,
        drafts: Drafts,
        changes: MessageChanges,
        writer: StoreWriter,
        kernel: Kernel,
    ) -> None:
        self._deleted = deleted
        self._inodes = inodes
        self._names = names
        self._drafts = drafts
        self._changes = changes
        self._writer = writer
        self._kernel = kernel

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2).

        :raises Refused: EEXIST: the name is taken; EPERM: it is a directory, the target is no mailbox, or the
            new name begins with a dot; EXDEV: it is encrypted for the key of another mailbox; EINVAL: other
            flags than RENAME_NOREPLACE; ENOENT: no such message.
        :raises NoSuchMessage: it was purged, or a mailbox has it by now.
        """
        if flags & ~NOREPLACE:
            raise Refused(errno.EINVAL)
        check_name(new)
        if is_deleted(new_parent) or new.startswith(b"."):
            raise Refused(errno.EPERM)
        message = await self._deleted.message(old_parent, old)
        target = await self._changes.look_again(self._inodes.node(new_parent).directory())
        mailbox_of(target)
        if self._writer.options.by_folder and message.mailbox != target.name:
            raise Refused(errno.EXDEV)
        if self._drafts.lay(new_parent, new, pid) is not None:
            raise Refused(errno.EEXIST)
        try:
            await self._changes.again(lambda: target, lambda: self._bring(message, target, new))
        finally:
            self._deleted.forget()
        self._kernel.entry(new_parent, new)  # the kernel moves the name with the inode, which is another one

    async def _bring(self, message: DeletedMessage, target: Folder, name: bytes) -> None:
        await self._names.know(target)
        taken = self._names.resolve(target, name) is not None
        if taken or self._names.child(target, name) is not None:
            raise Refused(errno.EEXIST)
        with as_seen(target):
            await self._changes.bring(
                target, name, lambda named: self._writer.undelete(target.name, [message.what], named=named)
            )
