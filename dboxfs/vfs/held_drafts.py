"""The staged files of a mailbox while a commit makes messages of them: no other task changes or opens them.

The commit holds :attr:`Draft.lock <dboxfs.vfs.draft.Draft.lock>` of each.  A packed file has no draft, and so
no lock, and stays packed: a commit takes little memory.  If a request asks for one meanwhile, its new draft
is locked for the commit before the request has it.

Concurrency: one commit at a time (:mod:`dboxfs.vfs.staging`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from dboxfs.store import Folder
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts


class HeldDrafts:
    """The staged files of a mailbox that no process has open.

    :ivar inodes: their numbers.
    """

    def __init__(self, drafts: Drafts) -> None:
        self.inodes: list[int] = []
        self._drafts = drafts
        self._task = trio.lowlevel.current_task()
        self._locked: dict[int, Draft] = {}

    def look(self, inode: int) -> Draft | None:
        """A file, to look at; None: it is no staged file any more."""
        return self._drafts.look(inode)

    def take(self, inode: int) -> Draft | None:
        """A file, to be changed: :meth:`give_back` it; None: it is gone."""
        found = self._locked.get(inode)
        return found if found is not None else self._drafts.by_inode(inode)

    def give_back(self, draft: Draft) -> None:
        """Release a file."""
        if self._locked.pop(draft.inode, None) is not None:
            draft.lock.release()

    async def lock_awake(self, folder: Folder) -> None:
        """Lock the files of *folder* that are not packed, each as soon as no other task holds it."""
        awake = [draft for draft in self._drafts.awake(folder) if draft.is_staged]
        for draft in sorted(awake, key=lambda draft: draft.inode):
            if draft.inode not in self._locked:
                await draft.lock.acquire()
                self._locked[draft.inode] = draft
        found = [draft for draft in self._locked.values() if draft.is_staged and draft.folder is folder]
        self.inodes = [draft.inode for draft in found if not draft.handles and not draft.failed]
        self.inodes += self._drafts.packed(folder)

    def lock(self, draft: Draft) -> None:
        """Lock a file that was unpacked just now."""
        draft.lock.take_for(self._task)
        self._locked[draft.inode] = draft

    def let_go(self) -> None:
        """Release all."""
        for draft in list(self._locked.values()):
            self.give_back(draft)


@asynccontextmanager
async def holding(drafts: Drafts, folder: Folder) -> AsyncIterator[HeldDrafts]:
    """Hold the staged files of *folder*."""
    held = HeldDrafts(drafts)
    drafts.hold(folder, held.lock)
    try:
        await held.lock_awake(folder)
        yield held
    finally:
        drafts.let_go()
        held.let_go()
