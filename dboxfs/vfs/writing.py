"""One open of a draft, by one process."""

from __future__ import annotations

from dboxfs.util.mounts import Membership
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.holders import Holders


class Writing:
    """One open of a draft.

    ``pid``: the process that has opened it.  ``inode``: the inode that the kernel has opened.
    """

    __slots__ = ("draft", "holders", "inode", "pid")

    def __init__(self, draft: Draft, pid: int, membership: Membership) -> None:
        self.draft = draft
        self.pid = pid
        self.inode = draft.inode
        self.holders = Holders(pid, membership)
