"""The ``m.N`` files of an mdbox against its map."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field, replace

import numpy as np

from dboxfs.fsapi import FileSystem, Peek
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.checking.findings import Finding, Severity
from dboxfs.store.checking.indexes import FORCE_RESYNC, RESCUE, RESYNC, Index, read_index
from dboxfs.store.checking.messages import Who, attachment_findings, gap_finding, message_findings
from dboxfs.store.checking.tally import LATELY, Tally
from dboxfs.store.location import Location
from dboxfs.store.salvage import Found, Gap, Place, open_window, scan_file
from dboxfs.store.salvage.window import CHUNK, SPARSE_CHUNK
from dboxfs.store.writing.work import message_number


@dataclass(slots=True)
class StorageCheck:
    """The check of the storage, file by file.

    :param live: others may be appending to its files at this moment.
    :ivar guids: 16 bytes for each map uid whose message was read.
    """

    fs: FileSystem
    location: Location
    map: Index
    tally: Tally
    live: bool
    guids: dict[int, bytes] = field(default_factory=dict)

    async def files(self) -> tuple[dict[int, list[str]], list[Finding]]:
        """The ``m.N`` that are there, by file id: where each is; and directories that can't be read."""
        files: dict[int, list[str]] = {}
        findings = []
        for directory in (self.location.storage, self.location.alt_storage):
            if directory is None:
                continue
            try:
                entries = await self.fs.listdir(directory)
            except OSError as exc:
                if directory == self.location.storage or exc.errno != errno.ENOENT:
                    what = f"the directory can't be read: {exc.strerror}"
                    todo = "restore it from a backup"
                    findings.append(Finding(Severity.ERROR, "directory", directory, what, todo))
                continue
            for entry in entries:
                if file_id := message_number(entry.name, "m"):
                    files.setdefault(file_id, []).append(os.path.join(directory, entry.name))
        return files, findings

    def named(self) -> set[int]:
        """The file ids that the map has."""
        state = self.map.state
        return set(np.unique(MapIndex(state).file_ids).tolist()) if state is not None else set()

    async def look(self, file_id: int) -> list[Finding]:
        """Everything that is wrong with one file and the map's records of it at this moment."""
        await read_index(self.fs, self.map)
        places = _places(self.map, file_id)
        paths = await self._paths(file_id)
        if not paths:
            return self._missing(file_id, places)
        findings = []
        if len(paths) > 1:
            what = f"the file is there twice: {paths[0]} and {paths[1]}"
            findings.append(Finding(Severity.ERROR, "file-twice", paths[1], what, RESYNC))
        try:
            items, changing = await self._scan(paths[0], places)
        except FileNotFoundError:
            return self._missing(file_id, places)
        except OSError as exc:
            what = f"the file can't be read: {exc.strerror}; it has {len(places)} messages by the map"
            severity = Severity.ERROR if places else Severity.WARNING
            todo = "restore it from a backup" if places else "remove it: the map doesn't know it"
            return [Finding(severity, "unreadable", paths[0], what, todo)]
        findings += await self._compare(paths[0], places, items)
        if not places:
            findings = [replace(one, severity=Severity.WARNING) for one in findings]
        end = max((place.offset + place.size for place in places), default=0)
        return [_under_way(one, end) for one in findings] if changing else findings

    async def _paths(self, file_id: int) -> list[str]:
        """Where ``m.<file_id>`` is at this moment."""
        directories = (self.location.storage, self.location.alt_storage)
        paths = [os.path.join(one, f"m.{file_id}") for one in directories if one is not None]
        found = await self.fs.peek([Peek(path, (), nofollow=True) for path in paths])
        return [
            path for path, one in zip(paths, found, strict=True) if not isinstance(one, FileNotFoundError)
        ]

    def _missing(self, file_id: int, places: list[MapRecord]) -> list[Finding]:
        if not places:
            return []
        path = os.path.join(self.location.storage, f"m.{file_id}")
        needed = sum(place.refcount > 0 for place in places)
        severity = Severity.ERROR if needed else Severity.WARNING
        what = f"the file is missing; by the map it has {len(places)} messages, {needed} of them in mailboxes"
        todo = "restore the file from a backup"
        return [Finding(severity, "no-file", path, what, todo, count=len(places))]

    async def _scan(self, path: str, places: list[MapRecord]) -> tuple[list[Found | Gap], bool]:
        """What is in a file, and whether somebody may be writing it."""
        chunk = CHUNK if self.tally.texts else SPARSE_CHUNK
        known = [Place(place.offset, place.size) for place in places]
        async with open_window(self.fs, path, chunk) as window:
            items = [item async for item in scan_file(window, known, texts=self.tally.texts)]
            self.tally.read(window.bytes_read)
            return items, self.live and time.time() - window.changed < LATELY

    async def _compare(self, path: str, places: list[MapRecord], items: list[Found | Gap]) -> list[Finding]:
        findings: list[Finding] = []
        messages = {item.offset: item for item in items if isinstance(item, Found) and not item.inside}
        findings += [gap_finding(item, path) for item in items if isinstance(item, Gap)]
        last = max((place.offset for place in places), default=-1)
        before: MapRecord | None = None
        for place in places:
            who = _who(place)
            if before is not None and before.offset == place.offset:
                what = f"map uid {before.map_uid} has the same place"
                findings.append(who.finding(Severity.ERROR, "same-place", path, what, RESYNC, place.offset))
            before = place
            found = messages.get(place.offset)
            if found is None:
                what = "the map says that a message begins here, but none does"
                severity = Severity.ERROR if place.refcount else Severity.WARNING
                findings.append(who.finding(severity, "no-message", path, what, RESYNC, place.offset))
                continue
            findings += await self._message(found, path, place, who)
        known = {place.offset for place in places}
        for offset, found in messages.items():
            if offset not in known:
                findings += _unknown(found, path, behind=offset > last, empty=not places)
        return findings

    async def _message(self, found: Found, path: str, place: MapRecord, who: Who) -> list[Finding]:
        findings = message_findings(found, path, who)
        size = found.end - found.offset
        if place.size not in (0, size) and not findings:
            what = f"the map says {place.size} bytes, the message has {size}"
            findings.append(who.finding(Severity.ERROR, "size", path, what, RESYNC, place.offset))
        if self.location.attachments is not None:
            findings += await attachment_findings(self.fs, found, self.location.attachments, "", who)
        if place.map_uid not in self.guids:
            self.tally.message(found, who)
        if found.guid is not None:
            self.guids[place.map_uid] = found.guid
        return findings


def _who(place: MapRecord) -> Who:
    needed = place.refcount > 0
    text = f"map uid {place.map_uid}" if needed else f"map uid {place.map_uid} (waits for a purge)"
    return Who(text, map_uid=place.map_uid, needed=needed)


def _places(index: Index, file_id: int) -> list[MapRecord]:
    """The map's records of one file, by offset."""
    if index.state is None:
        return []
    view = MapIndex(index.state)
    rows = np.flatnonzero(view.file_ids == file_id)
    columns = (view.map_uids, view.file_ids, view.offsets, view.sizes, view.refcounts)
    records = zip(*(column[rows].tolist() for column in columns), strict=True)
    return sorted((MapRecord(*one) for one in records), key=lambda place: (place.offset, place.map_uid))


def _under_way(finding: Finding, end: int) -> Finding:
    """What stands behind the last record of the map in a file that is being written is a save."""
    if finding.offset is None or finding.offset < end or finding.map_uid is not None:
        return finding
    return replace(finding, severity=Severity.NOTE, code="under-way")


def _unknown(found: Found, path: str, *, behind: bool, empty: bool) -> list[Finding]:
    """A message that the map doesn't have."""
    guid = f" (guid {found.guid_text})" if found.guid_text else ""
    if not found.problems:
        where = "the file is not in the map" if empty else "the map has no record of it"
        what = f"a whole message{guid}, but {where}: a save or a purge that died"
        todo = f"{FORCE_RESYNC} brings it back if no mailbox has it already"
        return [Finding(Severity.WARNING, "not-in-map", path, what, todo, offset=found.offset)]
    kind = "torn" if behind else "message-damaged"
    what = f"a message{guid} that the map doesn't have: {'; '.join(found.problems)}"
    todo = "a save that died leaves such an end; it was never acknowledged" if behind else RESCUE
    return [Finding(Severity.WARNING, kind, path, what, todo, offset=found.offset)]
