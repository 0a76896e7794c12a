"""The interface of a directory in the control directory: a tree with inode numbers of its own.

Concurrency: every method may await; the file of a number may be gone by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.open_files import OpenFile


class ControlTree(Protocol):
    """A tree of the control directory.

    ``name``: its name in the control directory.  ``root``: the inode number of its top.
    """

    @property
    def name(self) -> bytes: ...

    @property
    def root(self) -> int: ...

    def owns(self, inode: int) -> bool:
        """Whether an inode number is one of its own."""

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*.

        :raises Refused: ENOENT: there is none.
        """

    async def getattr(self, inode: int) -> Attrs:
        """The attributes of *inode*.

        :raises Refused: ESTALE, ENOENT: it is gone.
        """

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory.

        :raises Refused: ENOENT: it is gone.
        """

    async def open(self, inode: int) -> OpenFile:
        """Open a file for reading.

        :raises Refused: ESTALE: it is gone; EISDIR: it is a directory.
        """

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """The attributes ``user.dbox.*``: the rest of the name -> the value."""
