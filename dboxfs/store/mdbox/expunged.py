"""What names a message of an mdbox that was expunged and not purged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expunged:
    """A message that no mailbox shows.

    :ivar guid: 16 bytes: the message that the map uid has to stand for still.
    :ivar requested: (mailbox, uid) of the message whose expunge was asked for and not carried out; None: it
        was carried out.
    """

    map_uid: int
    guid: bytes
    requested: tuple[str, int] | None = None
