"""Errors of a writer, beyond those of reading (``dboxfs.errors``).

``errno``: the error number that a program with the request gets.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError

WHERE_INDEX = (
    "give INDEX= if the indexes lie elsewhere, or make a new store of the messages: dboxfs rescue STORE DST"
)
"""Advice for messages without their index."""


class IndexMissing(DboxfsError):
    """The index or map of existing message files is missing, so nothing is written there."""

    errno: ClassVar[int] = errno.EROFS


class RefusedMessage(DboxfsError):
    """The bytes can't be a message of a dbox store: Dovecot would read them as another kind of message."""

    errno: ClassVar[int] = errno.EINVAL


class NoFolderKey(DboxfsError):
    """Messages are encrypted with a key for each mailbox, and this one has none and can't get one."""

    errno: ClassVar[int] = errno.EACCES


class OtherKey(DboxfsError):
    """Each mailbox has a key of its own: a message can't be in another one as it is stored.

    A program like mv(1) then copies its text.
    """

    errno: ClassVar[int] = errno.EXDEV


class DovecotNeedsVersion2(DboxfsError):
    """Messages of dbox version 3 were to be written to a store that a Dovecot reads."""

    errno: ClassVar[int] = errno.EPERM


class InvalidName(DboxfsError):
    """No mailbox can have this name."""

    errno: ClassVar[int] = errno.EINVAL


class MailboxExists(DboxfsError):
    """The name is taken."""

    errno: ClassVar[int] = errno.EEXIST


class MailboxInUse(DboxfsError):
    """The mailbox has children, or messages that came while it was being deleted."""

    errno: ClassVar[int] = errno.ENOTEMPTY


class StoreExists(DboxfsError):
    """There are files already in the place of a new store."""

    errno: ClassVar[int] = errno.EEXIST


class TextGone(DboxfsError):
    """A stored text that a message refers to is gone, or has as many copies as it can have.  Nothing was
    changed.
    """

    errno: ClassVar[int] = errno.ESTALE


class Superseded(DboxfsError):
    """The message that was to be replaced is gone, or another one has its name; nothing was changed."""

    errno: ClassVar[int] = errno.ESTALE
