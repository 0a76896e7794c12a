"""What a directory of the control directory is made of: a tree of its own, with inode numbers of its own.

Concurrency: every method may await; what a number stands for may be gone by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.listing import OpenDirectory
from dboxfs.vfs.open_files import OpenFile


class ControlTree(Protocol):
    """A tree of the control directory.

    ``name``: in the control directory.  ``root``: the inode number of its top.
    """

    @property
    def name(self) -> bytes: ...

    @property
    def root(self) -> int: ...

    def owns(self, inode: int) -> bool:
        """Whether an inode number is one of its own."""

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """
        :raises Refused: ENOENT: nothing is called so.
        """

    async def getattr(self, inode: int) -> Attrs:
        """
        :raises Refused: ESTALE, ENOENT: it is gone.
        """

    async def opendir(self, inode: int) -> OpenDirectory:
        """
        :raises Refused: ENOENT: it is gone.
        """

    async def open(self, inode: int) -> OpenFile:
        """Open a file to be read.

        :raises Refused: ESTALE: it is gone; EISDIR.
        """

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """Attributes ``user.*``, by what stands behind that."""
