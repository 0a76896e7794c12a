"""Options of writing a store: durability, line ends, locks, and other writers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from dboxfs.dbox.cutting import Cutting
from dboxfs.dbox.encoders import Coding, Method, Seals
from dboxfs.fsapi import FileSystem


class Neighbour(enum.Enum):
    """Other writers of the store (PROTOCOL section 1).

    DOVECOT: a Dovecot may write it, too; dboxfs only does what Dovecot expects of another writer.  ALONE: no
    other process does; dboxfs executes requests of others, rewrites indexes, rotates logs, and can purge.
    """

    DOVECOT = "dovecot"
    ALONE = "alone"


class Fsync(enum.Enum):
    """COMMIT: a change is acknowledged when it is durable.  NEVER: when the kernel has it (bulk loads)."""

    COMMIT = "commit"
    NEVER = "never"


class Eol(enum.Enum):
    """Line ends of saved messages.  KEEP: stored as written.  LF: as Dovecot's own save stores them."""

    KEEP = "keep"
    LF = "lf"


class LockMethod(enum.Enum):
    """The lock on logs; it must be the ``lock_method`` of the Dovecot that uses the store."""

    FCNTL = "fcntl"
    FLOCK = "flock"
    DOTLOCK = "dotlock"


@runtime_checkable
class SealsByFolder(Protocol):
    """The encryption of new messages with a key for each mailbox (:mod:`dboxfs.store.write.folder_keys`)."""

    async def seals(self, fs: FileSystem, lock_timeout: float, guid: bytes) -> Seals:
        """The encryption for one mailbox.

        :param fs: reaches the file of the keys.  :param lock_timeout: seconds to wait for its lock.
        """

    async def have(self, fs: FileSystem, guid: bytes, ids: Sequence[bytes]) -> bool:
        """Whether one of the keys *ids* (32 bytes each) is a key of the mailbox *guid* (16 bytes).

        :raises DboxfsError, OSError: the file can't be read.
        """


class WriteOptions(Struct, frozen=True):
    """Options of a :class:`~dboxfs.store.write.writer.StoreWriter`.

    :param lock_timeout: seconds to wait for a lock before StoreBusy.
    :param dbox_version: 2 (Dovecot reads it) or 3 (``dbox/FORMAT3.md``), of new messages; messages of
        both are read, copied, moved and expunged.
    :param rotate_size: mdbox: bytes that an ``m.N`` may have; a larger message gets a file of its own.
    :param memory_limit: bytes up to which a message is composed in memory.
    :param sync_together: sdbox: a save of at least so many messages waits for the disk once (syncfs(2)), not
        for each file, if the file system is local.
    :param rewrite_after: bytes by which a log grows before ``dovecot.index`` is rewritten (ALONE).
    :param rotate_log: bytes of a log before a new one is begun (ALONE).
    :param compress: the compression of new messages, only with dbox version 2; None: none.
    :param encrypt: the encryption of new messages, only with dbox version 2; None: no encryption.
    :param apart: which parts of new messages get files of their own in ``Location.attachments``, only with
        dbox version 2 and without encryption; None: no parts.
    :param temporary_age: seconds after which a temporary file counts as left over (dbox-files section 5;
        ALONE).
    """

    neighbour: Neighbour = Neighbour.DOVECOT
    fsync: Fsync = Fsync.COMMIT
    eol: Eol = Eol.KEEP
    lock_method: LockMethod = LockMethod.FCNTL
    lock_timeout: float = 60.0
    dbox_version: int = 2
    rotate_size: int = 10 << 20
    memory_limit: int = 256 << 10
    sync_together: int = 32
    rewrite_after: int = 32 << 10
    rotate_log: int = 1 << 20
    temporary_age: float = 36 * 3600.0
    compress: Method | None = None
    encrypt: Seals | SealsByFolder | None = None
    apart: Cutting | None = None

    @property
    def alone(self) -> bool:
        """Whether no other process writes the store."""
        return self.neighbour is Neighbour.ALONE

    @property
    def codes(self) -> bool:
        """Whether new messages are compressed or encrypted: then a text may begin like an encrypted one."""
        return self.compress is not None or self.encrypt is not None

    def coding(self) -> Coding | None:
        """The coding of one new message; None: it is stored as it is."""
        if self.encrypt is None:
            return self.compress
        assert not isinstance(self.encrypt, SealsByFolder), "Work.coding_options knows the folder's key"
        return self.encrypt.sealed(self.compress)

    @property
    def by_folder(self) -> SealsByFolder | None:
        """The encryption, if each mailbox has a key of its own.

        Then Dovecot can't read a message that lies in another mailbox than the one it was saved to.
        """
        keys = self.encrypt  # isinstance() with a protocol is slow
        return keys if keys is not None and isinstance(keys, SealsByFolder) else None

    @property
    def durable(self) -> bool:
        """Whether a change is acknowledged only when it is durable."""
        return self.fsync is Fsync.COMMIT
