"""The names of messages, as the mount shows them: without those of hidden messages.
``store/names/of_mailbox.py`` decides which of its possible names a message has.

A message is *hidden* from the request to remove it until the mailbox, read again, doesn't have it any more
(:mod:`dboxfs.vfs.removals`).

Concurrency: only :meth:`Names.know` awaits; every other method is atomic.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping
from weakref import WeakValueDictionary

from dboxfs.store import Folder
from dboxfs.store.names.codec import LONGEST_NAME, can_be
from dboxfs.store.names.of_mailbox import decode, number_of
from dboxfs.store.names.read import NameReader
from dboxfs.store.names.table import WrittenNames
from dboxfs.util.lock import Lock
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.node import Inodes


async def tell_owner(kernel: Kernel, inodes: Inodes, folder: Folder, name: bytes, uid: int) -> None:
    """Message *uid* is not called *name* any more.  If that is ``<uid>.eml`` of another message, which has it
    from now on, the kernel knows before the answer that the other name of that message is gone.
    """
    owner = number_of(name)
    if owner not in (None, uid) and folder.mailbox is not None and owner in folder.mailbox:
        await kernel.now(inodes.of(folder), b"uid-%d.eml" % owner)


def check_name(name: bytes) -> None:
    """Check that a file can have this name.

    :raises Refused: ENAMETOOLONG, EINVAL: it can't.
    """
    if len(name) > LONGEST_NAME:
        raise Refused(errno.ENAMETOOLONG)
    if not can_be(name):
        raise Refused(errno.EINVAL)


class Names:
    """Finds messages by name, and names by message.

    :param reader: has read the files of names; None: there are no written names.
    :ivar written: the names that programs gave to messages.
    """

    def __init__(self, reader: NameReader | None) -> None:
        self._reader = reader
        self.written = reader.names if reader is not None else WrittenNames()
        self._hidden: dict[str, set[int]] = {}

    # -- looking up ----------------------------------------------------------------------------

    async def know(self, folder: Folder) -> None:
        """Read names that other mounts have written, if messages came or went whose names are unknown."""
        if self._reader is not None:
            await self._reader.catch_up(folder)

    async def be_sure(self, folder: Folder) -> None:
        """Read the names of a mailbox again: another mount has changed it since.

        :raises OSError: they can't be read.
        """
        if self._reader is not None:
            await self._reader.be_sure(folder)

    def resolve(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message called *name*; None: there is none."""
        uid = self.written.resolve(folder, name)
        return None if uid is not None and uid in self.hidden(folder) else uid

    def child(self, folder: Folder, name: bytes) -> Folder | None:
        """The directory called *name* in *folder*; None: there is none."""
        return folder.children.get(decode(name))

    def name(self, folder: Folder, uid: int) -> bytes:
        """The name of a message."""
        return self.written.name(folder, uid)

    def listed(self, folder: Folder) -> Mapping[int, bytes]:
        """uid -> name, for messages that a listing doesn't show as ``<uid>.eml``; empty: not listed."""
        shown, hidden = self.written.unusual(folder), self.hidden(folder)
        return {**shown, **dict.fromkeys(hidden, b"")} if hidden else shown

    def version(self, folder: Folder) -> object:
        """Another value whenever names of a listing may have changed."""
        return self.written.version(folder), tuple(folder.children), frozenset(self.hidden(folder))

    @property
    def skipped_lines(self) -> int:
        """Lines of the files of names that can't be read."""
        return self._reader.skipped if self._reader is not None else 0

    # -- hiding --------------------------------------------------------------------------------

    def hidden(self, folder: Folder) -> Collection[int]:
        """The uids of *folder* that are hidden."""
        return self._hidden.get(folder.name, ()) if self._hidden else ()

    def hide(self, folder: Folder, uid: int) -> None:
        """Hide a message: from now on it has no name."""
        self._hidden.setdefault(folder.name, set()).add(uid)

    def show(self, folder: Folder, uids: Iterable[int]) -> None:
        """Hide these messages no longer: they are gone, or their removal has failed."""
        hidden = self._hidden.get(folder.name)
        if hidden is not None:
            hidden.difference_update(uids)
            if not hidden:
                del self._hidden[folder.name]


class NameLocks:
    """A lock for each name of each folder, as long as a task holds it or waits for it.

    Changes of the file that a name stands for come one after the other.  A caller that gives the name to
    another file (a rename) tells the writers of the old file before another task runs.
    """

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._locks: WeakValueDictionary[tuple[int, bytes], Lock] = WeakValueDictionary()

    def of(self, folder: Folder, name: bytes) -> Lock:
        """The lock of *name* in *folder*."""
        key = self._inodes.of(folder), name
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = Lock()
        return lock
