"""The keys of a user's folders, in the file where Dovecot keeps the attributes of mailboxes.

The file (``mail_attribute_dict``; 2.4: ``mail_attribute``; driver ``file``) has two lines for each attribute,
its name and its value.  Those of ``mail_crypt``, with ``crypt`` for ``vendor/vendor.dovecot/pvt/crypt``, a
mailbox's GUID and a key's ID in hexadecimal::

    shared/GUID/crypt/active            the ID of the folder's key, for new messages
    shared/GUID/crypt/pubkeys/ID        its public half
    priv/GUID/crypt/privkeys/ID         its private half, encrypted for the user's key
    shared/INBOX/vendor/vendor.dovecot/pvt/server/crypt/active, .../pubkeys/ID      the user's key

The keys themselves: :mod:`.dcrypt_keys`, :func:`~.encrypt.load_public_key`.  Dovecot looks for the key of a
message only in the attributes of its mailbox.  So a message that lies in another mailbox than the one that it
was encrypted for can't be read: Dovecot's COPY encrypts it anew.

Dovecot makes a folder's key at its first message, and so does :func:`with_new_key`, on the curve of the
user's key.  Only the user's public key is needed for that.

Source: files that Dovecot 2.3.19 and 2.4.1 wrote; both read messages with the keys that this module makes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dboxfs.dbox.crypt import BadKey, compressed_der, key_id
from dboxfs.dbox.dcrypt_keys import curve_identifier
from dboxfs.dbox.encrypt import Public, load_public_key

_CRYPT: Final = b"vendor/vendor.dovecot/pvt/crypt/"
_SERVER: Final = b"/vendor/vendor.dovecot/pvt/server/"
_ACTIVE: Final = _CRYPT + b"active"
_SHARED: Final = b"shared/"
_KEY_ROUNDS: Final = 2048


def is_attribute_file(data: bytes) -> bool:
    """Whether a file has the keys of folders, not one key."""
    return data.startswith((b"shared/", b"priv/")) and b"/" + _ACTIVE + b"\n" in data


def attributes(data: bytes) -> dict[bytes, bytes]:
    """All attributes in the file, by name.

    :raises BadKey: a name has no value: the file is cut off.
    """
    lines = data.split(b"\n")
    if lines.pop() or len(lines) % 2:
        raise BadKey("the file with the keys of the folders is damaged: it ends in the middle")
    return dict(zip(lines[::2], lines[1::2], strict=True))


def folder_key(found: Mapping[bytes, bytes], guid: bytes) -> Public | None:
    """The key for new messages of the mailbox *guid* (16 bytes); None: it has none yet.

    :raises BadKey: it is damaged, or only its id is there.
    """
    return _active(found, _SHARED + guid.hex().encode("ascii") + b"/")


def has_key(found: Mapping[bytes, bytes], guid: bytes, key: bytes) -> bool:
    """Whether the key with the id *key* (32 bytes) is one of the mailbox *guid* (16 bytes), old or active."""
    place = _SHARED + guid.hex().encode("ascii") + b"/" + _CRYPT + b"pubkeys/"
    return place + key.hex().encode("ascii") in found


def user_key(found: Mapping[bytes, bytes]) -> Public | None:
    """The user's key; None: there is none yet.

    :raises BadKey: it is damaged, or only its id is there.
    """
    end = _SERVER + _ACTIVE
    place = next((name for name in found if name.startswith(_SHARED) and name.endswith(end)), None)
    return None if place is None else _active(found, place[: -len(_ACTIVE)])


def _active(found: Mapping[bytes, bytes], place: bytes) -> Public | None:
    active = found.get(place + _ACTIVE)
    if active is None:
        return None
    line = found.get(place + _CRYPT + b"pubkeys/" + active)
    if line is None:
        raise BadKey(f"the public key {active.decode('ascii', 'backslashreplace')} is missing")
    return load_public_key(line)


def with_new_key(data: bytes, guid: bytes) -> tuple[bytes, Public]:
    """The file with a new key for the mailbox *guid* (16 bytes), and the key.

    :raises BadKey: the user has no key, or one that is no elliptic curve.
    """
    user = user_key(attributes(data))
    if user is None:
        raise BadKey("the user has no key yet; Dovecot makes it with the user's first message")
    if not isinstance(user, ec.EllipticCurvePublicKey):
        raise BadKey("the user's key is no elliptic curve")
    private = ec.generate_private_key(user.curve)
    public = private.public_key()
    name, place = key_id(public).hex().encode("ascii"), guid.hex().encode("ascii") + b"/" + _CRYPT
    added = {
        b"priv/" + place + b"privkeys/" + name: _locked(private, user),
        _SHARED + place + b"pubkeys/" + name: b"2:"
        + compressed_der(public).hex().encode("ascii")
        + b":"
        + name,
        _SHARED + place + b"active": name,
    }
    return data + b"".join(b"%b\n%b\n" % item for item in added.items()), public


def _locked(key: ec.EllipticCurvePrivateKey, user: ec.EllipticCurvePublicKey) -> bytes:
    """The line of a private key, encrypted for the user's."""
    own = ec.generate_private_key(user.curve)
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    salt = os.urandom(8)
    derived = PBKDF2HMAC(hashes.SHA256(), 48, salt, _KEY_ROUNDS).derive(own.exchange(ec.ECDH(), user))
    number = key.private_numbers().private_value
    plain = number.to_bytes(number.bit_length() // 8 + 1, "big")  # as OpenSSL writes it: no sign bit
    encryptor = Cipher(algorithms.AES(derived[:32]), modes.CTR(derived[32:])).encryptor()
    coded = encryptor.update(len(plain).to_bytes(4, "big") + plain) + encryptor.finalize()
    fields = (
        "2", curve_identifier(key.curve), "1", "aes-256-ctr", salt.hex(), "sha256", str(_KEY_ROUNDS),
        coded.hex(), point.hex(), key_id(user).hex(), key_id(key.public_key()).hex(),
    )  # fmt: skip
    return ":".join(fields).encode("ascii")
