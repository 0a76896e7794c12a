"""What a run of an archive builds on: the newest generation, message files of a run that died, and what it
adds.

:class:`ArchiveBase` gives out map uids and file ids, finds records by guid, and counts references.  Calls
that block, because they read objects, say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from dboxfs.errors import FormatError
from dboxfs.fsapi.drivers.slices import Slice
from dboxfs.index.base import parse_index
from dboxfs.index.mailbox import map_uids, save_dates
from dboxfs.tools.archive.data_file import decode_rows, file_id_of
from dboxfs.tools.archive.generation import (
    DATA,
    INDEX,
    ROW,
    ROWS,
    Generation,
    MailboxEntry,
    Rows,
    digest,
    unpack,
)
from dboxfs.tools.archive.mailbox_object import PLACE, index_path
from dboxfs.tools.archive.repository import Repository, WrittenObject
from dboxfs.tools.convert.target import MOST_REFERENCES

Record = tuple[int, int, int, int, int, int, bytes, int]
"""A row of :data:`ROW`."""


class ArchiveBase:
    """Records, their places and references.

    :ivar generation: the one that is built on; None: the archive is new.
    :ivar newest: the newest one, of which index objects may be lost.
    :ivar told: objects that are lost, a line each.
    :ivar resumed: messages in message files of runs that died, which are used.
    """

    def __init__(self, repository: Repository, generation: Generation | None, now: int) -> None:
        self._repository = repository
        self.generation = generation
        self.newest = generation
        self.told: list[str] = []
        self.resumed = 0
        self.map_uid_validity = max(now, 1) if generation is None else generation.map_uid_validity
        self.next_map_uid = 1 if generation is None else generation.next_map_uid
        self.highest_file_id = 0 if generation is None else generation.highest_file_id
        self.mailboxes: dict[str, MailboxEntry] = {} if generation is None else dict(generation.mailboxes)
        self.objects: dict[str, tuple[int, str]] = {} if generation is None else dict(generation.objects)
        self._rows: Rows = np.empty(0, ROW)
        self._added: list[Record] = []
        self._places: dict[int, tuple[int, int, int]] = {}
        self._by_guid: dict[bytes, list[tuple[int, int, int]]] = {}
        self._found: dict[int, int] = {}
        self._data: dict[int, WrittenObject] = {}
        self._kept: set[str] = set()
        self._lost: set[int] = set()
        self._referred: list[npt.NDArray[np.uint32]] = []
        self._packed: tuple[str, bytes] = ("", b"")

    @classmethod
    def load(cls, repository: Repository, now: int) -> ArchiveBase:
        """The newest generation of which no index is lost, and what died runs have left (blocking).

        :param now: seconds since the epoch.
        """
        there = repository.sizes(DATA) | repository.sizes(INDEX)
        newest: Generation | None = None
        sound: Generation | None = None
        told = []
        for key in reversed(repository.generations()):
            found = repository.read(key)
            newest = newest or found
            lost = [key for key, (size, _) in found.objects.items() if there.get(key) != size]
            told += [f"{key}: the object is gone or cut; what was in it is stored anew" for key in lost]
            if not any(key.startswith(INDEX + "/") for key in lost):
                sound = found
                break
        base = cls(repository, sound, now)
        base.told = sorted(set(told))
        base.newest = newest
        if newest is not None:
            base.next_map_uid = max(base.next_map_uid, newest.next_map_uid)
        base.highest_file_id = max([base.highest_file_id, *map(file_id_of, there)])
        if base.generation is not None:
            base._take_rows(base.generation, there)
        base._adopt(there)
        return base

    def _take_rows(self, generation: Generation, there: Mapping[str, int]) -> None:
        data = self._slice(generation.rows)
        self._rows = np.frombuffer(data, ROW)
        for path, one in generation.files.items():
            if os.path.dirname(path) == PLACE.storage and (number := file_id_of(one.key)):
                self._data[number] = WrittenObject(one.key, *self.objects[one.key])
        gone = [number for number, one in self._data.items() if there.get(one.key) != one.size]
        lost = np.isin(self._rows["file_id"], gone)
        self._lost = set(self._rows["map_uid"][lost].tolist())
        for row in self._rows[~lost].tolist():
            self._know(row)

    def _know(self, row: Record) -> None:
        map_uid, guid = row[0], bytes(row[6])
        self._by_guid.setdefault(guid, []).append((map_uid, row[4], row[5]))
        self._found[map_uid] = row[7]

    def _adopt(self, there: Mapping[str, int]) -> None:
        """Message files that a run has sealed and no generation has: their messages are not stored again."""
        for key in sorted(self._repository.sizes(ROWS)):
            number = file_id_of(key)
            if number in self._data or not number:
                continue
            try:
                stored, rows = decode_rows(self._repository.objects.get_whole(key))
            except FormatError:
                continue  # nothing is lost: its messages are read again
            if stored.key != f"{DATA}/{key.removeprefix(ROWS + '/')}" or there.get(stored.key) != stored.size:
                continue
            self.sealed(number, stored)
            for row in rows.tolist():
                self.add((self.next_map_uid, *row[1:]))
                self.resumed += 1

    # -- what is there -----------------------------------------------------------------------------------

    def known(self, guid: str, uid_validity: int) -> dict[int, tuple[int, int]]:
        """Map uid and saved date of the messages of a mailbox in the generation before, by uid (blocking)."""
        found: dict[int, tuple[int, int]] = {}
        for name, entry in self.mailboxes.items():
            if (entry.guid, entry.uid_validity) == (guid, uid_validity) and guid.strip("0"):
                uids, numbers, dates = self._index(name)
                pairs = zip(numbers.tolist(), dates.tolist(), strict=True)
                found.update(zip(uids.tolist(), pairs, strict=True))
        return {uid: pair for uid, pair in found.items() if pair[0] not in self._lost}

    def is_whole(self, name: str) -> bool:
        """Whether all messages of a mailbox of the generation before are there (blocking)."""
        return not self._lost or self._lost.isdisjoint(self._index(name)[1].tolist())

    def _index(self, name: str) -> tuple[npt.NDArray[np.uint32], ...]:
        """uids, map uids and saved dates of a mailbox of the generation before (blocking)."""
        assert self.generation is not None
        state = parse_index(self._slice(self.generation.files[index_path(name)]))
        numbers, dates = map_uids(state), save_dates(state)
        if numbers is None or dates is None:
            return (np.empty(0, np.uint32),) * 3
        return state.uids, numbers, dates

    def _slice(self, one: Slice) -> bytes:
        """A file in a packed object, which is kept until another one is asked for."""
        if self._packed[0] != one.key:
            stored = self._repository.objects.get_whole(one.key)
            if digest(stored) != self.objects[one.key][1]:
                raise OSError(5, "the object is damaged: its checksum is another one", one.key)
            self._packed = (one.key, unpack(stored))
        return self._packed[1][one.offset : one.offset + one.size]

    def has_guid(self, guid: bytes) -> bool:
        """A record with this guid is there."""
        return guid in self._by_guid

    def find(self, guid: bytes, size: int, crc: int) -> int | None:
        """The map uid of a record with this guid, size (bytes) and CRC-32 of its stored body."""
        for map_uid, its_size, its_crc in self._by_guid.get(guid, ()):
            if (its_size, its_crc) == (size, crc) and self._found[map_uid] < MOST_REFERENCES:
                self._found[map_uid] += 1
                return map_uid
        return None

    def files_of(self, name: str) -> dict[str, Slice]:
        """All files of a mailbox in the generation before: they are in one object."""
        assert self.generation is not None
        files = self.generation.files
        key = files[index_path(name)].key
        return {path: one for path, one in files.items() if one.key == key}

    # -- what is added -----------------------------------------------------------------------------------

    def next_file_id(self) -> int:
        """A new N for ``m.N``."""
        self.highest_file_id += 1
        return self.highest_file_id

    def add(self, row: Record) -> None:
        """A record was appended to a message file, under the next map uid."""
        self._added.append(row)
        self._know(row)
        self.next_map_uid = row[0] + 1

    def sealed(self, file_id: int, stored: WrittenObject) -> None:
        """The message file is an object."""
        self._data[file_id] = stored
        self.objects[stored.key] = (stored.size, stored.digest)

    def keep(self, name: str) -> None:
        """A mailbox stays as it is in the generation before."""
        self._kept.add(name)

    def refer(self, numbers: npt.NDArray[np.uint32]) -> Rows:
        """Messages of a mailbox refer to these map uids; gives their rows."""
        self._referred.append(numbers)
        rows = self._all()
        found: Rows = rows[np.searchsorted(rows["map_uid"], numbers)]
        return found

    def _all(self) -> Rows:
        """All rows, ascending by map uid."""
        if self._added:
            self._rows = np.concatenate([self._rows, np.array(self._added, ROW)])
            self._added.clear()
        return self._rows

    def referred(self) -> Rows:
        """The rows to which messages refer, with the right numbers of references (blocking)."""
        rows = self._all().copy()
        counts = rows["references"].astype(np.int64)
        for numbers, sign in self._changes():
            uids, times = np.unique(numbers, return_counts=True)
            counts[np.searchsorted(rows["map_uid"], uids)] += sign * times
        rows["references"] = counts
        found: Rows = rows[counts > 0]
        return found

    def _changes(self) -> Iterator[tuple[npt.NDArray[np.uint32], int]]:
        for name in self.mailboxes.keys() - self._kept:
            yield self._index(name)[1], -1
        for numbers in self._referred:
            yield numbers, 1

    def data_of(self, rows: Rows) -> dict[int, WrittenObject]:
        """The message files of *rows*."""
        return {number: self._data[number] for number in np.unique(rows["file_id"]).tolist()}
