"""The key of an mdbox message that was expunged and not purged."""

from __future__ import annotations

from msgspec import Struct


class Expunged(Struct, frozen=True):
    """A message that no mailbox shows.

    :ivar guid: 16 bytes; the map uid must still stand for a message with this guid.
    :ivar requested: (mailbox, uid) of a message whose expunge was requested and not executed; None: it was
        executed.
    """

    map_uid: int
    guid: bytes
    requested: tuple[str, int] | None = None
