"""Targets of the fuzzer: encrypted bodies, and keys in Dovecot's own form.

The bodies are made here, by the format page in :mod:`dboxfs.dbox.crypt`, with keys and secrets that are the
same in every run.
"""

from __future__ import annotations

import hashlib
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dboxfs.dbox import NeedMore
from dboxfs.dbox.crypt import BadKey, Decryptor, KeyRing, NoKey, key_id, parse_crypt_header, unwrap
from dboxfs.dbox.dcrypt_keys import load_keys
from dboxfs.errors import FormatError
from tests.fuzz.machine import Target

KEY = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
OTHER = ec.derive_private_key(0xFEDCBA0987654321, ec.SECP256R1())
TEXTS = (b"", b"Subject: secret\n\ntext\n", b"x" * 5000)
_AES_GCM = bytes.fromhex("06096086480165030401") + b"\x2e"
_SHA256 = bytes.fromhex("0609608648016503040201")
_ROUNDS = 2
TOKENS = (b"CRYPTED\x03\x07\x02", _AES_GCM, _SHA256, b"\0\0\0\x02", b"\0\0\xff\xff", b"\x7f\xff\xff\xff")


def encrypted(text: bytes) -> bytes:
    """*text* as ``mail_crypt`` stores it, for :data:`KEY`."""
    ephemeral = OTHER.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = OTHER.exchange(ec.ECDH(), KEY.public_key())
    derived = hashlib.pbkdf2_hmac("sha256", shared, ephemeral, _ROUNDS, 48)
    secret = hashlib.sha512(text).digest()[:60]
    padder = PKCS7(128).padder()
    padded = padder.update(secret) + padder.finalize()
    wrapper = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:])).encryptor()
    wrapped = wrapper.update(padded) + wrapper.finalize()
    keys = b"\x01\x02" + key_id(KEY.public_key()) + _sized(ephemeral) + _sized(wrapped) + _sized(bytes(32))
    rest = _AES_GCM + _SHA256 + _number(_ROUNDS) + _sized(keys)
    head = b"CRYPTED\x03\x07\x02" + _number(2) + _number(18 + len(rest)) + rest
    cipher = Cipher(algorithms.AES(secret[:32]), modes.GCM(secret[32:44])).encryptor()
    cipher.authenticate_additional_data(secret[44:])
    body = cipher.update(text) + cipher.finalize()
    return head + body + cipher.tag


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _sized(data: bytes) -> bytes:
    return _number(len(data)) + data


def run_crypt(data: bytes, random: Random) -> None:
    """What passes is one of the texts: nothing else has the right tag."""
    header = parse_crypt_header(data)
    if isinstance(header, NeedMore):
        assert header.size > len(data)
        raise FormatError(len(data), "too short")
    try:
        secret = unwrap(header, KeyRing([KEY]))
    except NoKey:
        raise FormatError(0, "for another key") from None
    decryptor, at, out = Decryptor(header, secret, len(data)), 0, b""
    while at < len(data):
        size = random.randrange(1, 3000)
        decryptor.feed(data[at : at + size])
        at += size
        out += decryptor.read(random.randrange(1, 4000))
    decryptor.finish()
    while not decryptor.eof:
        out += decryptor.read(1 << 20)
    assert out in TEXTS, "a forged text has passed"


def key_lines() -> list[bytes]:
    """A key as it is, one encrypted for it, and one with a password."""
    plain = _sized(KEY.private_numbers().private_value.to_bytes(32, "big"))
    other = _sized(OTHER.private_numbers().private_value.to_bytes(32, "big"))
    point = OTHER.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    ids = [key_id(key.public_key()).hex() for key in (KEY, OTHER)]
    shared = KEY.exchange(ec.ECDH(), OTHER.public_key())
    curve, how = "2:1.2.840.10045.3.1.7", "aes-256-ctr:00ff:sha256:2"
    return [
        f"{curve}:0:{plain.hex()}:{ids[0]}".encode(),
        f"{curve}:1:{how}:{_locked(other, shared).hex()}:{point.hex()}:{ids[0]}:{ids[1]}".encode(),
        f"{curve}:2:{how}:{_locked(plain, b'geheim').hex()}:{ids[0]}".encode(),
    ]


def _locked(key: bytes, secret: bytes) -> bytes:
    derived = hashlib.pbkdf2_hmac("sha256", secret, b"\0\xff", 2, 48)
    cipher = Cipher(algorithms.AES(derived[:32]), modes.CTR(derived[32:])).encryptor()
    return cipher.update(key) + cipher.finalize()


def run_keys(data: bytes, random: Random) -> None:
    """Keys that are the ones of their lines, or an error."""
    try:
        keys = load_keys(data, b"geheim")
    except BadKey as error:
        raise FormatError(0, str(error)) from None
    known = {key_id(KEY.public_key()), key_id(OTHER.public_key())}
    assert {key_id(key.public_key()) for key in keys} <= known


def targets() -> list[Target]:
    """All of them."""
    lines = key_lines()
    files = [*(lines[n] for n in (0, 2)), b"name\n" + lines[0] + b"\nname\n" + lines[1] + b"\n"]
    tokens = (b":", b"\t", b"2:", b":1:", b"00", b"\n", b"sha256", b"1.3.132.0.35")
    return [
        Target("crypt", [encrypted(text) for text in TEXTS], run_crypt, TOKENS, None, 4),
        Target("crypt-keys", files, run_keys, tokens, None, 3),
    ]
