"""FLUSH, FSYNC and RELEASE of files that are written: when bytes become a message.

The kernel sends FLUSH for every descriptor that is closed, also for copies of one that stays open, and
RELEASE, which nobody hears the error of, after the last.  Which close is the last:
:mod:`dboxfs.vfs.holders`.

================================  ==========================================================================
a FLUSH, while                    what happens to bytes that no commit has had
================================  ==========================================================================
nobody else holds the file        they are committed; ``close`` gets the answer
somebody holds it still           they are made durable in the temporary file
the name begins with a dot        they go to the file system; the rename commits
the opener is killed              they are given up
================================  ==========================================================================

fsync(2) is the second row, whoever holds the file.  When only others than the opener hold it, and none of
them has written for :data:`PATIENCE` seconds, it is committed as it is: a descriptor that a server has
inherited by mistake must not keep a message away for ever.  What comes later makes a replacement.

An OPEN that asks for an upload while a RELEASE commits it waits, and gets the message; one that was answered
before keeps the upload, which ends with its own RELEASE.

Locks: ``Upload.lock`` while an upload is committed.  The kernel is told of names after that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from pyfuse3 import FUSEError

from dboxfs.errors import DboxfsError
from dboxfs.vfs import holders
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.drafts import Writing
from dboxfs.vfs.shared import Shared

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds; see the module."""


class Closing:
    """See the module.

    :param spawn: starts a background task.
    """

    def __init__(self, shared: Shared, spawn: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        self._shared = shared
        self._uploads = shared.uploads
        self._commits = shared.commits
        self._spawn = spawn

    async def flush(self, writing: Writing) -> None:
        """One descriptor was closed.

        :raises Exception: what became of the bytes.
        """
        upload = writing.upload
        if holders.killed(writing.pid):
            writing.killed = True
            return
        async with upload.lock:
            upload.check()
            if upload.discarded:
                return
            if upload.temporary:
                await upload.settle()
                return
            # Also when there is nothing to commit: whoever closes now may have forked, and end.
            is_held = writing.holders.look(upload.inode, partial(self._uploads.opens, upload.inode))
            if not upload.dirty:
                return
            if is_held:
                await upload.sync()
                if not writing.holders.opener_holds:
                    self._left(upload)
                return
            await self._commits.commit(upload)
        await self._shared.tell(upload)

    def _left(self, upload: Upload) -> None:
        if not upload.closed:
            upload.closed = True
            self._spawn(partial(self._wait_for_others, upload))

    async def _wait_for_others(self, upload: Upload) -> None:
        while upload.dirty and not (upload.discarded or upload.failed):
            await trio.sleep_until(upload.written + PATIENCE)
            if upload.temporary:  # it was given a name with a dot meanwhile
                break
            if trio.current_time() >= upload.written + PATIENCE and await self._commit_left(upload):
                await self._shared.tell(upload)
        upload.closed = False

    async def _commit_left(self, upload: Upload) -> bool:
        try:
            async with upload.lock:
                return await self._commits.commit(upload)
        except (DboxfsError, OSError, FUSEError) as exc:
            log.error("%s: could not be committed: %s", upload.name.decode("utf-8", "replace"), exc)
            return False

    async def finish(self) -> None:
        """The mount ends: what was closed by who opened it is committed, everything else forgotten."""
        for upload in self._uploads.all():
            if upload.closed and upload.dirty and not upload.temporary:
                await self._commit_left(upload)
            upload.close()

    async def fsync(self, writing: Writing) -> None:
        """Somebody wants to know that the bytes are safe.

        :raises Exception: what became of the bytes.
        """
        async with writing.upload.lock:
            writing.upload.check()
            await writing.upload.sync()

    async def release(self, writing: Writing) -> None:
        """The last descriptor of an open is gone; *writing* was taken out of the table.

        :raises Exception: what became of bytes that no FLUSH has committed.
        """
        upload = writing.upload
        async with upload.lock:
            upload.handles -= 1
            if upload.handles or (upload.temporary and not upload.discarded):
                return
            gone = writing.killed or upload.failed or upload.discarded
            if not gone and self._is_new_and_empty(upload):
                self._uploads.haunt(upload)
                self._spawn(partial(self._lay_ghost, upload))
                return
            try:
                if not gone:
                    await self._commits.commit(upload)
            finally:
                self._uploads.drop(upload)
        await self._shared.tell(upload)

    def _is_new_and_empty(self, upload: Upload) -> bool:
        known = self._uploads.by_inode(upload.inode) is upload
        return known and upload.uid is None and not upload.dirty and not upload.size

    async def _lay_ghost(self, upload: Upload) -> None:
        await trio.sleep(PATIENCE)
        if self._uploads.is_ghost(upload):
            self._uploads.drop(upload)
