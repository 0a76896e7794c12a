"""Keys of encrypted messages: private ones, to read them (``-o crypt_key=FILE``, and the password of FILE),
and the public one that new messages are encrypted for (``-o encrypt=FILE``).

A password comes from a file descriptor (``-o crypt_password_fd=N``: its bytes up to a line end), or from the
user at the terminal.  It is never an argument, since other users could see it.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import sys
from collections.abc import Sequence

from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.status import UsageError
from dboxfs.dbox.crypt import BadKey, KeyRing, Private
from dboxfs.dbox.dcrypt_keys import load_keys, needs_password
from dboxfs.dbox.encoders import Seals
from dboxfs.dbox.encrypt import Sealing, load_public_key
from dboxfs.dbox.folder_keys import is_attribute_file
from dboxfs.dovecot.encryption import KeyOfEachFolder
from dboxfs.store.write.folder_keys import FolderKeys
from dboxfs.store.write_options import SealsByFolder

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


def given_keys(arguments: argparse.Namespace) -> KeyRing | None:
    """The keys that those options name.

    :raises UsageError, OSError: as :func:`read_keys`.
    """
    files = [os.path.abspath(os.path.expanduser(file)) for file in arguments.crypt_key]
    return read_keys(files, arguments.crypt_password_fd)


def read_keys(files: Sequence[str], password_fd: int | None) -> KeyRing | None:
    """The keys in *files*; None: there are none.

    :raises UsageError: a key can't be used, or its password is missing or wrong.
    :raises OSError: a file can't be read.
    """
    if not files:
        return None
    password = None if password_fd is None else _from_descriptor(password_fd)
    found = [_KeyFile(path, password) for path in files]
    return KeyRing(
        [key for file in found for key in file.every()], lambda: [key for file in found for key in file.new()]
    )


class _KeyFile:
    """A file with private keys.  Dovecot adds those of new folders to the file of attributes."""

    def __init__(self, path: str, password: bytes | None) -> None:
        self._path = path
        self._password = password
        self._stamp: tuple[int, int, int] | None = None

    def every(self) -> list[Private]:
        """All keys in the file.

        :raises UsageError: they can't be used.
        :raises OSError: it can't be read.
        """
        with open(self._path, "rb") as file:
            data, status = file.read(_MAX_KEY), os.fstat(file.fileno())
        self._stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        try:
            if needs_password(data) and self._password is None:
                self._password = _asked(self._path)
            return load_keys(data, self._password)
        except BadKey as error:
            raise UsageError(f"-o crypt_key={self._path}: {error}") from None

    def new(self) -> list[Private]:
        """All keys, if the file was changed since; else none, and none if it can't be read now."""
        try:
            status = os.stat(self._path)
            if (status.st_ino, status.st_size, status.st_mtime_ns) == self._stamp:
                return []
            return self.every()
        except (OSError, UsageError) as error:
            log.warning("crypt_key=%s: new keys can't be read: %s", self._path, error)
            return []


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


def read_sealing(path: str) -> Sealing | FolderKeys:
    """New messages are encrypted for the public key in a file, or for the keys of folders in it.

    :raises UsageError: it can't be used.
    :raises OSError: it can't be read.
    """
    with open(path, "rb") as file:
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
