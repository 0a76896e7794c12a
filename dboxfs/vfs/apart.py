"""Messages that are opened for writing while somebody reads them: what is written has an inode of its own.

The kernel makes an inode larger as soon as a write to it was answered, and whoever has opened it before, to
be read through the kernel's cache, then finds zeros behind the bytes of the message.  So such an OPEN is
answered ESTALE, once: the kernel looks the name up again, finds the inode of the draft (:meth:`Apart.find`),
and opens that.  Who looks it up otherwise finds the message, as with every draft that takes the place of one.

Who is refused and does not look up again (it had no name to look up) opens the message itself.

Concurrency: nothing here awaits.
"""

from __future__ import annotations

from collections import OrderedDict

from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.open_files import OpenFiles

WAITING = 16
"""So many drafts at most wait to be opened."""


class Apart:
    """Drafts of messages that were being read, until they are opened."""

    def __init__(self, drafts: Drafts, open_files: OpenFiles) -> None:
        self._drafts = drafts
        self._open_files = open_files
        self._waiting: OrderedDict[tuple[int, int], Draft] = OrderedDict()

    def is_needed(self, inode: int, pid: int) -> bool:
        """Whether thread *pid*, which wants to write message *inode*, has to open another inode.

        Nobody is refused twice, since the kernel looks up only once more: who comes back with another message
        than the one that was refused, because that was replaced meanwhile, opens it.
        """
        refused = [key for key in self._waiting if key[1] == pid]
        for key in refused:
            self._drafts.drop(self._waiting.pop(key))
        return not refused and inode in self._open_files.being_read and inode not in self._open_files.written

    def put(self, inode: int, pid: int, draft: Draft) -> None:
        """Thread *pid* is about to look up a name that stands for message *inode*, and opens *draft* then."""
        self._waiting[inode, pid] = draft
        if len(self._waiting) > WAITING:
            self._drafts.drop(self._waiting.popitem(last=False)[1])

    def find(self, inode: int, pid: int) -> Draft | None:
        """What thread *pid* finds in the place of message *inode*; None: the message."""
        return self._waiting.get((inode, pid)) if self._waiting else None

    def opened(self, draft: Draft) -> None:
        """It was opened, if it is one of these."""
        for key in [key for key, waiting in self._waiting.items() if waiting is draft]:
            del self._waiting[key]
