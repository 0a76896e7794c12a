"""A folder of the mailbox tree, and who is told what changes in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from dboxfs.fsapi.ops import fresh, os_error
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.mailbox import Mailbox


@dataclass(eq=False, slots=True)
class Folder:
    """A directory of the mailbox tree.  ``mailbox`` is None for a parent that holds no messages itself.

    :ivar name: storage name ("" is the root).
    :ivar shown: name of its directory in the mount (one part, UTF-8).
    :ivar children: by shown name.
    :ivar error: why its directory can't be read; what was known of it stays.
    """

    name: str
    shown: str
    parent: Folder | None
    mailbox: Mailbox | None
    children: dict[str, Folder] = field(default_factory=dict)
    error: OSError | None = None

    def __str__(self) -> str:
        """How log lines and errors name it, as ``user.dbox.mailbox`` does."""
        if self.mailbox is not None:
            return self.mailbox.display_name
        above = self.parent
        return self.shown if above is None or above.parent is None else f"{above}/{self.shown}"

    @property
    def identity(self) -> bytes:
        """What makes this folder the one it is: guid and uidvalidity of its mailbox, else its name."""
        box = self.mailbox
        if box is None or box.guid is None:
            return b"name:" + os.fsencode(self.name)
        return b"guid:" + box.guid + box.uid_validity.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom the store tells, on the event loop's thread, what has changed.  It must not block.

    :ivar messages: what changed in a folder's mailbox.
    :ivar folder_gone: a folder is not there any more, or is another one.
    :ivar folder_new: a folder is there that was not, or is another one.
    """

    messages: Callable[[Folder, Delta], None]
    folder_gone: Callable[[Folder], None]
    folder_new: Callable[[Folder], None]


class Listeners:
    """All who are told, in the order in which they came."""

    def __init__(self) -> None:
        self._all: list[Listener] = []

    def add(self, listener: Listener) -> None:
        """Tell *listener* too, from now on."""
        self._all.append(listener)

    def messages(self, folder: Folder, delta: Delta) -> None:
        """The folder's mailbox has changed."""
        for listener in self._all:
            listener.messages(folder, delta)

    def folder_new(self, folder: Folder) -> None:
        """The folder is there."""
        for listener in self._all:
            listener.folder_new(folder)

    def folder_gone(self, folder: Folder) -> None:
        """The folder has gone."""
        for listener in self._all:
            listener.folder_gone(folder)

    def changed(self, folder: Folder, delta: Delta, *, another: bool) -> None:
        """What the folder's mailbox has now is another mailbox (*another*), or has changed by *delta*."""
        if another:
            self.folder_gone(folder)
            self.folder_new(folder)
        elif delta:
            self.messages(folder, delta)


def why_unreadable(error: OSError) -> BaseException:
    """Why a directory that has to be there can't be read, for who asks for it.

    Never that it is missing, which would say that there is no mail: the store has gone.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return os_error(errno.EIO, error.filename)
    return fresh(error)
