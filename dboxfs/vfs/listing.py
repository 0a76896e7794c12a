"""An open directory: a snapshot of its names, so that a listing shows each name once while things change.

The snapshot is taken at opendir and again when the reader rewinds.  ``.`` and ``..`` come first, then the
children in the order of their names, then messages in the order of their uids, then staged files.  The offset
of a name is its position in the snapshot plus 1.  A message that was replaced since (written anew, or another
one was renamed over it) is shown as the one that has its name now, so that no listing lacks a name that was
there all the time.  Other messages that have gone since are left out.

A listing waits up to :data:`SIZES_SECONDS` in all for sizes that were not read yet.  A message whose size is
still unknown is listed all the same; the kernel asks for the size when it needs it.

Concurrency: one reader at a time; the kernel sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.store import KNOWN, UNKNOWN, Folder, Mailbox, Store, change_time
from dboxfs.store.attrs import DAMAGED, FactTable, Uids
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs.attrs import NS, SHORT, Attributes, Attrs
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.scans import Scans

SIZES_SECONDS = 2.0
"""Seconds that a listing waits in all for sizes; the kernel asks for the others when it needs them."""

_AHEAD = 64
_LISTING_WINDOW = 2048


class ListingRow(Struct, frozen=True, gc=False):
    """A message in a listing.

    ``next``: the offset behind it.  ``size``: bytes.  ``received``: seconds, ``changed_ns``: nanoseconds
    since the epoch.
    ``attr_timeout``: seconds that its attributes are good for; None: as long as those of the directory.
    """

    next: int
    name: bytes
    inode: int
    size: int
    received: int
    changed_ns: int
    attr_timeout: float | None


class OpenDirectory(Protocol):
    """A directory that the kernel has opened.  Its entries are those of :meth:`above`, then the messages."""

    async def prepare(self, start: int) -> None:
        """Prepare the entries from offset *start* on; call it before the other methods."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        """The entries before the messages, from offset *start* on: next offset, name, attributes."""

    async def sizes(self, start: int) -> None:
        """Wait for sizes of messages from offset *start* on that are unknown yet; for a limited time."""

    def attributes(self) -> Attrs:
        """The attributes that all messages of the directory have in common."""

    def messages(self, start: int) -> Iterator[ListingRow]:
        """The messages from offset *start* on."""


class Snapshot:
    """The names of one folder as they were when :meth:`take` was called last.

    :param heir: gives the message that has replaced one that is gone; None: there is none.
    """

    __slots__ = (
        "_heir", "_places", "_rows", "_seen", "_window_start", "children", "folder", "mailbox", "uids",
    )  # fmt: skip

    def __init__(self, folder: Folder, heir: Callable[[Folder, int], int | None]) -> None:
        self.folder = folder
        self._heir = heir
        self.take()

    def take(self) -> None:
        """Take the snapshot."""
        self.children = sorted(self.folder.children.items())
        self.mailbox: Mailbox | None = self.folder.mailbox
        self.uids = self.mailbox.uids if self.mailbox is not None else np.empty(0, np.uint32)
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._places: dict[int, int] = {}
        self._window_start = -1
        self._seen: tuple[object, ...] | None = None

    def follow(self, folder: Folder) -> None:
        """The mailbox was renamed, and is *folder* now; the snapshot stays."""
        self.folder, self.mailbox = folder, folder.mailbox
        here = folder.children
        self.children = [(shown, here.get(shown, child)) for shown, child in self.children]
        if self.mailbox is None:
            self.uids = self.uids[:0]
        self._window_start = -1

    def rows(self, start: int) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Messages from number *start* on: (position, uid, state, size, received, changed_ns)."""
        position = start
        while position < len(self.uids):
            window = position - position % _LISTING_WINDOW
            if window != self._window_start or not self._is_current():
                self._load(window)
            for uid, state, size, received, changed_ns in self._rows[position - window :]:
                if uid:
                    yield position, uid, state, size, received, changed_ns
                position += 1

    def _is_current(self) -> bool:
        """Whether neither the mailbox nor its facts have changed since the window was loaded."""
        return self._seen == self._now()

    def _now(self) -> tuple[object, ...]:
        """A value that differs after any change of the mailbox or its facts."""
        assert self.mailbox is not None
        table, state = self.mailbox.facts, self.mailbox.state
        log = (state.log_file_seq, state.head_offset) if state is not None else None
        return table, table.version, state, log

    def _load(self, start: int) -> None:
        uids = self.uids[start : start + _LISTING_WINDOW]
        assert self.mailbox is not None
        table = self.mailbox.facts
        self._seen = self._now()
        at, there = _found(table, uids)
        if not there.all():
            uids = self._with_heirs(uids, np.flatnonzero(~there).tolist(), start)
            at, there = _found(table, uids)
        at = at[there]
        facts = table.columns(at)
        columns = [np.zeros(len(uids), np.int64) for _ in range(5)]
        sources = (table.uids[at], facts.state, facts.size, facts.received, facts.saved)
        for column, source in zip(columns, sources, strict=True):
            column[there] = source
        nanoseconds = np.array(change_time.of_messages(self.mailbox.state, uids), np.int64)
        columns[4] = columns[4] * NS + nanoseconds
        self._rows = list(zip(*(column.tolist() for column in columns), strict=True))
        self._window_start = start

    def _with_heirs(self, uids: Uids, gone: list[int], start: int) -> Uids:
        """The uids from *start* on, with those that have replaced *gone* ones in the places of these.

        A message has one place in a listing: that of its own, or the first of those that it has replaced.
        """
        uids = uids.copy()
        for at in gone:
            heir = self._heir(self.folder, int(uids[at]))
            if heir is None or (self.uids == heir).any():
                continue
            if self._places.setdefault(heir, start + at) == start + at:
                uids[at] = heir
        return uids


def _found(table: FactTable, uids: Uids) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The rows of *uids* in the table, and which of them it has; intp[n], bool[n]."""
    if not len(table):
        return np.zeros(len(uids), np.intp), np.zeros(len(uids), bool)
    at = np.minimum(table.uids.searchsorted(uids), len(table) - 1)
    return at, table.uids[at] == uids


async def wait_for_sizes(box: Mailbox, scans: Scans, uids: Uids, deadline: float) -> None:
    """Wait until the sizes of some messages are known, their scan has ended, or the time is over.

    :param uids: ascending, uint32[n]; the first :data:`_AHEAD` count.
    :param deadline: by the clock of the event loop.
    """
    with trio.move_on_at(deadline):
        while scans.runs(box) and _any_unknown(box, uids[:_AHEAD]):
            await scans.progress(box)


def _any_unknown(box: Mailbox, uids: Uids) -> bool:
    return bool(box.facts.unknown and box.facts.is_unknown(uids).any())


class Directory:
    """One open directory, the target of a handle of opendir(3).

    :param inode: the number by which it was opened.
    """

    def __init__(self, lists: Listings, folder: Folder, inode: int) -> None:
        self._lists = lists
        self._inode = inode
        self._deadline = 0.0
        self._staged: list[ListingRow] = []
        self.snapshot = Snapshot(folder, partial(lists.names.written.heir, renamed=True))

    @property
    def folder(self) -> Folder:
        """The folder that it shows."""
        return self.snapshot.folder

    async def prepare(self, start: int) -> None:
        """Prepare the entries from offset *start* on; call it before the other methods.

        :raises Refused: ENOENT: the directory is gone.
        """
        snapshot, lists = self.snapshot, self._lists
        if snapshot.folder not in lists.inodes:
            snapshot.follow((await lists.folders.seek(self._inode)).directory())
        if start == 0:
            await lists.store.check(snapshot.folder)
            await lists.names.know(snapshot.folder)
            snapshot.take()
            self._staged = lists.staged(snapshot.folder)
            self._deadline = trio.current_time() + SIZES_SECONDS

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        """The directories from offset *start* on, which come before the messages."""
        snapshot, inodes = self.snapshot, self._lists.inodes
        above: list[tuple[bytes, Folder]] = [
            (b".", snapshot.folder),
            (b"..", snapshot.folder.parent or snapshot.folder),
        ]
        above += [(encode(shown), child) for shown, child in snapshot.children]
        for position in range(start, len(above)):
            name, folder = above[position]
            if folder in inodes:
                yield position + 1, name, self._lists.attributes.folder(folder, inodes.of(folder))

    async def sizes(self, start: int) -> None:
        """Wait for sizes of messages from offset *start* on that are unknown yet; for a limited time."""
        box = self.snapshot.mailbox
        if box is not None and box.facts.unknown:
            uids = self.snapshot.uids[self._first(start) :]
            await wait_for_sizes(box, self._lists.scans, uids, self._deadline)

    def _first(self, start: int) -> int:
        """The number of the first message from offset *start* on."""
        return max(start - len(self.snapshot.children) - 2, 0)

    def attributes(self) -> Attrs:
        """The attributes that all messages of the directory have in common."""
        return self._lists.attributes.messages(self.snapshot.folder)

    def messages(self, start: int) -> Iterator[ListingRow]:
        """The messages from offset *start* on."""
        snapshot, lists, first = self.snapshot, self._lists, self._first(start)
        if snapshot.folder not in lists.inodes:
            return
        base, after = lists.inodes.of(snapshot.folder), len(snapshot.children) + 3
        named, written = lists.names.listed(snapshot.folder), lists.written
        staged = {row.name for row in self._staged}
        for position, uid, state, size, received, changed_ns in snapshot.rows(first):
            timeout = None if state & KNOWN else 0.0 if state == UNKNOWN else SHORT
            if written and base | uid in written:
                timeout = 0.0
            if state & DAMAGED:
                size = lists.attributes.damaged_size(size)
            name = named.get(uid, b"%d.eml" % uid) if named else b"%d.eml" % uid
            if staged and name in staged and uid != snapshot.uids[position]:
                continue  # the staged file that has become this message since is listed
            if name:
                yield ListingRow(position + after, name, base | uid, size, received, changed_ns, timeout)
        behind = len(snapshot.uids)
        for position, row in enumerate(self._staged[max(first - behind, 0) :], max(first, behind)):
            yield replace(row, next=position + after)


class Listings:
    """Opens directories, and has what they need.

    :ivar written: the inodes that are open for writing: the kernel changes their size on its own.
    :ivar staged: gives the files of a folder that are listed before they are messages.
    """

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        attributes: Attributes,
        scans: Scans,
        written: Collection[int],
    ) -> None:
        self.store = store
        self.inodes = inodes
        self.folders = folders
        self.names = names
        self.attributes = attributes
        self.scans = scans
        self.written = written
        self.staged: Callable[[Folder], list[ListingRow]] = lambda _: []

    async def open(self, inode: int) -> Directory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """
        folder = (await self.folders.checked(inode)).directory()
        directory = Directory(self, folder, inode)
        if folder.mailbox is not None:
            self.scans.opened(folder.mailbox)
        return directory
