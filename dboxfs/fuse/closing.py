"""FLUSH, FSYNC and RELEASE of files that are written: when bytes become a message.

The kernel sends FLUSH for every descriptor that is closed, also for copies of one that stays open, and
RELEASE, which nobody hears the error of, after the last.  Which close is the last:
:mod:`dboxfs.fuse.opener`.

Locks: ``Upload.lock`` while an upload is committed.  The kernel is told of names after that.
"""

from __future__ import annotations

from dboxfs.fuse import opener
from dboxfs.fuse.shared import Shared
from dboxfs.fuse.uploadtable import Writing


class Closing:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._uploads = shared.uploads
        self._commits = shared.commits

    async def flush(self, writing: Writing) -> None:
        """One descriptor was closed.

        :raises Exception: what became of the bytes.
        """
        upload = writing.upload
        if opener.killed(writing.pid):
            writing.killed = True
            return
        async with upload.lock:
            upload.check()
            if upload.discarded or not upload.dirty:
                return
            if upload.temporary or self._is_held(writing):
                await upload.settle()
                return
            await self._commits.commit(upload)
        await self._shared.tell(upload)

    def _is_held(self, writing: Writing) -> bool:
        """Whether who opened the file has it open still, apart from having opened it again."""
        inode, pid = writing.upload.inode, writing.pid
        return opener.held(pid, inode) >= self._uploads.opens(inode, pid)

    async def fsync(self, writing: Writing) -> None:
        """Somebody wants to know that the bytes are safe.

        :raises Exception: what became of the bytes.
        """
        async with writing.upload.lock:
            writing.upload.check()
            await writing.upload.settle()

    async def release(self, writing: Writing) -> None:
        """The last descriptor of an open is gone; *writing* was taken out of the table.

        :raises Exception: what became of bytes that no FLUSH has committed.
        """
        upload = writing.upload
        async with upload.lock:
            upload.handles -= 1
            if upload.handles or (upload.temporary and not upload.discarded):
                return
            try:
                if not (writing.killed or upload.failed or upload.discarded):
                    await self._commits.commit(upload)
            finally:
                self._uploads.drop(upload)
        await self._shared.tell(upload)
