"""Find out whether a message must be decrypted; load the decryption with the first such message.

Its library takes 10 MB, and most mounts have no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import Decoding

if TYPE_CHECKING:
    from dboxfs.dbox.crypt import KeyRing


async def decrypting(opened: OpenRecord, keys: KeyRing | None) -> Decoding | None:
    """The decoding of the settled record in *opened*; None: it is not encrypted, or there is no key at all.

    Cancelled or failed: the caller still owns *opened*.

    :raises EncryptedMessage: the message was encrypted for another key, or in a form that dboxfs doesn't
        read.
    :raises CorruptFile: the message was cut off or altered after the encryption.
    :raises OSError: it can't be read.
    """
    if keys is None or not opened.record.encrypted:
        return None
    from dboxfs.store.deciphering import deciphering

    return await deciphering(opened, keys)


async def key_ids(opened: OpenRecord) -> list[bytes]:
    """The ids (32 bytes each) of the keys that the settled record in *opened* is encrypted for; empty: it is
    not encrypted.  The caller still owns *opened*.

    :raises CorruptFile: the header of the encryption is damaged, or of a form that dboxfs doesn't read.
    :raises OSError: it can't be read.
    """
    if not opened.record.encrypted:
        return []
    from dboxfs.store.deciphering import ids_in

    return await ids_in(opened)
