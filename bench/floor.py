"""The floor: the least that a file system on pyfuse3 costs.

All messages lie in memory, and so do all answers; every rule that saves requests or time is followed:
attributes with readdirplus and kept for a day, no flush, no ACLs, the pages of a message and of the next
ones pushed into the kernel's cache when it is opened.  The event loop is the one of ``dboxfs`` itself, see
:func:`install_loop`, so what a mount of dboxfs takes longer than this is what the store costs.

::

    python -m bench.floor MESSAGES SEED MOUNTPOINT      in the foreground until it is unmounted

Pushing waits for a READ in flight on that inode, which this same thread would have to answer.  So pages are
only pushed to inodes without an open handle, and before open is answered.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import mmap
import stat
import sys

import pyfuse3
import trio

from bench.mail import FIRST_DATE, Corpus

_LONG = 86400.0
_PUSH_AHEAD = 8
_PUSH_LIMIT = 1 << 20
_NS = 1_000_000_000


def install_loop() -> bool:
    """Make pyfuse3's loop the one that dboxfs uses; False where dboxfs has none of its own."""
    name = "dboxfs.fuse.loop"
    if importlib.util.find_spec(name) is None:
        return False
    importlib.import_module(name).install()
    return True


class _Directory:
    """A directory: its entries in the order in which they are listed, (name, inode)."""

    def __init__(self, inode: int, parent: int) -> None:
        self.inode = inode
        self.parent = parent
        self.entries: list[tuple[bytes, int]] = []
        self.by_name: dict[bytes, int] = {}

    def add(self, name: str, inode: int) -> None:
        self.entries.append((name.encode(), inode))
        self.by_name[name.encode()] = inode


class Tree:
    """The messages of a corpus as inodes: directories first, messages from ``first`` on, in their order."""

    def __init__(self, corpus: Corpus) -> None:
        self.directories: dict[int, _Directory] = {1: _Directory(1, 1)}
        self.first = 1000
        self.starts = [0]
        self.parents: list[int] = []
        self.data = memoryview(mmap.mmap(-1, max(corpus.size, 1)))
        for mail, text in corpus:
            directory = self._directory(mail.folder)
            directory.add(f"{mail.uid}.eml", self.first + mail.number)
            self.parents.append(directory.inode)
            end = self.starts[-1] + len(text)
            self.data[self.starts[-1] : end] = text
            self.starts.append(end)

    def _directory(self, folder: str) -> _Directory:
        at = self.directories[1]
        for part in folder.split("/"):
            inode = at.by_name.get(part.encode())
            if inode is None:
                inode = len(self.directories) + 1
                at.add(part, inode)
                self.directories[inode] = _Directory(inode, at.inode)
            at = self.directories[inode]
        return at


class Floor(pyfuse3.Operations):
    """The file system over a :class:`Tree`."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._open: dict[int, int] = {}
        self._pushed = bytearray(len(tree.parents))
        self._file = self._entry(stat.S_IFREG | 0o400)
        self._dir = self._entry(stat.S_IFDIR | 0o500)

    @staticmethod
    def _entry(mode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_mode = pyfuse3.ModeT(mode)
        entry.st_nlink = 1
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = FIRST_DATE * _NS
        entry.entry_timeout = entry.attr_timeout = _LONG
        return entry

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry, number = self._dir, inode - self._tree.first
        if number >= 0:
            entry, starts = self._file, self._tree.starts
            entry.st_size = starts[number + 1] - starts[number]
            entry.st_blocks = (entry.st_size + 511) >> 9
        entry.st_ino = pyfuse3.InodeT(inode)
        return entry

    async def getattr(self, inode: int, ctx: object) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def lookup(self, parent_inode: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        inode = self._tree.directories[parent_inode].by_name.get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(inode)

    async def opendir(self, inode: int, ctx: object) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        attributes, reply = self._attributes, pyfuse3.readdir_reply
        entries = self._tree.directories[fh].entries
        for position in range(start_id, len(entries)):
            name, inode = entries[position]
            if not reply(token, pyfuse3.FileNameT(name), attributes(inode), position + 1):
                return

    async def releasedir(self, fh: int) -> None:
        pass

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        self._push(inode - self._tree.first)
        self._open[inode] = self._open.get(inode, 0) + 1
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    def _push(self, number: int) -> None:
        """Give the kernel the pages of a message and of those behind it, each once."""
        tree, pushed = self._tree, self._pushed
        if pushed[number]:
            return
        parent = tree.parents[number]
        for n in range(number, min(number + _PUSH_AHEAD, len(pushed))):
            if pushed[n] or tree.parents[n] != parent or self._open.get(n + tree.first):
                continue
            pushed[n] = True
            data = tree.data[tree.starts[n] : tree.starts[n + 1]]
            if len(data) <= _PUSH_LIMIT:
                try:
                    pyfuse3.notify_store(pyfuse3.InodeT(n + tree.first), 0, data)  # type: ignore[arg-type]
                except FileNotFoundError:  # the kernel hasn't listed it yet
                    return

    async def read(  # type: ignore[override]  # any buffer will do
        self, fh: int, off: int, size: int
    ) -> memoryview:
        start, end = self._tree.starts[fh - self._tree.first : fh - self._tree.first + 2]
        return self._tree.data[start + off : min(start + off + size, end)]

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        self._open[fh] -= 1
        if not self._open[fh]:
            del self._open[fh]

    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)


def main(messages: int, seed: int, mountpoint: str) -> None:
    """Serve until it is unmounted."""
    operations = Floor(Tree(Corpus(messages, seed)))
    install_loop()
    pyfuse3.init(operations, mountpoint, {"fsname=floor", "subtype=bench", "default_permissions", "ro"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
