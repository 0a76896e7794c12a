"""The ``u.N`` files of an sdbox mailbox against its index."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import numpy as np
import trio
from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.fsapi import FileSystem
from dboxfs.index.mailbox import guids
from dboxfs.index.state import IndexState
from dboxfs.store.location import Location
from dboxfs.store.odd_files import why_unreadable
from dboxfs.store.salvage import Found, Gap, open_window, scan_file
from dboxfs.store.salvage.window import SPARSE_CHUNK
from dboxfs.store.write.session import message_number
from dboxfs.tools.check.advice import (
    COPY,
    DROPS_DAMAGED,
    DROPS_FLAGS,
    FORCE_RESYNC,
    elsewhere,
    readable_first,
    rescue_first,
    restore_first,
)
from dboxfs.tools.check.findings import Finding, Severity
from dboxfs.tools.check.indexes import Index, mailbox_findings, read_index
from dboxfs.tools.check.messages import Who, attachment_findings, gap_finding, message_findings
from dboxfs.tools.check.progress import Tally
from dboxfs.tools.check.readable import open_reader

_FILES_AT_ONCE = 8
_CHUNK = 256 << 10


class Text(Struct, frozen=True):
    """A message that was read.  ``guid``: 16 bytes.  ``size``: bytes of its plain text; -1: text not read."""

    guid: bytes
    size: int
    index: Index
    uid: int
    path: str


class SinglesCheck(Struct):
    """The check of one mailbox.  :meth:`look` may be called again: it skips messages that were good before.

    :ivar good: uids of the messages that were good.
    :ivar counted: uids of all others that were read, each counted once.
    :ivar texts: every message that was read, by uid.
    """

    fs: FileSystem
    location: Location
    index: Index
    tally: Tally
    good: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    texts: dict[int, Text] = field(default_factory=dict)

    async def look(self) -> list[Finding]:
        """All problems of the index and the files at this moment."""
        await read_index(self.fs, self.index)
        findings = mailbox_findings(self.index, self.location.kind)
        files = await self._files(findings)
        state = self.index.state
        if state is None:
            if files and self.index.error is None:
                what = f"there are {len(files)} message files and no index: Dovecot shows an empty mailbox"
                todo = f"{elsewhere(self.location)}; else {rescue_first(DROPS_FLAGS)}"
                findings.append(self.index.found(Severity.ERROR, "no-index", what, todo))
            await self._read(sorted(files), files, findings)
            return findings
        uids = set(state.uids.tolist())
        orphans = sorted(files.keys() - uids)
        findings += self._orphans(state, orphans, files)
        await self._read(state.uids.tolist(), files, findings)
        for uid in orphans:
            bad = await self._message(uid, files[uid], b"")
            self.counted.add(uid)
            findings += [replace(one, severity=Severity.WARNING) for one in bad]
        return findings

    async def _files(self, findings: list[Finding]) -> dict[int, str]:
        """The paths of the message files by uid; adds to *findings* the directories that can't be read."""
        assert self.index.mailbox is not None
        files: dict[int, str] = {}
        primary = self.location.mailbox_path(self.index.mailbox)
        for directory in (primary, self.location.alt_mailbox_path(self.index.mailbox)):
            if directory is None:
                continue
            try:
                entries = await self.fs.listdir(directory)
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    what = f"{self.index.what}: the directory of the messages can't be read: {exc.strerror}"
                    todo = "restore it from a backup, or check its owner and mode"
                    error = Severity.ERROR
                    findings.append(
                        Finding(error, "directory", directory, what, todo, mailbox=self.index.mailbox)
                    )
                continue
            for entry in entries:
                uid = message_number(entry.name, "u")
                if uid:
                    files.setdefault(uid, os.path.join(directory, entry.name))
        return files

    def _orphans(self, state: IndexState, uids: list[int], files: dict[int, str]) -> list[Finding]:
        findings = []
        for uid in uids:
            who = self._who(uid)
            if uid < state.next_uid:
                what = "the file has no record in the index: expunged and not removed, or its record is lost"
            else:
                what = (
                    f"the file has no record in the index (next uid {state.next_uid}): "
                    "a save that died, a file that was put back, or its record is lost"
                )
            todo = f"{COPY}; dboxfs rescue or {FORCE_RESYNC} brings it back without flags"
            findings.append(who.finding(Severity.WARNING, "no-record", files[uid], what, todo))
        return findings

    async def _read(self, uids: list[int], files: dict[int, str], findings: list[Finding]) -> None:
        """Read the files of *uids*, several at a time."""
        state = self.index.state
        column = guids(state) if state is not None else None
        known = column.copy() if column is not None else None
        todo = iter(enumerate(uids))

        async def work() -> None:
            for row, uid in todo:
                if uid in self.good:
                    continue
                guid = known[row].tobytes() if known is not None and state is not None else b""
                bad = await self._message(uid, files.get(uid), guid)
                if bad:
                    findings.extend(bad)
                else:
                    self.good.add(uid)

        async with trio.open_nursery() as nursery:
            for _ in range(_FILES_AT_ONCE):
                nursery.start_soon(work)

    async def _message(self, uid: int, path: str | None, guid: bytes) -> list[Finding]:
        who = self._who(uid)
        assert self.index.mailbox is not None
        if path is None:
            path = os.path.join(self.location.mailbox_path(self.index.mailbox), f"u.{uid}")
            what = "the index has this message, its file is missing"
            return [who.finding(Severity.ERROR, "no-file", path, what, restore_first("the file"))]
        try:
            items, refused, misled = await self._scan(path)
        except OSError as exc:
            what = f"the file can't be read: {why_unreadable(exc)}"
            return [who.finding(Severity.ERROR, "unreadable", path, what, readable_first(exc, "the file"))]
        findings = [gap_finding(item, path, who) for item in items if isinstance(item, Gap)]
        messages = [item for item in items if isinstance(item, Found) and not item.inside]
        if not messages:
            what = "there is no message in the file"
            findings.append(who.finding(Severity.ERROR, "message-damaged", path, what, restore_first("it")))
            return findings
        found = messages[0]
        if misled is not None:
            findings.append(who.finding(Severity.ERROR, "file-header", path, misled, who.repair, 0))
        known = any(finding.code == "file-header" for finding in findings)
        findings += message_findings(found, path, who, None if known else refused)
        if any(guid) and found.guid is not None and found.guid != guid:
            what = f"the index says guid {guid.hex()}, the file {found.guid.hex()}"
            todo = rescue_first(DROPS_DAMAGED)
            findings.append(who.finding(Severity.ERROR, "guid", path, what, todo))
        if self.location.attachments is not None and self.index.header is not None:
            suffix = f"-{self.index.header.guid.hex()}-{uid}"
            findings += await attachment_findings(self.fs, found, self.location.attachments, suffix, who)
        if uid not in self.counted:
            self.tally.message(found, who)
        if findings:
            self.counted.add(uid)
        if found.guid is not None:
            size = found.measured.plain if found.measured is not None else -1
            self.texts[uid] = Text(found.guid, size, self.index, uid, path)
        return findings

    def _who(self, uid: int) -> Who:
        return Who(f"{self.index.what}/{uid}", self.index.mailbox, uid, single=True)

    async def _scan(self, path: str) -> tuple[list[Found | Gap], str | None, str | None]:
        """The contents of a file; why a reader refuses its message; the fault in the header line that is
        the cause.  None: the reader accepts it, or the header line is not the cause.
        """
        chunk = _CHUNK if self.tally.texts else SPARSE_CHUNK
        refused = misled = None
        async with open_window(self.fs, path, chunk) as window:
            reader = await open_reader(window, single=True)
            items: list[Found | Gap] = []
            async for item in scan_file(window, single=True, texts=self.tally.texts):
                if isinstance(item, Found) and not any(isinstance(one, Found) for one in items):
                    refused = (await reader.reading(item, window.size)).refused
                    misled = reader.misled_by(item) if refused is not None else None
                items.append(item)
            self.tally.read(window.bytes_read)
            return items, refused, misled


def twin_findings(texts: Sequence[Text]) -> list[Finding]:
    """Messages of different size that have one guid."""
    if not texts:
        return []
    names = np.frombuffer(b"".join(text.guid for text in texts), "V16")
    sizes = np.array([text.size for text in texts], np.int64)
    order = np.argsort(names.view("S16"), kind="stable")
    names, sizes = names[order], sizes[order]
    same = (names[1:] == names[:-1]) & (sizes[1:] != sizes[:-1])
    findings = []
    for at in np.flatnonzero(same).tolist():
        first, second = texts[order[at]], texts[order[at + 1]]
        who = Who(f"{second.index.what}/{second.uid}", second.index.mailbox, second.uid, single=True)
        what = f"it has the guid {second.guid.hex()} of {first.index.what}/{first.uid}, and another size"
        todo = (
            "both can be read; a program that goes by guid (dsync) may show one for the other: save one anew"
        )
        findings.append(who.finding(Severity.WARNING, "same-guid", second.path, what, todo))
    return findings
