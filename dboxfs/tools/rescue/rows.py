"""The table of all messages in the files, in a few bytes each.

A scan gives one :class:`Row` after the other.  The table keeps them packed, 88 bytes each, since a store may
have millions, and unpacks a row when a caller reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from msgspec import Struct

from dboxfs.dbox import Compression
from dboxfs.store.salvage import Trust

NO_GUID = bytes(16)

NO_DATE = -(2**63)
"""A received date that isn't known; every other number of 64 bits is a date."""

_ROW = struct.Struct("<IIQQQQqQBBBx16s")
_KINDS: tuple[Compression | None, ...] = (None, *Compression)
_INSIDE, _EXTERNAL, _AS_IT_IS = 1, 2, 4


class Row(Struct, frozen=True):
    """One message.  Offsets in its file, sizes in bytes.

    ``file``: number of its file (``Harvest.files``).  ``home``: number of the mailbox that its metadata name
    (:attr:`RowTable.names`; 0: none).  ``body_size``: stored bytes of the text; ``plain``: bytes of the text
    as far as it can be decompressed.  ``received``: seconds since the epoch, NO_DATE: not known.
    ``metadata_offset``: 0: the metadata are lost.  ``external``: it has attachments in files of their own.
    ``guid``: zeros: not known.  ``as_it_is``: its text is stored uncompressed in format 2, even if it begins
    like a compressed one.
    """

    file: int
    home: int
    offset: int
    body_offset: int
    body_size: int
    plain: int
    received: int
    metadata_offset: int
    trust: Trust
    compression: Compression | None
    inside: bool
    external: bool
    guid: bytes
    as_it_is: bool = False


class RowTable:
    """Rows, in the order in which they were found.

    :ivar names: the storage names of mailboxes that messages name; the first one stands for "none".
    """

    def __init__(self) -> None:
        self.names: list[bytes] = [b""]
        self._numbers: dict[bytes, int] = {b"": 0}
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data) // _ROW.size

    def __getitem__(self, at: int) -> Row:
        if not 0 <= at < len(self):
            raise IndexError(at)
        file, home, *numbers, trust, kind, marks, guid = _ROW.unpack_from(self._data, at * _ROW.size)
        offset, body_offset, body_size, plain, received, metadata_offset = numbers
        return Row(
            file, home, offset, body_offset, body_size, plain, received, metadata_offset,
            Trust(trust), _KINDS[kind], bool(marks & _INSIDE), bool(marks & _EXTERNAL), guid,
            bool(marks & _AS_IT_IS),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        for at in range(len(self)):
            yield self[at]

    def add(self, row: Row) -> None:
        """Append a row."""
        marks = _INSIDE * row.inside | _EXTERNAL * row.external | _AS_IT_IS * row.as_it_is
        self._data += _ROW.pack(
            row.file, row.home, row.offset, row.body_offset, row.body_size, row.plain, row.received,
            row.metadata_offset, row.trust, _KINDS.index(row.compression), marks, row.guid,
        )  # fmt: skip

    def name(self, mailbox: bytes) -> int:
        """The number of a mailbox that a message names; a new one gets the next number."""
        number = self._numbers.setdefault(mailbox, len(self.names))
        if number == len(self.names):
            self.names.append(mailbox)
        return number
