"""The index objects of a generation: the files of one mailbox, of the map, and of the control directory.

Each is the files one behind the other, packed; the generation says where each one begins.  The same mailbox
makes the same bytes: nothing of the time or of the run is in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.fsapi.drivers.slices import Slice, inode_of
from dboxfs.index.base import parse_index
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.attrs import HAS_ATTACHMENTS, FactColumns
from dboxfs.store.location import WRITTEN_NAMES, Kind, Location
from dboxfs.store.size_format import (
    NOT_CACHED,
    Key,
    Remembered,
    encode_table,
    generation_of,
    marks_of_records,
    usable,
)
from dboxfs.store.size_table import table_name
from dboxfs.tools.archive.generation import SIZES, Rows
from dboxfs.tools.archive.repository import WrittenObject
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot
from dboxfs.tools.convert.newindexes import MapRows, NewIndexFiles, NewRows, mailbox_files, map_files

PLACE = Location(Kind.MDBOX, "")
"""The paths of a generation's tree."""


class PackedFiles(Struct, frozen=True):
    """Files that become one object: their paths and bytes, in order."""

    files: tuple[tuple[str, bytes], ...]

    @property
    def data(self) -> bytes:
        """The plain bytes of the object."""
        return b"".join(data for _, data in self.files)

    def slices(self, stored: WrittenObject) -> dict[str, Slice]:
        """Where each file is, once the object is *stored*."""
        found, offset = {}, 0
        for path, data in self.files:
            found[path] = Slice(stored.key, offset, len(data))
            offset += len(data)
        return found


def index_path(name: str) -> str:
    """The snapshot of mailbox *name* (storage name)."""
    return os.path.join(PLACE.index_path(name), "dovecot.index")


def names_path(guid: bytes) -> str:
    """The names that programs gave the messages of a mailbox."""
    return os.path.join(WRITTEN_NAMES, guid.hex())


def map_object(rows: Rows, *, uid_validity: int, next_map_uid: int, highest_file_id: int) -> PackedFiles:
    """The map, and at last the rows themselves, under the path ""."""
    columns = MapRows(
        rows["file_id"], rows["offset"], rows["size"], rows["references"], rows["map_uid"], next_map_uid
    )
    files = map_files(columns, uid_validity=uid_validity, highest_file_id=highest_file_id)
    return PackedFiles((*_index_files(PLACE.map_dir, "dovecot.map.index", files), ("", rows.tobytes())))


def mailbox_object(
    portrait: MailboxSnapshot,
    rows: NewRows,
    records: Rows,
    facts: FactColumns,
    names: bytes | None,
    uid_validity: int,
) -> PackedFiles:
    """A mailbox.

    :param rows: what is archived of *portrait*.
    :param records: the record of each of them.
    :param facts: of each of them; what is not known, or is not so in the archive, is left out.
    :param names: the file with the names that programs gave.
    :param uid_validity: of the map.
    """
    made = mailbox_files(portrait, rows, map_uid_validity=uid_validity, now=uid_validity)
    files = _index_files(PLACE.index_path(portrait.name), "dovecot.index", made)
    if any(portrait.guid):
        files.append(_size_table(portrait, rows, records, facts, uid_validity))
        if names is not None:
            files.append((names_path(portrait.guid), names))
    return PackedFiles(tuple(files))


def control_object(files: Mapping[str, bytes]) -> PackedFiles:
    """Files of the control directory, by path."""
    return PackedFiles(tuple(sorted(files.items())))


def _index_files(directory: str, name: str, made: NewIndexFiles) -> list[tuple[str, bytes]]:
    path = os.path.join(directory, name)
    return [(path, made.snapshot), (path + ".log", made.log)]


def _size_table(
    portrait: MailboxSnapshot, rows: NewRows, records: Rows, facts: FactColumns, uid_validity: int
) -> tuple[str, bytes]:
    """What a mount asks before it looks at messages: exact sizes and dates."""
    marks = marks_of_records(rows.guids, rows.map_uids, records["size"])
    columns = replace(facts, saved=rows.saved)
    known = usable(facts.state) & ((facts.state & np.uint8(HAS_ATTACHMENTS)) == 0) & (marks != 0)
    cached_at = np.full(len(rows.uids), NOT_CACHED, np.uint32)
    table = Remembered(rows.uids, marks, columns, cached_at)[known]
    key = Key("", 0, inode_of(""), portrait.guid, portrait.uid_validity).digest()
    empty: npt.NDArray[Any] = records[:0]
    probe = map_object(empty, uid_validity=uid_validity, next_map_uid=1, highest_file_id=0)
    mapping = MapIndex(parse_index(probe.files[0][1]))
    generation = generation_of(*mapping.identity)
    return f"{SIZES}/{table_name(key)}", encode_table(table, key, generation)
