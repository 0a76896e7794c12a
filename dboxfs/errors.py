"""The errors of dboxfs: a small family, raised where the reason is known.

Codecs (``dboxfs.dbox``, ``dboxfs.index``) see bytes only and raise :class:`FormatError`: an offset
into those bytes and a reason.  ``dboxfs.store`` knows which file the bytes came from and turns it into
:class:`CorruptFile`.  Everything else derives from :class:`DboxfsError` too and says its ``errno``; one
place (``dboxfs.fuse.error_map``) decides what goes into the log, and one (``dboxfs.cli.status``) maps
errors to one line on stderr and an exit status.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class DboxfsError(Exception):
    """Base of every error that dboxfs raises on purpose.  ``str()`` is one line for a person.

    :cvar errno: what it is for programs that know errors by number.
    """

    errno: ClassVar[int] = errno.EIO


class FormatError(DboxfsError):
    """Bytes that break a format.

    :param offset: position of the damage in the bytes that the codec was given (bytes, from 0),
        plus whatever base offset the caller passed in.
    :param reason: one line: what was found, what was expected.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class CorruptFile(DboxfsError):
    """A file of the store is damaged at a known place."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: damaged at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


_REMEDY = "give its key (-o crypt_key=FILE, --crypt-key FILE)"


class EncryptedMessage(DboxfsError):
    """A message whose text is ciphertext, which dboxfs can't decrypt."""

    errno: ClassVar[int] = errno.EACCES

    def __init__(self, path: str, offset: int, why: str = "") -> None:
        super().__init__(
            f"{path}: the message at offset {offset} is encrypted (Dovecot's mail_crypt)"
            + (
                f" {why}"
                if why
                else "; give its key (-o crypt_key=FILE, --crypt-key FILE), or read it through Dovecot"
            )
        )
        self.path = path
        self.offset = offset


class NoSuchStore(DboxfsError):
    """The location is missing, unreadable, or no dbox store."""

    errno: ClassVar[int] = errno.ENOENT


class NoSuchUser(NoSuchStore):
    """Dovecot says that it has no such user."""


class NoDovecot(NoSuchStore):
    """No Dovecot is installed, or none that answers."""


class MailHidden(NoSuchStore):
    """The store has mail that it does not show as it was opened: nothing is written, nothing copied."""


class NoSuchMailbox(DboxfsError):
    """The mailbox does not exist (any more)."""

    errno: ClassVar[int] = errno.ENOENT


class NoSuchMessage(DboxfsError):
    """The message does not exist (any more)."""

    errno: ClassVar[int] = errno.ENOENT


class StoreBusy(DboxfsError):
    """A lock could not be had in time."""

    errno: ClassVar[int] = errno.EBUSY


class Unsupported(DboxfsError):
    """A feature of the store or a request that dboxfs does not handle."""

    errno: ClassVar[int] = errno.EOPNOTSUPP


class MountError(DboxfsError):
    """The mount could not be made: mountpoint, /dev/fuse, options."""
