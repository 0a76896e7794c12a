"""The ``m.N`` files of an mdbox against its map."""

from __future__ import annotations

import errno
import os
import time

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.fsapi import FileSystem, Peek
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.store.location import Location
from dboxfs.store.odd_files import why_unreadable
from dboxfs.store.salvage import Found, Gap, MapPlace, Trust, open_window, scan_file
from dboxfs.store.salvage.window import CHUNK, SPARSE_CHUNK
from dboxfs.store.write.session import message_number
from dboxfs.tools.check.advice import (
    COPY,
    DROPS_BEHIND,
    DROPS_DAMAGED,
    FORCE_RESYNC,
    RESCUE,
    readable_first,
    rescue_first,
    restore_first,
)
from dboxfs.tools.check.findings import Finding, Severity
from dboxfs.tools.check.indexes import Index, read_index
from dboxfs.tools.check.messages import Who, attachment_findings, gap_finding, message_findings
from dboxfs.tools.check.owners import Owners
from dboxfs.tools.check.progress import LATELY, Tally
from dboxfs.tools.check.readable import open_reader
from dboxfs.util.uid_ranges import uid_ranges


class _Scan(Struct, frozen=True):
    """The contents of a file.

    ``refused``: why a reader doesn't show a message that the map has, by the message's offset.
    ``encrypted``: offsets of those that are encrypted.  ``header``: the fault in the file's header line that
    makes a reader refuse messages.  ``changing``: another process may be writing the file.
    """

    items: list[Found | Gap]
    refused: dict[int, str]
    encrypted: set[int]
    header: str | None
    changing: bool


class StorageCheck(Struct):
    """The check of the storage, file by file.

    :param live: other processes may be appending to its files at this moment.
    :param owners: the mailbox records, to name messages by mailbox and uid.
    :ivar guids: the guid (16 bytes) of each message that was read, by map uid.
    :ivar encrypted: the map uids of messages that are encrypted.
    :ivar counted: the map uids of messages without a guid that were read, each counted once.
    :ivar unmapped: number of whole messages in each file, by file id, while the map is missing or empty.
    """

    fs: FileSystem
    location: Location
    map: Index
    tally: Tally
    live: bool
    owners: Owners
    guids: dict[int, bytes] = field(default_factory=dict)
    encrypted: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    unmapped: dict[int, int] = field(default_factory=dict)

    async def files(self) -> tuple[dict[int, list[str]], list[Finding]]:
        """The paths of the ``m.N`` files by file id, and findings for directories that can't be read."""
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
                    todo = "restore it from a backup, or check its owner and mode"
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
        """All problems of one file and of the map's records for it, at this moment."""
        await read_index(self.fs, self.map)
        places = _places(self.map, file_id)
        paths = await self._paths(file_id)
        if not paths:
            return self._missing(file_id, places)
        findings = []
        if len(paths) > 1:
            what = f"the file is there twice: {paths[0]}, which is read, and {paths[1]}, which is not"
            todo = f"compare them; move away the one that the map doesn't fit. {rescue_first(DROPS_DAMAGED)}"
            findings.append(Finding(Severity.ERROR, "file-twice", paths[1], what, todo))
        try:
            scan = await self._scan(paths[0], places)
        except FileNotFoundError:
            return self._missing(file_id, places)
        except OSError as exc:
            why = f"the file can't be read: {why_unreadable(exc)}"
            if places:
                return self._whole_file("unreadable", paths[0], places, why, readable_first(exc, "the file"))
            what = f"{why}; the map has no messages in it"
            todo = f"{COPY}; if the map was lost or made anew, {readable_first(exc, 'the file')}"
            return [Finding(Severity.WARNING, "unreadable", paths[0], what, todo)]
        findings += await self._compare(file_id, paths[0], places, scan)
        if not places:
            findings = [replace(one, severity=Severity.WARNING) for one in findings]
        end = max((place.offset + place.size for place in places), default=0)
        return [_under_way(one, end) for one in findings] if scan.changing else findings

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
        return self._whole_file("no-file", path, places, "the file is missing", restore_first("the file"))

    def _whole_file(
        self, code: str, path: str, places: list[MapRecord], why: str, todo: str
    ) -> list[Finding]:
        """A problem of all messages in a file: one finding for each mailbox that has some of them."""
        needed = [place.map_uid for place in places if place.refcount]
        findings = []
        for group in self.owners.groups(needed):
            count, uids = len(group.uids), uid_ranges(group.uids)
            box = group.box
            has = f"messages of {box.what} are in it: uid" if box is not None else "in no mailbox: map uid"
            what = f"{why}; {count} {has} {uids}"
            mailbox = box.mailbox if box is not None else None
            found = Finding(Severity.ERROR, code, path, what, todo, mailbox=mailbox, count=count)
            findings.append(found)
        if not findings:
            what = f"{why}; the {len(places)} messages in it are expunged and wait for a purge"
            findings.append(Finding(Severity.WARNING, code, path, what, todo, count=len(places)))
        return findings

    async def _scan(self, path: str, places: list[MapRecord]) -> _Scan:
        """Read a file, and test for each message that the map has in it whether a reader would show it."""
        chunk = CHUNK if self.tally.texts else SPARSE_CHUNK
        known = [MapPlace(place.offset, place.size) for place in places]
        ends = {place.offset: place.offset + place.size if place.size else 0 for place in places}
        items: list[Found | Gap] = []
        refused, encrypted = dict[int, str](), set[int]()
        header: str | None = None
        async with open_window(self.fs, path, chunk) as window:
            reader = await open_reader(window, single=False)
            async for item in scan_file(window, known, texts=self.tally.texts):
                items.append(item)
                if not isinstance(item, Found) or item.inside or item.offset not in ends:
                    continue
                seen = await reader.reading(item, ends[item.offset] or window.size)
                if seen.encrypted:
                    encrypted.add(item.offset)
                if seen.refused is not None:
                    refused[item.offset] = seen.refused
                    header = header or reader.misled_by(item)
            self.tally.read(window.bytes_read)
            changing = self.live and time.time() - window.changed < LATELY
            if reader.damage is not None and header is None and refused:
                header = f"the file header line is damaged: {reader.damage.reason}"
            return _Scan(items, refused, encrypted, header, changing)

    async def _compare(self, file_id: int, path: str, places: list[MapRecord], scan: _Scan) -> list[Finding]:
        findings: list[Finding] = []
        items, refused = scan.items, scan.refused
        messages = {item.offset: item for item in items if isinstance(item, Found) and not item.inside}
        gaps = [item for item in items if isinstance(item, Gap)]
        if scan.header is not None:  # all messages are unreadable: report it once for each mailbox
            hit = [place for place in places if place.offset in refused]
            findings += self._whole_file("file-header", path, hit, scan.header, rescue_first(DROPS_BEHIND))
            gaps = [gap for gap in gaps if gap.offset]
            refused = {}
        findings += [gap_finding(item, path) for item in gaps]
        last = max((place.offset for place in places), default=-1)
        before: MapRecord | None = None
        for place in places:
            who = _who(place)
            if before is not None and before.offset == place.offset:
                what = f"map uid {before.map_uid} has the same place"
                todo = rescue_first(DROPS_DAMAGED)
                findings.append(who.finding(Severity.ERROR, "same-place", path, what, todo, place.offset))
            before = place
            found = messages.get(place.offset)
            if found is None:
                what = "the map says that a message begins here, but none does"
                severity = Severity.ERROR if place.refcount else Severity.WARNING
                findings.append(who.finding(severity, "no-message", path, what, who.repair, place.offset))
                continue
            findings += await self._message(found, path, place, who, refused.get(place.offset))
            if place.offset in scan.encrypted:
                self.encrypted.add(place.map_uid)
        known = {place.offset for place in places}
        strange = [found for offset, found in messages.items() if offset not in known]
        if self.map.state is None or not len(self.map.state):
            self.unmapped[file_id] = sum(not found.problems for found in strange)
            strange = [found for found in strange if found.problems]
        for found in strange:
            findings += _unknown(found, path, behind=found.offset > last, empty=not places)
        return findings

    async def _message(
        self, found: Found, path: str, place: MapRecord, who: Who, refused: str | None
    ) -> list[Finding]:
        size = found.end - found.offset
        wrong = place.size not in (0, size) and found.trust is Trust.WHOLE
        findings = message_findings(found, path, who, None if wrong else refused)
        if wrong and not findings:
            what = f"the map says {place.size} bytes, the message has {size}"
            severity = Severity.ERROR if who.needed else Severity.WARNING
            findings.append(who.finding(severity, "size", path, what, who.repair, place.offset))
        if self.location.attachments is not None:
            findings += await attachment_findings(self.fs, found, self.location.attachments, "", who)
        if place.map_uid not in self.guids and place.map_uid not in self.counted:
            self.tally.message(found, who)
        if found.guid is not None:
            self.guids[place.map_uid] = found.guid
        else:
            self.counted.add(place.map_uid)
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
    """*finding* as a note if it is about bytes behind *end*, the end of the map's last record.

    For a file that another process is writing: such bytes are a save that is going on.
    """
    if finding.offset is None or finding.offset < end or finding.map_uid is not None:
        return finding
    return replace(finding, severity=Severity.NOTE, code="under-way")


def _unknown(found: Found, path: str, *, behind: bool, empty: bool) -> list[Finding]:
    """A message that the map doesn't have."""
    guid = f" (guid {found.guid_text})" if found.guid_text else ""
    if not found.problems:
        where = "the file is not in the map" if empty else "the map has no record of it"
        what = f"a whole message{guid}, but {where}: a save or a purge that died"
        todo = f"{COPY}; dboxfs rescue or {FORCE_RESYNC} brings it back if no mailbox has it already"
        return [Finding(Severity.WARNING, "not-in-map", path, what, todo, offset=found.offset)]
    kind = "torn" if behind else "message-damaged"
    what = f"a message{guid} that the map doesn't have: {'; '.join(found.problems)}"
    todo = RESCUE
    if behind:
        todo = f"nothing, if a save died here: it was not acknowledged; if the map lost records: {RESCUE}"
    return [Finding(Severity.WARNING, kind, path, what, todo, offset=found.offset)]
