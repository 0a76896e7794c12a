"""The part of a read-only view in a mount whose kernel opens nothing (:mod:`dboxfs.vfs.unopened`).

* **Files that the view makes** (``dovecot-keywords``, ``.mh_sequences``) change, and the kernel would mix
  the pages of one content with the size of the next.  So each content has an inode number of its own, which a
  LOOKUP gives; the kernel keeps neither the name nor the attributes.
* **Listings.**  The kernel keeps them.  :mod:`dboxfs.vfs.following` tells it of messages and mailboxes that
  come and go; this module tells it of names that change because flags do.
* **Walks** (:mod:`dboxfs.vfs.walks`) go through the directories that the view has, in the order of its names.

Concurrency: only :meth:`WithoutOpen.opendir` awaits.
"""

from __future__ import annotations

import errno
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from dboxfs.store import Folder, Mailbox
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.node import Node
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.views.places import MaildirPlace, content_inode, is_content, place_of
from dboxfs.vfs.views.told_names import ViewKernel
from dboxfs.vfs.walks import InDirectory

KEPT_CONTENTS = 64
"""Contents that are kept to be read, at most."""


class _Content(NamedTuple):
    """A content that a file had."""

    place: MaildirPlace
    data: bytes
    attrs: Attrs


class ListingView(Protocol):
    """The view, as far as it is asked here (:class:`~dboxfs.vfs.unopened.ListedDirectories`)."""

    async def opendir(self, inode: int) -> OpenDirectory: ...

    def directory_of(self, box: Mailbox, node: Node) -> InDirectory: ...

    def message_directories(self, inode: int) -> Sequence[int]: ...


class WithoutOpen:
    """Contents of files that a view makes, and how often its listings changed
    (:class:`~dboxfs.vfs.unopened.UnopenedView`).

    :param view: the view itself.
    """

    def __init__(self, reading: ReadOnlyVfs, kernel: ViewKernel, view: ListingView) -> None:
        self._view = view
        self.directory_of = view.directory_of
        self.message_directories = view.message_directories
        self._is_on = False
        self._reading = reading
        self._kernel = kernel
        self._contents: OrderedDict[int, _Content] = OrderedDict()
        self._latest: dict[MaildirPlace, int] = {}
        self._next = 1
        self._changes: Counter[int] = Counter()

    def unopen(self) -> None:
        """Nothing is opened from now on."""
        self._is_on = True

    # -- files ---------------------------------------------------------------------------------

    def shown(self, place: MaildirPlace, data: bytes, attrs: Attrs) -> Attrs:
        """The attributes of a file with the content *data*: *attrs* with this content's inode number."""
        if not self._is_on:
            return attrs
        inode = self._latest.get(place, 0)
        if inode not in self._contents or self._contents[inode].data != data:
            inode = content_inode(self._next)
            self._next += 1
        attrs = replace(attrs, inode=inode, size=len(data), entry_timeout=0.0, attr_timeout=0.0)
        self._contents[inode] = _Content(place, data, attrs)
        self._contents.move_to_end(inode)
        self._latest[place] = inode
        if len(self._contents) > KEPT_CONTENTS:
            oldest, content = self._contents.popitem(last=False)
            if self._latest.get(content.place) == oldest:
                del self._latest[content.place]
        return attrs

    def attributes(self, inode: int) -> Attrs:
        """The attributes that a content had.

        :raises Refused: ESTALE: the content is too old.
        """
        return replace(self._content(inode).attrs)

    def content(self, inode: int) -> bytes | None:
        """The content of a file that the view makes; None: *inode* is no such file.

        :raises Refused: ESTALE: the content is too old.
        """
        return self._content(inode).data if is_content(inode) else None

    def _content(self, inode: int) -> _Content:
        found = self._contents.get(inode)
        if found is None:
            raise Refused(errno.ESTALE)
        return found

    # -- listings ------------------------------------------------------------------------------

    async def opendir(self, inode: int) -> OpenDirectory:
        """A snapshot of a directory, as the view gives it."""
        return await self._view.opendir(inode)

    def names_changed(self, inode: int) -> None:
        """Names in the directories of the mailbox *inode* changed, and no message came or went."""
        self._changes[inode] += 1
        self._kernel.listing(inode)

    def listing_changes(self, inode: int) -> int:
        """How often the entries of a directory have changed."""
        mailbox = mailbox_of(inode)
        return self._changes[mailbox] + self._reading.listing_changes(mailbox)

    def mailbox_folder(self, inode: int) -> Folder | None:
        """The mailbox that a directory is, or is one of; None: none, or it is gone."""
        return self._reading.inodes.folder(mailbox_of(inode))


def mailbox_of(inode: int) -> int:
    """The inode of the mailbox that a directory of a view is of; another inode: itself."""
    place = place_of(inode)
    return place.folder if place is not None else inode


def is_of_view(inode: int) -> bool:
    """Whether it is a directory or a file that a view adds, and makes itself."""
    return place_of(inode) is not None or is_content(inode)
