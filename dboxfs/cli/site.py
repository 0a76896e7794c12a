"""``--users SOURCE``: all users of a site, in place of one STORE.

SOURCE is a mail location with variables (:mod:`dboxfs.store.user_templates`), ``*`` or another mask of
``doveadm user`` (:mod:`dboxfs.dovecot.users`), or a file: a line for each user, the name and, behind it,
STORE in one of its notations; without one the installed Dovecot is asked.  Empty lines and those that begin
with ``#`` are ignored. A name is written as the mount shows it (``%2F`` is a slash).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec import Struct

from dboxfs.cli.status import UsageError
from dboxfs.dovecot.user import FoundUser
from dboxfs.dovecot.users import DovecotUsers
from dboxfs.errors import NoSuchStore, NoSuchUser
from dboxfs.store import Kind, Location
from dboxfs.store.mail_location import parse_location
from dboxfs.store.user_templates import TemplateUsers
from dboxfs.store.user_variables import StoreUser
from dboxfs.vfs.site.shown import meant_user
from dboxfs.vfs.site.source import UserSource

USERS_HELP = """\
SOURCE of --users:
  mdbox:/srv/vmail/%d/%n/mdbox   a location with variables of Dovecot 2.3, which lie on disk
  '*' or '*@example.org'         the users that doveadm user tells, each where Dovecot says
  FILE                           a line a user: name and location, or the name alone
"""


class SameUsers(Struct, frozen=True):
    """The users of *source*; a subclass says where their mail is."""

    source: UserSource

    @property
    def described(self) -> str:
        return self.source.described

    @property
    def place(self) -> str:
        return self.source.place

    @property
    def kind(self) -> Kind | None:
        return self.source.kind

    def names(self) -> Sequence[str]:
        return self.source.names()


def choose_users(text: str, config: str | None = None) -> UserSource:
    """The users of SOURCE.

    :param config: Dovecot's configuration file; None: the usual one.
    :raises UsageError, NoSuchStore: SOURCE is none of its forms.
    """
    if not text:
        raise UsageError("--users: SOURCE is empty; dboxfs mount --help says what it can be")
    if "/" not in text and ("*" in text or "?" in text):
        return DovecotUsers(text, config)
    if "%" in text:
        return TemplateUsers(text)
    if os.path.isfile(text):
        return FileUsers(os.path.abspath(text), config)
    raise NoSuchStore(
        f"{text}: no SOURCE of users: a location with %u, %n and %d, '*' for all of Dovecot's, or a file"
    )


class FileUsers:
    """The users of a file, which is read again when it has changed."""

    def __init__(self, path: str, config: str | None = None) -> None:
        self.described = f"users of {path}"
        self.place = os.path.dirname(path)
        self.kind: Kind | None = None
        self._path = path
        self._dovecot = DovecotUsers("*", config)
        self._read_of: tuple[int, int, int] | None = None
        self._locations: dict[str, str] = {}

    def names(self) -> list[str]:
        """The names of all users.

        :raises OSError: the file can't be read.
        """
        with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
            found = os.fstat(file.fileno())
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen != self._read_of:
                self._locations = dict(_user(line) for line in file if line.strip() and line[0] != "#")
                self._read_of = seen
        return sorted(self._locations)

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        """The store of a user.

        :raises NoSuchStore: the store is missing, or can't be found out; NoSuchUser: the file lacks the user.
        """
        text = self._text(name)
        if not text:
            return self._dovecot.locate(name, damaged=damaged)
        return parse_location(text, damaged=damaged, user=StoreUser(name))

    def user(self, name: str) -> FoundUser | None:
        """The facts from Dovecot about a user; None: the file has the location.

        :raises NoSuchUser: the file lacks the user.  :raises NoDovecot, NoSuchStore: Dovecot doesn't answer.
        """
        return None if self._text(name) else self._dovecot.user(name)

    def _text(self, name: str) -> str:
        if name not in self._locations:
            raise NoSuchUser(f"{name}: not in {self._path} any more")
        return self._locations[name]


def _user(line: str) -> tuple[str, str]:
    name, *location = line.strip().split(maxsplit=1)
    return meant_user(name), location[0] if location else ""
