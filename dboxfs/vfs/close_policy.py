"""FLUSH, FSYNC and RELEASE of files that are written: decides when bytes become a message.

The kernel sends FLUSH for every descriptor that is closed, also for a copy of one that stays open.  After the
last it sends RELEASE, whose error reaches no process.  :mod:`dboxfs.vfs.holders` finds out which close is the
last.

================================  ==========================================================================
a FLUSH, while                    what happens to uncommitted bytes
================================  ==========================================================================
no other process holds the file   they are committed; ``close`` gets the result
a process holds it still          they are made durable in the temporary file
the name begins with a dot        they are written to the temporary file; the rename commits
the opener is being killed        they are given up
================================  ==========================================================================

fsync(2) always does what the second row says.  When only processes other than the opener hold the file, and
none of them has written for :data:`HOLDER_SECONDS` seconds, it is committed as it is: a descriptor that a
server has inherited by mistake must not keep a message away for ever.  Later writes make a replacement.

A new file that is closed without a byte is a ghost for the same time.

An OPEN of a draft that a RELEASE is committing waits, and gets the message.  An OPEN that was answered before
keeps the draft, which then ends with the RELEASE of that OPEN.

Locks: ``Draft.lock`` while a draft is committed.  The kernel is told of names after that.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

from dboxfs.errors import DboxfsError
from dboxfs.vfs import holders
from dboxfs.vfs.commit import Committer
from dboxfs.vfs.draft import Draft, Writing
from dboxfs.vfs.draft_stages import Stage
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.host import Host
from dboxfs.vfs.node import DRAFTS, Inodes
from dboxfs.vfs.staging import Staging

log = logging.getLogger(__name__)

HOLDER_SECONDS = 60.0
"""Seconds without a write after which bytes are committed that only processes other than the opener hold;
also the life of a ghost."""


class OpenDraft:
    """A file that is open for writing.  Made by :meth:`ClosePolicy.open`.

    :ivar draft: the file being written.
    """

    __slots__ = ("_append", "_killed", "_policy", "_writing", "draft")

    def __init__(self, policy: ClosePolicy, writing: Writing, *, append: bool) -> None:
        self.draft = writing.draft
        self._policy = policy
        self._writing = writing
        self._append = append
        self._killed = False

    async def read(self, size: int, offset: int) -> bytes:
        return await self.draft.read(size, offset)

    async def write(self, data: bytes, offset: int) -> int:
        async with self.draft.lock:
            return await self.draft.write(data, None if self._append else offset)

    async def flush(self) -> None:
        if not self.draft.is_temporary and holders.killed(self._writing.pid):
            self._killed = True
        else:
            await self._policy.flush(self._writing)

    async def fsync(self) -> None:
        async with self.draft.lock:
            self.draft.check()
            await self.draft.sync()

    async def release(self) -> None:
        await self._policy.release(self._writing, killed=self._killed)


class ClosePolicy:
    """Decides at FLUSH, FSYNC and RELEASE whether the bytes of a draft are committed."""

    def __init__(
        self, host: Host, inodes: Inodes, drafts: Drafts, committer: Committer, staging: Staging | None
    ) -> None:
        self._staging = staging
        self._host = host
        self._inodes = inodes
        self._drafts = drafts
        self._committer = committer

    def open(self, draft: Draft, pid: int, *, append: bool) -> OpenDraft:
        """The process of thread *pid* opens a draft.

        :param append: O_APPEND: every write goes to the end.
        """
        return OpenDraft(self, self._drafts.opened(draft, pid), append=append)

    async def flush(self, writing: Writing) -> None:
        """A process has closed one descriptor.

        :raises Exception: the bytes could not be committed or made durable.
        """
        await self._flush(writing)
        draft = writing.draft
        if draft.uid is not None and not draft.dirty and not draft.size:
            await self._cut_for_others(writing)

    async def _cut_for_others(self, writing: Writing) -> None:
        """A descriptor that has truncated a message to 0 bytes and written nothing also truncates the other
        drafts of its process on that message, where they have no uncommitted bytes.
        """
        for other in self._drafts.beside(writing):
            async with other.lock:
                if other.uid is not None and not other.dirty and not other.failed and other.size:
                    other.truncate(0)

    async def _flush(self, writing: Writing) -> None:
        draft = writing.draft
        async with draft.lock:
            draft.check()
            if draft.is_removed:
                return
            if draft.is_temporary:
                await draft.settle()
                return
            # Also when there is nothing to commit: the process that closes now may have forked, and end.
            is_held = writing.holders.look(draft.inode, partial(self._drafts.opens, draft.inode))
            if not draft.dirty:
                return
            if is_held:
                await draft.sync()
                if not writing.holders.opener_holds and draft.left():
                    self._host.spawn(partial(self._wait_for_others, draft))
                return
            is_known = _is_known(draft)
            await self._finish(draft)
        if is_known:
            await self._tell(draft)

    async def _finish(self, draft: Draft) -> None:
        """Commit the draft, or stage it; the caller holds its lock."""
        if self._staging is not None and draft.stage in (Stage.NEW, Stage.STAGED):
            await self._staging.stage(draft)
        else:
            await self._committer.commit(draft)

    async def _tell(self, draft: Draft) -> None:
        """Have the kernel look up the name again, before the program that has closed the file does."""
        parent = self._inodes.of(draft.folder) if draft.folder in self._inodes else 0
        if parent:
            await self._host.kernel.now(parent, draft.name)

    # -- drafts that only other processes than the opener hold ---------------------------------

    async def _wait_for_others(self, draft: Draft) -> None:
        while draft.dirty and not (draft.is_removed or draft.failed):
            await trio.sleep_until(draft.written + HOLDER_SECONDS)
            if draft.is_temporary:  # renamed to a name with a dot meanwhile
                break
            is_known = _is_known(draft)
            if (
                trio.current_time() >= draft.written + HOLDER_SECONDS
                and await self._commit_left(draft)
                and is_known
            ):
                await self._tell(draft)
        draft.not_left()

    async def _commit_left(self, draft: Draft) -> bool:
        try:
            async with draft.lock:
                await self._finish(draft)
                return True
        except (DboxfsError, OSError) as exc:
            log.error("%s: could not be committed: %s", draft.name.decode("utf-8", "replace"), exc)
            return False

    async def finish(self) -> None:
        """The mount ends: commit the drafts that their openers have closed, give up all others."""
        for draft in self._drafts.unpacked():
            if draft.is_left and draft.dirty and not draft.is_temporary:
                await self._commit_left(draft)
            draft.close()
        self._drafts.forget_staged()

    # -- the end of an open --------------------------------------------------------------------

    async def release(self, writing: Writing, *, killed: bool) -> None:
        """The last descriptor of an open is gone.

        :param killed: the process that opened it was killed.
        :raises Exception: bytes that no FLUSH has committed could not be committed now.
        """
        self._drafts.released(writing)
        draft = writing.draft
        async with draft.lock:
            draft.released()
            is_known = _is_known(draft) and (draft.dirty or not draft.inode & DRAFTS)
            if draft.handles or draft.is_temporary or (draft.is_staged and not draft.failed):
                return
            gone = killed or draft.failed or draft.is_removed
            if not gone and draft.stage is Stage.NEW and draft.is_empty:
                self._haunt(draft)
                return
            try:
                if not gone and draft.dirty:
                    await self._finish(draft)
            finally:
                if not draft.is_staged:
                    self._drafts.drop(draft)
        if is_known:
            await self._tell(draft)

    def hold(self, draft: Draft, pid: int) -> None:
        """The process of thread *pid* has made a file without opening it (mknod): a ghost, or a temporary."""
        draft.made_by(holders.process_of(pid))
        if not draft.is_temporary:
            self._haunt(draft)

    def _haunt(self, draft: Draft) -> None:
        self._drafts.haunt(draft)
        self._host.spawn(partial(self._lay_ghost, draft))

    async def _lay_ghost(self, draft: Draft) -> None:
        await trio.sleep(HOLDER_SECONDS)
        if draft.stage is Stage.GHOST:
            self._drafts.drop(draft)


def _is_known(draft: Draft) -> bool:
    """Whether the kernel may know its name as that of a message, which is another one after the commit.

    Also where the draft has an inode of its own: who looks the name up meanwhile finds the message.
    """
    return draft.uid is not None or not draft.inode & DRAFTS
