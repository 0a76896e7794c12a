"""Whether a message has to be decrypted, and can be: what decrypts it is loaded with the first that is.

The library for that takes 10 MB, and most mounts have no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import Decoding

if TYPE_CHECKING:
    from dboxfs.dbox.crypt import KeyRing


async def decrypting(opened: OpenRecord, keys: KeyRing | None) -> Decoding | None:
    """How the settled record in *opened* is read; None: it is not encrypted, or there is no key at all.

    Cancelled or failed, *opened* is the caller's still.

    :raises EncryptedMessage: it was encrypted for another key, or in a way that dboxfs doesn't read.
    :raises CorruptFile: it is not what was encrypted: cut off, or altered.
    :raises OSError: it can't be read.
    """
    if keys is None or not opened.record.encrypted:
        return None
    from dboxfs.store.deciphering import deciphering

    return await deciphering(opened, keys)
