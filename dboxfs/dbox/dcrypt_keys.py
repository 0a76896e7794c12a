"""Private keys in Dovecot's own text form, alone or in the file of attributes where it keeps folder keys.

One key is a line of fields with ``:`` (or TAB) between them, bytes in hexadecimal (2.3 and 2.4 alike)::

    2:algorithm:0:key:id                                                    as it is
    2:algorithm:1:cipher:salt:digest:rounds:key:ephemeral:by:id             encrypted for the key BY
    2:algorithm:2:cipher:salt:digest:rounds:key:id                          encrypted with a password

``algorithm`` is an object identifier with dots.  For a curve, ``key`` is the private number behind a uint32
size; for RSA, it is the key in DER.  ``cipher`` is AES-256-CTR, key and IV from PBKDF2 (digest, rounds, salt)
of the shared secret of ECDH with the point ``ephemeral``, or of the password.

``dovecot-attributes`` (``mail_attribute_dict``) has such lines, each behind a line with its name: the user's
key, and a key for each folder, encrypted for the user's.  :func:`load_keys` gives all that can be decrypted.

Source: files that Dovecot 2.3.19 and 2.4.1 wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import load_der_private_key
from msgspec import Struct

from dboxfs.dbox.crypt import BadKey, Private, key_id, load_key

_MOST_ROUNDS: Final = 1 << 18
_RSA: Final = "1.2.840.113549.1.1.1"
_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = MappingProxyType(
    {
        "1.2.840.10045.3.1.7": ec.SECP256R1,
        "1.3.132.0.10": ec.SECP256K1,
        "1.3.132.0.34": ec.SECP384R1,
        "1.3.132.0.35": ec.SECP521R1,
    }
)
_DIGESTS: Final[Mapping[str, type[hashes.HashAlgorithm]]] = MappingProxyType(
    {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
)
_LINE: Final = re.compile(rb"2[:\t][0-9.]+[:\t]([012])[:\t][^\n]*")


def curve_identifier(curve: ec.EllipticCurve) -> str:
    """The object identifier of a curve.

    :raises BadKey: dboxfs doesn't know it.
    """
    for identifier, known in _CURVES.items():
        if isinstance(curve, known):
            return identifier
    raise BadKey(f"a key of the curve {curve.name}, which dboxfs doesn't know")


class LockedKey(Struct, frozen=True):
    """A key in its written form.  ``by``: the id of the key that it is encrypted for; ``key``: the bytes."""

    algorithm: str
    key: bytes
    id: bytes
    password: bool = False
    by: bytes = b""
    ephemeral: bytes = b""
    cipher: str = ""
    digest: str = ""
    rounds: int = 0
    salt: bytes = b""


def load_keys(
    data: bytes, password: bytes | None = None, known: Mapping[bytes, Private] = MappingProxyType({})
) -> list[Private]:
    """All private keys in a file: one in PEM, or lines of the form above.  Takes a millisecond for each
    encrypted key that is not known yet.

    :param password: the password of encrypted keys.
    :param known: keys by their id (32 bytes) that were decrypted before.
    :raises BadKey: there is no key, or the password is missing or wrong.
    """
    if b"-----BEGIN" in data:
        return [load_key(data, password)]
    locked = [parse_line(match[0]) for match in _LINE.finditer(data)]
    if not locked:
        raise BadKey("neither a private key in PEM nor one in Dovecot's own form")
    return _unlocked(locked, password, known)


def needs_password(data: bytes) -> bool:
    """Whether a file of :func:`load_keys` has a key that is encrypted with a password."""
    return b"ENCRYPTED" in data or any(match[1] == b"2" for match in _LINE.finditer(data))


def parse_line(line: bytes) -> LockedKey:
    """Parse the line of one key.

    :raises BadKey: the line is damaged.
    """
    fields = re.split(r"[:\t]", line.decode("ascii", "replace").strip())
    try:
        _, algorithm, kind, *rest = fields
        if kind == "0":
            key, name = rest
            return LockedKey(algorithm, bytes.fromhex(key), bytes.fromhex(name))
        cipher, salt, digest, rounds, key, *rest = rest
        ephemeral, by, name = rest if kind == "1" else ("", "", *rest)
        return LockedKey(
            algorithm, bytes.fromhex(key), bytes.fromhex(name), kind == "2", bytes.fromhex(by),
            bytes.fromhex(ephemeral), cipher, digest, int(rounds), bytes.fromhex(salt),
        )  # fmt: skip
    except ValueError:
        raise BadKey("a key in Dovecot's own form is damaged") from None


def _unlocked(
    locked: Iterable[LockedKey], password: bytes | None, known: Mapping[bytes, Private]
) -> list[Private]:
    """The keys that can be decrypted: plain ones, those with the password, then those encrypted for one of
    these.
    """
    found: dict[bytes, Private] = {}
    waiting = list(locked)
    while True:
        ready = [one for one in waiting if not one.by or one.by in found]
        if not ready:
            break
        waiting = [one for one in waiting if one.by and one.by not in found]
        for one in ready:
            found[one.id] = known[one.id] if one.id in known else _proved(one, password, found.get(one.by))
    if not found:
        raise BadKey("all keys in it are encrypted for another one; give that key, too")
    return list(found.values())


def _proved(one: LockedKey, password: bytes | None, by: Private | None) -> Private:
    """The key, decrypted.

    :raises BadKey: it is damaged, of an unknown kind, or not the one that it says; the password is missing or
        wrong.
    """
    if one.password and password is None:
        raise BadKey("it needs a password")
    key = _unlock(one, password, by)
    if key_id(key.public_key()) != one.id:
        raise BadKey("the password is wrong" if one.password else "a key is not the one that it says")
    return key


def _unlock(one: LockedKey, password: bytes | None, by: Private | None) -> Private:
    """:raises BadKey: the key is damaged, or of an unknown kind."""
    try:
        plain = one.key
        if one.by:
            if not isinstance(by, ec.EllipticCurvePrivateKey):
                raise BadKey("a key is encrypted for one that is no elliptic curve")
            peer = ec.EllipticCurvePublicKey.from_encoded_point(by.curve, one.ephemeral)
            plain = _decrypted(one, by.exchange(ec.ECDH(), peer))
        elif one.password:
            plain = _decrypted(one, password or b"")
        return _private(one.algorithm, plain)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("the password is wrong" if one.password else "a key in it is damaged") from None


def _decrypted(one: LockedKey, secret: bytes) -> bytes:
    known = one.cipher.lower() == "aes-256-ctr" and one.digest in _DIGESTS
    if not known or not 0 < one.rounds <= _MOST_ROUNDS:
        raise BadKey(f"a key is encrypted with {one.cipher} and {one.digest}, which dboxfs doesn't read")
    derived = PBKDF2HMAC(_DIGESTS[one.digest](), 48, one.salt, one.rounds).derive(secret)
    decryptor = Cipher(algorithms.AES(derived[:32]), modes.CTR(derived[32:])).decryptor()
    return decryptor.update(one.key) + decryptor.finalize()


def _private(algorithm: str, plain: bytes) -> Private:
    """:raises ValueError: the key is damaged."""
    if algorithm == _RSA:
        key = load_der_private_key(plain, None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError(algorithm)
        return key
    if algorithm not in _CURVES:
        raise BadKey(f"a key of the algorithm {algorithm}, which dboxfs doesn't know")
    size = int.from_bytes(plain[:4], "big")
    if size != len(plain) - 4:
        raise ValueError(size)
    return ec.derive_private_key(int.from_bytes(plain[4:], "big"), _CURVES[algorithm]())
