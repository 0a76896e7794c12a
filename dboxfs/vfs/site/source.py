"""The interface through which a site learns of its users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dboxfs.store import Kind, Location


class UserSource(Protocol):
    """Knows the users and the places of their mail.  Both methods may block; each call gets a thread.

    :ivar described: a description in one line.  :ivar place: a directory of the file system that the mail is
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

        :raises DboxfsError, OSError: they can't be found out now.
        """

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        """The location of a user's mail.

        :param damaged: parts of the store may be missing; only its root must exist.
        :raises DboxfsError, OSError: there is none, or it can't be found out.
        """
