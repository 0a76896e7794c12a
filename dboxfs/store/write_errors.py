"""What a writer refuses, beyond the errors that reading has too (``dboxfs.errors``).

``errno`` is what the request maps to for programs that know errors by number.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError

WHERE_INDEX = (
    "give INDEX= if the indexes lie elsewhere, or make a new store of the messages: dboxfs rescue STORE DST"
)
"""What to do where messages are and their index is not."""


class IndexMissing(DboxfsError):
    """There are message files, and the index or map that lists them is missing: nothing is written there."""

    errno: ClassVar[int] = errno.EROFS


class RefusedMessage(DboxfsError):
    """Bytes that can't be a message of a dbox store: Dovecot would take them for something else."""

    errno: ClassVar[int] = errno.EINVAL


class DovecotNeedsVersion2(DboxfsError):
    """Messages of dbox version 3 were to be written where a Dovecot reads."""

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
    """There is something already where a store should be made."""

    errno: ClassVar[int] = errno.EEXIST


class TextGone(DboxfsError):
    """A stored text that a message was to refer to is gone, or has as many copies as it can have.

    Nothing was changed.
    """

    errno: ClassVar[int] = errno.ESTALE


class Superseded(DboxfsError):
    """The message whose place was to be taken is gone, or another one has its name; nothing was changed."""

    errno: ClassVar[int] = errno.ESTALE
