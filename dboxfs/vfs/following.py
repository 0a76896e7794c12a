"""Tells the kernel of changes of the store: names, attributes, bytes.

The kernel is told only of a name that went away or has another inode: it remembers no missing names, except
in mounts for putting backups back (:mod:`dboxfs.vfs.missing`).  It is not told of removals that it has asked
for itself: hidden messages (:mod:`dboxfs.vfs.names`), and directories that it removes or renames
(:meth:`Folders.going`).

Concurrency: the store calls these methods between two checkpoints; none of them awaits.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from dboxfs.store import Delta, Folder, Listener, Store
from dboxfs.store.names.follow import NameFollower
from dboxfs.store.names.of_mailbox import encode, number_of
from dboxfs.store.names.read import NameReader
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import Inodes, Node
from dboxfs.vfs.reader import Reader


class Doubter(Protocol):
    """Keeps bytes of messages, or has put them into the kernel's cache."""

    def doubt(self, folder: Node) -> None:
        """The files of a mailbox may have been repaired: all its messages may have other bytes."""

    def gone(self, folder_inode: int) -> None:
        """A mailbox is gone."""


class Following:
    """Tells the kernel of changes of the store.

    :ivar doubters: are told of messages that may have other bytes by now, and of mailboxes that are gone.
    :ivar listings_changed: how often the entries of each directory have changed, by inode.
    :ivar follower: watches the files of names; None: there are none.
    :ivar tells_new_names: the kernel is told of names that come, if it remembers missing ones.
    """

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        folders: Folders,
        names: Names,
        reader: Reader,
        name_reader: NameReader | None,
        kernel: Kernel,
    ) -> None:
        self._store = store
        self._inodes = inodes
        self._folders = folders
        self._names = names
        self.doubters: list[Doubter] = [reader]
        self.listings_changed: Counter[int] = Counter()
        self._name_reader = name_reader
        self._kernel = kernel
        self.follower = NameFollower(name_reader) if name_reader is not None else None
        self.tells_new_names = False

    def begin(self) -> None:
        """Give every folder its inode, and tell the kernel of every change from now on."""
        for folder in sorted(self._store.folders.values(), key=lambda folder: folder.name):
            self._inodes.add(folder)
        self._store.listen(Listener(self._messages_changed, self._folder_gone, self._folder_new))
        if self._name_reader is not None:
            self._name_reader.changed = self._names_changed

    def doubt(self, folder_inode: int) -> None:
        """All messages of a mailbox may have other bytes by now."""
        for doubter in self.doubters:
            doubter.doubt(self._inodes.node(folder_inode))

    def all_listings(self) -> None:
        """Have the kernel ask again for every directory: its entries and its attributes."""
        for folder in self._store.folders.values():
            inode = self._inodes.of(folder)
            self._kernel.attributes(inode)
            self._tell_listing(inode)

    def _tell_listing(self, inode: int) -> None:
        self.listings_changed[inode] += 1
        self._kernel.listing(inode)

    @property
    def _tells_new(self) -> bool:
        return self.tells_new_names and self._kernel.keeps_missing

    # -- messages ------------------------------------------------------------------------------

    def _messages_changed(self, folder: Folder, delta: Delta) -> None:
        inode = self._inodes.of(folder)
        self._follow_names(folder, delta)
        for uid in delta.updated.tolist():  # ctime tells of flags and keywords
            self._kernel.attributes(inode | uid)
        if delta.reloaded and folder.mailbox is not None:  # files may have been repaired
            self.doubt(inode)
            for uid in folder.mailbox.uids.tolist():
                self._kernel.attributes(inode | uid)
        if delta.reloaded or len(delta.appended) or len(delta.expunged):
            self._tell_listing(inode)
        self._kernel.attributes(inode)  # last: who sees the new time and lists again sees the change

    def _follow_names(self, folder: Folder, delta: Delta) -> None:
        """Tell the kernel of names after messages came or went; read the names again if these don't fit."""
        inode, hidden, written = self._inodes.of(folder), self._names.hidden(folder), self._names.written
        went, came = delta.expunged.tolist(), delta.appended.tolist()
        gone = {uid: written.name(folder, uid) for uid in went}
        lost = [name for uid, name in gone.items() if uid not in hidden and number_of(name) != uid]
        changed = written.update(folder, went, came)
        for uid, name in gone.items():
            if uid not in hidden:
                # A process that is opening a name while it is replaced must not find it deleted.
                is_there = written.resolve(folder, name) is not None
                self._kernel.entry(inode, name, 0 if is_there else inode | uid)
        for name in changed.difference(gone.values()):
            self._kernel.entry(inode, name)
        for uid in came if self._tells_new else ():
            self._kernel.entry(inode, written.name(folder, uid))
        box = folder.mailbox
        if self._name_reader is not None and box is not None and not written.explain(folder, lost, came):
            self._name_reader.is_behind(box)

    def _names_changed(self, folder: Folder, names: set[bytes]) -> None:
        if folder in self._inodes:
            for name in names:
                self._kernel.entry(self._inodes.of(folder), name)
            self._tell_listing(self._inodes.of(folder))

    # -- directories ---------------------------------------------------------------------------

    def _folder_gone(self, folder: Folder) -> None:
        inode = self._inodes.remove(folder)
        for doubter in self.doubters:
            doubter.gone(inode)
        if folder.parent is not None and folder.parent in self._inodes:
            parent, name = self._inodes.of(folder.parent), encode(folder.shown)
            if not self._folders.is_going(folder):
                self._kernel.entry(parent, name)
            self._name_is_free(folder.parent, name)
            self._kernel.attributes(parent)
            self._tell_listing(parent)

    def _folder_new(self, folder: Folder) -> None:
        """Give a new folder its inode; the kernel is told of its parent, and not of its name.

        Mostly the kernel remembers no missing names.  An invalidation of a directory that it has just made
        would take away the working directory of every process that is there by now; an epoch does not.
        """
        self._inodes.add(folder)
        if folder.mailbox is not None and folder.mailbox.guid is not None:
            self._names.written.renamed(folder.mailbox)
            if self._name_reader is not None:
                self._name_reader.is_behind(folder.mailbox)
        if folder.parent is not None:
            parent, name = self._inodes.of(folder.parent), encode(folder.shown)
            if self._tells_new or self._holder(folder.parent, name) is not None:  # or a message had the name
                self._kernel.entry(parent, name)
            self._kernel.attributes(parent)
            self._tell_listing(parent)

    def _holder(self, folder: Folder, name: bytes) -> int | None:
        """The message that has the name *name* if no directory has it; None: none."""
        uid = self._names.written.holder(folder, name) or number_of(name)
        return uid if uid is not None and folder.mailbox is not None and uid in folder.mailbox else None

    def _name_is_free(self, folder: Folder, name: bytes) -> None:
        """A directory is gone: a message that has the same name gets it back, and loses its other name."""
        uid = self._holder(folder, name)
        if uid is not None:
            for other in (b"%d.eml" % uid, b"uid-%d.eml" % uid):
                self._kernel.entry(self._inodes.of(folder), other)
