"""Finds copies of a message that are separate files: an equal guid is the hint, equal bytes are the proof.

The copies of an sdbox message are hard links, and the mdbox gets one record for all of them.  A backup that
did not keep hard links, or a restore message by message, leaves separate files.  Separate records with one
guid would be damage in an mdbox: Dovecot's rebuild keeps only one of two such records (recovery section 4).

Memory: some 150 bytes for each record of the destination.
"""

from __future__ import annotations

from collections.abc import Sequence

from dboxfs.errors import FormatError
from dboxfs.store.disk import AppendFile
from dboxfs.store.stored_record import (
    FILE_HEAD,
    RECORD_HEAD,
    TAIL,
    NeedRange,
    Record,
    file_header,
    parse_record,
)
from dboxfs.tools.convert.encoding import completed_items
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.journal import StoredPlace
from dboxfs.tools.convert.source import PIECE, Stored

_OWN_TO_A_PLACE = frozenset((b"B", b"Z"))
"""Keys of lines in which equal messages may differ: the first mailbox, and a size that was corrected."""


class Copies:
    """The records of a destination by guid.  *ref*: the map uid, counted from 1."""

    def __init__(self) -> None:
        self._by_guid: dict[bytes, int] = {}
        self._troubles: dict[int, str] = {}

    def add(self, guid: bytes, ref: int, trouble: str) -> None:
        """*guid* is stored as record *ref*; *trouble*: its problem that was reported, or empty."""
        self._by_guid[guid] = ref
        if trouble:
            self._troubles[ref] = trouble

    def find(self, guid: bytes) -> int | None:
        """The record that may be the same message."""
        return self._by_guid.get(guid)

    def trouble(self, ref: int) -> str:
        """The problem of a record that was reported; empty: none."""
        return self._troubles.get(ref, "")


async def is_copy(file: AppendFile, place: StoredPlace, message: Stored) -> bool:
    """Whether the record at *place* in *file* is *message*: the same stored text and metadata.

    :raises OSError: *file* can't be read.
    """
    if not place.size:
        return False  # 4 GiB or more: its end is not known here
    try:
        record = await _read_record(file, place)
    except FormatError:
        return False
    if record.stored_size != message.size:
        return False
    if record.compression is not message.compression and not record.doubtful:
        return False
    if _compared(record.metadata.items) != _compared(completed_items(message.items, message.guid, None)):
        return False
    for offset in range(0, message.size, PIECE):
        count = min(PIECE, message.size - offset)
        try:
            piece = await message.read(count, offset)
        except Unfit:
            return False  # the attempt to write the message will report the problem
        if piece != await file.read(count, record.body_offset + offset):
            return False
    return True


async def is_encrypted_anew(file: AppendFile, place: StoredPlace, message: Stored) -> bool:
    """Whether the record at *place* in *file* and *message* are one message, encrypted for two keys.

    With a key for each folder Dovecot encrypts a copy anew and keeps its guid.  Both are needed: each mailbox
    has the key of its own message alone.

    :raises OSError: *file* can't be read.
    """
    if not place.size or not message.encrypted:
        return False
    try:
        record = await _read_record(file, place)
    except FormatError:
        return False
    same = _compared(record.metadata.items) == _compared(completed_items(message.items, message.guid, None))
    return record.encrypted and same


def _compared(items: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return sorted(item for item in items if item[0] not in _OWN_TO_A_PLACE)


async def _read_record(file: AppendFile, place: StoredPlace) -> Record:
    header = file_header(await file.read(FILE_HEAD, 0))
    end = place.offset + place.size
    head = memoryview(await file.read(RECORD_HEAD, place.offset))
    start = max(place.offset, end - TAIL)
    while True:
        tail = memoryview(await file.read(end - start, start))
        found = parse_record(head, tail, start, place.offset, end, header=header, whole=True)
        if not isinstance(found, NeedRange):
            return found
        start = found.offset
