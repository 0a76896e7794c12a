"""The keys of each user: to read encrypted mail, and to encrypt new messages.

==================================  =========================================================================
``-o crypt_key=FILE``               a key for all users, read when the mount begins
``-o crypt_key=PATH`` with ``%u``   a file of each user, with the variables of SOURCE
the installed Dovecot names users   also the file of the user's folder keys (``mail_attribute_dict``), with
                                    the password that Dovecot has for it
``-o encrypt=PATH`` with ``%u``     new messages of each user are encrypted for the keys in a file of the user
no ``encrypt=``, users of Dovecot   new messages are encrypted as Dovecot does it for this user
==================================  =========================================================================

A user's file of private keys is read when a message needs it, with the rights of the owner of the store: a
link in the user's home leads to no key that the user can't read.  A file that only root may read is read with
root's rights if no link leads to it.  A key that is missing, or locked with a password that is not known,
concerns the messages that need it, never the store.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.cli.mount_options import ParsedOptions
from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.site import FileUsers, SameUsers
from dboxfs.dovecot.encryption import private_keys_of
from dboxfs.dovecot.user import FoundUser
from dboxfs.dovecot.users import DovecotUsers
from dboxfs.store import Location
from dboxfs.store.owner_rights import Owner, owner_to_read_as
from dboxfs.store.user_variables import StoreUser, absolute_path, expand
from dboxfs.store.write_options import SealsByFolder
from dboxfs.vfs.site.source import UserSource

if TYPE_CHECKING:
    from dboxfs.dbox.crypt import KeyRing
    from dboxfs.dbox.encoders import Seals


class GivenKeys(Struct, frozen=True):
    """The keys that the command line gives.

    :ivar common: those of all users.  :ivar files: of each user, with variables.  :ivar password: of locked
        keys in *files*.
    :ivar encrypt: the file for new messages, with variables; ``""``: no user has one; None: as Dovecot does.
    """

    common: KeyRing | None = None
    files: Sequence[str] = ()
    password: bytes | None = None
    encrypt: str | None = None

    def of(self, location: Location, user: StoreUser, found: FoundUser | None) -> Location:
        """*location* with the keys of its *user*.

        :param found: Dovecot's facts about the user; None: it was not asked.
        :raises DboxfsError: a path can't be expanded; Dovecot encrypts in a way that dboxfs doesn't write.
        :raises OSError: the public key can't be read.
        """
        files = [(_path(file, user), self.password) for file in self.files]
        own = None if found is None else private_keys_of(found)
        if own is not None:
            password = self.password if own.password is None else own.password
            files.append((own.path, password))
        keys = self.common
        owner = owner_to_read_as(location.root, _nothing) if files or self.encrypt else None
        if files:
            from dboxfs.cli.crypt_keys import later_keys  # most users have no keys

            keys = later_keys(files, owner, self.common)
        return dataclasses.replace(location, keys=keys, encrypt=self._encrypt(user, found, owner))

    def _encrypt(
        self, user: StoreUser, found: FoundUser | None, owner: Owner | None
    ) -> Seals | SealsByFolder | None:
        dovecot = OfDovecot(found)
        if self.encrypt == "" or (self.encrypt is None and dovecot.encryption() is None):
            return None
        from dboxfs.cli.crypt_keys import sealing_as, user_sealing

        if self.encrypt is not None:
            return user_sealing(_path(self.encrypt, user), owner)
        return sealing_as(None, dovecot)


def _path(text: str, user: StoreUser) -> str:
    return absolute_path(expand(text, user, version=(2, 3)), user)


def _nothing(text: str) -> None:
    """The mount or the command has its own warning about a store that its owner can't reach."""


class KeyedUsers(SameUsers, frozen=True):
    """A source whose locations have the keys of their users, and the same values of *fields*."""

    given: GivenKeys
    fields: Mapping[str, Any]

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        source = self.source
        found = source.user(name) if isinstance(source, DovecotUsers | FileUsers) else None
        if found is None:
            location, user = source.locate(name, damaged=damaged), StoreUser(name)
        else:
            location, user = found.location(damaged=damaged), found.user
        return self.given.of(dataclasses.replace(location, **self.fields), user, found)


def of_all_users(
    source: UserSource, options: ParsedOptions, dovecot: OfDovecot
) -> tuple[ParsedOptions, UserSource]:
    """The options that all users of a mount share, and *source* with what each has of its own.

    :param dovecot: what Dovecot does for all users.
    :raises UsageError, OSError, Unsupported: a key can't be used, or Dovecot encrypts in a way that dboxfs
        doesn't write.
    """
    fields = {} if options.attachments is None else {"attachments": options.attachments}
    said = options.encrypt
    if options.mount.write is None or (said is not None and not _is_of_each(said)):
        options, said = encrypting(options, dovecot), ""
    elif said is None:
        encrypting(options, dovecot)  # refuses a mount whose messages can't be encrypted for any user
    return options, KeyedUsers(source, _given(options.keys, options.password_fd, said), fields)


def keyed_users(source: UserSource, arguments: argparse.Namespace) -> UserSource:
    """*source* with the keys that the options of a command give for each user, which are read once.

    :raises UsageError, OSError: a key can't be used.
    """
    files = [os.path.abspath(os.path.expanduser(file)) for file in arguments.crypt_key]
    said = getattr(arguments, "encrypt", "")
    given = _given(files, arguments.crypt_password_fd, "" if said == "none" else said)
    return KeyedUsers(source, given, {})


def _given(files: Sequence[str], password_fd: int | None, encrypt: str | None) -> GivenKeys:
    """The keys that options give, with those of all users read.

    :raises UsageError, OSError: a key can't be used.
    """
    if not files:
        return GivenKeys(encrypt=encrypt)
    from dboxfs.cli.crypt_keys import given_password, keys_with

    password = given_password(password_fd)
    common = keys_with([file for file in files if not _is_of_each(file)], password)
    return GivenKeys(common, tuple(file for file in files if _is_of_each(file)), password, encrypt)


def encrypting(options: ParsedOptions, dovecot: OfDovecot) -> ParsedOptions:
    """How new messages are encrypted: as was said, else as Dovecot does it.

    :raises UsageError, OSError, Unsupported: they can't be.
    """
    write, said = options.mount.write, options.encrypt
    if write is None or said == "":
        return options
    if said is None and dovecot.encryption() is None:
        return options
    from dboxfs.cli.crypt_keys import sealing_as

    sealing = sealing_as(said, dovecot)
    return replace(options, mount=replace(options.mount, write=replace(write, encrypt=sealing)))


def _is_of_each(path: str) -> bool:
    """Whether a file of ``crypt_key=`` or ``encrypt=`` is another one for each user."""
    return "%" in path
