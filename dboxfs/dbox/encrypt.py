"""Encrypt a body like Dovecot's ``mail_crypt`` plugin; :mod:`.crypt` describes the format.

The result has the form that Dovecot 2.3 and 2.4 write: header version 2, AES-256-GCM, SHA-256, 2,048 rounds,
a new secret for each message, wrapped for one public key.  Compression comes before encryption, as in
Dovecot.

A :class:`Sealed` is one message.  It makes its secret at once, so a body can be measured in one pass and
written in another, to the same bytes.

The stored body of an empty text is empty, as in Dovecot, which can't read a body of only header and tag
("Truncated header", 2.3.19).

A public key is in PEM, or in Dovecot's own form: a line of fields with ``:`` or TAB between them, ``2``, the
key (SubjectPublicKeyInfo with a compressed point, in DER, in hexadecimal), its id.

Source: bodies that Dovecot 2.3.19 and 2.4.1 wrote; both read the bodies that this module writes.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from msgspec import Struct

from dboxfs.dbox.crypt import BadKey, key_id
from dboxfs.dbox.encoders import Coding, Encoder, Method
from dboxfs.dbox.stored import ENCRYPTED_MAGIC

Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_KDF_ROUNDS: Final = 2048
_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_SECRET_SIZE: Final = 60
"""Key, nonce, and 16 bytes of additional data."""
_AES_256_GCM: Final = bytes.fromhex("060960864801650304012e")
_SHA_256: Final = bytes.fromhex("0609608648016503040201")
_RSA, _EC = 1, 2
_LINE: Final = re.compile(rb"2[:\t]([0-9a-f]+)[:\t]([0-9a-f]{64})\s*")


class Sealing(Struct, frozen=True):
    """Encryption of new messages for *key*."""

    key: Public

    def sealed(self, method: Method | None) -> Coding:
        """The coding of one message.

        :param method: compresses its text first; None: no compression.
        """
        return Sealed(self.key, method)


class Sealed:
    """The coding of one message, for *key*: all its encoders give the same bytes for the same text."""

    def __init__(self, key: Public, method: Method | None) -> None:
        self._secret = os.urandom(_SECRET_SIZE)
        self._header = _header(self._secret, key)
        self._method = method

    def encoder(self) -> Encoder:
        """A new encoder of the whole body, its header included."""
        cipher = _Cipher(self._header, self._secret)
        return cipher if self._method is None else _Chained(self._method.encoder(), cipher)


class _Cipher:
    def __init__(self, header: bytes, secret: bytes) -> None:
        self._head = header
        nonce = secret[_KEY_SIZE : _KEY_SIZE + _NONCE_SIZE]
        self._cipher = Cipher(algorithms.AES(secret[:_KEY_SIZE]), modes.GCM(nonce)).encryptor()
        self._cipher.authenticate_additional_data(secret[_KEY_SIZE + _NONCE_SIZE :])

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        head, self._head = self._head, b""
        return head + self._cipher.update(data)

    def finish(self) -> bytes:
        return b"" if self._head else self._cipher.finalize() + self._cipher.tag


class _Chained:
    def __init__(self, first: Encoder, second: Encoder) -> None:
        self._first = first
        self._second = second

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def finish(self) -> bytes:
        return self._second.feed(self._first.finish()) + self._second.finish()


def _header(secret: bytes, key: Public) -> bytes:
    kind, ephemeral, wrapped = _wrapped(secret, key)
    keys = bytes([1, kind]) + key_id(key) + _sized(ephemeral) + _sized(wrapped) + _sized(_proof(secret))
    fields = _AES_256_GCM + _SHA_256 + _number(_KDF_ROUNDS) + _number(len(keys)) + keys
    start = ENCRYPTED_MAGIC + b"\x02" + _number(2)
    return start + _number(len(start) + 4 + len(fields)) + fields


def _wrapped(secret: bytes, key: Public) -> tuple[int, bytes, bytes]:
    """The kind of *key*, the ephemeral key, and *secret* encrypted."""
    if isinstance(key, rsa.RSAPublicKey):
        sha1 = hashes.SHA1()
        return _RSA, b"", key.encrypt(secret, padding.OAEP(padding.MGF1(sha1), sha1, None))
    own = ec.generate_private_key(key.curve)
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = own.exchange(ec.ECDH(), key)
    derived = PBKDF2HMAC(hashes.SHA256(), 48, point, _KDF_ROUNDS).derive(shared)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:])).encryptor()
    return _EC, point, encryptor.update(padder.update(secret) + padder.finalize()) + encryptor.finalize()


def _proof(secret: bytes) -> bytes:
    """A hash by which a reader checks the secret."""
    found = hashlib.sha256(secret).digest()
    for count in range(1, _KDF_ROUNDS + 1):
        found = hashlib.sha256(found + _number(count)).digest()
    return found


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _sized(data: bytes) -> bytes:
    return _number(len(data)) + data


def load_public_key(data: bytes) -> Public:
    """A public key, in PEM or in Dovecot's own form.

    :raises BadKey: it can't be used.
    """
    line = _LINE.fullmatch(data)
    try:
        if line is not None:
            key = load_der_public_key(bytes.fromhex(line[1].decode("ascii")))
        else:
            key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey("no public key, neither in PEM nor in Dovecot's own form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise BadKey("neither an elliptic curve nor an RSA key")
    if line is not None and key_id(key).hex().encode("ascii") != line[2]:
        raise BadKey("it is not the key that it says")
    return key
