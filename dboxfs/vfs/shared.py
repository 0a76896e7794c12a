"""What the parts of a writable mount have in common: the tables, the writer, and how names are understood."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from pyfuse3 import FUSEError

from dboxfs.fuse.notify import Notifier
from dboxfs.store import Folder, Store
from dboxfs.store.names.table import WrittenNames, decode
from dboxfs.store.write import StoreWriter
from dboxfs.vfs.commit import Commits
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.drafts import UploadTable
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.unlink import Removals


@dataclass(frozen=True, slots=True)
class Shared:
    """See the module.

    ``folder``: the folder of an inode, ENOENT if there is none.  ``resolve``: the uid of the message that has
    a name, None if there is none.
    """

    store: Store
    writer: StoreWriter
    inodes: Inodes
    names: WrittenNames
    commits: Commits
    removals: Removals
    uploads: UploadTable
    notifier: Notifier
    folder: Callable[[int], Folder]
    resolve: Callable[[Folder, bytes], int | None]

    def child(self, parent_inode: int, name: bytes) -> Folder:
        """The directory *name* in another one.

        :raises FUSEError: ENOENT: there is none.
        """
        child = self.folder(parent_inode).children.get(decode(name))
        if child is None:
            raise FUSEError(errno.ENOENT)
        return child

    async def tell(self, upload: Upload) -> None:
        """Have the kernel look up the name again, before whoever has closed the file does."""
        parent = self.inodes.of(upload.folder) if upload.folder in self.inodes else 0
        if parent and upload.inode >> 63 == 0:
            await self.notifier.now(parent, upload.name)
