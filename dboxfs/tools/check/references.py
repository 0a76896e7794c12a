"""The mailboxes of an mdbox against its map: every record, every reference count, every guid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from msgspec import Struct

from dboxfs.fsapi import FileSystem
from dboxfs.index.mailbox import guids, map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.state import IndexState
from dboxfs.store.location import Location
from dboxfs.tools.check.advice import (
    COPY,
    DROPS_DAMAGED,
    DROPS_FLAGS,
    FORCE_RESYNC,
    REVIVES,
    elsewhere,
    recount,
    rescue_first,
)
from dboxfs.tools.check.findings import Finding, Severity
from dboxfs.tools.check.indexes import (
    Index,
    index_findings,
    mailbox_findings,
    read_index,
)
from dboxfs.tools.check.messages import Who


class ReferencesCheck(Struct):
    """The check of all indexes of an mdbox.

    :param names: guids (16 bytes) of the messages that were read, by map uid.
    :param encrypted: map uids of the messages that are encrypted.
    :param unmapped: number of whole messages in each file, by file id, if the map is missing or empty.
    """

    fs: FileSystem
    location: Location
    map: Index
    boxes: Sequence[Index]
    names: Mapping[int, bytes]
    encrypted: Set[int]
    unmapped: Mapping[int, int]

    async def look(self) -> list[Finding]:
        """All problems at this moment.  The map is read last, so it is never older than the mailboxes."""
        for box in self.boxes:
            await read_index(self.fs, box)
        await read_index(self.fs, self.map)
        findings = [one for box in self.boxes for one in mailbox_findings(box, self.location.kind)]
        findings += index_findings(self.map)
        state = self.map.state
        if state is None or not len(state):
            findings += self._no_map()
        if state is None:
            return findings
        mapping = MapIndex(state)
        if state.tail_offset != state.head_offset:
            what = "a writer died between changing the map and a mailbox (tail is not head)"
            todo = "no message is lost: the next writer (Dovecot, or a writable dboxfs mount) counts anew"
            findings.append(self.map.found(Severity.WARNING, "map-tail", what, todo))
        findings += self._map(mapping)
        counted = np.zeros(len(state), np.int64)
        for box in self.boxes:
            if box.state is not None:
                findings += self._box(box, box.state, mapping, counted)
        findings += self._refcounts(mapping, counted)
        return findings

    def _no_map(self) -> list[Finding]:
        """The map is missing, or has no record, though there are messages."""
        state, stored = self.map.state, sum(self.unmapped.values())
        used = sum(len(box.state) for box in self.boxes if box.state is not None)
        files = sum(count > 0 for count in self.unmapped.values())
        if self.map.error is not None or (state is not None and not stored):
            return []
        what = "there is none" if state is None else "it has no message"
        what += (
            f"; {stored} messages in {files} m.N files can't be found, {used} mailbox records lead to none"
        )
        severity = Severity.ERROR if used or stored else Severity.WARNING
        todo = f"{elsewhere(self.location)}; else {rescue_first(REVIVES)}"
        return [self.map.found(severity, "no-map", what, todo)]

    def _map(self, mapping: MapIndex) -> list[Finding]:
        findings = []
        highest = int(mapping.file_ids.max()) if len(mapping) else 0
        if highest > mapping.highest_file_id:
            last = mapping.highest_file_id
            what = f"it has messages in m.{highest}, but says that m.{last} is the last file"
            todo = f"let no program save mail before this is mended: {recount('gives new numbers')}"
            findings.append(self.map.found(Severity.ERROR, "highest-file-id", what, todo))
        findings += self._twins(mapping)
        return findings

    def _twins(self, mapping: MapIndex) -> list[Finding]:
        """Messages with one guid that are stored twice.

        Where each mailbox has a key of its own, Dovecot encrypts a copy anew and keeps its guid (2.3.19,
        2.4.1).
        """
        first: dict[bytes, int] = {}
        findings = []
        copies = 0
        for map_uid, count in zip(mapping.map_uids.tolist(), mapping.refcounts.tolist(), strict=True):
            guid = self.names.get(map_uid)
            if guid is None or not count:
                continue
            other = first.setdefault(guid, map_uid)
            if other == map_uid:
                continue
            if {other, map_uid} <= self.encrypted:
                copies += 1
            else:
                what = f"map uids {other} and {map_uid} have the same guid {guid.hex()}"
                todo = f"both can be read; avoid {FORCE_RESYNC}: it keeps one of them if they have one size"
                found = Who(f"map uid {map_uid}", map_uid=map_uid)
                path = self.map.files.log_path
                findings.append(found.finding(Severity.WARNING, "same-guid", path, what, todo))
        if copies:
            what = (
                f"{copies} messages are copies of others, encrypted anew: Dovecot does so for a mailbox's key"
            )
            todo = (
                f"avoid {FORCE_RESYNC}: it keeps one for all mailboxes, and Dovecot reads that in one of them"
            )
            findings.append(self.map.found(Severity.NOTE, "encrypted-copies", what, todo))
        return findings

    def _box(self, box: Index, state: IndexState, mapping: MapIndex, counted: np.ndarray) -> list[Finding]:
        findings = []
        header = box.header
        if header is not None and header.map_uid_validity != mapping.uid_validity:
            what = f"it belongs to map {header.map_uid_validity}, the map here is {mapping.uid_validity}"
            todo = f"give the map that belongs to it, or restore it; else {rescue_first(DROPS_DAMAGED)}"
            findings.append(box.found(Severity.ERROR, "other-map", what, todo))
        column = map_uids(state)
        if column is None:
            if len(state):
                what = f"{len(state)} messages without a map uid"
                findings.append(box.found(Severity.ERROR, "no-map-uids", what, rescue_first(DROPS_FLAGS)))
            return findings
        rows = mapping.rows_of(column)
        np.add.at(counted, rows[rows >= 0], 1)
        for uid, map_uid in zip(state.uids[rows < 0].tolist(), column[rows < 0].tolist(), strict=True):
            who = Who(f"{box.what}/{uid}", box.mailbox, uid, map_uid)
            what = f"it refers to map uid {map_uid}, which the map doesn't have"
            todo = rescue_first("it drops the record")
            findings.append(who.finding(Severity.ERROR, "not-in-map", box.files.log_path, what, todo))
        return findings + self._guids(box, state, column)

    def _guids(self, box: Index, state: IndexState, column: np.ndarray) -> list[Finding]:
        known = guids(state)
        if known is None:
            return []
        findings = []
        for row, map_uid in enumerate(column.tolist()):
            guid = self.names.get(map_uid)
            if guid is None:
                continue
            said = known[row].tobytes()
            if said != guid and any(said):
                uid = int(state.uids[row])
                who = Who(f"{box.what}/{uid}", box.mailbox, uid, map_uid)
                what = f"the index says guid {said.hex()}, the message (map uid {map_uid}) {guid.hex()}"
                todo = rescue_first("it goes by guid and may drop the message")
                findings.append(who.finding(Severity.ERROR, "guid", box.files.log_path, what, todo))
        return findings

    def _refcounts(self, mapping: MapIndex, counted: np.ndarray) -> list[Finding]:
        findings = []
        counts = mapping.refcounts.astype(np.int64)
        waiting = int(((counts == 0) & (counted == 0)).sum())
        if waiting:
            what = f"{waiting} expunged messages wait for a purge"
            todo = "doveadm purge, or dboxfs purge where no Dovecot is"
            findings.append(self.map.found(Severity.NOTE, "purge", what, todo))
        unreadable = [box.what for box in self.boxes if box.error is not None]
        if unreadable:
            what = f"reference counts are not compared: {len(unreadable)} mailboxes can't be read"
            findings.append(self.map.found(Severity.NOTE, "not-compared", what))
        for row in np.flatnonzero(counts != counted).tolist():
            says, has, map_uid = int(counts[row]), int(counted[row]), int(mapping.map_uids[row])
            if says > has and unreadable:
                continue
            findings.append(self._refcount(map_uid, says, has))
        return findings

    def _refcount(self, map_uid: int, says: int, has: int) -> Finding:
        who = Who(f"map uid {map_uid}", map_uid=map_uid)
        path = self.map.files.log_path
        if has > says:
            what = f"{has} mailbox records refer to it, the map counts {says}: a purge may remove it"
            todo = f"don't expunge or purge before this is mended: {recount('counts anew')}"
            return who.finding(Severity.ERROR, "refcount-low", path, what, todo)
        if has == 0:
            what = f"no mailbox has this message, the map counts {says} references"
            todo = f"see that no mailbox is missing; {COPY}; dboxfs rescue or {FORCE_RESYNC} brings it back"
            return who.finding(Severity.ERROR, "in-no-mailbox", path, what, todo)
        what = f"{has} mailbox records refer to it, the map counts {says}: its space is never given back"
        todo = f"it only costs space; to get that back, {recount('counts anew')}"
        return who.finding(Severity.WARNING, "refcount-high", path, what, todo)
