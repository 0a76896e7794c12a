"""Encrypted messages: unlock a message with the given keys, and verify that it was not altered.

No byte of a message is shown before its tag was verified: the whole message is decrypted once when it is
opened, with nothing kept, and again when it is read.  The plain bytes may be compressed; the first bytes say
so.

Keys are read and decrypted by worker threads: those of many folders take seconds, and other tasks go on.
Each key ring has a few threads of its own, so that a disk of keys that hangs holds up nobody else.

Cancelled or failed: the caller still owns the open record.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import trio

from dboxfs.dbox import PREFIX_SIZE, Compression, Decompressor, NeedMore, detect
from dboxfs.dbox.crypt import (
    FIXED_SIZE,
    CryptHeader,
    Decryptor,
    KeyRing,
    NoKey,
    UnsupportedCipher,
    parse_crypt_header,
    unwrap,
)
from dboxfs.errors import CorruptFile, EncryptedMessage, FormatError
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import BodyDecoder, Decoding
from dboxfs.store.body_plain import PlainBody

_CIPHER_PIECE: Final = 64 << 10
_THREADS: Final = 2
"""Of a key ring, at most."""
_threads: WeakKeyDictionary[KeyRing, trio.CapacityLimiter] = WeakKeyDictionary()


async def deciphering(opened: OpenRecord, keys: KeyRing) -> Decoding:
    """The decoding of the settled record in *opened*, which is encrypted.

    :raises EncryptedMessage: the message was encrypted for another key, or in a form that dboxfs doesn't
        read.
    :raises CorruptFile: the message was cut off or altered after the encryption.
    :raises OSError: it can't be read.
    """
    record = opened.record
    body = PlainBody(opened.handle, opened.path, record.body_offset, record.stored_size, opened.close)
    try:
        header = await _header(body)
        limiter = _threads.setdefault(keys, trio.CapacityLimiter(_THREADS))
        secret = await trio.to_thread.run_sync(unwrap, header, keys, limiter=limiter)
        new = partial(Decryptor, header, secret, record.stored_size)
        compression = await _verified(body, new())
    except NoKey as error:
        raise EncryptedMessage(
            opened.path, record.offset, f"for another key than was given ({error})"
        ) from None
    except UnsupportedCipher as error:
        raise EncryptedMessage(
            opened.path, record.offset, f"in a form that is not read: {error.reason}"
        ) from None
    except FormatError as error:
        raise CorruptFile(opened.path, record.body_offset + error.offset, error.reason) from error
    if compression is None:
        return Decoding(new, None, record.stored_size - header.overhead)
    return Decoding(partial(Chained, new, compression), compression, None)


async def ids_in(opened: OpenRecord) -> list[bytes]:
    """The ids of the keys that the settled record in *opened*, which is encrypted, is encrypted for.

    :raises CorruptFile: its header is damaged, or of a form that is not read.
    :raises OSError: it can't be read.
    """
    record = opened.record
    body = PlainBody(opened.handle, opened.path, record.body_offset, record.stored_size, opened.close)
    try:
        header = await _header(body)
    except FormatError as error:
        raise CorruptFile(opened.path, record.body_offset + error.offset, error.reason) from error
    return [secret.key_id for secret in header.secrets]


async def _header(body: PlainBody) -> CryptHeader:
    size = FIXED_SIZE
    while True:
        header = parse_crypt_header(await body.read(size, 0))
        if not isinstance(header, NeedMore):
            return header
        if header.size > body.size:
            raise FormatError(body.size, "the encrypted message ends inside its header")
        size = header.size


async def _verified(body: PlainBody, decryptor: Decryptor) -> Compression | None:
    """Decrypt the whole message; gives the compression of its text.

    :raises FormatError: the message was cut off or altered.
    """
    first = b""
    for offset in range(0, body.size, _CIPHER_PIECE):
        decryptor.feed(await body.read(_CIPHER_PIECE, offset))
        plain = decryptor.read(_CIPHER_PIECE)
        first += plain[: PREFIX_SIZE - len(first)]
    decryptor.finish()
    return detect(first)


class Chained:
    """A decryptor and a decompressor behind it, as one decoder."""

    def __init__(self, decryptor: Callable[[], BodyDecoder], compression: Compression) -> None:
        self._first = decryptor()
        self._second = Decompressor(compression)

    @property
    def eof(self) -> bool:
        """Whether all output was read."""
        return self._second.eof

    def feed(self, data: bytes) -> None:
        """Take the next stored bytes."""
        self._first.feed(data)
        self._second.feed(self._first.read(len(data)))

    def finish(self) -> None:
        """Mark the end of the stored bytes.

        :raises FormatError: they end too early, or are damaged.
        """
        self._first.finish()
        self._second.finish()

    def read(self, max_bytes: int) -> bytes:
        """The next plain bytes.

        :raises FormatError: damage.
        """
        return self._second.read(max_bytes)
