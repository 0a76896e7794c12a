"""All users of the installed Dovecot, and the location of each one's mail."""

from __future__ import annotations

import time

from dboxfs.dovecot.ask import Block, Installed, installed
from dboxfs.dovecot.user import FoundUser, find_user, without_user
from dboxfs.store.location import Kind, Location

CONFIGURATION_SECONDS = 60.0
"""Seconds for which Dovecot's configuration is not read again."""


class DovecotUsers:
    """The users of the installed Dovecot.

    :param mask: of ``doveadm user``, with ``*`` and ``?``.
    :param config: Dovecot's configuration file; None: the default.
    """

    def __init__(self, mask: str = "*", config: str | None = None) -> None:
        self.described = f"users {mask} of Dovecot"
        self.place = "/"
        self.kind: Kind | None = None
        self._mask = mask
        self._config = config
        self._known: tuple[float, Installed, Block] | None = None

    def names(self) -> list[str]:
        """The names of all users (``doveadm user MASK``).

        :raises NoDovecot: no Dovecot is installed, or it doesn't answer.
        """
        return sorted(self._asked()[0].users(self._mask))

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        """The location of a user's store.

        :raises NoSuchStore: it does not exist, or can't be found out.
        """
        return self.user(name).location(damaged=damaged)

    def user(self, name: str) -> FoundUser:
        """The facts from Dovecot about a user."""
        return find_user(name, self._config, self._asked())

    def defaults(self) -> FoundUser:
        """The settings that all users share: separator and compression."""
        return without_user(*self._asked())

    def _asked(self) -> tuple[Installed, Block]:
        now = time.monotonic()
        if self._known is None or now - self._known[0] > CONFIGURATION_SECONDS:
            dovecot = installed(self._config)
            self._known = now, dovecot, dovecot.configuration()
        return self._known[1:]
