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

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain, compress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.store import UNKNOWN, Folder, Mailbox, Store, change_time
from dboxfs.store.attrs import DAMAGED, FactTable, Rows, Uids
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs.attrs import NS, SHORT, Attributes, Attrs
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.scans import Scans

SIZES_SECONDS = 2.0
"""Seconds that a listing waits in all for sizes; the kernel asks for the others when it needs them."""

_AHEAD = 64
LISTING_WINDOW = 2048
"""Messages of a listing that are computed together."""


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


LISTED = np.dtype(
    [
        ("next", np.int64), ("inode", np.uint64), ("size", np.int64), ("received", np.int64),
        ("changed_ns", np.int64), ("attr_timeout", np.float64), ("name", np.uint64),
    ]
)  # fmt: skip
"""A message of a :class:`ListingBlock`, as ``fuse/openless_hook.c`` reads it."""


class ListingBlock(Struct, frozen=True):
    """Messages of a listing in their order, as columns.

    ``rows``: :data:`LISTED` [n], with the fields of :class:`ListingRow`; ``attr_timeout`` is NaN for None,
    ``name`` the place in ``names`` where the name begins.  ``names``: each ends with a zero byte.
    """

    rows: npt.NDArray[np.void]
    names: bytes

    @classmethod
    def of(cls, names: Sequence[bytes], **columns: npt.ArrayLike) -> ListingBlock:
        """Messages with these names and columns."""
        rows = np.empty(len(names), LISTED)
        for column, values in columns.items():
            rows[column] = values
        lengths = np.fromiter(map(len, names), np.uint64, len(names)) + np.uint64(1)
        rows["name"] = np.cumsum(lengths) - lengths
        return cls(rows, b"\0".join(names) + b"\0")

    @classmethod
    def of_rows(cls, rows: Sequence[ListingRow]) -> ListingBlock:
        """These messages."""
        return cls.of(
            [row.name for row in rows],
            next=[row.next for row in rows],
            inode=np.array([row.inode for row in rows], np.uint64),
            size=[row.size for row in rows],
            received=[row.received for row in rows],
            changed_ns=[row.changed_ns for row in rows],
            attr_timeout=[np.nan if row.attr_timeout is None else row.attr_timeout for row in rows],
        )

    @classmethod
    def of_messages(
        cls,
        names: Sequence[bytes],
        behind: npt.NDArray[Any],
        base: int,
        box: Mailbox,
        rows: Rows,
        attributes: Attributes,
    ) -> ListingBlock:
        """Messages of a mailbox.

        :param behind: the offset behind each.  :param base: the inode number of the mailbox.
        :param rows: of each in the table of facts.
        """
        uids, facts = box.facts.uids[rows], box.facts.columns(rows)
        nanoseconds = np.array(change_time.of_messages(box.state, uids), np.int64)
        sizes, state = facts.size.astype(np.int64), facts.state
        damaged = (state & DAMAGED) != 0
        if damaged.any():
            sizes[damaged] = [attributes.damaged_size(size) for size in sizes[damaged].tolist()]
        return cls.of(
            names,
            next=behind,
            inode=uids.astype(np.uint64) | np.uint64(base),
            size=sizes,
            received=facts.received,
            changed_ns=facts.saved.astype(np.int64) * NS + nanoseconds,
            attr_timeout=np.where(damaged, SHORT, np.where(state == UNKNOWN, 0.0, np.nan)),
        )

    def with_open(self, written: Collection[int]) -> ListingBlock:
        """The same, where the kernel keeps no attributes of the inodes *written*."""
        if not written:
            return self
        is_open = np.isin(self.rows["inode"], np.fromiter(written, np.uint64, len(written)))
        rows = self.rows.copy()
        rows["attr_timeout"][is_open] = 0.0
        return ListingBlock(rows, self.names)

    def from_offset(self, start: int) -> ListingBlock:
        """Those of the messages that come from offset *start* on."""
        return ListingBlock(self.rows[self.rows["next"].searchsorted(start, side="right") :], self.names)

    def __iter__(self) -> Iterator[ListingRow]:
        for behind, inode, size, received, changed_ns, attr_timeout, at in self.rows.tolist():
            name = self.names[at : self.names.index(b"\0", at)]
            timeout = None if attr_timeout != attr_timeout else attr_timeout
            yield ListingRow(behind, name, inode, size, received, changed_ns, timeout)


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
        """The messages from offset *start* on.

        A directory that has many may have a method ``blocks``, too: it gives the same as blocks, each of
        which is good until the next await, at less cost.
        """


class Snapshot:
    """The names of one folder as they were when :meth:`take` was called last.

    :param heir: gives the message that has replaced one that is gone; None: there is none.
    """

    __slots__ = ("_heir", "_places", "children", "folder", "mailbox", "uids")

    def __init__(self, folder: Folder, heir: Callable[[Folder, int], int | None]) -> None:
        self.folder = folder
        self._heir = heir
        self.take()

    def take(self) -> None:
        """Take the snapshot."""
        self.children = sorted(self.folder.children.items())
        self.mailbox: Mailbox | None = self.folder.mailbox
        self.uids = self.mailbox.uids if self.mailbox is not None else np.empty(0, np.uint32)
        self._places: dict[int, int] = {}

    def follow(self, folder: Folder) -> None:
        """The mailbox was renamed, and is *folder* now; the snapshot stays."""
        self.folder, self.mailbox = folder, folder.mailbox
        here = folder.children
        self.children = [(shown, here.get(shown, child)) for shown, child in self.children]
        if self.mailbox is None:
            self.uids = self.uids[:0]

    def shown(self, start: int, table: FactTable) -> Uids:
        """:data:`LISTING_WINDOW` messages from number *start* on; in the places of those that are gone, those
        that have replaced them.

        :param table: has the messages that are there.
        """
        uids = self.uids[start : start + LISTING_WINDOW]
        _, there = table.rows_of(uids)
        return uids if there.all() else self._with_heirs(uids, np.flatnonzero(~there).tolist(), start)

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
        self._block: ListingBlock | None = None
        self._seen: tuple[object, ...] = ()
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
            self._block = None
        if start == 0:
            await lists.store.check(snapshot.folder)
            await lists.names.know(snapshot.folder)
            snapshot.take()
            self._block = None
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
        return chain.from_iterable(self.blocks(start))

    def blocks(self, start: int) -> Iterator[ListingBlock]:
        """The messages from offset *start* on."""
        snapshot, first, written = self.snapshot, self._first(start), self._lists.written
        if snapshot.folder not in self._lists.inodes:
            return
        count, after = len(snapshot.uids), len(snapshot.children) + 2
        for window in range(first - first % LISTING_WINDOW, count, LISTING_WINDOW):
            yield self._window(window).from_offset(start).with_open(written)
        behind = [
            replace(row, next=place + after + 1)
            for place, row in enumerate(self._staged, count)
            if place >= first
        ]
        if behind:
            yield ListingBlock.of_rows(behind)

    def _window(self, window: int) -> ListingBlock:
        """The messages from number *window* on, made again if anything that they show has changed."""
        snapshot, lists = self.snapshot, self._lists
        box = snapshot.mailbox
        assert box is not None
        log = (box.state.log_file_seq, box.state.head_offset) if box.state is not None else None
        names = lists.names.version(snapshot.folder)
        now = (window, lists.inodes.of(snapshot.folder), box.facts, box.facts.version, box.state, log, names)
        if self._block is None or self._seen != now:
            self._block, self._seen = self._loaded(box, window), now
        return self._block

    def _loaded(self, box: Mailbox, window: int) -> ListingBlock:
        snapshot, lists, table = self.snapshot, self._lists, box.facts
        uids, staged = snapshot.shown(window, table), {row.name for row in self._staged}
        names = [b"%d.eml" % uid for uid in uids.tolist()]
        named = lists.names.listed(snapshot.folder)
        if named:
            names = [named.get(uid, name) for uid, name in zip(uids.tolist(), names, strict=True)]
        rows, there = table.rows_of(uids)
        if named or staged or not there.all():
            there &= np.fromiter(map(bool, names), np.bool_, len(names))
            if staged:  # a staged file that has become a message since is listed
                replaced = uids != snapshot.uids[window : window + LISTING_WINDOW]
                there &= ~(replaced & np.fromiter((name in staged for name in names), np.bool_, len(names)))
            rows, _ = table.rows_of(uids[there])
            names = list(compress(names, there.tolist()))
        places = np.flatnonzero(there) + window + len(snapshot.children) + 3
        return ListingBlock.of_messages(
            names, places, lists.inodes.of(snapshot.folder), box, rows, lists.attributes
        )


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
