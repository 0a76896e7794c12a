"""The staging files of a mount (:mod:`dboxfs.vfs.staging_file`), and when bytes go there from memory.

The bytes of a small file stay in memory while there is room (:class:`~dboxfs.vfs.content.Budget`).  When half
of it is taken, a task writes those of packed files to the staging file of their mailbox, many files at once,
until a quarter is: one by one each write would take longer than all requests for its file.  A file keeps its
bytes in memory until they are in the staging file.  So an error of the disk loses no file that was closed:
the memory stays taken, and the error reaches the program whose next bytes find no room there.

Concurrency: one such task at a time.  Requests may take, change or remove files while it waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable

from dboxfs.store import Folder
from dboxfs.store.write.spool import Spool
from dboxfs.vfs.content import Budget
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.packed_drafts import PackedDrafts
from dboxfs.vfs.staging_file import StagingFile, StagingSegment

WRITE_TOGETHER = 256 << 10
"""Bytes that are written together; more if a single file has more."""


class StagingFiles:
    """The staging files, by mailbox.

    :param spool: makes a file for several texts in a mailbox.
    :param packed: the packed files of the mount.
    :param budget: counts the bytes that they and others have in memory.
    """

    def __init__(
        self, spool: Callable[[Folder], Spool], packed: PackedDrafts, budget: Budget, spawn: Spawn
    ) -> None:
        self._spool = spool
        self._packed = packed
        self._budget = budget
        self._spawn = spawn
        self._files: dict[Folder, StagingFile] = {}
        self._is_relieving = False

    def _of(self, folder: Folder) -> StagingFile:
        file = self._files.get(folder)
        if file is None:
            file = self._files[folder] = StagingFile(self._spool(folder))
        return file

    def segment(self, folder: Folder) -> StagingSegment:
        """The temporary of a new file in *folder*."""
        return StagingSegment(self._of(folder))

    @property
    def size(self) -> int:
        """Bytes of all staging files, also those that were given up."""
        return sum(file.size for file in self._files.values())

    # -- out of memory -------------------------------------------------------------------------

    def relieve(self) -> None:
        """Have bytes of packed files written to the disk, if they take much memory."""
        if self._budget.used > self._budget.limit // 2 and not self._is_relieving:
            self._is_relieving = True
            self._spawn(self._relieve)

    async def _relieve(self) -> None:
        try:
            while self._budget.used > self._budget.limit // 4 and await self._write_some():
                pass
        except OSError:
            pass  # a program that writes gets it when the memory is full
        finally:
            self._is_relieving = False

    async def _write_some(self) -> bool:
        """Write the bytes of the files that were packed first; False: few were left in memory.

        :raises OSError: they can't be written, and stay in memory.
        """
        found = self._packed.in_memory(WRITE_TOGETHER)
        if found is None:
            return False
        folder, rows = found
        file = self._of(folder)
        data = b"".join(row.memory for row in rows)
        at = await file.append(data)
        await file.settle()
        self._budget.give(self._packed.went_to_disk(rows, file, at))
        return len(data) > WRITE_TOGETHER // 2

    # -- mailboxes -----------------------------------------------------------------------------

    def mailbox_is(self, before: Folder, now: Folder) -> None:
        """A mailbox was renamed."""
        file = self._files.pop(before, None)
        if file is not None:
            self._files[now] = file

    def end(self, folder: Folder) -> None:
        """A mailbox has no drafts any more: delete its file."""
        file = self._files.pop(folder, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """The mount ends: delete the files; what is not committed is lost."""
        for folder in list(self._files):
            self.end(folder)
