"""What a scan of a dbox file finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from dboxfs.dbox import Metadata
from dboxfs.store.salvage.measure import Measured


class Trust(enum.IntEnum):
    """How far a message can be trusted; the lower the better."""

    WHOLE = 0  #: nothing contradicts it
    REPAIRED = 1  #: its record is damaged, but its text is proven to be complete
    DOUBTFUL = 2  #: its record is whole, or nearly, but something in it contradicts the text
    DAMAGED = 3  #: its text is incomplete, or where it ends is not known


@dataclass(frozen=True, slots=True)
class MapPlace:
    """Where the map says that a record is.  ``size``: bytes, 0: up to the end of the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """One message in a file.  Offsets in the file, sizes in bytes.

    ``body_size``: stored bytes of its text, as many as there are.  ``metadata``: None: lost.  ``measured``:
    None: its text was not read.  ``problems``: what is wrong, in words.  ``inside``: it lies within a
    damaged record and may be a part of that message's text (an attached dbox file).  ``version``: 2 or 3.
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
        """16 bytes, None: not known."""
        return self.metadata.guid128 if self.metadata is not None else None

    @property
    def guid_text(self) -> str:
        """The guid as ``doveadm fetch guid`` gives it, for people; empty: not known."""
        text = self.metadata.guid if self.metadata is not None else None
        return text.decode("utf-8", "backslashreplace") if text is not None else ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes from ``offset`` to ``end`` that are no message.  ``reason``: in words."""

    offset: int
    end: int
    reason: str
