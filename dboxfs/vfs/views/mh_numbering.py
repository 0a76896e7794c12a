"""Numbers that MH programs give to messages, and the written names that keep them.

===========================================  =============================================================
a program gives a new file the number        it becomes
===========================================  =============================================================
that comes next in the mailbox, or above it  a message with this uid, if it is free still
below that, and no message has it            a message with the next uid, and the number as its written name
===========================================  =============================================================

A copy and a move get the next uid, so a number above that is refused for them.

Concurrency: nothing here awaits.
"""

from __future__ import annotations

import errno

from dboxfs.store import Folder
from dboxfs.vfs.changes import mailbox_of
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.views.mh_names import MhName, MhNames
from dboxfs.vfs.writable import WritableVfs

LEAP = 1_000_000
"""Uids that a number may be above the next one: uids are 32 bits, and none comes twice."""


class MhNumbering:
    """Finds the written name for a number that a program gives."""

    def __init__(self, names: MhNames, inner: WritableVfs, inodes: Inodes) -> None:
        self._names = names
        self._inner = inner
        self._inodes = inodes

    def free(self, folder: Folder, name: MhName, uid: int | None = None) -> bytes:
        """A written name for a number that neither a message nor a file has.

        :param uid: the message that is to get it.
        :raises Refused: EEXIST: a message, or a file that is being written, has it.
        """
        inode = self._inodes.of(folder)
        if self._names.resolve(folder, name) not in (None, uid):
            raise Refused(errno.EEXIST)
        for form in name.forms:
            holder = self._inner.reading.names.resolve(folder, form)
            if holder in (None, uid) and self._inner.drafts.by_name(inode, form) is None:
                return form
        raise Refused(errno.EEXIST)

    def wish(self, folder: Folder, name: MhName) -> int | None:
        """The uid that a new file under this number shall get; None: the next one.

        :raises Refused: EINVAL: no new file can have this name.
        """
        uid_next = mailbox_of(folder).uid_next
        if name.removed or name.number >= uid_next + LEAP:
            raise Refused(errno.EINVAL)
        return name.number if name.number >= uid_next else None

    def check_below(self, name: MhName, uid: int) -> None:
        """
        :param uid: that the message has, or is about to get.
        :raises Refused: EINVAL: the number is above it, where it will be that of another message.
        """
        if name.number > uid:
            raise Refused(errno.EINVAL)

    def being_written(self, folder: Folder, name: MhName) -> bytes | None:
        """The name of the file that is being written under this number; None: none is."""
        inode = self._inodes.of(folder)
        return next((form for form in name.forms if self._inner.drafts.by_name(inode, form)), None)
