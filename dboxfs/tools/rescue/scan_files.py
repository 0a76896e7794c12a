"""Reads the dbox files of a store from end to end, fills the table of messages and reports problems."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.errors import FormatError
from dboxfs.fsapi import FileSystem
from dboxfs.store.location import Kind, Location
from dboxfs.store.salvage import Found, Gap, MapPlace, Trust, Window, open_window, scan_file
from dboxfs.store.write.session import message_number
from dboxfs.tools.rescue.events import Emit, Event, Rescued
from dboxfs.tools.rescue.index_facts import Knowledge
from dboxfs.tools.rescue.rows import NO_DATE, NO_GUID, Row, RowTable

_BROKEN = ".broken"
"""The end of the name under which Dovecot keeps the damaged file that it has repaired."""

_LONGEST_GUESS = (1 << 40) - 1
"""Received dates beyond this are damage."""


class File(Struct, frozen=True):
    """A dbox file.

    ``mailbox`` and ``number``: sdbox: storage name and uid of its message; mdbox: None and the file id.
    ``changed``: when it was written last, seconds since the epoch.  ``broken``: the damaged file that
    Dovecot has put aside when it repaired it.
    """

    path: str
    mailbox: str | None
    number: int
    changed: int = 0
    broken: bool = False


class Harvest(Struct):
    """All files and messages of a store.

    :ivar files: by number.
    :ivar rows: every message.
    :ivar trouble: problems of messages in words, by row.
    :ivar pop3: number of messages that have a POP3 UIDL or order of their own.
    :ivar guid_texts: guids that are not 32 hex digits, by row.
    :ivar compressed: at least one message is compressed.
    :ivar seen: sdbox: mailbox and uid of every message file.
    :ivar by_uid: sdbox: the rows of each mailbox and uid.
    """

    fs: FileSystem
    location: Location
    knowledge: Knowledge
    emit: Emit
    done: Rescued
    progress: Callable[[int, int], None]
    files: list[File] = field(default_factory=list)
    rows: RowTable = field(default_factory=RowTable)
    trouble: dict[int, tuple[str, ...]] = field(default_factory=dict)
    guid_texts: dict[int, bytes] = field(default_factory=dict)
    pop3: int = 0
    compressed: bool = False
    seen: set[tuple[str, int]] = field(default_factory=set)
    by_uid: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    _by_file: tuple[np.ndarray, np.ndarray] | None = None

    def shown(self, mailbox: str) -> str:
        """The name of a mailbox for messages to users."""
        return self.location.display_name(mailbox)

    async def gather(self) -> None:
        """Read every file; one that can't be read is reported."""
        for file in await self._all_files():
            if file.mailbox is not None and not file.broken:
                self.seen.add((file.mailbox, file.number))
            places = self._places(file)
            chunk = 1 << 20 if file.mailbox is None else 256 << 10
            try:
                async with open_window(self.fs, file.path, chunk) as window:
                    await self._file(file, window, places)
            except OSError as exc:
                what = f"the file can't be read: {exc.strerror}"
                self.emit(Event("unreadable", what, file.path, mailbox=file.mailbox))

    async def _all_files(self) -> list[File]:
        found: list[File] = []
        if self.location.kind is Kind.MDBOX:
            for directory in (self.location.storage, self.location.alt_storage):
                found += await self._directory(directory, "m", None)
            return sorted(found, key=lambda file: file.broken)
        for box in self.knowledge.boxes:
            files: dict[tuple[bool, int], File] = {}
            for directory in box.directories:
                for file in await self._directory(directory, "u", box.name):
                    files.setdefault((file.broken, file.number), file)
            found += [files[key] for key in sorted(files)]
        return found

    async def _directory(self, directory: str | None, prefix: str, mailbox: str | None) -> list[File]:
        if directory is None:
            return []
        try:
            entries = await self.fs.listdir(directory)
        except OSError as exc:
            if exc.errno != errno.ENOENT or directory == self.location.storage:
                what = f"the directory can't be read: {exc.strerror}"
                self.emit(Event("unreadable", what, directory, mailbox=mailbox))
            return []
        found = []
        for name in sorted(entry.name for entry in entries):
            plain = name.removesuffix(_BROKEN)
            number, path = message_number(plain, prefix), os.path.join(directory, name)
            if number:
                found.append(File(path, mailbox, number, broken=plain != name))
            elif re.fullmatch(rf"{prefix}\.[0-9]+", plain):
                what = "no message file has such a number: give it one, and rescue again"
                self.emit(Event("unreadable", what, path, mailbox=mailbox))
        return sorted(found, key=lambda file: file.number)

    def _places(self, file: File) -> list[MapPlace]:
        mapping = self.knowledge.map
        if file.mailbox is not None or mapping is None or file.broken:
            return []
        if self._by_file is None:
            order = np.argsort(mapping.file_ids, kind="stable")
            self._by_file = mapping.file_ids[order], order
        ids, order = self._by_file
        rows = order[np.searchsorted(ids, file.number) : np.searchsorted(ids, file.number, "right")]
        pairs = zip(mapping.offsets[rows].tolist(), mapping.sizes[rows].tolist(), strict=True)
        return [MapPlace(offset, size) for offset, size in sorted(set(pairs))]

    async def _file(self, file: File, window: Window, places: list[MapPlace]) -> None:
        number = len(self.files)
        self.files.append(replace(file, changed=int(window.changed)))
        empty = True
        async for item in scan_file(window, places, single=file.mailbox is not None):
            if isinstance(item, Gap):
                self.emit(Event("gap", item.reason, file.path, item.offset, file.mailbox))
                continue
            empty = False
            self._take(number, item)
        if empty and file.mailbox is not None:
            what = "there is no message in the file"
            code = "gap" if file.broken else "lost"
            self.emit(Event(code, what, file.path, mailbox=file.mailbox, uid=file.number))
        self.done.files += 1
        self.done.bytes += window.size
        self.progress(len(self.rows), self.done.bytes)

    def _take(self, number: int, found: Found) -> None:
        metadata, measured = found.metadata, found.measured
        received = NO_DATE
        home = external = 0
        if metadata is not None:
            try:
                received = metadata.received if metadata.get(b"R") is not None else NO_DATE
            except FormatError:
                received = NO_DATE
            home = self.rows.name(metadata.orig_mailbox or b"")
            external = metadata.ext_refs is not None
            self.pop3 += metadata.get(b"P") is not None or metadata.get(b"O") is not None
        if found.problems:
            self.trouble[len(self.rows)] = found.problems
        plain = measured.plain if measured is not None else 0
        row = Row(
            number, home, found.offset, found.body_offset, found.body_size, plain,
            received if abs(received) <= _LONGEST_GUESS else NO_DATE,
            metadata.base if metadata is not None else 0,
            found.trust, measured.compression if measured is not None else None,
            found.inside, bool(external), found.guid or NO_GUID,
            found.version == 2 and measured is not None and measured.compression is None,
        )  # fmt: skip
        self.compressed |= row.compression is not None
        if metadata is not None and metadata.guid not in (None, row.guid.hex().encode("ascii")):
            self.guid_texts[len(self.rows)] = metadata.guid or b""
        file = self.files[number]
        if file.mailbox is not None:
            self.by_uid.setdefault((file.mailbox, file.number), []).append(len(self.rows))
        self.rows.add(row)
        if found.trust is not Trust.DAMAGED and not found.inside:
            self._unsure(self.files[number], found, row)

    def _unsure(self, file: File, found: Found, row: Row) -> None:
        """Report the facts of a whole message that can't be trusted."""
        uid = file.number if file.mailbox is not None else None
        what = ""
        if row.received == NO_DATE:
            what = "its received date can't be read, that of the file is taken"
        elif found.version == 3 and found.trust is Trust.REPAIRED:
            what = "received date and guid are those of a trailer that does not prove them"
        if what:
            self.emit(Event("doubtful", what, file.path, row.offset, file.mailbox, uid, row.guid))
