"""Names that do not exist, for the kernel to remember (``-o restore``).

A program that puts a backup back looks a name up several times before it makes the file.  The kernel may
remember that there is none, where one call makes all such names stale (:attr:`Kernel.keeps_missing
<dboxfs.vfs.host.Kernel.keeps_missing>`).  A name comes

* through this mount, by a request (create, mkdir, rename, link): the kernel changes its entry itself;
* through a commit of staged files, or from elsewhere: the kernel is told (:mod:`dboxfs.vfs.following`);
* when a new file, which only its writer sees, is closed: while there is such a file its name is not
  remembered as missing.

The name of a message that is being removed is not remembered either: the removal may fail.

Concurrency: only reading names of other mounts awaits, before the look.
"""

from __future__ import annotations

import stat

from dboxfs.store import Store
from dboxfs.store.names.of_mailbox import decode
from dboxfs.vfs.attrs import LONG, Attrs
from dboxfs.vfs.control import NAME as CONTROL_NAME
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import ROOT, Inodes


class MissingNames:
    """Answers lookups of names that do not exist."""

    def __init__(self, store: Store, inodes: Inodes, names: Names, kernel: Kernel) -> None:
        self._store = store
        self._inodes = inodes
        self._names = names
        self._kernel = kernel

    async def find(self, parent: int, name: bytes) -> Attrs | None:
        """The answer for a name that does not exist in the directory *parent*: attributes without an inode.
        The caller knows of no draft with that name.

        :return: None: the name exists, or the kernel has to look it up each time.
        """
        folder = self._inodes.node(parent).folder
        if folder is None or not self._kernel.keeps_missing or (parent == ROOT and name == CONTROL_NAME):
            return None
        await self._names.know(folder)
        box = folder.mailbox
        if not self._store.is_watched(folder) or (box is not None and box.state is None):
            return None
        if self._names.written.resolve(folder, name) is not None or decode(name) in folder.children:
            return None
        return Attrs(0, stat.S_IFREG, 0, 0, 0, entry_timeout=LONG)
