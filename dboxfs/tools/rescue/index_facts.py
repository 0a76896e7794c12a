"""The facts that the indexes of a damaged store still have.

A rescue believes an index that can be read.  Of a damaged one it takes the whole part: the snapshot (or its
backup), brought up to date by the log as far as the log is whole; without a snapshot the log alone, if the
log begins with an empty index.  Such a state is not ``fresh``: it may lack the latest changes, so the rescue
takes no message for expunged because of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from msgspec import Struct

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.base import parse_index
from dboxfs.index.log import USER_FLAGS, LogHeader, parse_log_header
from dboxfs.index.mailbox import MailboxHeader, guids, mailbox_header, map_uids, save_dates
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.state import IndexState
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Kind, Location
from dboxfs.store.tree import is_stray, scan_tree
from dboxfs.tools.rescue.events import Emit, Event

_LIMIT = 1 << 31


class Known(Struct, frozen=True):
    """The facts of an index about a message.  ``saved``: seconds since the epoch; None: not known."""

    uid: int
    flags: int
    keywords: tuple[str, ...]
    saved: int | None


class Box(Struct, frozen=True, eq=False):
    """A mailbox of the old store.

    ``directories``: where its messages may be (sdbox).  ``state``: the readable part of its index; None:
    there is none.  ``fresh``: the index is whole and up to date.
    """

    name: str
    directories: tuple[str, ...]
    state: IndexState | None
    fresh: bool

    @property
    def header(self) -> MailboxHeader | None:
        """The dbox header; None: lost."""
        header = mailbox_header(self.state) if self.state is not None else None
        return header if header is not None and any(header.guid) else None

    def known(self, row: int) -> Known:
        """The facts about the message at a row of the state."""
        state = self.state
        assert state is not None
        dates = save_dates(state)
        saved = int(dates[row]) if dates is not None else None
        flags = int(state.flags[row]) & USER_FLAGS
        return Known(int(state.uids[row]), flags, state.keywords(row), saved or None)


class Knowledge(Struct, frozen=True, eq=False):
    """All mailboxes, and (mdbox) the map.  ``map_fresh``: the map can be read, and is up to date."""

    boxes: tuple[Box, ...]
    map: MapIndex | None
    map_fresh: bool
    references: IndexReferences


class IndexReferences(Struct, frozen=True, eq=False):
    """mdbox: the references of mailbox records to messages, sorted by map uid and by guid.

    For each reference: ``boxes`` (int64, position of the mailbox), ``rows`` (int64, row in its state),
    ``map_uids`` (uint32), ``guids`` (S16).  ``sorted_map_uids`` and ``sorted_guids`` are ascending;
    ``by_map_uid`` and ``by_guid`` (int64) have the positions of their references.
    """

    boxes: np.ndarray
    rows: np.ndarray
    map_uids: np.ndarray
    guids: np.ndarray
    sorted_map_uids: np.ndarray
    by_map_uid: np.ndarray
    sorted_guids: np.ndarray
    by_guid: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def of_map_uid(self, map_uid: int) -> list[int]:
        """Positions of the references to a map uid."""
        wanted = np.uint32(map_uid)
        low = np.searchsorted(self.sorted_map_uids, wanted)
        high = np.searchsorted(self.sorted_map_uids, wanted, "right")
        return sorted(self.by_map_uid[low:high].tolist())

    def of_guid(self, guid: bytes) -> list[int]:
        """Positions of the references to a guid."""
        wanted = np.array([guid], "S16")
        low = int(np.searchsorted(self.sorted_guids, wanted)[0])
        high = int(np.searchsorted(self.sorted_guids, wanted, "right")[0])
        return sorted(self.by_guid[low:high].tolist())


async def learn(fs: FileSystem, location: Location, emit: Emit) -> Knowledge:
    """Read all indexes as far as they are readable; *emit* gets an event for each that is not."""
    tree = await scan_tree(fs, location, lambda _: None)
    boxes = []
    for folder in tree.walk():
        is_bare = not folder.name and isinstance(folder.error, FileNotFoundError)  # no index knows a message
        if folder.error is not None and not is_bare:
            what = f"the directory can't be read: {folder.error.strerror}"
            path = location.mailbox_path(folder.name) if folder.name else location.tree
            emit(Event("unreadable", what, path, mailbox=folder.name or None))
        for what in folder.damage:
            emit(Event("index-lost", what, location.list_index_path))
        if folder.selectable:
            boxes.append(await _box(fs, location, folder.name, emit))
        elif folder.name and folder.error is None and await is_stray(fs, location, folder.name):
            boxes.append(await _stray(fs, location, folder.name, emit))
    mapping, fresh = None, False
    if location.kind is Kind.MDBOX:
        state, fresh = await _read(fs, location.map_dir, "dovecot.map.index", None, emit)
        mapping = MapIndex(state) if state is not None else None
    return Knowledge(tuple(boxes), mapping, fresh, _references(boxes))


async def _box(fs: FileSystem, location: Location, name: str, emit: Emit) -> Box:
    state, fresh = await _read(fs, location.index_path(name), "dovecot.index", name, emit)
    alt = location.alt_mailbox_path(name)
    directories = (location.mailbox_path(name), *((alt,) if alt is not None else ()))
    return Box(name, directories, state, fresh)


async def _stray(fs: FileSystem, location: Location, name: str, emit: Emit) -> Box:
    directory = os.path.join(location.tree, name)
    what = f"this directory holds a mailbox, but is not called {location.dirname}: taken as {name}"
    emit(Event("stray", what, directory, mailbox=name))
    state, fresh = await _read(fs, directory, "dovecot.index", name, emit)
    return Box(name, (directory,), state, fresh)


async def _read(
    fs: FileSystem, directory: str, stem: str, name: str | None, emit: Emit
) -> tuple[IndexState | None, bool]:
    files = IndexFiles(fs, directory, stem)
    lost = "flags, keywords and numbers" if name is not None else "where messages lie, and which are expunged"
    try:
        await files.refresh()
        state, why = files.state, "there is no index"
        (log,) = await fs.peek([Peek(files.log_path, ())])
        if state is not None and isinstance(log, PeekResult):
            return state, True
        if state is not None:
            why = "the log is missing, so the index may be old"
    except CorruptFile as exc:
        state, why = await _partly(fs, files.base_path), f"the index is damaged: {exc.reason}"
    except OSError as exc:
        state, why = None, f"the index can't be read: {exc.strerror}"
    what = f"{why}; {lost} are not known"
    if state is not None:
        what = f"{why}; what is readable of it is used ({len(state)} messages)"
    emit(Event("index-lost", what, files.base_path, mailbox=name))
    return state, False


async def _partly(fs: FileSystem, base_path: str) -> IndexState | None:
    """The readable part of a damaged index; None: nothing."""
    paths = (base_path, base_path + ".log", base_path + ".backup")
    found = await fs.peek([Peek(path, ((0, None),), limit=_LIMIT) for path in paths])
    base, log, backup = [one.chunks[0] if isinstance(one, PeekResult) else b"" for one in found]
    try:
        header: LogHeader | None = parse_log_header(log)
    except FormatError:
        header = None
    for snapshot in (_snapshot(base), _snapshot(backup)):
        if snapshot is not None:
            return _advanced(snapshot, header, log)
    if header is None or header.prev_file_seq or header.marked_corrupted:
        return None
    return _replayed(IndexState.empty(header), header, log)


def _snapshot(data: bytes) -> IndexState | None:
    try:
        return parse_index(data)
    except FormatError:
        return None


def _advanced(state: IndexState, header: LogHeader | None, log: bytes) -> IndexState:
    """*state*, brought up to date as far as the log is whole."""
    if header is None or (header.file_seq, header.indexid) != (state.log_file_seq, state.indexid):
        return state
    try:
        state.attach_log(header, log[header.hdr_size :])
    except FormatError:
        return state
    return _replayed(state, header, log)


def _replayed(state: IndexState, header: LogHeader, log: bytes) -> IndexState:
    try:
        state.apply_log(log[max(state.head_offset, header.hdr_size) :], state.head_offset)
    except FormatError:
        return state  # up to the last whole transaction
    return state


def _references(boxes: Iterable[Box]) -> IndexReferences:
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, "S16"))
    parts = [empty]
    for number, box in enumerate(boxes):
        column = map_uids(box.state) if box.state is not None else None
        if box.state is None or column is None:
            continue
        known = guids(box.state)
        texts = np.zeros(len(column), "S16")
        if known is not None:
            texts = np.ascontiguousarray(known).view("S16").reshape(len(column)).copy()
        numbers = np.full(len(column), number, np.int64)
        parts.append((numbers, np.arange(len(column)), column.copy(), texts))
    columns = [np.concatenate([part[at] for part in parts]) for at in range(4)]
    by_map_uid = np.argsort(columns[2], kind="stable")
    by_guid = np.argsort(columns[3], kind="stable")
    places, rows, numbers, names = columns
    return IndexReferences(
        places, rows, numbers, names, numbers[by_map_uid], by_map_uid, names[by_guid], by_guid
    )
