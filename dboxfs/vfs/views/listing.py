"""Open directories of the Maildir view.

A listing gives each message the name that it has when the entry is given: a message whose flags change
between two READDIRs is listed once.  A message that goes from ``new/`` to ``cur/`` meanwhile is in one of the
two listings or in both, as in any Maildir.

Concurrency: one reader at a time; the kernel sees to that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Protocol

import numpy as np

from dboxfs.errors import DboxfsError
from dboxfs.store import Folder, Mailbox
from dboxfs.store.attrs import Uids
from dboxfs.vfs.attrs import SHORT, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import LISTING_WINDOW, ListingBlock, ListingRow
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.letters import FLAG_MASK, SEEN
from dboxfs.vfs.views.maildir_names import MaildirNames
from dboxfs.vfs.views.places import DIRECTORIES, KEYWORDS_NAME, MaildirPlace, Sub

Entry = tuple[bytes, Attrs]


class ListedView(Protocol):
    """The view, as far as a listing needs it."""

    @property
    def reading(self) -> ReadOnlyVfs: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def names(self) -> MaildirNames: ...

    def folder(self, place: MaildirPlace) -> Folder: ...

    async def checked(self, place: MaildirPlace) -> Folder: ...

    def mailbox(self, folder: Folder) -> Attrs: ...

    async def directory(self, place: MaildirPlace) -> Attrs: ...

    def directory_now(self, place: MaildirPlace) -> Attrs: ...

    def keywords(self, place: MaildirPlace) -> Attrs: ...

    @property
    def removals(self) -> int: ...

    def tell_all(self, folder: Folder, sub: Sub, names: Mapping[int, bytes]) -> None: ...

    def can_tell(self, folder: Folder, count: int) -> bool: ...

    def temporaries(self, place: MaildirPlace) -> Awaitable[Sequence[Entry]]: ...

    def more(self, inode: int) -> Awaitable[Sequence[Entry]]: ...

    def hides(self, place: MaildirPlace) -> bool: ...


class MailboxDirectory:
    """The directory of a mailbox, or the root."""

    def __init__(self, view: ListedView, inode: int) -> None:
        self._view = view
        self._inode = inode
        self._entries: list[Entry] = []

    async def prepare(self, start: int) -> None:
        """Take the names as they are now, at the beginning."""
        if start == 0:
            view = self._view
            folder = (await view.reading.folders.checked(self._inode)).directory()
            own, maildir = view.mailbox(folder), view.layout.maildir(folder)
            above = view.mailbox(folder.parent) if folder.parent is not None else own
            self._entries = [(b".", own), (b"..", above)]
            if maildir is not None:
                self._entries += await self._of_maildir(view.reading.inodes.of(maildir))
            children = view.layout.children(folder)
            self._entries += [
                (name, view.mailbox(child)) for name, child in children if child in view.reading.inodes
            ]
            self._entries += await view.more(self._inode)

    async def _of_maildir(self, folder: int) -> list[Entry]:
        view, found = self._view, []
        for name, sub in DIRECTORIES.items():
            if not view.hides(MaildirPlace(folder, sub)):
                found.append((name, await view.directory(MaildirPlace(folder, sub))))
        with suppress(Refused):  # there is no keyword
            found.append((KEYWORDS_NAME, view.keywords(MaildirPlace(folder, Sub.KEYWORDS))))
        return found

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._entries)):
            yield position + 1, *self._entries[position]

    async def sizes(self, start: int) -> None:
        """There are no messages here."""

    def attributes(self) -> Attrs:
        return self._entries[0][1]

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())


class MessageDirectory:
    """``cur/``, ``new/`` or ``tmp/``."""

    def __init__(self, view: ListedView, place: MaildirPlace) -> None:
        self._view = view
        self.place = place
        self._above: list[Entry] = []
        self._uids: Uids = np.empty(0, np.uint32)
        self._may_tell = False
        self._block: ListingBlock | None = None
        self._seen: tuple[object, ...] = ()

    @property
    def folder(self) -> Folder:
        """The mailbox that it is in."""
        return self._view.folder(self.place)

    async def prepare(self, start: int) -> None:
        """At the beginning take the messages of now, and wait for their sizes, which names contain."""
        if start:
            return
        view = self._view
        folder = await view.checked(self.place)
        await view.names.know(folder)
        own = await view.directory(self.place)
        self._above = [(b".", own), (b"..", view.mailbox(folder)), *await view.temporaries(self.place)]
        self._uids, self._block = self._candidates(folder), None
        await self._know_sizes(folder)
        self._may_tell = view.can_tell(folder, len(self._uids))

    def _candidates(self, folder: Folder) -> Uids:
        """The messages that can be in this directory."""
        box = folder.mailbox
        if box is None or box.state is None or self.place.sub not in (Sub.CUR, Sub.NEW):
            return np.empty(0, np.uint32)
        rows = box.state.rows_of(box.uids)
        flags = box.state.flags[np.maximum(rows, 0)]
        if self.place.sub is Sub.NEW:
            wanted = (flags & SEEN) == 0
        else:  # one without a mark or a written name is in new/
            wanted = (flags & FLAG_MASK) != 0
            for word in box.state.keyword_names():
                wanted |= box.state.with_keyword(np.maximum(rows, 0), word)
            named = self._view.names.written(folder)
            wanted |= np.isin(box.uids, np.fromiter(named, np.uint32, len(named)))
        found: Uids = box.uids[wanted & (rows >= 0)]
        return found

    async def _know_sizes(self, folder: Folder) -> None:
        box = folder.mailbox
        if box is not None and box.facts.unknown and len(self._uids):
            await box.scan()

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._above)):
            yield position + 1, *self._above[position]

    async def sizes(self, start: int) -> None:
        """They are known."""

    def attributes(self) -> Attrs:
        attrs = self._view.reading.attributes.messages(self.folder)
        if not self._may_tell:
            attrs.entry_timeout = min(attrs.entry_timeout, SHORT)
        return attrs

    def messages(self, start: int) -> Iterator[ListingRow]:
        """The messages from offset *start* on, under the names that they have now."""
        return chain.from_iterable(self.blocks(start))

    def blocks(self, start: int) -> Iterator[ListingBlock]:
        """The messages from offset *start* on, under the names that they have now."""
        try:
            folder = self.folder
        except DboxfsError:
            return
        first, written = max(start - len(self._above), 0), self._view.reading.open_files.written
        for window in range(first - first % LISTING_WINDOW, len(self._uids), LISTING_WINDOW):
            box = folder.mailbox
            if box is None or box.state is None:
                return
            yield self._window(folder, box, window).from_offset(start).with_open(written)

    def _window(self, folder: Folder, box: Mailbox, window: int) -> ListingBlock:
        """The messages from number *window* on, made again if anything that they show has changed."""
        assert box.state is not None
        view, log = self._view, (box.state.log_file_seq, box.state.head_offset)
        names = view.names.version(folder), view.removals
        now = (window, folder, box.facts, box.facts.version, box.state, log, names)
        if self._block is None or self._seen != now:
            self._block, self._seen = self._loaded(folder, box, window), now
        return self._block

    def _loaded(self, folder: Folder, box: Mailbox, window: int) -> ListingBlock:
        view, sub = self._view, self.place.sub
        rows, known = box.facts.rows_of(self._uids[window : window + LISTING_WINDOW])
        uids = box.facts.uids[rows]
        there, names = view.names.in_directory(folder, sub, uids, box.facts.columns(rows))
        if self._may_tell:
            view.tell_all(folder, sub, dict(zip(uids[there].tolist(), names, strict=True)))
        behind = np.flatnonzero(known)[there] + window + len(self._above) + 1
        return ListingBlock.of_messages(
            names, behind, self.place.folder, box, rows[there], view.reading.attributes
        )
