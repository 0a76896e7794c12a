"""``.dboxfs/generations/``: the generations of the archive that is mounted, a small file each.

A file is called as its generation is (``20261130T091500Z-4ba2e1bfb557aefd``) and tells, in JSON, whether it
is the one that is shown, and which ``-o at=`` mounts it.  What there is was read when the mount was made.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.control import OpenControlFile
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import ListingRow, OpenDirectory
from dboxfs.vfs.node import GENERATIONS
from dboxfs.vfs.options import ShownGeneration


class GenerationTree:
    """The tree.  Its numbers: the root, and behind it one for each generation, the oldest first."""

    name = b"generations"
    root = GENERATIONS

    def __init__(self, generations: Sequence[ShownGeneration], attributes: Attributes) -> None:
        self._generations = generations
        self._attributes = attributes
        self._numbers = {one.name.encode("ascii"): number for number, one in enumerate(generations, 1)}

    def owns(self, inode: int) -> bool:
        """Whether an inode number is one of its own."""
        return GENERATIONS <= inode <= GENERATIONS + len(self._generations)

    def _attrs(self, inode: int) -> Attrs:
        if not self.owns(inode):
            raise Refused(errno.ESTALE)
        if inode == self.root:
            attrs = self._attributes.control_dir(inode)
        else:
            attrs = self._attributes.control_file(inode, len(self._content(inode)))
        attrs.mode &= ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        return attrs

    def _content(self, inode: int) -> bytes:
        return self._generations[inode - self.root - 1].content

    async def lookup(self, parent: int, name: bytes) -> Attrs:
        """
        :raises Refused: ENOENT: nothing is called so.
        """
        if parent != self.root or name not in self._numbers:
            raise Refused(errno.ENOENT)
        return self._attrs(self.root + self._numbers[name])

    async def getattr(self, inode: int) -> Attrs:
        """
        :raises Refused: ESTALE: there is none.
        """
        return self._attrs(inode)

    async def opendir(self, inode: int) -> OpenDirectory:
        """
        :raises Refused: ENOTDIR: it is a file.
        """
        if inode != self.root:
            raise Refused(errno.ENOTDIR)
        own = self._attrs(inode)
        entries = [(b".", own), (b"..", own)]
        entries += [(name, self._attrs(inode + number)) for name, number in self._numbers.items()]
        return _OpenGenerations(own, entries)

    async def open(self, inode: int) -> OpenControlFile:
        """Open a file to be read.

        :raises Refused: EISDIR: it is the directory; ESTALE: there is none.
        """
        if inode == self.root:
            raise Refused(errno.EISDIR)
        self._attrs(inode)
        return OpenControlFile(self._content(inode))

    async def xattrs(self, inode: int) -> Mapping[str, str]:
        """There are none."""
        return {}


class _OpenGenerations(Struct, frozen=True):
    """The directory, opened."""

    own: Attrs
    entries: Sequence[tuple[bytes, Attrs]]

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position, (name, attrs) in enumerate(self.entries[start:], start + 1):
            yield position, name, attrs

    async def sizes(self, start: int) -> None:
        """Does nothing: sizes are known."""

    def attributes(self) -> Attrs:
        return self.own

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
