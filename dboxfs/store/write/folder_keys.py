"""New messages of each mailbox are encrypted for a key of its own (Dovecot's mail_crypt with folder keys).

The keys are in one file (:mod:`dboxfs.dbox.folder_keys`), which Dovecot writes, too.  A mailbox gets its key
at its first message:

=====================================  ======================================================================
a crash after                          leaves
=====================================  ======================================================================
1 the lock ``FILE.lock``               the lock, which is stale after three minutes
2 the temporary file                   also the temporary file, which no program reads
3 the rename of it to FILE             the key, and no message with it yet; the lock as above
=====================================  ======================================================================

The key is on disk before the first message that is encrypted for it.  Dovecot takes the same lock, and
replaces FILE in the same way (the dict driver ``file``, whose default is a dotlock).

Concurrency: the file is read again if it has changed; one save at a time makes keys.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from dboxfs.dbox.crypt import BadKey
from dboxfs.dbox.encoders import Seals
from dboxfs.dbox.encrypt import Public, Sealing
from dboxfs.dbox.folder_keys import attributes, folder_key, has_key, with_new_key
from dboxfs.fsapi import FileSystem
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.locks import DOTLOCK_STALE, link_exclusive
from dboxfs.store.write_errors import NoFolderKey
from dboxfs.store.write_options import WriteOptions

_Stamp = tuple[int, int, int]


class FolderKeys:
    """The keys in the file *path*."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: _Stamp | None = None
        self._seen: _Stamp | None = None
        self._found: dict[bytes, bytes] = {}
        self._making = trio.Lock()

    async def seals(self, fs: FileSystem, lock_timeout: float, guid: bytes) -> Seals:
        """The encryption for the mailbox *guid* (16 bytes), whose key is made if there is none yet.

        :param fs: reaches the file.  :param lock_timeout: seconds to wait for its lock.
        :raises NoFolderKey: it has none, and none can be made.
        :raises StoreBusy: another program holds the lock of the file.
        :raises OSError: the file can't be read or written.
        """
        try:
            disk = await self._disk(fs, lock_timeout)
            key = folder_key(await self._read(disk), guid)
            if key is None:
                async with self._making:
                    key = await self._made(disk, guid)
        except BadKey as exc:
            raise NoFolderKey(f"{self.path}: {exc}") from None
        return Sealing(key)

    async def have(self, fs: FileSystem, guid: bytes, ids: Sequence[bytes]) -> bool:
        """Whether one of the keys *ids* (32 bytes each) is a key of the mailbox *guid* (16 bytes).

        :raises NoFolderKey: the file is missing or damaged.
        :raises OSError: it can't be read.
        """
        try:
            found = await self._read(await self._disk(fs, 0.0))
        except BadKey as exc:
            raise NoFolderKey(f"{self.path}: {exc}") from None
        return any(has_key(found, guid, one) for one in ids)

    async def _disk(self, fs: FileSystem, lock_timeout: float) -> Disk:
        """Writes files with the owner and mode that the file has."""
        try:
            status = await fs.stat(self.path)
        except FileNotFoundError:
            raise BadKey("Dovecot has not made it yet; it does with the user's first message") from None
        self._seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        return Disk(fs, status, WriteOptions(lock_timeout=lock_timeout))

    async def _read(self, disk: Disk) -> dict[bytes, bytes]:
        stamp = self._seen
        if stamp != self._stamp:
            self._found, self._stamp = attributes(await disk.read_whole(self.path) or b""), stamp
        return self._found

    async def _made(self, disk: Disk, guid: bytes) -> Public:
        """Make a key, unless Dovecot or another save has made it meanwhile."""
        lock = self.path + ".lock"
        mark = disk.temporary(os.path.dirname(self.path))
        await disk.write_new(mark, b"")
        try:
            await link_exclusive(disk, mark, lock, DOTLOCK_STALE)
        finally:
            await disk.discard([mark])
        try:
            data = await disk.read_whole(self.path) or b""
            key = folder_key(attributes(data), guid)
            if key is not None:
                return key
            data, made = await trio.to_thread.run_sync(with_new_key, data, guid)
            await disk.replace(self.path, data)
            await disk.sync_dir(os.path.dirname(self.path))
            return made
        finally:
            await disk.discard([lock])
