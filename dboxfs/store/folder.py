"""A folder of the mailbox tree, and the listeners for its changes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from msgspec import Struct, field

from dboxfs.fsapi.ops import fresh, os_error
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.mailbox import Mailbox


class Folder(Struct, eq=False):
    """A directory of the mailbox tree.  ``mailbox`` is None for a parent that holds no messages itself.

    :ivar name: storage name ("" is the root).
    :ivar shown: name of its directory in the mount (one part, UTF-8).
    :ivar children: by shown name.
    :ivar error: the reason why its directory can't be read; its known state stays.
    """

    name: str
    shown: str
    parent: Folder | None
    mailbox: Mailbox | None
    children: dict[str, Folder] = field(default_factory=dict)
    error: OSError | None = None

    def __str__(self) -> str:
        """The name in log lines and errors, like that of ``user.dbox.mailbox``."""
        if self.mailbox is not None:
            return self.mailbox.display_name
        above = self.parent
        return self.shown if above is None or above.parent is None else f"{above}/{self.shown}"

    def walk(self) -> list[Folder]:
        """This folder and all below it."""
        found = [self]
        for folder in found:
            found += folder.children.values()
        return found

    @property
    def identity(self) -> bytes:
        """The identity of this folder: guid and uidvalidity of its mailbox, else its name."""
        box = self.mailbox
        if box is None or box.guid is None:
            return b"name:" + os.fsencode(self.name)
        return b"guid:" + box.guid + box.uid_validity.to_bytes(4, "little")


class Listener(Struct, frozen=True):
    """Functions that the store calls after changes, on the event loop's thread.  They must not block.

    :ivar messages: called with the changes in a folder's mailbox.
    :ivar folder_gone: called for a folder that is gone, or was replaced.
    :ivar folder_new: called for a folder that is new, or has replaced another one.
    """

    messages: Callable[[Folder, Delta], None]
    folder_gone: Callable[[Folder], None]
    folder_new: Callable[[Folder], None]


class Listeners:
    """All listeners, called in the order in which they were added."""

    def __init__(self) -> None:
        self._all: list[Listener] = []

    def add(self, listener: Listener) -> None:
        """From now on call *listener*, too."""
        self._all.append(listener)

    def messages(self, folder: Folder, delta: Delta) -> None:
        """Tell that the folder's mailbox has changed."""
        for listener in self._all:
            listener.messages(folder, delta)

    def folder_new(self, folder: Folder) -> None:
        """Tell that the folder is new."""
        for listener in self._all:
            listener.folder_new(folder)

    def folder_gone(self, folder: Folder) -> None:
        """Tell that the folder is gone."""
        for listener in self._all:
            listener.folder_gone(folder)

    def changed(self, folder: Folder, delta: Delta, *, another: bool) -> None:
        """Tell that the folder now has another mailbox (*another*), or that its mailbox has changed by
        *delta*.
        """
        if another:
            self.folder_gone(folder)
            self.folder_new(folder)
        elif delta:
            self.messages(folder, delta)


def why_unreadable(error: OSError) -> BaseException:
    """The error for a request that needs a directory which can't be read.

    Never ENOENT, which would mean that there is no mail, although the store is gone: EIO instead.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return os_error(errno.EIO, error.filename)
    return fresh(error)
