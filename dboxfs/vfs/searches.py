"""``.dboxfs/unseen/``, ``flagged/``, ``keyword/<k>/`` and ``since/<date>/``: messages found by flag or date.

::

    unseen/<mailbox>/<name>             the tree of the mailboxes that have such messages
    flagged/<mailbox>/<name>
    keyword/<keyword>/<mailbox>/<name>  one for each keyword that a mailbox knows; upper and lower case are
                                        the same
    since/<date>/<mailbox>/<name>       received on that day or later (2026-11-30, the daemon's time zone);
                                        any date can be looked up, none is listed

A message in it is a link: the inode of the message, under its name without any view.  A directory has a
number of its own, which is remembered while it is one of the last :data:`DIRECTORIES`.

Each request searches anew, and the kernel keeps none of the names.  So each open of a link begins with a
LOOKUP, which tells that its message is read by this way: the messages of the listing that come next, and not
their neighbours in the mailbox, are read ahead (:mod:`dboxfs.vfs.walks`).

Only the store's owner may look into it, even if ``umask`` allows more.

Concurrency: a listing is a snapshot.
"""

from __future__ import annotations

import errno
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import NamedTuple

import numpy as np
import trio

from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.attrs import Uids
from dboxfs.store.names.of_mailbox import decode, encode
from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.listing import SIZES_SECONDS, ListingRow, OpenDirectory, wait_for_sizes
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import SEARCHES, Inodes
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.scans import Scans
from dboxfs.vfs.walks import InDirectory

DIRECTORIES = 4096
"""Directories whose numbers are remembered, at most."""

LOOKED_UP = 64
"""Messages of which it is remembered by which link they were looked up last, at most."""

LISTINGS_KEPT = 64
"""Listings whose order is remembered, at most."""

_SEARCH_BITS = 0b1111 << 60 | 0b111 << 34
_SEARCH_TOPS = {b"unseen": 1, b"flagged": 2, b"keyword": 3, b"since": 4}
_SEARCH_MASK = (1 << 34) - 1
_FIRST_SEARCH = 8
_SEEN, _FLAGGED = 0x08, 0x02


class MessageSearch(NamedTuple):
    """A search: ``kind`` is the name of the top directory, ``argument`` the keyword or date; empty: none."""

    kind: bytes
    argument: str = ""

    @property
    def since(self) -> int:
        """The beginning of the day, seconds since the epoch."""
        return int(datetime.fromisoformat(self.argument).timestamp())


class _Listed(NamedTuple):
    """The messages in a directory, ascending.  ``among``: the messages of the mailbox, these among them."""

    uids: Uids
    among: Uids


class _Place(NamedTuple):
    """A directory: ``folder`` is the storage name of the mailbox, or of a parent; "" is the top of a search.

    ``search`` None: a directory of keywords or dates.
    """

    kind: bytes
    search: MessageSearch | None
    folder: str = ""


def owns(inode: int) -> bool:
    """Whether an inode number is that of a directory of links."""
    return inode & _SEARCH_BITS == SEARCHES & _SEARCH_BITS


class SearchTree:
    """The tree of one kind of search, below :attr:`name`.

    :param places: the directories of all kinds.
    """

    def __init__(self, name: bytes, places: SearchPlaces) -> None:
        self.name = name
        self.root = places.top(name)
        self._places = places

    def owns(self, inode: int) -> bool:
        """Whether a number is of this kind."""
        return owns(inode) and self._places.is_of(inode, self.name)

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        return await self._places.lookup(parent, name)

    async def getattr(self, inode: int) -> Attrs:
        """The attributes of a directory.

        :raises Refused: ESTALE: its number was forgotten.
        """
        return self._places.attrs(inode)

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT, ESTALE: it is gone.
        """
        return self._places.open(inode)

    async def open(self, inode: int) -> OpenFile:
        """Refuse to open a directory as a file.

        :raises Refused: EISDIR.
        """
        raise Refused(errno.EISDIR)

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """There are none."""
        return {}


class SearchPlaces:
    """All directories of links."""

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        attributes: Attributes,
        scans: Scans,
    ) -> None:
        self.scans = scans
        self.names = names
        self.inodes = inodes
        self.attributes = attributes
        self._store = store
        self._folders = folders
        self._numbers = itertools.count(_FIRST_SEARCH)
        self._place_of: OrderedDict[int, _Place] = OrderedDict()
        self._inode_of: dict[_Place, int] = {}
        self._way_to: OrderedDict[int, int] = OrderedDict()
        self._listed: OrderedDict[int, _Listed] = OrderedDict()

    def trees(self) -> list[SearchTree]:
        """The tree of each kind of search."""
        return [SearchTree(name, self) for name in _SEARCH_TOPS]

    # -- numbers -------------------------------------------------------------------------------

    @staticmethod
    def top(name: bytes) -> int:
        """The inode number of the directory *name* in the control directory."""
        return SEARCHES | _SEARCH_TOPS[name]

    def is_of(self, inode: int, kind: bytes) -> bool:
        """Whether it is a directory of this kind; a forgotten number counts as the first kind."""
        place = self._known(inode)
        return (place.kind if place is not None else next(iter(_SEARCH_TOPS))) == kind

    def _known(self, inode: int) -> _Place | None:
        for name, number in _SEARCH_TOPS.items():
            if inode == SEARCHES | number:
                return _Place(name, MessageSearch(name) if name in (b"unseen", b"flagged") else None)
        return self._place_of.get(inode)

    def _place(self, inode: int) -> _Place:
        place = self._known(inode)
        if place is None:
            raise Refused(errno.ESTALE)
        return place

    def _number(self, place: _Place) -> int:
        inode = self._inode_of.get(place)
        if inode is None:
            inode = self._inode_of[place] = SEARCHES | next(self._numbers) & _SEARCH_MASK
            self._place_of[inode] = place
            if len(self._place_of) > DIRECTORIES:
                del self._inode_of[self._place_of.popitem(last=False)[1]]
        self._place_of.move_to_end(inode)
        return inode

    # -- entries of a directory ----------------------------------------------------------------

    def attrs(self, inode: int) -> Attrs:
        """The attributes of a directory.

        :raises Refused: ESTALE: its number was forgotten.
        """
        self._place(inode)
        attrs = self.attributes.control_dir(inode)
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs

    def folder(self, place: _Place) -> Folder:
        """The folder that a directory shows.

        :raises Refused: ENOENT: it is gone.
        """
        folder = self._store.folders.get(place.folder) if place.folder else self._store.root
        if folder is None:
            raise Refused(errno.ENOENT)
        return folder

    def directories(self, inode: int) -> list[tuple[bytes, Attrs]]:
        """The directories in a directory."""
        place = self._place(inode)
        if place.search is None:
            found = [
                (encode(word), self._number(_Place(place.kind, MessageSearch(place.kind, word))))
                for word in (self._keywords() if place.kind == b"keyword" else ())
            ]
        else:
            children = self.folder(place).children.items()
            found = [
                (encode(shown), self._number(_Place(place.kind, place.search, child.name)))
                for shown, child in sorted(children)
                if self._has_any(place.search, child)
            ]
        return [(name, self.attrs(number)) for name, number in found]

    def _keywords(self) -> Sequence[str]:
        """The keywords of all mailboxes that can be file names; one of those that differ in case alone."""
        known: dict[str, str] = {}
        for folder in self._store.folders.values():
            state = folder.mailbox.state if folder.mailbox is not None else None
            for word in state.keyword_names() if state is not None else ():
                known.setdefault(word.lower(), word)
        return sorted(word for word in known.values() if "/" not in word and word not in (".", ".."))

    def _has_any(self, search: MessageSearch, folder: Folder) -> bool:
        """Whether a mailbox, or one below it, has messages that match."""
        if folder.mailbox is not None and len(self.found(search, folder.mailbox)):
            return True
        return any(self._has_any(search, child) for child in folder.children.values())

    def found(self, search: MessageSearch, box: Mailbox, among: Uids | None = None) -> Uids:
        """The messages of a mailbox that match, by the index and the dates that are known.

        :param among: those that are asked for, uint32[n]; None: all.
        """
        state, uids = box.state, box.uids if among is None else among
        if state is None or not len(uids):
            return uids[:0]
        rows = state.rows_of(uids)
        uids, rows = uids[rows >= 0], rows[rows >= 0]
        if search.kind == b"since":
            facts = box.facts.columns(box.facts.uids.searchsorted(uids))
            since: Uids = uids[facts.received >= search.since]
            return since
        if search.kind == b"keyword":
            tagged: Uids = uids[state.with_keyword(rows, search.argument)]
            return tagged
        flags = state.flags[rows]
        mask = (flags & _SEEN) == 0 if search.kind == b"unseen" else (flags & _FLAGGED) != 0
        flagged: Uids = uids[mask]
        return flagged

    async def scanned(self, inode: int) -> None:
        """Read the dates of messages that are not known yet, for a search by date."""
        place = self._place(inode)
        if place.search is not None and place.search.kind == b"since":
            for folder in list(self._store.folders.values()):
                is_below = not place.folder or f"{folder.name}/".startswith(f"{place.folder}/")
                if is_below and folder.mailbox is not None and folder.mailbox.facts.unknown:
                    await folder.mailbox.scan()

    def messages(self, inode: int) -> tuple[Folder, Uids]:
        """The messages in a directory: their mailbox, and uids."""
        place = self._place(inode)
        folder = self.folder(place)
        box = folder.mailbox
        if place.search is None or box is None:
            return folder, np.empty(0, np.uint32)
        uids = self.found(place.search, box)
        self._remember(inode, _Listed(uids, box.uids))
        return folder, uids

    # -- which link comes next -----------------------------------------------------------------

    def links_beside(self, folder: Folder, uid: int) -> InDirectory | None:
        """The links of the directory by which a message was looked up last; None: it was by none of late."""
        directory = self._way_to.get(self.inodes.of(folder) | uid, 0)
        place, box = self._known(directory), folder.mailbox
        if place is None or place.search is None or box is None or place.folder != folder.name:
            return None
        listed = self._listed.get(directory)
        if listed is None:
            listed = _Listed(self.found(place.search, box), box.uids)
        elif listed.among is not box.uids:
            there = np.isin(listed.uids, box.uids, assume_unique=True)
            listed = _Listed(listed.uids if there.all() else listed.uids[there], box.uids)
        self._remember(directory, listed)
        return InDirectory(directory, listed.uids, partial(self.names.listed, folder))

    def _remember(self, directory: int, listed: _Listed) -> None:
        self._listed[directory] = listed
        self._listed.move_to_end(directory)
        if len(self._listed) > LISTINGS_KEPT:
            self._listed.popitem(last=False)

    # -- requests ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        place = self._place(parent)
        if place.search is None:
            return self.attrs(self._number(_Place(place.kind, self._asked(place.kind, decode(name)))))
        await self.scanned(parent)
        folder = (await self._folders.checked(self.inodes.of(self.folder(place)))).directory()
        child = folder.children.get(decode(name))
        if child is not None and self._has_any(place.search, child):
            return self.attrs(self._number(_Place(place.kind, place.search, child.name)))
        await self.names.know(folder)
        uid = self.names.resolve(folder, name)
        box = folder.mailbox
        if uid is None or box is None:
            raise Refused(errno.ENOENT)
        if not len(self.found(place.search, box, np.array([uid], np.uint32))):
            raise Refused(errno.ENOENT)
        attrs = self.attributes.message(self.inodes.of(folder) | uid, await box.facts_of(uid), folder)
        attrs.entry_timeout = 0.0
        self._way_to[attrs.inode] = parent
        self._way_to.move_to_end(attrs.inode)
        if len(self._way_to) > LOOKED_UP:
            self._way_to.popitem(last=False)
        return attrs

    def _asked(self, kind: bytes, name: str) -> MessageSearch:
        """The search that a keyword or a date stands for.

        :raises Refused: ENOENT: it is no keyword of a mailbox, or no date.
        """
        if kind == b"keyword":
            known = {word.lower(): word for word in self._keywords()}
            if name.lower() in known:
                return MessageSearch(kind, known[name.lower()])
        else:
            try:
                if date.fromisoformat(name).isoformat() == name:
                    search = MessageSearch(kind, name)
                    _ = search.since
                    return search
            except (ValueError, OverflowError, OSError):
                pass
        raise Refused(errno.ENOENT)

    def open(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ESTALE: its number was forgotten.
        """
        self._place(inode)
        return _OpenSearch(self, inode)


class _OpenSearch:
    """An open directory of links: a snapshot."""

    def __init__(self, places: SearchPlaces, inode: int) -> None:
        self._places = places
        self._inode = inode
        self._above: list[tuple[bytes, Attrs]] = []
        self._folder: Folder | None = None
        self._deadline = 0.0
        self._uids: Uids = np.empty(0, np.uint32)

    async def prepare(self, start: int) -> None:
        """Take the snapshot, at offset 0."""
        if start == 0:
            places = self._places
            await places.scanned(self._inode)
            own = places.attrs(self._inode)
            self._above = [(b".", own), (b"..", own), *places.directories(self._inode)]
            self._folder, self._uids = places.messages(self._inode)
            await places.names.know(self._folder)
            self._deadline = trio.current_time() + SIZES_SECONDS
            if self._folder.mailbox is not None and len(self._uids):
                places.scans.opened(self._folder.mailbox)

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._above)):
            yield position + 1, *self._above[position]

    async def sizes(self, start: int) -> None:
        """Wait for sizes of messages from offset *start* on that are unknown yet; for a limited time."""
        box = self._folder.mailbox if self._folder is not None else None
        if box is not None and box.facts.unknown:
            uids = self._uids[max(start - len(self._above), 0) :]
            await wait_for_sizes(box, self._places.scans, uids, self._deadline)

    def attributes(self) -> Attrs:
        attrs = self._places.attributes.messages(self._folder)
        attrs.entry_timeout = 0.0
        return attrs

    def messages(self, start: int) -> Iterator[ListingRow]:
        """The links, from offset *start* on; those to messages that have gone since are left out."""
        folder, places, after = self._folder, self._places, len(self._above)
        box = folder.mailbox if folder is not None else None
        if folder is None or box is None or folder not in places.inodes:
            return
        base, named = places.inodes.of(folder), places.names.listed(folder)
        for position in range(max(start - after, 0), len(self._uids)):
            uid = int(self._uids[position])
            facts, name = box.facts.get(uid), named.get(uid, b"%d.eml" % uid)
            if facts is None or not name:
                continue
            facts = box.changed(facts, uid)
            timeout = None if facts.known and not facts.damaged else 0.0
            changed = facts.saved * 1_000_000_000 + facts.nanoseconds
            yield ListingRow(
                position + after + 1, name, base | uid, facts.size, facts.received, changed, timeout
            )
