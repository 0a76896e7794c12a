"""The MH view of a store, to be read (``-o view=mh``): messages are files whose names are numbers.

Messages and mailboxes have the inode numbers that they have without the view, as in
:mod:`dboxfs.vfs.views.maildir`.  The view answers the requests about names, and those about
``.mh_sequences`` of each mailbox.

Grammar of names: :mod:`dboxfs.vfs.views.mh_names`; of ``.mh_sequences``:
:mod:`dboxfs.vfs.views.mh_sequences`.

Concurrency: many requests at a time, on one event loop; the store's changes are taken between two
checkpoints.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from dboxfs.store import Delta, Folder, Listener, Mailbox
from dboxfs.store.names.of_mailbox import encode
from dboxfs.vfs import control as control_files
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.control import OpenControlFile
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.file_system import ReadableFileSystem
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.node import ROOT, UID_MASK, Node, is_in_control_tree
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.by_inode import ReadByInode
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.listing import Entry
from dboxfs.vfs.views.mh_names import MhName, MhNames, name_of
from dboxfs.vfs.views.mh_sequences import NAME
from dboxfs.vfs.views.mh_shown import SequencesShown, ShownSequences
from dboxfs.vfs.views.places import MaildirPlace, Sub, is_content, place_of
from dboxfs.vfs.views.told_names import ViewKernel
from dboxfs.vfs.views.without_open import WithoutOpen
from dboxfs.vfs.walks import InDirectory, OwnNames

_NUMBERS = OwnNames(b"", b"")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


def is_reserved(shown: str) -> bool:
    """Whether no mailbox can be shown under this name, since a message can be."""
    return name_of(encode(shown)) is not None or encode(shown).startswith(NAME)


async def _nothing_more(inode: int) -> Sequence[Entry]:
    return ()


class MhView:
    """Answers the requests of a mount with ``view=mh``.

    :param reading: the store without the view, which has *kernel* as its kernel.
    :param inner: answers the requests about inodes: *reading*, or the writable file system around it.
    :ivar more: gives the files that programs keep in the directory of a mailbox.
    :ivar hides: whether ``.mh_sequences`` of a mailbox is hidden.
    :ivar without_open: the part of a mount whose kernel opens nothing.
    """

    def __init__(
        self, reading: ReadOnlyVfs, inner: ReadableFileSystem, layout: Layout, kernel: ViewKernel
    ) -> None:
        self.reading = reading
        self.layout = layout
        self.names = MhNames(reading.names, reading.inodes)
        self.shown = ShownSequences(reading.store, self.names)
        self.without_open = WithoutOpen(reading, kernel, self)
        self._inner = inner
        by_inode = ReadByInode(inner)
        self.getxattr, self.listxattr = by_inode.getxattr, by_inode.listxattr
        self.statfs = by_inode.statfs
        self._kernel = kernel
        self.hides: Callable[[int], bool] = lambda _: False
        self.more: Callable[[int], Awaitable[Sequence[Entry]]] = _nothing_more
        kernel.view = self
        reading.report.view = "mh"
        reading.store.listen(Listener(self._messages_changed, lambda _: None, lambda _: None))

    # -- telling the kernel --------------------------------------------------------------------

    def directories(self, inode: int) -> Sequence[int]:
        """None: the kernel asks for ``.mh_sequences`` each time anyhow."""
        return ()

    def translate(self, parent: int, name: bytes) -> Iterable[tuple[int, bytes]]:
        """A name of the default view: a mailbox's, or a message's."""
        folder = self.reading.inodes.node(parent).folder
        if folder is None:
            return
        where = self.layout.where(folder, name)
        yield parent, where.name
        number = name_of(name.removesuffix(b".eml"))
        if number is not None:
            yield from ((parent, number._replace(removed=removed).shown) for removed in (False, True))

    def directory_of(self, box: Mailbox, node: Node) -> InDirectory:
        """The messages that are in the same directory as the message *node*: all of its mailbox."""
        return InDirectory(node.base, box.uids, partial(self.names.shown, node.directory()), _NUMBERS)

    def message_directories(self, inode: int) -> Sequence[int]:
        """The directories that have the messages of a mailbox: its own."""
        return (inode,)

    def _messages_changed(self, folder: Folder, delta: Delta) -> None:
        inode = self.reading.inodes.of(folder)
        differing = self.names.differing(folder)
        for name in differing | {b"%d" % uid for uid in delta.expunged.tolist()}:
            self._kernel.shown_entry(inode, name)
        if differing:
            self.without_open.names_changed(inode)

    def is_beside(self, inode: int) -> bool:
        """Whether it is the control directory, or in it: the same in each view."""
        return self.reading.inodes.node(inode).is_control or is_in_control_tree(inode)

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The file or directory of this name in the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        if self.is_beside(parent) or (parent == ROOT and name == control_files.NAME):
            return await self._inner.lookup(parent, name, pid)
        return await self.reading.folders.steadily(parent, lambda inode: self._lookup(inode, name, pid))

    async def _lookup(self, parent: int, name: bytes, pid: int) -> Attrs:
        folder = (await self.reading.folders.checked(parent)).directory()
        number = name_of(name)
        if number is not None:
            found = await self.message(folder, number, pid)
            if found is None:
                raise Refused(errno.ENOENT)
            return found
        if name == NAME:
            if folder.mailbox is None or self.hides(parent):
                raise Refused(errno.ENOENT)
            return await self.sequences(parent)
        child = self.layout.child(folder, name)
        if child is None or child not in self.reading.inodes:
            raise Refused(errno.ENOENT)
        return self.reading.attributes.folder(child, self.reading.inodes.of(child))

    async def message(self, folder: Folder, number: MhName, pid: int = 0) -> Attrs | None:
        """The message with this number; None: there is none."""
        await self.names.know(folder)
        uid = self.names.resolve(folder, number)
        if uid is None:
            return None
        inner = self.names.inner(folder, uid)
        try:
            attrs = await self._inner.lookup(self.reading.inodes.of(folder), inner, pid)
        except Refused as exc:
            if exc.errno != errno.ENOENT:
                raise
            return None
        if self.names.resolve(folder, number) != uid:
            attrs.entry_timeout = 0.0
        return attrs

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*."""
        place = place_of(inode)
        if is_content(inode):
            return self.without_open.attributes(inode)
        if place is None:
            return await self._inner.getattr(inode, pid)
        return await self.reading.folders.steady(place.folder, self.sequences)

    async def sequences(self, inode: int) -> Attrs:
        """``.mh_sequences`` of the mailbox *inode*."""
        shown = await self.shown.show((await self.reading.folders.checked(inode)).directory())
        return self.sequences_attrs(inode, shown)

    def sequences_attrs(self, inode: int, shown: SequencesShown) -> Attrs:
        """The attributes of ``.mh_sequences`` with this content."""
        place = MaildirPlace(inode, Sub.SEQUENCES)
        attrs = self.reading.attributes.messages(None)
        attrs.inode, attrs.size = place.inode, len(shown.content)
        attrs.modified_ns = attrs.changed_ns = shown.changed_ns
        attrs.entry_timeout = attrs.attr_timeout = 0.0
        return self.without_open.shown(place, shown.content, attrs)

    # -- directories and files -----------------------------------------------------------------

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """
        directory = await self._inner.opendir(inode)
        return directory if self.is_beside(inode) else MhDirectory(self, inode, directory)

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """Open a file.

        :raises Refused: EROFS, EACCES: it can't be written; ESTALE: it is gone.
        """
        place = place_of(inode)
        if place is None:
            return await self._inner.open(inode, flags, pid)
        if flags & _WRITING:
            raise Refused(errno.EACCES)
        folder = (await self.reading.folders.checked(place.folder)).directory()
        shown = await self.shown.show(folder)
        return Opened(OpenControlFile(shown.content), direct_io=True, keep_cache=False)


class MhDirectory:
    """The directory of a mailbox, or of a parent: the one without the view, with the names of the view.

    The entries that the view adds come first.

    :ivar inner: the directory without the view.
    """

    def __init__(self, view: MhView, inode: int, inner: OpenDirectory) -> None:
        self._view = view
        self._inode = inode
        self.inner = inner
        self._more: list[Entry] = []

    async def prepare(self, start: int) -> None:
        """Take the names as they are now, at the beginning."""
        if start == 0:
            view = self._view
            folder = view.reading.inodes.node(self._inode).folder
            self._more = list(await view.more(self._inode))
            if folder is not None and folder.mailbox is not None and not view.hides(self._inode):
                self._more.append((NAME, await view.sequences(self._inode)))
        await self.inner.prepare(max(start - len(self._more), 0))

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._more)):
            yield position + 1, *self._more[position]
        count, folder = len(self._more), self._view.reading.inodes.node(self._inode).folder
        for behind, name, attrs in self.inner.above(max(start - count, 0)):
            if folder is not None and name not in (b".", b".."):
                name = self._view.layout.where(folder, name).name
            yield behind + count, name, attrs

    async def sizes(self, start: int) -> None:
        await self.inner.sizes(max(start - len(self._more), 0))

    def attributes(self) -> Attrs:
        return self.inner.attributes()

    def messages(self, start: int) -> Iterator[ListingRow]:
        """The messages from offset *start* on, under the names that they have now."""
        count, folder = len(self._more), self._view.reading.inodes.node(self._inode).folder
        unusual = self._view.names.unusual(folder) if folder is not None else {}
        for row in self.inner.messages(max(start - count, 0)):
            uid = row.inode & UID_MASK
            name = unusual[uid].shown if uid in unusual else b"%d" % uid
            yield replace(row, next=row.next + count, name=name)
