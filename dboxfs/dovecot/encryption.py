"""Whether the installed Dovecot encrypts a user's new messages (plugin ``mail_crypt``), and for which key.

========================  ====================================  ===================================
                          2.3 (block ``plugin``, or userdb)     2.4
========================  ====================================  ===================================
the plugin is on          mail_plugins has mail_crypt           the same
nothing is encrypted      mail_crypt_save_version = 0           crypt_write_algorithm is empty
a global key              mail_crypt_global_public_key: PEM,    crypt_global_public_key_file
                          the same in base64, or <FILE
a key for each folder     neither of them; the keys are in      neither of them; the keys are in
                          mail_attribute_dict = file:FILE       mail_attribute { dict file { path
========================  ====================================  ===================================

2.3 shows the value only with ``doveconf -P``, like a secret.  2.3 can also write version 1 of the format;
dboxfs can't.  Keys of folders in another dict than a file, or one with another lock than a dotlock, can't be
used.

Source: doveconf, doveadm and messages of 2.3.19 and 2.4.1.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from msgspec import Struct

from dboxfs.dovecot.ask import Installed
from dboxfs.dovecot.user import FoundUser
from dboxfs.errors import NoDovecot, Unsupported
from dboxfs.store.user_variables import absolute_path, expand

_OLD_KEY: Final = "mail_crypt_global_public_key"
_NEW_KEY: Final = "crypt_global_public_key_file"
_HIDDEN: Final = "# hidden"
_USUAL_ALGORITHM: Final = "aes-256-gcm-sha256"
_LARGEST: Final = 1 << 16


class KeyOfEachFolder(Struct, frozen=True):
    """Each folder has a key of its own; they are in the file *path* (:mod:`dboxfs.dbox.folder_keys`).

    If all users are meant, the variables in *path* are left as they are.
    """

    path: str


class PrivateKeys(Struct, frozen=True):
    """The file with the private keys of a user and of the user's folders.

    :ivar password: unlocks the user's key; None: Dovecot has none.
    """

    path: str
    password: bytes | None = None


def encryption_of(found: FoundUser) -> bytes | KeyOfEachFolder | None:
    """The public key for new messages of this user, as in its file, or where those of the folders are; None:
    they are not encrypted.

    :raises Unsupported: they are encrypted in a way that dboxfs can't write.
    :raises OSError: the key's file can't be read.
    """
    settings = found.settings
    if not _is_on(found):
        return None
    if found.version >= (2, 4):
        algorithm = settings.get("crypt_write_algorithm", _USUAL_ALGORITHM)
        if not algorithm:
            return None
        if algorithm != _USUAL_ALGORITHM:
            raise _unsupported(found, f"with {algorithm}")
        if not settings.get(_NEW_KEY):
            return _folder_keys(found)
        return _read(settings[_NEW_KEY])
    version = settings.get("mail_crypt_save_version", "")
    if version == "0":
        return None
    if version != "2":
        raise _unsupported(found, f"in version {version}" if version else "without mail_crypt_save_version")
    value = settings.get(_OLD_KEY, "")
    if value.startswith(_HIDDEN):
        assert found.asked is not None, "settings come from a Dovecot that was asked"
        value = _shown(found.asked.dovecot)
    if not value:
        return _folder_keys(found)
    if value.startswith("<"):
        return _read(value[1:])
    try:
        return value.encode() if value.startswith("-") else base64.b64decode(value, validate=True)
    except binascii.Error:
        return value.encode()


def private_keys_of(found: FoundUser) -> PrivateKeys | None:
    """Where the user's private keys are, and those of the folders; None: Dovecot has none in a file.

    :raises NoSuchStore: the path has a variable that is not known.
    """
    path = _attribute_file(found) if _is_on(found) else ""
    if not path or not found.user.name:
        return None
    fields = {} if found.asked is None else found.asked.fields
    name = "crypt_user_key_password" if found.version >= (2, 4) else "mail_crypt_private_password"
    password = fields.get(f"plugin/{name}") or fields.get(name) or found.settings.get(name)
    return PrivateKeys(_expanded(path, found), password.encode() if password else None)


def _folder_keys(found: FoundUser) -> KeyOfEachFolder:
    path = _attribute_file(found)
    if not path:
        raise _unsupported(found, "with a key for each folder, in no file that dboxfs finds")
    return KeyOfEachFolder(_expanded(path, found) if found.user.name else path)


def _expanded(path: str, found: FoundUser) -> str:
    return absolute_path(expand(path, found.user, version=found.version), found.user)


def _attribute_file(found: FoundUser) -> str:
    """The file of the dict with the keys, variables not expanded; empty: it is none, or has other locks."""
    if found.version < (2, 4):
        driver, _, path = found.settings.get("mail_attribute_dict", "").partition(":")
        return path if driver == "file" and ":" not in path else ""
    blocks = found.asked.configuration.named("mail_attribute") if found.asked is not None else ()
    for _, block in blocks:
        for title, inner in block.named("dict"):
            if title == "file" and inner.settings.get("dict_file_lock_method", "dotlock") == "dotlock":
                return inner.settings.get("path", "")
    return ""


def _is_on(found: FoundUser) -> bool:
    """Whether the plugin is loaded: 2.4 has a block with a line for each plugin, 2.3 a list."""
    settings, asked = dict(found.settings), found.asked
    for _, block in asked.configuration.named("mail_plugins") if asked is not None else ():
        settings |= {f"mail_plugins/{name}": value for name, value in block.settings.items()}
    if asked is not None:
        settings |= asked.fields
    said = settings.get("mail_plugins/mail_crypt")
    if said is not None:
        return said == "yes"
    return "mail_crypt" in re.split("[ ,]+", settings.get("mail_plugins", ""))


def _shown(dovecot: Installed) -> str:
    try:
        return dovecot.secret(f"plugin/{_OLD_KEY}")
    except NoDovecot as error:
        raise Unsupported(f"{error}; give -o encrypt=FILE or -o encrypt=none") from None


def _unsupported(found: FoundUser, how: str) -> Unsupported:
    return Unsupported(
        f"{found.user.name or 'all users'}: Dovecot encrypts new messages {how}, which dboxfs doesn't write; "
        "give the public key (-o encrypt=FILE), or -o encrypt=none to store them as they are"
    )


def _read(path: str) -> bytes:
    with open(path.strip(), "rb") as file:
        return file.read(_LARGEST)
