"""The tree of files behind the ``memory`` driver: inodes, directories, symbolic links, hard links.

Names resolve as on Linux, and errors are those of Linux (EISDIR for unlink of a directory, ENOTEMPTY,
ELOOP ...).  Permissions are kept and shown but not enforced, as for root.  Nothing here waits or knows of
the event loop.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Protocol

from msgspec import Struct, field

from dboxfs.fsapi.ops import LockKind, os_error
from dboxfs.fsapi.types import Permissions

_NAME_MAX = 255
_LINKS_MAX = 40
_DEVICE = 0xDB0F


class Holder(Protocol):
    """An open file, of any driver, that has locked a node."""

    @property
    def closed(self) -> bool:
        """Whether it was closed, so that it holds no lock any more."""


class MemoryNode(Struct, eq=False):
    """An inode: a regular file (``data``), a directory (``entries``) or a symbolic link (``target``).

    ``locks``: the open file that took each lock; a closed one doesn't count.
    """

    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    mtime_ns: int = field(default_factory=time.time_ns)
    data: bytearray = field(default_factory=bytearray)
    entries: dict[str, MemoryNode] = field(default_factory=dict)
    target: str = ""
    locks: dict[LockKind, Holder] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def changed(self) -> None:
        """Note a change of the bytes: the mtime grows, by 1 ns at least."""
        self.mtime_ns = max(time.time_ns(), self.mtime_ns + 1)

    @property
    def is_dir(self) -> bool:
        """A directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.mode)

    def stat(self) -> os.stat_result:
        """The attributes, with nanoseconds and blocks."""
        size = len(os.fsencode(self.target)) if self.is_symlink else len(self.data)
        seconds = self.mtime_ns // 10**9
        times = dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), self.mtime_ns)
        return os.stat_result(
            (
                self.mode,
                self.ino,
                _DEVICE,
                self.nlink,
                self.uid,
                self.gid,
                size,
                seconds,
                seconds,
                seconds,
            ),
            {**times, "st_blksize": 4096, "st_blocks": -(-size // 512)},
        )


class Resolved(Struct, frozen=True):
    """The target of a path: its directory, the last name, and the node of this name (None: none)."""

    parent: MemoryNode
    name: str
    node: MemoryNode | None


class Tree:
    """Directories and files, empty at first; every path is taken from the root."""

    def __init__(self) -> None:
        self._number = 1
        self.root = MemoryNode(1, stat.S_IFDIR | 0o755, nlink=2)

    def locate(self, path: str, *, follow: bool = True) -> Resolved:
        """Resolve a path; its directory must exist, its last component need not.

        ``follow``: a symbolic link in the last component is resolved too.
        """
        if "\0" in path:
            raise os_error(errno.EINVAL, path)
        if not path:
            raise os_error(errno.ENOENT, path)
        return self._walk([self.root], path, path, follow, 0)

    def find(self, path: str, *, follow: bool = True) -> MemoryNode:
        """The node at a path, ENOENT if there is none."""
        node = self.locate(path, follow=follow).node
        if node is None:
            raise os_error(errno.ENOENT, path)
        return node

    def add(self, path: str, kind: int, permissions: Permissions, target: str = "") -> MemoryNode:
        """Make a node of type ``kind`` (``stat.S_IFREG`` ...) under a name that is free (EEXIST)."""
        place = self.locate(path, follow=False)
        if place.node is not None:
            raise os_error(errno.EEXIST, path)
        self._number += 1
        node = MemoryNode(
            self._number,
            kind | permissions.mode,
            permissions.uid or 0,
            permissions.gid or 0,
            nlink=2 if kind == stat.S_IFDIR else 1,
            target=target,
        )
        place.parent.entries[place.name] = node
        return node

    def link(self, source: str, target: str) -> None:
        """A second name for a file."""
        node = self.find(source, follow=False)
        place = self.locate(target, follow=False)
        if place.node is not None:
            raise os_error(errno.EEXIST, target)
        if node.is_dir:
            raise os_error(errno.EPERM, source)
        place.parent.entries[place.name] = node
        node.nlink += 1

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        place = self._existing(path)
        assert place.node is not None
        if place.node.is_dir:
            raise os_error(errno.EISDIR, path)
        del place.parent.entries[place.name]
        place.node.nlink -= 1

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        place = self._existing(path)
        assert place.node is not None
        if not place.node.is_dir:
            raise os_error(errno.ENOTDIR, path)
        if place.node.entries:
            raise os_error(errno.ENOTEMPTY, path)
        del place.parent.entries[place.name]
        place.node.nlink = 0

    def rename(self, source: str, target: str, *, replace: bool = True) -> None:
        """Rename atomically; without ``replace`` EEXIST if the target exists."""
        old = self._existing(source)
        new = self.locate(target, follow=False)
        node = old.node
        assert node is not None
        if new.node is not None:
            if not replace:
                raise os_error(errno.EEXIST, target)
            if new.node is node:
                return
            self._check_replace(node, new.node, target)
        if node.is_dir and self._is_below(new.parent, node):
            raise os_error(errno.EINVAL, target)
        if new.node is not None:
            new.node.nlink -= 2 if new.node.is_dir else 1
        del old.parent.entries[old.name]
        new.parent.entries[new.name] = node

    def _existing(self, path: str) -> Resolved:
        place = self.locate(path, follow=False)
        if place.node is None:
            raise os_error(errno.ENOENT, path)
        if place.node is self.root:
            raise os_error(errno.EBUSY, path)
        return place

    def _check_replace(self, node: MemoryNode, victim: MemoryNode, target: str) -> None:
        if node.is_dir and not victim.is_dir:
            raise os_error(errno.ENOTDIR, target)
        if victim.is_dir and not node.is_dir:
            raise os_error(errno.EISDIR, target)
        if victim.entries:
            raise os_error(errno.ENOTEMPTY, target)

    def _is_below(self, node: MemoryNode, top: MemoryNode) -> bool:
        if node is top:
            return True
        return any(self._is_below(node, child) for child in top.entries.values() if child.is_dir)

    def _walk(self, stack: list[MemoryNode], rest: str, path: str, follow: bool, links: int) -> Resolved:
        """Resolve ``rest`` from the directory on top of ``stack`` (its ancestors lie below it)."""
        stack = stack[:1] if rest.startswith("/") else list(stack)
        names = [name for name in rest.split("/") if name not in ("", ".")]
        name = ""
        for index, name in enumerate(names):
            here = stack[-1]
            if not here.is_dir:
                raise os_error(errno.ENOTDIR, path)
            if len(os.fsencode(name)) > _NAME_MAX:
                raise os_error(errno.ENAMETOOLONG, path)
            last = index == len(names) - 1
            if name == "..":
                stack = stack[: max(1, len(stack) - 1)]
                continue
            node = here.entries.get(name)
            if node is not None and node.is_symlink and (follow or not last):
                if links >= _LINKS_MAX:
                    raise os_error(errno.ELOOP, path)
                tail = "/".join(names[index + 1 :])
                return self._walk(
                    stack, f"{node.target}/{tail}" if tail else node.target, path, follow, links + 1
                )
            if last:
                if node is not None and not node.is_dir and rest.endswith("/"):
                    raise os_error(errno.ENOTDIR, path)
                return Resolved(here, name, node)
            if node is None:
                raise os_error(errno.ENOENT, path)
            stack.append(node)
        return Resolved(stack[-2] if len(stack) > 1 else stack[0], name, stack[-1])
