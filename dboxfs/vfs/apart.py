"""Gives the draft of a message an inode of its own if another process is reading the message.

The kernel makes an inode larger as soon as a write to it was answered.  A process that has opened it before,
and reads it through the kernel's cache, would then find zeros behind the bytes of the message.  So an OPEN
for writing is answered ESTALE, once: the kernel looks the name up again, finds the inode of the draft
(:meth:`Apart.find`), and opens that.  Other processes that look the name up find the message, as with every
draft that replaces one.

A writer that doesn't look up again (it had no name to look up) opens the message itself.

Concurrency: no method awaits.
"""

from __future__ import annotations

from collections import OrderedDict

from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.open_files import OpenFiles

WAITING = 16
"""Drafts that wait to be opened, at most."""


class Apart:
    """Drafts of messages that were being read, until they are opened."""

    def __init__(self, drafts: Drafts, open_files: OpenFiles) -> None:
        self._drafts = drafts
        self._open_files = open_files
        self._waiting: OrderedDict[tuple[int, int], Draft] = OrderedDict()

    def is_needed(self, inode: int, pid: int) -> bool:
        """Whether thread *pid*, which wants to write message *inode*, has to open another inode.

        No thread is refused twice in a row, since the kernel looks up only once more.  If the message was
        replaced meanwhile, the thread comes back with the new one, and opens that.
        """
        refused = [key for key in self._waiting if key[1] == pid]
        for key in refused:
            self._drafts.drop(self._waiting.pop(key))
        return not refused and inode in self._open_files.being_read and inode not in self._open_files.written

    def put(self, inode: int, pid: int, draft: Draft) -> None:
        """Let the next lookup of message *inode* by thread *pid* find *draft*."""
        self._waiting[inode, pid] = draft
        if len(self._waiting) > WAITING:
            self._drafts.drop(self._waiting.popitem(last=False)[1])

    def find(self, inode: int, pid: int) -> Draft | None:
        """The draft that thread *pid* finds in the place of message *inode*; None: it finds the message."""
        return self._waiting.get((inode, pid)) if self._waiting else None

    def opened(self, draft: Draft) -> None:
        """A draft was opened: it waits no more, if it did."""
        for key in [key for key, waiting in self._waiting.items() if waiting is draft]:
            del self._waiting[key]
