"""A read-only mail file system: gives each request its meaning, and answers it from the store.

A request is about an inode (:mod:`dboxfs.vfs.node`), or about a name in a directory.  Each method takes
numbers and bytes, as the kernel has them, and gives values of this package.

Errors: :class:`~dboxfs.vfs.errors.Refused` where the request itself is refused,
:class:`~dboxfs.errors.DboxfsError` and OSError where something is wrong with the store.  This module doesn't
know FUSE.

Concurrency: many requests at a time, on one event loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from dboxfs.errors import NoSuchMessage
from dboxfs.store import Facts, Folder, Store
from dboxfs.store.anew import read_anew
from dboxfs.store.names.follow import NameFollower
from dboxfs.store.names.of_mailbox import decode
from dboxfs.store.names.read import NameReader
from dboxfs.vfs import control as control_files
from dboxfs.vfs import events, xattrs
from dboxfs.vfs.attrs import SHORT, Attributes, Attrs
from dboxfs.vfs.control import Control, OpenControlDirectory
from dboxfs.vfs.control_tree import ControlTree
from dboxfs.vfs.deleted import Deleted
from dboxfs.vfs.departures import Departures
from dboxfs.vfs.desktop_xattrs import MIME_TYPE, DesktopAttributes, is_desktop
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.events import EventStream
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.following import Doubter, Following
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.host import Host
from dboxfs.vfs.listing import Listings, OpenDirectory
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import CONTROL, ROOT, Inodes, is_in_control_tree
from dboxfs.vfs.open_files import OpenFiles
from dboxfs.vfs.options import ViewOptions
from dboxfs.vfs.parts import MessageParts
from dboxfs.vfs.raw import RawTree
from dboxfs.vfs.reader import Opened, Reader
from dboxfs.vfs.scans import Scans
from dboxfs.vfs.searches import SearchPlaces
from dboxfs.vfs.store_report import StoreReport

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


class ReadOnlyVfs:
    """Answers every request of a read-only mount.

    :param name_reader: has read the written names of messages; None: the store has none.
    :ivar control: the control directory.  :ivar report: the content of its files.
    :ivar follower: watches the files of names.
    :ivar deleted: the tree of expunged messages; None: an sdbox, or only a part of the store is shown.
    :ivar events: the stream of changes of the store.
    :ivar searches: those of them that have messages as links.  :ivar trees: the directories of the control
        directory.
    :ivar departures: facts of messages that are gone, in a mount without OPEN; None: the kernel tells which
        files are open.

    :class:`~dboxfs.vfs.writable.WritableVfs` also uses ``inodes``, ``folders``, ``names``, ``forwarding``,
    ``attributes``, ``open_files``, ``reader``, ``scans``, ``full_names`` and ``listings``.
    """

    def __init__(
        self, store: Store, options: ViewOptions, host: Host, name_reader: NameReader | None = None
    ) -> None:
        self.store = store
        self.host = host
        self.full_names = options.full_names
        self.inodes = Inodes(store.root)
        self.folders = Folders(store, self.inodes)
        self.names = Names(name_reader)
        self.open_files = OpenFiles()
        self.forwarding = Forwarding(self.inodes, self.names, self.open_files)
        self.report = StoreReport(store, host.requests, host.observed)
        self.control = Control(self.report.makers())
        written = self.open_files.written
        self.attributes = Attributes(store, options, self.report.mounted_at, host.kernel, written)
        self.scans = Scans(self.folders, self.open_files, host.spawn)
        self.reader = Reader(store, self.forwarding, self.open_files, host)
        self.listings = Listings(
            store, self.inodes, self.folders, self.names, self.attributes, self.scans, written
        )
        self._following = Following(
            store, self.inodes, self.folders, self.names, self.reader, name_reader, host.kernel
        )
        keeps = store.storage is not None and store.location.only is None  # a part of a store shows none
        self.deleted = Deleted(store, self.attributes) if keeps else None
        self.events = EventStream(store, lambda folder: self.full_names.of(store, folder), host.spawn)
        self.control.streams(events.NAME, self.events)
        self.searches = SearchPlaces(
            store, self.inodes, self.folders, self.names, self.attributes, self.scans
        )
        parts = MessageParts(store, self.inodes, self.folders, self.attributes)
        self.trees: list[ControlTree] = [*self.searches.trees(), parts]
        if not store.fs.capabilities.frozen and store.location.only is None:
            self.trees.append(RawTree(store, self.attributes, host.spawn))
        if self.deleted is not None:
            self.trees.append(self.deleted)
        self.report.more += [self.reader.stats, self._stats, host.stats]
        self._name_reader = name_reader
        self._looks = xattrs.Looks(self.inodes)
        self.desktop = DesktopAttributes()
        self.departures: Departures | None = None
        self._following.begin()

    def _stats(self) -> Mapping[str, object]:
        return {"skipped_lines_of_names": self.names.skipped_lines}

    def doubt(self, folder_inode: int) -> None:
        """Drop the kernel's pages of a mailbox whose files may have been repaired before it was opened."""
        self._following.doubt(folder_inode)

    def tell(self, doubter: Doubter) -> None:
        """Also tell *doubter* of messages that may have other bytes, and of mailboxes that are gone."""
        self._following.doubters.append(doubter)

    def tell_new_names(self) -> None:
        """Tell the kernel of names that come, where it remembers missing ones (:mod:`dboxfs.vfs.missing`)."""
        self._following.tells_new_names = True

    async def drop_caches(self) -> None:
        """Read the store again, and have the kernel ask again for everything.

        :raises DboxfsError, OSError: the store can't be read again; it stays as it was.
        """
        await read_anew(self.store)
        if self._name_reader is not None:
            await self._name_reader.look_anew()
        self._following.all_listings()

    def listing_changes(self, inode: int) -> int:
        """How often the entries of a directory have changed."""
        return self._following.listings_changed[inode]

    @property
    def follower(self) -> NameFollower | None:
        """Watches the files of names; None: there are none."""
        return self._following.follower

    def tree(self, inode: int) -> ControlTree | None:
        """The tree of the control directory that an inode number belongs to; None: none."""
        if not is_in_control_tree(inode):
            return None
        return next((tree for tree in self.trees if tree.owns(inode)), None)

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :param pid: the thread that asks; all of them see the same.
        :raises Refused: ENOENT: there is none.
        """
        if parent == CONTROL:
            for top in self.trees:
                if name == top.name:
                    return await top.getattr(top.root)
            return self._control_attrs(self.control.lookup(name))
        if (tree := self.tree(parent)) is not None:
            return await tree.lookup(parent, name)
        if parent == ROOT and name == control_files.NAME:
            return self.attributes.control_dir(CONTROL)
        return await self.folders.steadily(parent, lambda inode: self._lookup(inode, name))

    def _control_attrs(self, inode: int) -> Attrs:
        attrs = self.attributes.control_file(inode, self.control.size(inode))
        if self.control.stream_of(inode) is not None:
            attrs.entry_timeout = attrs.attr_timeout = 0.0
        return attrs

    async def _lookup(self, parent: int, name: bytes) -> Attrs:
        folder = (await self.folders.checked(parent)).directory()
        found = await self._find_message(folder, name)
        if found is None:
            child = folder.children.get(decode(name))
            if child is None or child not in self.inodes:
                raise Refused(errno.ENOENT)
            return self.attributes.folder(child, self.inodes.of(child))
        uid, facts = found
        attrs = self.attributes.message(parent | uid, facts, folder)
        if attrs.entry_timeout > SHORT:  # a LOOKUP comes: the kernel has neither this name nor its pages
            self.reader.forget(attrs.inode)
        return attrs

    async def _find_message(self, folder: Folder, name: bytes) -> tuple[int, Facts] | None:
        """The message called *name*, and its facts; None: there is none.

        If the message is expunged while its facts are read, another one may have its name, and is taken.
        """
        before = 0
        while True:
            await self.names.know(folder)
            uid, box = self.names.resolve(folder, name), folder.mailbox
            if uid is None or box is None:
                return None
            try:
                facts = await box.facts_of(uid)
                if self.departures is not None and not facts.damaged:
                    await self.departures.hold(box, uid)
                return uid, facts
            except NoSuchMessage:
                if uid == before:
                    raise
                before = uid

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*.

        :param pid: the thread that asks; all of them see the same.
        :raises Refused: ESTALE: it is a message, and gone; ENOENT: a directory that is gone.
        """
        node = self.inodes.node(inode)
        if (facts := self.scans.known(node)) is not None:  # the usual case of the most frequent request
            return self.attributes.message(inode, facts)
        if inode == CONTROL:
            return self.attributes.control_dir(inode)
        if node.is_control:
            return self._control_attrs(inode)
        if (tree := self.tree(inode)) is not None:
            return await tree.getattr(inode)
        return await self.folders.steady(inode, self._getattr)

    async def _getattr(self, inode: int) -> Attrs:
        node = self.inodes.node(inode)
        if not node.uid:
            node = await self.folders.checked(inode)
            return self.attributes.folder(node.directory(), inode)
        return await self.message_attrs(inode, inode)

    async def message_attrs(self, inode: int, shown: int) -> Attrs:
        """The attributes of the message *inode*, under the number *shown*.

        :raises Refused, DboxfsError, OSError: it is gone, or can't be read.
        """
        if self.departures is not None:
            return self.attributes.message(shown, await self._unopened_facts(self.departures, inode))
        return self.attributes.message(shown, await self.forwarding.use(inode, self.scans.facts))

    async def _unopened_facts(self, departures: Departures, inode: int) -> Facts:
        try:
            return await self.scans.facts(self.inodes.node(inode))
        except NoSuchMessage:
            facts = departures.facts(inode)
            if facts is None:
                raise
            return facts

    # -- directories ---------------------------------------------------------------------------

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory, or the control directory.

        :raises Refused: ENOENT: it is gone.
        """
        if inode == CONTROL:
            more = {tree.name: await tree.getattr(tree.root) for tree in self.trees}
            return OpenControlDirectory(self.control.listed(), self.attributes, more)
        if (tree := self.tree(inode)) is not None:
            return await tree.opendir(inode)
        return await self.listings.open(inode)

    # -- files ---------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """Open a message, or a control file, for reading.

        :param flags: of open(2).  :param pid: the thread that asks.
        :raises Refused: EROFS: for writing; ESTALE: it is gone.
        """
        if flags & _WRITING:
            raise Refused(errno.EROFS)
        return await self.open_to_read(inode, flags)

    async def open_to_read(self, inode: int, flags: int) -> Opened:
        """:meth:`open`, without the check that the flags ask for reading only."""
        if self.inodes.node(inode).is_control:
            return Opened(self.control.open(inode), direct_io=True, keep_cache=False)
        if (tree := self.tree(inode)) is not None:
            return Opened(await tree.open(inode), direct_io=True, keep_cache=False)
        return await self.folders.steady(inode, lambda now: self.reader.open(self.inodes.node(now), flags))

    # -- extended attributes -------------------------------------------------------------------

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute.

        :raises Refused: ENODATA: there is none; EOPNOTSUPP: a name that doesn't begin with ``user.``.
        """
        seen = self._looks.get(inode)
        if seen is not None and (known := seen.values.get(name)) is not None:
            return known
        word = xattrs.word(name)
        try:
            if is_desktop(name):
                return await self.folders.steady(inode, lambda now: self._desktop_value(now, name))
            value = await self.folders.steady(inode, lambda now: self._xattr(now, word)) if word else None
        except Refused as exc:
            value = self._kept_xattrs(inode, exc).get(word or "")
        if value is None:
            raise Refused(errno.ENODATA)
        return xattrs.encoded(value)

    def _kept_xattrs(self, inode: int, error: Refused) -> Mapping[str, str]:
        """The attributes of a message that is gone, and that a process has open.

        :raises Refused: *error*: no process has it open, or it is not gone.
        """
        kept = self.open_files.kept(inode) if error.errno in (errno.ESTALE, errno.ENOENT) else None
        if kept is None:
            raise error
        return xattrs.kept_values(*kept)

    async def _desktop_value(self, inode: int, name: bytes) -> bytes:
        if (tree := self.tree(inode)) is not None:
            kind = (await tree.xattrs(inode)).get("content_type") if name == MIME_TYPE else None
            if kind is None:
                raise Refused(errno.ENODATA)
            return kind.encode("utf-8", "backslashreplace")
        node = self.inodes.node(inode)
        if not node.is_message or node.is_control:
            raise Refused(errno.ENODATA)
        box = (await self.folders.checked(inode)).mailbox()
        return await self.forwarding.use(inode, lambda now: self.desktop.value(box, now.uid, name))

    async def _xattr(self, inode: int, word: str) -> str | None:
        if self.inodes.node(inode).is_control:
            return None
        if (tree := self.tree(inode)) is not None:
            return (await tree.xattrs(inode)).get(word)
        node = await self.folders.checked(inode)
        if not node.uid:
            return await xattrs.folder_value(self.store, node.directory(), word, self.full_names)
        box = node.mailbox()
        return await self.forwarding.use(inode, lambda now: xattrs.message_value(box, now.uid, word))

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes.

        :raises Refused: ESTALE, ENOENT: it is gone.
        """
        seen = self._looks.get(inode)
        if seen is not None:
            return seen.names
        try:
            return await self.folders.steady(inode, self._xattr_names)
        except Refused as exc:
            return [xattrs.PREFIX + name.encode() for name in self._kept_xattrs(inode, exc)]

    async def _xattr_names(self, inode: int) -> Sequence[bytes]:
        if self.inodes.node(inode).is_control:
            return []
        if (tree := self.tree(inode)) is not None:
            return [xattrs.PREFIX + name.encode() for name in await tree.xattrs(inode)]
        node = await self.folders.checked(inode)
        if not node.uid:
            return [xattrs.PREFIX + name.encode() for name in xattrs.folder_names(node.directory())]
        box = node.mailbox()
        return (await self.forwarding.use(inode, lambda now: self._looks.take(inode, box, now.uid))).names

    # -- the file system -----------------------------------------------------------------------

    async def statfs(self) -> os.statvfs_result:
        """The values of the file system that the store lies on."""
        return await self.store.statvfs()
