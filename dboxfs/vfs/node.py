"""The file or directory of a request (:class:`Node`), and its inode number, which is computed, not stored.

::

    63 | 62 ...... 32 | 31 ........... 0
    0  | folder       | uid             a message; uid 0: the directory of the mailbox itself
    0  | 0            | 1               the root of the mount
    0  | 0            | 2 ...           the control directory and its files
    1  | number                         a draft with an inode of its own (:mod:`dboxfs.vfs.drafts`)
    11 | number                         a message that is deleted, or a directory (:mod:`dboxfs.vfs.deleted`),
                                        or, with 1101, a file of a view (:mod:`dboxfs.vfs.views.places`),
                                        or a directory of links (:mod:`dboxfs.vfs.searches`)

In numbers with bit 63, the bits from 59 down to 37 are 0: a site of many users puts its own number there
(:mod:`dboxfs.vfs.site.numbers`).

The folder number (31 bits) is taken from SHA-256 over mailbox guid and uidvalidity (a parent without
messages: over its name), so it stays when Dovecot renames a mailbox, and changes when a mailbox is deleted
and made again under the same name. Two folders with the same 31 bits (one chance in 4,000 with 1,000
mailboxes): the one that comes second in the order of names takes the next free number.

A number becomes a node in :meth:`Inodes.node`, and a node a number in :meth:`Inodes.message` and
:meth:`Inodes.of`; other modules only compare folder numbers (``inode >> 32``) and add a uid to a folder's
inode.  A node has the folder that its number stood for when the node was made: after an await that may be
another one.
"""

from __future__ import annotations

import errno
import hashlib
from typing import NamedTuple

from dboxfs.store import Folder, Mailbox
from dboxfs.vfs.errors import Refused

ROOT = 1
"""The inode number of the mount's root."""
CONTROL = 2
"""The inode number of the control directory."""
FIRST_CONTROL_FILE = 3
"""The inode number of the first control file."""
DRAFTS = 1 << 63
"""Set in the inode numbers of drafts, whose second bit is not set."""
DELETED = 3 << 62
"""Set in the inode numbers below ``.dboxfs/deleted``."""
BESIDE = 0b1101 << 60
"""The first bits of numbers that are no mailbox, message or draft: of a view or the control directory."""
SEARCHES = BESIDE | 1 << 34
"""The first bits of directories with links to messages."""
PARTS = BESIDE | 1 << 35
"""The first bits of the decoded parts of messages."""
GENERATIONS = BESIDE | 1 << 36
"""The first bits of the generations of an archive."""
RAW = BESIDE | 0b110 << 34
"""The first bits of the files of a store as they are on disk."""

_FOLDER_MASK = 0x7FFFFFFF
UID_MASK = 0xFFFFFFFF
"""The bits of a message's uid."""


class Node(NamedTuple):
    """A message, a directory, a draft, or a part of the control directory.

    :ivar inode: the number in the request.
    :ivar folder: the folder of the directory or message; None: the store knows none just now, or it is a
        draft or belongs to the control directory.
    :ivar uid: of the message; 0: it is no message.
    """

    inode: int
    folder: Folder | None
    uid: int

    @property
    def is_message(self) -> bool:
        """It is a message, which may be gone."""
        return self.uid != 0

    @property
    def is_draft(self) -> bool:
        """It is a draft with an inode of its own."""
        return self.inode & DELETED == DRAFTS

    @property
    def is_control(self) -> bool:
        """It is the control directory, or one of its files."""
        return self.inode >> 32 == 0 and self.inode != ROOT

    @property
    def base(self) -> int:
        """The inode number of its directory."""
        return self.inode - self.uid

    def directory(self) -> Folder:
        """The folder of the directory or message.

        :raises Refused: ENOENT: there is none (any more).
        """
        if self.folder is None:
            raise Refused(errno.ENOENT)
        return self.folder

    def mailbox(self) -> Mailbox:
        """The mailbox that the message is in.

        :raises Refused: ENOENT: there is none (any more).
        """
        box = self.directory().mailbox
        if box is None:
            raise Refused(errno.ENOENT)
        return box


def is_deleted(inode: int) -> bool:
    """Whether a number belongs to ``.dboxfs/deleted``."""
    return inode & DELETED == DELETED and inode >> 60 != BESIDE >> 60


def is_in_control_tree(inode: int) -> bool:
    """Whether a number belongs to a tree in the control directory (messages, links, parts ...)."""
    return is_deleted(inode) or inode & (0b1111 << 60 | 0b111 << 34) in (SEARCHES, PARTS, GENERATIONS, RAW)


def is_file(inode: int) -> bool:
    """Whether a number stands for a message or a draft, whether it exists or is gone."""
    return inode >> 32 != 0 and inode & UID_MASK != 0


def _number_of(folder: Folder) -> int:
    """The number that a folder gets, unless another one has it already."""
    return int.from_bytes(hashlib.sha256(folder.identity).digest()[:4], "big") & _FOLDER_MASK or 1


class Inodes:
    """The numbers of the folders that the store has now.

    :param root: the folder above all others.
    """

    def __init__(self, root: Folder) -> None:
        self._root = root
        self._folder: dict[int, Folder] = {}
        self._number: dict[Folder, int] = {}
        self._former: dict[int, Folder] = {}

    # -- from a number -------------------------------------------------------------------------

    def node(self, inode: int) -> Node:
        """The node that *inode* stands for now."""
        if inode & DRAFTS:
            return Node(inode, None, 0)
        number = inode >> 32
        if not number:
            return Node(inode, self._root if inode == ROOT else None, 0)
        return Node(inode, self._folder.get(number) or self._former.get(number), inode & UID_MASK)

    def folder(self, inode: int) -> Folder | None:
        """The folder that *inode* is, or is in; None: no folder has its number (any more)."""
        number = inode >> 32
        if not number or inode & DRAFTS:
            return self.node(inode).folder
        return self._folder.get(number) or self._former.get(number)

    # -- to a number ---------------------------------------------------------------------------

    def __contains__(self, folder: Folder) -> bool:
        return folder.parent is None or folder in self._number

    def of(self, folder: Folder) -> int:
        """The inode number of *folder*'s directory; its messages are this plus their uid.

        If another program has renamed or deleted the mailbox while a request about the folder was carried
        out, the folder has its old number.
        """
        if folder.parent is None:
            return ROOT
        number = self._number.get(folder)
        return (number if number is not None else _number_of(folder)) << 32

    def message(self, folder: Folder, uid: int) -> Node:
        """The node of message *uid* of *folder*."""
        return Node(self.of(folder) | uid, folder, uid)

    # -- folders come and go -------------------------------------------------------------------

    def add(self, folder: Folder) -> int:
        """Give *folder* its inode number (that of the directory)."""
        if folder.parent is None:
            return ROOT
        number = _number_of(folder)
        while number in self._folder:
            number = (number + 1) & _FOLDER_MASK or 1
        self._folder[number] = folder
        self._number[folder] = number
        return number << 32

    def remove(self, folder: Folder) -> int:
        """Forget *folder*; gives the inode number that it had, 0 if it had none."""
        number = self._number.pop(folder, 0)
        self._folder.pop(number, None)
        for former in [former for former, now in self._former.items() if now is folder]:
            del self._former[former]
        return number << 32

    def was(self, inode: int, folder: Folder) -> None:
        """*folder* had this number until it was renamed; it is found by it as long as it exists.

        The kernel uses the old number until it has learned the new one.
        """
        self._former[inode >> 32] = folder
