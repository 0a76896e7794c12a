"""Encrypted bodies of Dovecot's ``mail_crypt`` plugin (2.3 and 2.4 write the same).

A body begins with a header; numbers are big-endian::

    "CRYPTED" 03 07      9 bytes
    version              1 byte: 02
    flags                uint32: 2 (a cipher with a tag)
    header size          uint32: bytes from the magic to the ciphertext
    cipher, digest       two ASN.1 object identifiers, in DER (06, length, value): AES-256-GCM, SHA-256
    rounds               uint32: of PBKDF2
    key data size        uint32: bytes from here to the ciphertext
    number of keys       1 byte; for each of them:
        kind             1 byte: 1 RSA, 2 elliptic curve
        key id           32 bytes: SHA-256 of the public key (SubjectPublicKeyInfo, DER, compressed point)
        ephemeral key    uint32 size, then a point of the same curve (empty for RSA)
        wrapped          uint32 size, then the message's secret, encrypted
    proof                uint32 size, then the digest of the secret, hashed again 2,048 times with a counter

then the ciphertext, then a tag of 16 bytes.  The secret is cipher key, nonce and 16 bytes of additional data,
one after the other.  It is wrapped for an elliptic curve in AES-256-CBC with key and IV from PBKDF2 (the
header's digest and rounds; password: the shared secret of ECDH; salt: the ephemeral key as it is stored), for
RSA in OAEP.

The decrypted bytes may be compressed: then they begin with a magic.

:class:`Decryptor` is a push decoder like :class:`~dboxfs.dbox.compression.Decompressor`.  It gives plain
bytes before the tag was verified.  A caller that must not show forged bytes first feeds the whole body to one
decryptor (whose :meth:`~Decryptor.finish` raises), and then reads with another.

Not supported: version 1 of the header, other ciphers than AES-GCM.  Keys in Dovecot's own form:
:mod:`.dcrypt_keys`.

Source: bodies that Dovecot 2.3.19 and 2.4.1 wrote.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from msgspec import Struct

from dboxfs.dbox.format2 import Buffer, NeedMore
from dboxfs.dbox.stored import ENCRYPTED_MAGIC
from dboxfs.errors import FormatError

TAG_SIZE: Final = 16
FIXED_SIZE: Final = 18
"""Bytes of a header up to its size field: magic, version, flags, size."""
MAX_HEADER: Final = 64 << 10
"""Longest header that is read (bytes)."""
_MAX_ROUNDS: Final = 1 << 18
_NONCE_SIZE: Final = 12
_AAD_SIZE: Final = 16
_AEAD: Final = 2
_RSA, _EC = 1, 2
_OID: Final = 0x06
_CIPHERS: Final[Mapping[bytes, int]] = MappingProxyType(
    {bytes.fromhex("6086480165030401" + last): size for last, size in (("06", 16), ("1a", 24), ("2e", 32))}
)
"""Bytes of the key, by the value of the object identifier: AES-128, -192 and -256 in GCM."""
_DIGESTS: Final[Mapping[bytes, type[hashes.HashAlgorithm]]] = MappingProxyType(
    {
        bytes.fromhex("608648016503040201"): hashes.SHA256,
        bytes.fromhex("608648016503040202"): hashes.SHA384,
        bytes.fromhex("608648016503040203"): hashes.SHA512,
    }
)

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class UnsupportedCipher(FormatError):
    """The body has a form of ``mail_crypt`` that is not supported."""


class NoKey(Exception):
    """The body was encrypted for none of the given keys."""


class BadKey(ValueError):
    """A file has no usable private key, or its password is wrong.  ``str()`` is one line."""


class WrappedSecret(Struct, frozen=True):
    """The message's secret, encrypted for one key."""

    kind: int
    key_id: bytes
    ephemeral: bytes
    wrapped: bytes


class CryptHeader(Struct, frozen=True):
    """The header of an encrypted body.  ``size`` in bytes; ``cipher``, ``digest``: object identifiers."""

    size: int
    cipher: bytes
    digest: bytes
    rounds: int
    secrets: tuple[WrappedSecret, ...]

    @property
    def overhead(self) -> int:
        """Bytes by which the body is longer than its plain text."""
        return self.size + TAG_SIZE


class _Cursor:
    """Takes fields from bytes; FormatError if they end too early."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise FormatError(self.at, "the header of an encrypted message ends inside a field")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def oid(self) -> bytes:
        kind, size = self.take(2)
        if kind != _OID:
            raise FormatError(self.at - 2, f"expected an object identifier, found type {kind:#x}")
        return self.take(size)


def parse_crypt_header(data: Buffer) -> CryptHeader | NeedMore:
    """The header at the start of *data*, which begins with the magic.

    :returns: the header, or the number of bytes of the body that are needed.
    :raises UnsupportedCipher: a version, cipher or digest that is not supported.
    :raises FormatError: damage; the offset is in the body.
    """
    view = bytes(data)
    if len(view) < FIXED_SIZE:
        return NeedMore(FIXED_SIZE)
    if view[: len(ENCRYPTED_MAGIC)] != ENCRYPTED_MAGIC:
        raise FormatError(0, "no encrypted message")
    version, flags = view[9], int.from_bytes(view[10:14], "big")
    size = int.from_bytes(view[14:18], "big")
    if version != 2 or flags != _AEAD:
        raise UnsupportedCipher(
            9, f"encrypted in version {version} with flags {flags}; dboxfs reads 2 with 2"
        )
    if not FIXED_SIZE < size <= MAX_HEADER:
        raise FormatError(14, f"a header of {size} bytes")
    if len(view) < size:
        return NeedMore(size)
    cursor = _Cursor(view[:size], FIXED_SIZE)
    cipher, digest, rounds = cursor.oid(), cursor.oid(), cursor.number()
    if cipher not in _CIPHERS or digest not in _DIGESTS:
        raise UnsupportedCipher(FIXED_SIZE, "encrypted with another cipher or digest than dboxfs reads")
    if not 1 <= rounds <= _MAX_ROUNDS:
        raise FormatError(cursor.at - 4, f"{rounds} rounds")
    if cursor.number() != size - cursor.at:
        raise FormatError(cursor.at - 4, "the key data don't end where the header does")
    secrets = []
    for _ in range(cursor.take(1)[0]):
        kind, key_id = cursor.take(1)[0], cursor.take(32)
        ephemeral, wrapped = cursor.take(cursor.number()), cursor.take(cursor.number())
        secrets.append(WrappedSecret(kind, key_id, ephemeral, wrapped))
    return CryptHeader(size, cipher, digest, rounds, tuple(secrets))


class KeyRing:
    """Private keys, found by their id.  Threads may share it; one of them at a time asks for more keys.

    :param more: called for an unknown key: gives all keys that there are by now (Dovecot makes a key for a
        new folder), or none.  It raises BadKey if they can't be had.
    :param common: more keys, which are tried first.
    """

    def __init__(
        self,
        keys: Iterable[Private],
        more: Callable[[], Iterable[Private]] = tuple,
        common: KeyRing | None = None,
    ) -> None:
        self._keys = {key_id(key.public_key()): key for key in keys}
        self._more = more
        self._common = common
        self._asking = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secrets: Iterable[WrappedSecret]) -> tuple[WrappedSecret, Private]:
        """The first of *secrets* for which there is a key, and the key.  It may read files and decrypt many
        keys: a worker thread calls it.

        :raises NoKey: there is none.
        """
        wanted = list(secrets)
        if self._common is not None:
            with suppress(NoKey):
                return self._common.find(wanted)
        with self._asking:
            if not any(secret.key_id in self._keys for secret in wanted):
                try:
                    self._keys |= {key_id(key.public_key()): key for key in self._more()}
                except BadKey as error:
                    raise NoKey(str(error)) from None
        for secret in wanted:
            key = self._keys.get(secret.key_id)
            if key is not None:
                return secret, key
        raise NoKey(", ".join(secret.key_id.hex()[:16] for secret in wanted))


def load_key(data: bytes, password: bytes | None = None) -> Private:
    """A private key in PEM.

    :param password: its password; None: the key is not encrypted.
    :raises BadKey: the key can't be used, or the password is missing or wrong.
    """
    try:
        key = load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(str(error).splitlines()[0] if str(error) else "no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadKey("neither an elliptic curve nor an RSA key")
    return key


def key_id(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """The id of *key* in headers: 32 bytes."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return hashlib.sha256(compressed_der(key)).digest()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def compressed_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo in DER, with a compressed point, as Dovecot writes it."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    full = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return _sequence(_first_element(der[: -len(full)]) + _tlv(0x03, b"\0" + point))


def _first_element(der: bytes) -> bytes:
    """The first element of a DER sequence that begins with *der*; of a public key: its algorithm."""
    start = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return der[start : start + 2 + der[start + 1]]


def _sequence(content: bytes) -> bytes:
    return _tlv(0x30, content)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def unwrap(header: CryptHeader, keys: KeyRing) -> bytes:
    """The message's secret: cipher key, nonce and additional data.  Takes milliseconds, and longer for the
    first message of a key (:meth:`KeyRing.find`): a worker thread calls it.

    :raises NoKey: the secret was encrypted for none of *keys*.
    :raises FormatError: the wrapped secret is damaged.
    """
    found, key = keys.find(header.secrets)
    try:
        secret = (
            _unwrap_rsa(found, key) if isinstance(key, rsa.RSAPrivateKey) else _unwrap_ec(found, key, header)
        )
    except ValueError:
        raise FormatError(FIXED_SIZE, "the secret of an encrypted message is damaged") from None
    if len(secret) != _CIPHERS[header.cipher] + _NONCE_SIZE + _AAD_SIZE:
        raise FormatError(FIXED_SIZE, f"the secret of an encrypted message has {len(secret)} bytes")
    return secret


def _unwrap_rsa(found: WrappedSecret, key: rsa.RSAPrivateKey) -> bytes:
    sha1 = hashes.SHA1()
    return key.decrypt(found.wrapped, padding.OAEP(padding.MGF1(sha1), sha1, None))


def _unwrap_ec(found: WrappedSecret, key: ec.EllipticCurvePrivateKey, header: CryptHeader) -> bytes:
    """:raises ValueError: the wrapped secret is damaged."""
    peer = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, found.ephemeral)
    shared = key.exchange(ec.ECDH(), peer)
    derived = PBKDF2HMAC(_DIGESTS[header.digest](), 48, found.ephemeral, header.rounds).derive(shared)
    decryptor = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:])).decryptor()
    padded = decryptor.update(found.wrapped) + decryptor.finalize()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


class Decryptor:
    """Streaming decryption of one body, its header included; used like a ``Decompressor``.

    :param header: of the body; its bytes are fed again.
    :param secret: from :func:`unwrap`.
    :param size: bytes of the whole body, which ends with the tag.
    """

    def __init__(self, header: CryptHeader, secret: bytes, size: int) -> None:
        key_size = _CIPHERS[header.cipher]
        nonce, aad = secret[key_size : key_size + _NONCE_SIZE], secret[key_size + _NONCE_SIZE :]
        self._cipher = Cipher(algorithms.AES(secret[:key_size]), modes.GCM(nonce)).decryptor()
        self._cipher.authenticate_additional_data(aad)
        self._skip = header.size
        self._left = size - header.overhead
        self._tag = b""
        self._plain = bytearray()
        self._at = 0
        self._end = size
        self._finished = False

    @property
    def eof(self) -> bool:
        """Whether all bytes were read, and the tag is right."""
        return self._finished and not self._plain

    @property
    def needs_input(self) -> bool:
        """Whether ``read`` gives nothing until ``feed`` or ``finish`` is called."""
        return not self._plain and not self._finished

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the body."""
        view = memoryview(data)
        skipped = min(self._skip, len(view))
        self._skip -= skipped
        view = view[skipped:]
        taken = min(max(self._left, 0), len(view))
        self._plain += self._cipher.update(view[:taken])
        self._left -= taken
        self._tag += bytes(view[taken:])
        self._at += len(data)

    def read(self, max_bytes: int) -> bytes:
        """The next plain bytes, at most *max_bytes*."""
        taken = bytes(self._plain[: max(max_bytes, 0)])
        del self._plain[: len(taken)]
        return taken

    def finish(self) -> None:
        """Mark the end of the body.  May be called twice.

        :raises FormatError: the body ends too early, or was altered.
        """
        if self._finished:
            return
        if self._at != self._end or len(self._tag) != TAG_SIZE:
            raise FormatError(self._at, "the encrypted message ends too early")
        try:
            self._cipher.finalize_with_tag(self._tag)
        except InvalidTag:
            raise FormatError(
                self._end - TAG_SIZE, "the encrypted message is not what was encrypted"
            ) from None
        self._finished = True
