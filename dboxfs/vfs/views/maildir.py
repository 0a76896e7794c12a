"""The Maildir view of a store, to be read (``-o view=maildir``): a map of names, around a file system over
mail.

Messages and mailboxes have the inode numbers that they have without the view, so the file system that the
view is around answers the requests about an inode (attributes, bytes, extended attributes).  The view answers
those about names: ``cur/``, ``new/`` and ``tmp/`` of each mailbox, ``dovecot-keywords``, and the directories
of mailboxes.

Grammar of names: :mod:`dboxfs.vfs.views.maildir_names`; of the tree: :mod:`dboxfs.vfs.views.layout`.

**Directory times.**  The mtime of ``cur/`` and ``new/`` is that of the last change of the mailbox's index or
of its written names, whichever is later: each program that changes a name in them writes to one of the two.

**Names that the kernel keeps.**  The kernel may keep a name for long only while :class:`ToldNames` remembers
it: when flags or keywords change, the view tells the kernel that the old name is gone.

Concurrency: many requests at a time, on one event loop; the store's changes are taken between two
checkpoints.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from dboxfs.errors import DboxfsError
from dboxfs.store import Delta, Folder, Listener, Mailbox
from dboxfs.store.names.read import NameReader
from dboxfs.vfs import control as control_files
from dboxfs.vfs.attrs import SHORT, Attrs
from dboxfs.vfs.control import OpenControlFile
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.file_system import ReadableFileSystem
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import ROOT, Node, is_in_control_tree
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.by_inode import ReadByInode
from dboxfs.vfs.views.layout import Layout
from dboxfs.vfs.views.letters import keywords_file
from dboxfs.vfs.views.listing import Entry, MailboxDirectory, MessageDirectory
from dboxfs.vfs.views.maildir_names import MaildirNames, Name
from dboxfs.vfs.views.places import DIRECTORIES, KEYWORDS_NAME, MaildirPlace, Sub, is_content, place_of
from dboxfs.vfs.views.told_names import ToldNames, ViewKernel
from dboxfs.vfs.views.without_open import WithoutOpen
from dboxfs.vfs.walks import InDirectory

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


async def _no_temporaries(place: MaildirPlace) -> Sequence[Entry]:
    return ()


async def _nothing_more(inode: int) -> Sequence[Entry]:
    return ()


class MaildirView:
    """Answers the requests of a mount with ``view=maildir``.

    :param reading: the store without the view, which has *kernel* as its kernel.
    :param inner: answers the requests about inodes: *reading*, or the writable file system around it.
    :param name_reader: has read the written names.
    :ivar more: gives the files that programs keep in a directory of a mailbox.
    :ivar temporaries: gives the files of ``tmp/`` that are being delivered.
    :ivar hides: whether ``cur/``, ``new/`` or ``tmp/`` of a mailbox that a program makes was not made yet.
    :ivar without_open: the part of a mount whose kernel opens nothing.
    """

    def __init__(
        self,
        reading: ReadOnlyVfs,
        inner: ReadableFileSystem,
        layout: Layout,
        kernel: ViewKernel,
        name_reader: NameReader,
    ) -> None:
        self.reading = reading
        self.layout = layout
        self.names = MaildirNames(reading.names)
        self._inner = inner
        by_inode = ReadByInode(inner)
        self.getxattr, self.listxattr = by_inode.getxattr, by_inode.listxattr
        self.statfs = by_inode.statfs
        self._kernel = kernel
        self._name_reader = name_reader
        self._told = ToldNames()
        self._moving: set[tuple[int, int]] = set()
        self.without_open = WithoutOpen(reading, kernel, self)
        self.temporaries: Callable[[MaildirPlace], Awaitable[Sequence[Entry]]] = _no_temporaries
        self.hides: Callable[[MaildirPlace], bool] = lambda _: False
        self.more: Callable[[int], Awaitable[Sequence[Entry]]] = _nothing_more
        kernel.view = self
        reading.report.view = "maildir"
        reading.store.listen(Listener(self._messages_changed, self._folder_gone, self._folder_new))

    # -- telling the kernel --------------------------------------------------------------------

    def directories(self, inode: int) -> Sequence[int]:
        """``cur/``, ``new/`` and ``dovecot-keywords`` of a mailbox."""
        node = self.reading.inodes.node(inode)
        if node.uid or node.folder is None or node.folder.mailbox is None:
            return ()
        return [*self.message_directories(inode), MaildirPlace(inode, Sub.KEYWORDS).inode]

    def translate(self, parent: int, name: bytes) -> Iterable[tuple[int, bytes]]:
        """A name of the default view: a mailbox's, or a message's."""
        inodes, node = self.reading.inodes, self.reading.inodes.node(parent)
        if node.folder is None:
            return
        where = self.layout.where(node.folder, name)
        yield inodes.of(where.parent), where.name
        uid = self.reading.names.resolve(node.folder, name)
        told = self._told.get(node.base, uid) if uid is not None else None
        if told is not None and (node.base, uid) not in self._moving:
            yield MaildirPlace(node.base, told.sub).inode, told.name

    def directory_of(self, box: Mailbox, node: Node) -> InDirectory:
        """The messages that are in ``cur/`` or ``new/``, as the message *node* is."""
        folder = node.directory()
        sub, uids = self.names.beside(folder, node.uid)
        directory, own = MaildirPlace(node.base, sub).inode, self.names.own_names(folder)
        return InDirectory(directory, uids, partial(self.names.bases, folder), own)

    def message_directories(self, inode: int) -> Sequence[int]:
        """``cur/`` and ``new/`` of a mailbox."""
        return [MaildirPlace(inode, sub).inode for sub in (Sub.CUR, Sub.NEW)]

    def _messages_changed(self, folder: Folder, delta: Delta) -> None:
        inode = self.reading.inodes.of(folder)
        known = self._told.uids(inode)
        if known and delta.reloaded:
            self.take_back(folder, known)
        elif known:
            self.take_back(folder, [*delta.updated.tolist(), *delta.expunged.tolist()])
        if len(delta.updated):
            self.without_open.names_changed(inode)

    def take_back(self, folder: Folder, uids: Iterable[int]) -> None:
        """Tell the kernel of names of messages that it keeps and that have changed by now."""
        inode = self.reading.inodes.of(folder)
        for uid in uids:
            told = self._told.get(inode, uid) if (inode, uid) not in self._moving else None
            if told is not None and told != self.names.now(folder, uid):
                self._told.pop(inode, uid)
                self._kernel.shown_entry(MaildirPlace(inode, told.sub).inode, told.name)

    @contextmanager
    def moving(self, folder: Folder, uid: int) -> Iterator[None]:
        """Within this the kernel itself removes or changes the name that it keeps of a message, unless the
        request fails.

        It need not be told of that name, and must not be told while the change is half done.
        """
        key = self.reading.inodes.of(folder), uid
        self._moving.add(key)
        try:
            yield
        finally:
            self._moving.discard(key)
            self.take_back(folder, [uid])

    def has_moved(self, folder: Folder, uid: int, place: MaildirPlace | None, name: bytes = b"") -> None:
        """From now on the kernel keeps this name of a message; *place* None: it keeps none."""
        inode = self.reading.inodes.of(folder)
        if place is None:
            self._told.pop(inode, uid)
        elif self._told.get(inode, uid) is not None:
            self._told.put(inode, uid, Name(place.sub, name))

    def look_up_again(self, place: MaildirPlace, name: bytes) -> None:
        """A name means another inode than the one that the kernel keeps."""
        self._kernel.shown_entry(place.inode, name)

    def forget_directory(self, parent: int, name: bytes) -> None:
        """The name of a mailbox means nothing any more, or another one."""
        self._kernel.shown_entry(parent, name)

    def _folder_gone(self, folder: Folder) -> None:
        self._told.forget(self.reading.inodes.of(folder))
        self._folder_new(folder)

    def _folder_new(self, folder: Folder) -> None:
        if self.layout.is_flat:  # every mailbox is in the root
            self.without_open.names_changed(ROOT)

    def is_beside(self, inode: int) -> bool:
        """Whether it is the control directory, or in it: the same in each view."""
        return self.reading.inodes.node(inode).is_control or is_in_control_tree(inode)

    # -- the mailbox of a request --------------------------------------------------------------

    def folder(self, place: MaildirPlace) -> Folder:
        """The mailbox of a directory.

        :raises Refused: ENOENT: it is gone.
        """
        folder = self.reading.inodes.node(place.folder).directory()
        if folder.mailbox is None:
            raise Refused(errno.ENOENT)
        return folder

    async def checked(self, place: MaildirPlace) -> Folder:
        """The same, looked at on disk where no program tells of changes."""
        return (await self.reading.folders.checked(place.folder)).directory()

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The file or directory of this name in the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """
        place = place_of(parent)
        if place is not None:
            found = await self.reading.folders.steadily(
                place.folder, lambda inode: self.message(MaildirPlace(inode, place.sub), name, pid)
            )
            if found is None:
                raise Refused(errno.ENOENT)
            return found
        if self.is_beside(parent) or (parent == ROOT and name == control_files.NAME):
            return await self._inner.lookup(parent, name, pid)
        return await self.reading.folders.steadily(parent, lambda inode: self._lookup_directory(inode, name))

    async def message(self, place: MaildirPlace, name: bytes, pid: int = 0) -> Attrs | None:
        """The message with this name in ``cur/`` or ``new/``, for thread *pid*; None: there is none."""
        if place.sub not in (Sub.CUR, Sub.NEW):
            return None
        folder = await self.checked(place)
        uid = await self.names.resolve(folder, place.sub, name)
        if uid is None or folder.mailbox is None:
            return None
        attrs = await self._inner.lookup(place.folder, self.names.inner(folder, uid), pid)
        is_now = attrs.inode == place.folder | uid and self.names.now(folder, uid) == (place.sub, name)
        if not is_now:  # what the thread writes in its place, or it has another name by now
            attrs.entry_timeout = 0.0
        elif attrs.entry_timeout > SHORT and not self.tell(folder, uid, Name(place.sub, name)):
            attrs.entry_timeout = SHORT
        return attrs

    def tell(self, folder: Folder, uid: int, name: Name) -> bool:
        """The kernel is about to keep a name; False: it must not keep it for long."""
        return self._told.put(self.reading.inodes.of(folder), uid, name)

    def tell_all(self, folder: Folder, sub: Sub, names: Mapping[int, bytes]) -> None:
        """The kernel is about to keep these names, by uid; :meth:`can_tell` was asked before."""
        self._told.put_many(self.reading.inodes.of(folder), sub, names)

    @property
    def removals(self) -> int:
        """Grows with each name that the kernel has no more."""
        return self._told.removals

    def can_tell(self, folder: Folder, count: int) -> bool:
        """Whether the kernel may keep so many names of a mailbox for long."""
        return self._told.has_room(self.reading.inodes.of(folder), count)

    async def _lookup_directory(self, parent: int, name: bytes) -> Attrs:
        folder = (await self.reading.folders.checked(parent)).directory()
        maildir = self.layout.maildir(folder)
        if maildir is not None and name in DIRECTORIES:
            place = MaildirPlace(self.reading.inodes.of(maildir), DIRECTORIES[name])
            if self.hides(place):
                raise Refused(errno.ENOENT)
            return await self.directory(place)
        if maildir is not None and name == KEYWORDS_NAME:
            return self.keywords(MaildirPlace(self.reading.inodes.of(maildir), Sub.KEYWORDS))
        child = self.layout.child(folder, name)
        if child is None or child not in self.reading.inodes:
            raise Refused(errno.ENOENT)
        return self.mailbox(child)

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*."""
        place = place_of(inode)
        if place is None:
            if is_content(inode):
                return self.without_open.attributes(inode)
            node = self.reading.inodes.node(inode)
            attrs = await self._inner.getattr(inode, pid)
            return attrs if node.uid or node.folder is None else self._with_own(node.folder, attrs)
        if place.sub is Sub.KEYWORDS:
            await self.checked(place)
            return self.keywords(place)
        return await self.reading.folders.steady(
            place.folder, lambda found: self.directory(MaildirPlace(found, place.sub))
        )

    def mailbox(self, folder: Folder) -> Attrs:
        """The directory of a mailbox, or of a parent of some."""
        attrs = self.reading.attributes.folder(folder, self.reading.inodes.of(folder))
        return self._with_own(folder, attrs)

    def _with_own(self, folder: Folder, attrs: Attrs) -> Attrs:
        """A directory has as many links as directories in it, and two."""
        own = len(DIRECTORIES) if self.layout.maildir(folder) is not None else 0
        attrs.nlink = 2 + own + sum(1 for _ in self.layout.children(folder))
        return attrs

    async def directory(self, place: MaildirPlace) -> Attrs:
        """``cur/``, ``new/`` or ``tmp/``, with the time of the last change of a name in it."""
        folder = await self.checked(place)
        attrs = self.directory_now(place)
        box = folder.mailbox
        if box is not None and box.guid is not None:
            try:
                written = await self.reading.store.fs.stat(self._name_reader.path(box))
            except (OSError, DboxfsError):  # no message has a written name
                return attrs
            attrs.modified_ns = attrs.changed_ns = max(attrs.modified_ns, written.st_mtime_ns)
        return attrs

    def directory_now(self, place: MaildirPlace) -> Attrs:
        """The same without the time of written names."""
        attrs = self.reading.attributes.folder(self.folder(place), place.inode)
        attrs.nlink = 2
        return attrs

    def keywords(self, place: MaildirPlace) -> Attrs:
        """``dovecot-keywords``.

        :raises Refused: ENOENT: the mailbox has no keyword.
        """
        folder = self.folder(place)
        content = self._keywords_of(folder.mailbox)
        if not content:
            raise Refused(errno.ENOENT)
        attrs = self.reading.attributes.control_file(place.inode, len(content))
        attrs.modified_ns = attrs.changed_ns = self.directory_now(place).modified_ns
        attrs.entry_timeout = attrs.attr_timeout = SHORT
        return self.without_open.shown(place, content, attrs)

    def _keywords_of(self, box: Mailbox | None) -> bytes:
        state = box.state if box is not None else None
        return keywords_file(state.keyword_names()) if state is not None else b""

    # -- directories and files -----------------------------------------------------------------

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """
        place = place_of(inode)
        if place is not None:
            folder = await self.checked(place)
            if folder.mailbox is not None and place.sub in (Sub.CUR, Sub.NEW):
                self.reading.scans.opened(folder.mailbox)
            return MessageDirectory(self, place)
        if self.is_beside(inode):
            return await self._inner.opendir(inode)
        await self.reading.folders.checked(inode)
        return MailboxDirectory(self, inode)

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """Open a file.

        :raises Refused: EROFS, EACCES: it can't be written; ESTALE: it is gone.
        """
        place = place_of(inode)
        if place is None:
            return await self._inner.open(inode, flags, pid)
        if flags & _WRITING:
            raise Refused(errno.EACCES)
        content = self._keywords_of(self.folder(place).mailbox)
        return Opened(OpenControlFile(content), direct_io=True, keep_cache=False)
