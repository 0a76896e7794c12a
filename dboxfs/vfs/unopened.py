"""A read-only file system without OPEN: every request is about an inode.

The kernel sends neither OPEN nor RELEASE (:mod:`dboxfs.fuse.openless` explains why), so the daemon doesn't
know which messages are open. A READ comes only for bytes that the kernel does not have:

* It is answered from the message's body. The last :data:`KEPT_BODIES` bodies stay open, so that a message
  which is read piece by piece is opened once, and a program that has begun to read it can go on after its
  expunge.
* It may be a step of a walk (:mod:`dboxfs.vfs.walks`). The messages that come next are then read in as few
  operations as possible and put into the kernel's cache: before the READ is answered, or while the program
  works with those that came before.

A listing continues in the snapshot in which it began: the snapshot's number is in the upper bits of each
offset. The kernel keeps listings, too, and is told when one changes
(:class:`~dboxfs.vfs.following.Following`). That message may arrive before the kernel has copied an older
answer. So the kernel is told again when it asks for the rest of an outdated snapshot. It always asks, because
it keeps a listing only when it has seen its end.

A control file is a snapshot, with an inode of its own and its exact size, made by the LOOKUP that precedes
each open(2).

Concurrency: several READs of one inode at a time; kept bodies and snapshots are looked up again after each
await.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dboxfs.errors import DboxfsError
from dboxfs.store import KNOWN, Body, Facts, Folder, Mailbox
from dboxfs.store.attrs import Uids
from dboxfs.vfs.control import is_ready
from dboxfs.vfs.departures import Departures
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.host import Item, Pages, PushWait
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import Node, is_deleted, is_in_control_tree
from dboxfs.vfs.open_files import AtOpen
from dboxfs.vfs.reader import Reader
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.waiting import Wake
from dboxfs.vfs.walks import InDirectory, Orders, Predictor

KEPT_BODIES = 256
"""Bodies that stay open, at most."""

LISTINGS = 64
"""Snapshots of directories that can be continued, at most; also the directories whose orders are kept."""

_SHIFT = 40
"""Bits of an offset that are the place in its snapshot."""


class _Kept:
    """A message that is being read: its body, and the attributes for fstat(2).

    It may be given up while READs of it are in flight: the last of them closes the body.
    """

    __slots__ = ("_given_up", "_reads", "body", "facts", "marks")

    def __init__(self, body: Body, facts: Facts, marks: AtOpen | None) -> None:
        self.body = body
        self.facts = facts
        self.marks = marks
        self._reads = 0
        self._given_up = False

    def __enter__(self) -> Body:
        """A READ of it begins."""
        self._reads += 1
        return self.body

    def __exit__(self, *_: object) -> None:
        """It has ended."""
        self._reads -= 1
        self._close_unread()

    def give_up(self) -> None:
        """No READ will begin any more."""
        self._given_up = True
        self._close_unread()

    def _close_unread(self) -> None:
        if self._given_up and not self._reads:
            self.body.close()


class ListedDirectories(Protocol):
    """The directories that the mount shows: those of the store, or of a view."""

    async def opendir(self, inode: int) -> OpenDirectory: ...

    def listing_changes(self, inode: int) -> int:
        """How often the entries of a directory have changed."""

    def mailbox_folder(self, inode: int) -> Folder | None:
        """The mailbox that a directory is, or belongs to; None: none, or it is gone."""

    def directory_of(self, box: Mailbox, node: Node) -> InDirectory:
        """The messages of a mailbox that are in the same directory as the message *node*.

        That a message is missing in them, or one too many, costs requests and nothing else.
        """

    def message_directories(self, inode: int) -> Sequence[int]:
        """The directories that have the messages of the mailbox *inode*, which may be gone."""


class UnopenedView(ListedDirectories, Protocol):
    """A view in a mount without OPEN."""

    def content(self, inode: int) -> bytes | None:
        """The content of a file that the view makes; None: *inode* is no such file."""

    def unopen(self) -> None:
        """The mount has no OPEN from now on."""


class _PlainDirectories:
    """The directories of a mount without a view."""

    def __init__(self, vfs: ReadOnlyVfs) -> None:
        self.opendir = vfs.opendir
        self.listing_changes = vfs.listing_changes
        self.mailbox_folder = vfs.inodes.folder
        self._names = vfs.names

    def directory_of(self, box: Mailbox, node: Node) -> InDirectory:
        return InDirectory(node.base, box.uids, partial(self._names.listed, node.directory()))

    def message_directories(self, inode: int) -> Sequence[int]:
        return (inode,)


class Unopened:
    """Answers READ and READDIR of files and directories that were never opened.

    :param vfs: answers all other requests.
    :param pages: the kernel's page cache.
    :param view: the view around *vfs*; None: the mount has none.
    """

    def __init__(self, vfs: ReadOnlyVfs, pages: Pages, view: UnopenedView | None = None) -> None:
        self._vfs = vfs
        self._view = view
        self._shown: ListedDirectories = view if view is not None else _PlainDirectories(vfs)
        if view is not None:
            view.unopen()
        self._pages = pages
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._listings: OrderedDict[int, tuple[OpenDirectory, int]] = OrderedDict()
        self._numbers = 0
        self._predictor = Predictor()
        self._orders: OrderedDict[int, Orders] = OrderedDict()
        vfs.control.makes_snapshots = True
        vfs.attributes.unopened = True
        self._departures = vfs.departures = Departures(vfs.inodes)
        vfs.store.backend.keep_departed()
        vfs.tell(self)

    # -- files ---------------------------------------------------------------------------------

    async def read(self, inode: int, size: int, offset: int) -> bytes:
        """Bytes of a file at *offset*, fewer than *size* only at its end.

        :raises Refused: ESTALE: it is gone and can't be read any more.
        :raises DboxfsError, OSError: it can't be read.
        """
        if self._vfs.inodes.node(inode).is_control:
            return self._vfs.control.read(inode, size, offset)
        content = self._view.content(inode) if self._view is not None else None
        if content is not None:
            return content[offset : offset + size]
        tree = self._vfs.tree(inode)
        if tree is not None and not is_deleted(inode):
            return await (await tree.open(inode)).read(size, offset)
        batch = self._pages.begin(inode)
        try:
            with await self._kept_for(inode) as body:
                data = await self._bytes(body, size, offset)
                if offset + len(data) >= body.size:
                    body.handed()
            if offset == 0 and batch is None:
                batch = await self._open_window(inode)
            if batch is not None:
                await batch.wait()
            return data
        finally:
            self._pages.end(inode)

    async def is_ready(self, inode: int, wake: Wake | None) -> bool:
        """Whether a file has bytes that no process has read; only a stream may have none.

        :param wake: to be called when it has, if it has none now; None: the process does not wait.
        """
        stream = self._vfs.control.stream_of(inode)
        return stream is None or is_ready(stream, inode, stream.read_to(inode), wake)

    async def _bytes(self, body: Body, size: int, offset: int) -> bytes:
        try:
            return body.pread(size, offset)
        except BlockingIOError:
            return await self._vfs.reader.read(body, size, offset)

    async def _kept_for(self, inode: int) -> _Kept:
        kept = self._kept.get(inode)
        if kept is not None:
            self._kept.move_to_end(inode)
            return kept
        if self._vfs.deleted is not None and is_deleted(inode):
            body = await self._vfs.deleted.body(inode)
            return self._keep(inode, body, Facts(KNOWN, body.size, 0, 0))
        try:
            return await self._vfs.folders.steady(inode, self._open)
        except Refused as exc:
            if exc.errno != errno.ESTALE:
                raise
            departed = await self._departures.open(inode)
            if departed is None:
                raise
            return self._keep(inode, *departed)

    async def _open(self, inode: int) -> _Kept:
        node, body, facts = await Reader.body(self._vfs.inodes.node(inode))
        if facts.size != body.size:  # it was damaged when its size was read, and is repaired now
            self._vfs.host.kernel.at_once(inode)
        return self._keep(inode, body, facts, AtOpen.of(node.mailbox(), node.uid))

    def _keep(self, inode: int, body: Body, facts: Facts, marks: AtOpen | None = None) -> _Kept:
        if inode in self._kept:  # opened meanwhile
            body.close()
            return self._kept[inode]
        kept = self._kept[inode] = _Kept(body, facts, marks)
        self._vfs.open_files.begin_reading(inode, kept)
        while len(self._kept) > KEPT_BODIES:
            self._close(next(iter(self._kept)))
        return kept

    def _close(self, inode: int) -> None:
        kept = self._kept.pop(inode)
        self._vfs.open_files.end_reading(inode, kept)
        kept.give_up()

    def forget(self, inodes: Iterable[int]) -> None:
        """The kernel has no inode of these numbers any more."""
        for inode in inodes:
            if inode in self._kept:
                self._close(inode)
            self._departures.forget(inode)

    def doubt(self, folder: Node) -> None:
        """The files of a mailbox may have been repaired: have the kernel drop the pages of all messages."""
        inodes = [folder.inode | uid for uid in folder.mailbox().uids.tolist()]
        self.forget(inodes)
        self._pages.drop(inodes)

    def gone(self, folder_inode: int) -> None:
        """A mailbox is gone."""
        for directory in self._shown.message_directories(folder_inode):
            self._predictor.forget(directory)
            self._orders.pop(directory, None)

    def close(self) -> None:
        """The mount has ended."""
        self.forget(list(self._kept))
        self._vfs.events.waiting.wake_all()

    # -- windows -------------------------------------------------------------------------------

    async def _open_window(self, inode: int) -> PushWait | None:
        """Push the next messages if this READ is a step of a walk; None: no message is pushed."""
        node = self._vfs.inodes.node(inode)
        folder = node.folder
        if folder is None or folder.mailbox is None:
            return None
        box = folder.mailbox
        listed = self._vfs.searches.links_beside(folder, node.uid) or self._shown.directory_of(box, node)
        walks, order = self._predictor.walks(listed.directory), self._order(listed)
        if self._pages.missed(inode):
            walks.missed(node.uid, order)
        window = walks.read(node.uid, order, lambda some: _sizes(box, some))
        uids = window.uids
        wanted = self._pages.wanted((uids.astype(np.int64) | node.base).tolist())
        uids = uids[[node.base | uid in wanted for uid in uids.tolist()]] if len(uids) else uids
        if not len(uids):
            return None
        expected = self._pages.expect([node.base | uid for uid in uids.tolist()])
        if window.ahead:
            self._vfs.host.spawn(partial(self._push, expected, box, node.base, uids))
            return None
        await self._push(expected, box, node.base, uids)
        return expected

    async def _push(self, expected: PushWait, box: Mailbox, base: int, uids: Uids) -> None:
        items: list[Item] = []
        try:
            items = await self._load(box, base, uids)
            self._vfs.host.observed.pushed(item for item, _ in items)
        finally:
            expected.push(items)

    def _order(self, listed: InDirectory) -> Orders:
        known = self._orders.get(listed.directory)
        if known is None or known.uids is not listed.uids:
            known = self._orders[listed.directory] = Orders(listed.uids, listed.named(), listed.own)
            if len(self._orders) > LISTINGS:
                self._orders.popitem(last=False)
        return known

    async def _load(self, box: Mailbox, base: int, uids: Uids) -> list[Item]:
        try:
            found = await box.read_many(uids)
        except (DboxfsError, OSError):
            return []  # the READs of these messages get the error
        return [
            (base | uid, data) for uid, data in zip(uids.tolist(), found, strict=True) if data is not None
        ]

    # -- directories ---------------------------------------------------------------------------

    async def directory(self, inode: int, offset: int) -> tuple[OpenDirectory, int, int]:
        """The listing of a directory from *offset* on: the snapshot, the number to add to its offsets, and
        the place in it.

        :raises Refused: ENOENT: it is gone.
        """
        number, place = offset >> _SHIFT, offset & ((1 << _SHIFT) - 1)
        vfs, shown = self._vfs, self._shown
        changed = shown.listing_changes(inode)
        directory, since = self._listings.get(number, (None, 0)) if place else (None, 0)
        if directory is None:
            self._numbers = number = self._numbers % (1 << 22) + 1
            directory, since = await shown.opendir(inode), changed
            self._listings[number] = directory, since
            if len(self._listings) > LISTINGS:
                self._listings.popitem(last=False)
        else:
            self._listings.move_to_end(number)
        folder = shown.mailbox_folder(inode)
        unwatched = is_in_control_tree(inode) or (folder is not None and not vfs.store.is_watched(folder))
        if changed != since or unwatched:
            vfs.host.kernel.listing(inode)
        return directory, number << _SHIFT, place


def _sizes(box: Mailbox, uids: Uids) -> npt.NDArray[np.int64]:
    """Bytes of each message; -1: not known, or damaged."""
    rows = box.facts.uids.searchsorted(uids)
    facts = box.facts.columns(rows)
    return np.where((facts.state & KNOWN) != 0, facts.size.astype(np.int64), -1)
