"""Messages that are gone while a program may have them open, in a mount without OPEN.

A program that opens a message by a name that the kernel knows causes no request.  So it may have a message
open that was replaced, moved or expunged meanwhile: a READ or a GETATTR comes for the inode of a message that
is gone.  In a mount with OPEN, such a request is answered for the message that has the name now
(:mod:`dboxfs.vfs.forwarding`).  Here that would be wrong: the kernel has pages and the size of the old
message under this inode, and bytes of two messages would be mixed.  So the answer is about the old message,
as long as that can be read (:mod:`dboxfs.store.departed`) and the kernel knows the inode; else ESTALE.

Concurrency: the folder of a number may change at every await.
"""

from __future__ import annotations

from dboxfs.errors import NoSuchMessage
from dboxfs.store import Body, Facts, Mailbox
from dboxfs.store.departed import DepartedMessages
from dboxfs.vfs.node import Inodes


class Departures:
    """Finds messages that are gone, by inode."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def _of(self, inode: int) -> tuple[DepartedMessages | None, int]:
        node = self._inodes.node(inode)
        box = node.folder.mailbox if node.folder is not None and node.uid else None
        return (None, 0) if box is None else (box.departed, node.uid)

    @staticmethod
    async def hold(box: Mailbox, uid: int) -> None:
        """A program looks up a message: keep it readable from now on.

        :raises NoSuchMessage: it is gone, and the mailbox was read again.
        """
        try:
            await box.departed.hold(uid)
        except NoSuchMessage:  # it was replaced, and the store hasn't seen that yet; or it is damaged
            await box.resync()
            if uid not in box:
                raise

    def facts(self, inode: int) -> Facts | None:
        """Size and dates of a message that is gone; None: they are unknown."""
        departed, uid = self._of(inode)
        return departed.facts(uid) if departed is not None else None

    async def open(self, inode: int) -> tuple[Body, Facts] | None:
        """The bytes of a message that is gone, and its size and dates; None: it can't be read any more.

        :raises DboxfsError, OSError: it can't be read.
        """
        departed, uid = self._of(inode)
        return await departed.open(uid) if departed is not None else None

    def forget(self, inode: int) -> None:
        """The kernel has no inode of this number any more."""
        departed, uid = self._of(inode)
        if departed is not None:
            departed.forget(uid)
