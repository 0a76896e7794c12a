"""Keys of encrypted messages: private ones, to read them (``-o crypt_key=FILE``, and the password of FILE),
and the public one that new messages are encrypted for (``-o encrypt=FILE``).

A password comes from a file descriptor (``-o crypt_password_fd=N``: its bytes up to a line end), or from the
user at the terminal.  It is never an argument, since other users could see it.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import getpass
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import is_one_of_all
from dboxfs.dbox.crypt import BadKey, KeyRing, Private, key_id
from dboxfs.dbox.dcrypt_keys import load_keys, needs_password
from dboxfs.dbox.encoders import Seals
from dboxfs.dbox.encrypt import Sealing, load_public_key
from dboxfs.dbox.folder_keys import is_attribute_file
from dboxfs.dovecot.encryption import KeyOfEachFolder
from dboxfs.fsapi.drivers.acting import acting_as
from dboxfs.store import Location
from dboxfs.store.owner_rights import Owner
from dboxfs.store.write.folder_keys import FolderKeys
from dboxfs.store.write_options import SealsByFolder
from dboxfs.util.regular import open_regular

log = logging.getLogger(__name__)

_MAX_KEY = 1 << 20
_MAX_PASSWORD = 4096


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Declare the key options of a command that reads a store once."""
    parser.add_argument(
        "--crypt-key", metavar="FILE", action="append", default=[],
        help="private key of messages that mail_crypt has encrypted: PEM, or the user's dovecot-attributes",
    )  # fmt: skip
    parser.add_argument(
        "--crypt-password-fd", metavar="N", type=int,
        help="file descriptor with the password of the key (default: asked for on the terminal)",
    )  # fmt: skip


def with_given_keys(location: Location, arguments: argparse.Namespace) -> Location:
    """*location* with the keys that those options name; that of one of all users has them already.

    :raises UsageError, OSError: as :func:`read_keys`.
    """
    if is_one_of_all(arguments):
        return location
    files = [os.path.abspath(os.path.expanduser(file)) for file in arguments.crypt_key]
    return dataclasses.replace(location, keys=read_keys(files, arguments.crypt_password_fd))


def read_keys(files: Sequence[str], password_fd: int | None) -> KeyRing | None:
    """The keys in *files*; None: there are none.

    :raises UsageError: a key can't be used, or its password is missing or wrong.
    :raises OSError: a file can't be read.
    """
    return keys_with(files, given_password(password_fd) if files else None)


def keys_with(files: Sequence[str], password: bytes | None) -> KeyRing | None:
    """The keys in *files*, with a password that was read before.

    :raises UsageError, OSError: as :func:`read_keys`.
    """
    if not files:
        return None
    found = [_KeyFile(path, password) for path in files]
    return KeyRing(
        [key for file in found for key in file.every()], lambda: [key for file in found for key in file.new()]
    )


def given_password(password_fd: int | None) -> bytes | None:
    """The password at a file descriptor, which can be read once; None: none was given.

    :raises UsageError: it can't be read.
    """
    return None if password_fd is None else _from_descriptor(password_fd)


def later_keys(
    files: Sequence[tuple[str, bytes | None]], owner: Owner | None, common: KeyRing | None
) -> KeyRing:
    """The keys in *files* (path, password), which are read when a message needs one that *common* lacks.

    :param owner: the files are read with the rights of this user; None: with those of the process.
    """
    found = [_KeyFile(path, password, owner) for path, password in files]
    return KeyRing([], lambda: _first_readable(found), common)


def _first_readable(files: Sequence[_KeyFile]) -> list[Private]:
    """The keys of all files that can be read.

    :raises BadKey: none of them can be.
    """
    keys, reasons = list[Private](), list[str]()
    for file in files:
        try:
            keys += file.later()
        except BadKey as error:
            reasons.append(str(error))
    if len(reasons) == len(files):
        raise BadKey("; ".join(reasons))
    return keys


class _KeyFile:
    """A file with private keys.  Dovecot adds those of new folders to the file of attributes.

    :param owner: it is read with the rights of this user; None: with those of the process.
    """

    def __init__(self, path: str, password: bytes | None, owner: Owner | None = None) -> None:
        self._path = path
        self._password = password
        self._owner = owner
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[bytes, Private] = {}

    def every(self) -> list[Private]:
        """All keys in the file; asks the user for a password that is missing.

        :raises UsageError: they can't be used.
        :raises OSError: it can't be read.
        """
        data = self._read()
        try:
            if needs_password(data) and self._password is None:
                self._password = _asked(self._path)
            return self._load(data)
        except BadKey as error:
            raise UsageError(f"-o crypt_key={self._path}: {error}") from None

    def new(self) -> list[Private]:
        """All keys, if the file was changed since; else none, and none if it can't be read now."""
        try:
            if self._seen(os.stat(self._path)) == self._stamp:
                return []
            return self.every()
        except (OSError, UsageError) as error:
            log.warning("crypt_key=%s: new keys can't be read: %s", self._path, error)
            return []

    def later(self) -> list[Private]:
        """All keys in the file as it is now; nobody is asked for a password.

        :raises BadKey: it can't be read, or its keys can't be used.
        """
        try:
            with acting_as(*(self._owner or (None, None))):
                unchanged = self._seen(os.stat(self._path)) == self._stamp
        except PermissionError:
            unchanged = False
        except OSError as error:
            raise BadKey(f"{self._path}: {error.strerror}") from None
        try:
            if not unchanged:
                self._load(self._read())
        except BadKey as error:
            self._stamp = None
            raise BadKey(f"{self._path}: {error}") from None
        except OSError as error:
            raise BadKey(f"{self._path}: {error.strerror}") from None
        return list(self._keys.values())

    def _load(self, data: bytes) -> list[Private]:
        """The keys in *data*; those that were decrypted before are not decrypted again.

        :raises BadKey: they can't be used.
        """
        keys = load_keys(data, self._password, self._keys)
        self._keys = {key_id(key.public_key()): key for key in keys}
        return keys

    def _read(self) -> bytes:
        if self._owner is None:
            with open(self._path, "rb") as file:  # may be a pipe: of the shell's <(...)
                return self._taken(file)
        try:
            with acting_as(*self._owner), _user_file(self._path) as file:
                return self._taken(file)
        except PermissionError:  # only root may read it
            with _user_file(self._path, linked=False) as file:
                return self._taken(file)

    def _taken(self, file: BinaryIO) -> bytes:
        self._stamp = self._seen(os.fstat(file.fileno()))
        return file.read(_MAX_KEY)

    @staticmethod
    def _seen(status: os.stat_result) -> tuple[int, int, int]:
        return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _user_file(path: str, *, linked: bool = True) -> Iterator[BinaryIO]:
    """A file in a user's hands, open.  The open never waits, as that of a FIFO would, which holds up all
    users.

    :param linked: False: no link may lead to it, also none that was put there meanwhile.
    :raises OSError: EINVAL: not a regular file; EACCES: a link leads to it; it can't be opened.
    """
    with open(open_regular(path), "rb") as file:
        if not linked and os.readlink(f"/proc/self/fd/{file.fileno()}") != path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        yield file


def sealing_as(said: str | None, dovecot: OfDovecot) -> Seals | SealsByFolder | None:
    """The encryption of new messages; None: they are not encrypted.

    :param said: a file with a key, or ``none``; None: as Dovecot does it.
    :raises UsageError, OSError, Unsupported: they can't be encrypted so.
    """
    if said is not None:
        return None if said in ("", "none") else read_sealing(os.path.abspath(os.path.expanduser(said)))
    found = dovecot.encryption()
    if isinstance(found, KeyOfEachFolder):
        return FolderKeys(found.path)
    return None if found is None else sealing_for(found, "Dovecot's public key")


def user_sealing(path: str, owner: Owner | None) -> Sealing | FolderKeys:
    """:func:`read_sealing` of a user's own file, with the rights of *owner* (None: of the process).

    A file that can't be read now may be there at the first new message: else that is refused.

    :raises UsageError: the key in it can't be used.
    """
    try:
        with acting_as(*(owner or (None, None))), _user_file(path) as file:
            return _sealing_in(file, path)
    except OSError:
        return FolderKeys(path)


def read_sealing(path: str) -> Sealing | FolderKeys:
    """New messages are encrypted for the public key in a file, or for the keys of folders in it.

    :raises UsageError: it can't be used.
    :raises OSError: it can't be read.
    """
    with open(path, "rb") as file:
        return _sealing_in(file, path)


def _sealing_in(file: BinaryIO, path: str) -> Sealing | FolderKeys:
    data = file.read(_MAX_KEY)
    return FolderKeys(path) if is_attribute_file(data) else sealing_for(data, f"-o encrypt={path}")


def sealing_for(data: bytes, named: str) -> Sealing:
    """New messages are encrypted for a public key.

    :param named: what names the key.
    :raises UsageError: it can't be used.
    """
    try:
        return Sealing(load_public_key(data))
    except BadKey as error:
        raise UsageError(f"{named}: {error}") from None


def _asked(path: str) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(f"-o crypt_key={path}: it needs a password; give -o crypt_password_fd=N")
    return getpass.getpass(f"password of {path}: ").encode()


def _from_descriptor(number: int) -> bytes:
    try:
        return os.read(number, _MAX_PASSWORD).partition(b"\n")[0]
    except OSError as error:
        raise UsageError(f"-o crypt_password_fd={number}: {error.strerror}") from None
