"""What a site is told of its users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dboxfs.store import Kind, Location


class UserSource(Protocol):
    """Knows the users and where their mail is.  Both calls may block, and are made on threads of their own.

    :ivar described: in one line, for people.  :ivar place: a directory of the file system that the mail is
        on.
    :ivar kind: of all stores; None: there may be both kinds.
    """

    @property
    def described(self) -> str: ...

    @property
    def place(self) -> str: ...

    @property
    def kind(self) -> Kind | None: ...

    def names(self) -> Sequence[str]:
        """The names of all users.

        :raises DboxfsError, OSError: they can't be told now.
        """

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        """Where the mail of a user is.

        :param damaged: parts of the store may be missing; only its root must be there.
        :raises DboxfsError, OSError: there is none, or it can't be told.
        """
