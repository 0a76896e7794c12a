"""Inode numbers: computed, not stored, and the same after every mount.

::

    63 .......... 32 31 ........... 0
    folder (31 bits)  uid             a message; uid 0: the folder itself
    0                 1               the root of the mount
    0                 2 ...           the control directory and its files

The folder number is taken from SHA-256 over mailbox guid and uidvalidity (a parent without messages: over
its name), so it stays when Dovecot renames a mailbox, and changes when a mailbox is deleted and made again
under the same name. Two folders with the same 31 bits (one chance in 4,000 with 1,000 mailboxes): the one
that comes second in the order of names takes the next free number.
"""

from __future__ import annotations

import hashlib

from dboxfs.store import Folder

ROOT = 1
CONTROL = 2
FIRST_CONTROL_FILE = 3
_MASK = 0x7FFFFFFF
UID_MASK = 0xFFFFFFFF


class Inodes:
    """Folder numbers of the folders that are there now."""

    def __init__(self) -> None:
        self._folder: dict[int, Folder] = {}
        self._number: dict[Folder, int] = {}
        self._former: dict[int, Folder] = {}

    def add(self, folder: Folder) -> int:
        """Give *folder* its inode number (that of the directory)."""
        if folder.parent is None:
            return ROOT
        number = int.from_bytes(hashlib.sha256(folder.identity).digest()[:4], "big") & _MASK or 1
        while number in self._folder:
            number = (number + 1) & _MASK or 1
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
        """*folder* had this number until it was renamed, and is found by it as long as it is there.

        The kernel asks so until it has heard of the new one.
        """
        self._former[inode >> 32] = folder

    def __contains__(self, folder: Folder) -> bool:
        return folder.parent is None or folder in self._number

    def of(self, folder: Folder) -> int:
        """The inode number of *folder*'s directory; its messages are this plus their uid."""
        return ROOT if folder.parent is None else self._number[folder] << 32

    def folder(self, inode: int) -> Folder | None:
        """The folder that *inode* is, or is in; None for the root, control files and what has gone."""
        number = inode >> 32
        return self._folder.get(number) or self._former.get(number)
