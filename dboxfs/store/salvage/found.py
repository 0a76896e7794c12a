"""Results of a scan of a dbox file."""

from __future__ import annotations

import enum

from msgspec import Struct

from dboxfs.dbox import Metadata
from dboxfs.store.salvage.measure import Measured


class Trust(enum.IntEnum):
    """The trust in a message; a lower value is better."""

    WHOLE = 0  #: nothing in it contradicts the rest
    REPAIRED = 1  #: its record is damaged, but its text is proven to be complete
    DOUBTFUL = 2  #: its record is whole, or nearly, but something in it contradicts the text
    DAMAGED = 3  #: its text is incomplete, or the end of its text is unknown


class MapPlace(Struct, frozen=True):
    """The place of a record by the map.  ``size``: bytes, 0: up to the end of the file."""

    offset: int
    size: int


class Found(Struct, frozen=True):
    """One message in a file.  Offsets in the file, sizes in bytes.

    ``body_size``: stored bytes of its text that exist.  ``metadata``: None: lost.  ``measured``: None: its
    text was not read.  ``problems``: its faults, as text.  ``inside``: it is within a damaged record, and may
    be a part of that message's text (an attached dbox file).  ``version``: 2 or 3.
    """

    offset: int
    end: int
    body_offset: int
    body_size: int
    metadata: Metadata | None
    measured: Measured | None
    trust: Trust
    problems: tuple[str, ...] = ()
    inside: bool = False
    version: int = 2

    @property
    def guid(self) -> bytes | None:
        """16 bytes; None: unknown."""
        return self.metadata.guid128 if self.metadata is not None else None

    @property
    def guid_text(self) -> str:
        """The guid in the form of ``doveadm fetch guid``, for messages to users; empty: unknown."""
        text = self.metadata.guid if self.metadata is not None else None
        return text.decode("utf-8", "backslashreplace") if text is not None else ""


class Gap(Struct, frozen=True):
    """Bytes from ``offset`` to ``end`` that are no message.  ``reason``: as text."""

    offset: int
    end: int
    reason: str
