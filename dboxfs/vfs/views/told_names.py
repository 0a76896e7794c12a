"""Telling the kernel of changes in a mount with a view: names are translated into those of the view.

:class:`ViewKernel` stands between :mod:`dboxfs.vfs` and the kernel.  Inode numbers of mailboxes and messages
are the same in every view, so a message about an inode is passed on unchanged; a name is translated by the
view.  :class:`ToldNames` remembers which names the kernel keeps.

Concurrency: only :meth:`ViewKernel.now` awaits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Protocol

from dboxfs.vfs.host import Kernel
from dboxfs.vfs.views.maildir_names import Name
from dboxfs.vfs.views.places import Sub

TOLD_MOST = 50_000
"""Names that are remembered at most; names of more messages are looked up again every half second."""


class NameTranslator(Protocol):
    """A view that translates names."""

    def directories(self, inode: int) -> Sequence[int]:
        """The inodes whose attributes and listings change when those of the mailbox *inode* do."""

    def translate(self, parent: int, name: bytes) -> Iterable[tuple[int, bytes]]:
        """The directories and names that *name* in the mailbox *parent* has in the view."""


class ViewKernel:
    """A kernel that hears of the names of a view.

    :ivar view: translates names; None until the view is made.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.view: NameTranslator | None = None

    @property
    def names_expire(self) -> bool:
        return self._kernel.names_expire

    @property
    def keeps_missing(self) -> bool:
        """Views are not for putting backups back."""
        return False

    def attributes(self, inode: int) -> None:
        for found in self._with_view(inode):
            self._kernel.attributes(found)

    def at_once(self, inode: int) -> None:
        for found in self._with_view(inode):
            self._kernel.at_once(found)

    def listing(self, inode: int) -> None:
        for found in self._with_view(inode):
            if found != inode:  # the times of the view's own directories tell of names, too
                self._kernel.attributes(found)
            self._kernel.listing(found)

    def _with_view(self, inode: int) -> Sequence[int]:
        return (inode, *self.view.directories(inode)) if self.view is not None else (inode,)

    def entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        for directory, shown in self._translated(parent, name):
            self._kernel.entry(directory, shown)

    async def now(self, parent: int, name: bytes) -> None:
        for directory, shown in self._translated(parent, name):
            await self._kernel.now(directory, shown)

    def _translated(self, parent: int, name: bytes) -> Iterable[tuple[int, bytes]]:
        return list(self.view.translate(parent, name)) if self.view is not None else ()

    def push(self, inode: int, data: bytes) -> bool:
        return self._kernel.push(inode, data)

    def shown_entry(self, parent: int, name: bytes) -> None:
        """A name of the view went away, or means something else now."""
        self._kernel.entry(parent, name)


class ToldNames:
    """The names of messages that the kernel remembers, by the inode of the mailbox and the uid.

    :ivar removals: grows with each name that the kernel has no more.
    """

    def __init__(self, most: int = TOLD_MOST) -> None:
        self.removals = 0
        self._most = most
        self._names: dict[int, dict[Sub, dict[int, bytes]]] = {}
        self._count = 0

    def has_room(self, folder: int, more: int) -> bool:
        """Whether so many names of a mailbox can be remembered beside those of the others."""
        return self._count - len(self.uids(folder)) + more <= self._most

    def put(self, folder: int, uid: int, name: Name) -> bool:
        """The kernel is told this name of a message; False: there is no room to remember it."""
        if self._count >= self._most and self.get(folder, uid) is None:
            return False
        self.put_many(folder, name.sub, {uid: name.name})
        return True

    def put_many(self, folder: int, sub: Sub, names: Mapping[int, bytes]) -> None:
        """The kernel is told these names, by uid, for which :meth:`has_room` said that there is room."""
        of_folder = self._names.setdefault(folder, {})
        here = of_folder.setdefault(sub, {})
        self._count -= len(here)
        here.update(names)
        self._count += len(here)
        for other, there in of_folder.items():
            for uid in there.keys() & names.keys() if other is not sub else ():
                del there[uid]
                self._count -= 1

    def get(self, folder: int, uid: int) -> Name | None:
        """The name that the kernel was told; None: none."""
        for sub, names in self._names.get(folder, {}).items():
            if uid in names:
                return Name(sub, names[uid])
        return None

    def pop(self, folder: int, uid: int) -> None:
        """The kernel has it no more."""
        self.removals += 1
        for names in self._names.get(folder, {}).values():
            self._count -= names.pop(uid, None) is not None

    def uids(self, folder: int) -> list[int]:
        """The messages of a mailbox that the kernel was told a name of."""
        return list(chain.from_iterable(self._names.get(folder, {}).values()))

    def forget(self, folder: int) -> None:
        """The mailbox is gone."""
        self.removals += 1
        self._count -= len(self.uids(folder))
        self._names.pop(folder, None)
