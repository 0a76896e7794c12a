"""What Dovecot does for a user, where the command line leaves it to Dovecot."""

from __future__ import annotations

from msgspec import Struct

from dboxfs.dbox.cutting import Cutting
from dboxfs.dbox.encoders import Method, parse_method
from dboxfs.dovecot.encryption import KeyOfEachFolder, encryption_of
from dboxfs.dovecot.user import FoundUser


class OfDovecot(Struct, frozen=True):
    """``found``: what it has said of a user, or of all users alike; None: it was not asked."""

    found: FoundUser | None

    @property
    def separator(self) -> str:
        """Between the parts of a mailbox's name."""
        return "/" if self.found is None else self.found.separator

    @property
    def prefix(self) -> str:
        """Before the name of a mailbox."""
        return "" if self.found is None else self.found.prefix

    @property
    def compress(self) -> Method | None:
        """How it compresses new messages; None: not, or not in a way that dboxfs writes."""
        if self.found is None:
            return None
        try:
            return parse_method(self.found.compression or "none")
        except ValueError:
            return None

    @property
    def cutting(self) -> Cutting | None:
        """Which parts of new messages it gives files of their own; None: no parts."""
        return None if self.found is None else self.found.cutting

    def encryption(self) -> bytes | KeyOfEachFolder | None:
        """The public key that it encrypts new messages for, or where those of the folders are; None: it
        doesn't encrypt them.

        :raises Unsupported: it does, in a way that dboxfs doesn't write.
        :raises OSError: the key can't be read.
        """
        return None if self.found is None else encryption_of(self.found)
