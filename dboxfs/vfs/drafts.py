"""All files that are being written in one mount, and who has them open.

An upload is found by its inode, by its name (which nobody but its writer can look up before the commit, see
:mod:`dboxfs.vfs.writable`), and by the file handle of an open that may write.  Those that take the place of
a message when they are opened have the message's inode and no entry of their own: for everybody else the
message is what it was.  Once it is gone, or another file has its name, they are what was written and nothing
else (:meth:`UploadTable.orphan`).

A new file that is closed without a byte is a *ghost*: no message, and nothing for anybody but the process
that made it, which may look it up, open, link, rename and remove it for a while.  Programs that save with
care make the name first, with O_EXCL, and write later.

A temporary that was linked to a plain name is the message from then on; its name stands for that until it is
taken away (:meth:`UploadTable.linked`).

Inodes of uploads have bit 63 set, and count from 1 on below that.

Concurrency: nothing here awaits, so every method is atomic.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection

from dboxfs.store import Folder
from dboxfs.store.write import Spool
from dboxfs.util.mounts import Membership
from dboxfs.vfs.draft import Budget, Upload
from dboxfs.vfs.holders import Holders, process_of
from dboxfs.vfs.node import Inodes

UPLOADS = 1 << 63
"""Set in the inode numbers of uploads."""

GHOSTS = 64
"""So many are kept."""

LINKED = 1000
"""Names of temporaries that are remembered to be a message's."""


class Writing:
    """One open file that may write.

    ``pid``: the process that opened it.  ``append``: O_APPEND.  ``inode``: what the kernel has opened.
    """

    __slots__ = ("append", "holders", "inode", "killed", "pid", "upload")

    def __init__(self, upload: Upload, pid: int, *, append: bool, membership: Membership) -> None:
        self.upload = upload
        self.pid = pid
        self.inode = upload.inode
        self.append = append
        self.killed = False
        self.holders = Holders(pid, membership)


class UploadTable:
    """See the module.

    :param spool: gives the temporary file of an upload into a folder.
    :ivar membership: which descriptors of a process belong to this mount.
    """

    def __init__(self, inodes: Inodes, spool: Callable[[Folder], Spool]) -> None:
        self._inodes = inodes
        self._spool = spool
        self._budget = Budget()
        self.membership = Membership(None)
        self._numbers = itertools.count(1)
        self._opens: dict[int, Writing] = {}
        self._written: Counter[int] = Counter()
        self._uploads: dict[int, Upload] = {}
        self._by_name: dict[tuple[int, bytes], Upload] = {}
        self._ghosts: OrderedDict[int, Upload] = OrderedDict()
        self._linked: OrderedDict[tuple[int, bytes], int] = OrderedDict()

    # -- making --------------------------------------------------------------------------------

    def new(self, folder: Folder, name: bytes) -> Upload:
        """A new file with an inode of its own."""
        self._linked.pop((self._inodes.of(folder), name), None)
        upload = self.replacement(UPLOADS | next(self._numbers), folder, name)
        self._uploads[upload.inode] = upload
        self._by_name[self._inodes.of(folder), name] = upload
        return upload

    def replacement(self, inode: int, folder: Folder, name: bytes) -> Upload:
        """What is to take the place of the message that *inode* is."""
        return Upload(self._spool, self._budget, inode, folder, name)

    def opened(self, handle: int, upload: Upload, pid: int, *, append: bool) -> None:
        """The process of thread *pid* has opened an upload."""
        process = process_of(pid)
        upload.handles += 1
        upload.creator = upload.creator or process
        self._ghosts.pop(upload.inode, None)
        self._opens[handle] = Writing(upload, process, append=append, membership=self.membership)
        self._written[upload.inode] += 1

    # -- finding -------------------------------------------------------------------------------

    def of(self, handle: int) -> Writing | None:
        """What a file handle stands for, if it may write."""
        return self._opens.get(handle)

    @property
    def written(self) -> Collection[int]:
        """The inodes that are open for writing."""
        return self._written

    def by_inode(self, inode: int) -> Upload | None:
        """The upload with this inode of its own."""
        return self._uploads.get(inode)

    def by_name(self, parent_inode: int, name: bytes) -> Upload | None:
        """The upload with this name."""
        return self._by_name.get((parent_inode, name))

    def is_open(self, upload: Upload, pid: int) -> bool:
        """Whether the process of thread *pid* is who made it or has opened it."""
        process = process_of(pid)
        if upload.creator == process:
            return True
        return any(w.upload is upload and w.pid == process for w in self._opens.values())

    def lay(self, parent_inode: int, name: bytes, pid: int) -> Upload | None:
        """The upload with this name, for whoever wants to make a file; another process's ghost makes way."""
        found = self._by_name.get((parent_inode, name))
        if found is not None and found.inode in self._ghosts and found.creator != process_of(pid):
            self.drop(found)
            return None
        return found

    def seen(self, parent_inode: int, name: bytes, pid: int) -> Upload | None:
        """The upload that *name* is for the process of thread *pid*; another one's new file is nothing."""
        found = self.lay(parent_inode, name, pid)
        return found if found is not None and self.may_see(found, pid) else None

    def may_see(self, upload: Upload, pid: int) -> bool:
        """Whether the process of thread *pid* sees a file that is no message yet."""
        return upload.temporary or (upload.uid is None and self.is_open(upload, pid))

    def replacing(self, inode: int, pid: int) -> Upload | None:
        """What the process of thread *pid* writes that will take the place of the message *inode*."""
        process = process_of(pid)
        opens = (w for w in self._opens.values() if w.upload.inode == inode and w.pid == process)
        return next((writing.upload for writing in opens), None)

    def orphan(self, inode: int) -> Upload | None:
        """What is written on the message *inode*, which is another file's by now, or gone."""
        opens = (w.upload for w in self._opens.values() if w.upload.inode == inode)
        return next((upload for upload in opens if upload.uid is None), None)

    def of_message(self, folder: Folder, uid: int) -> list[Upload]:
        """Those that are a message, or will take its place."""
        return [upload for upload in self.all() if upload.uid == uid and upload.folder is folder]

    def opens(self, inode: int, pid: int) -> int:
        """How often process *pid* has opened the file *inode* for writing, and not closed it for good."""
        return sum(w.pid == pid and w.upload.inode == inode for w in self._opens.values())

    def of_folder(self, folder: Folder) -> list[Upload]:
        """The uploads of their own inode in *folder*."""
        return [upload for upload in self._uploads.values() if upload.folder is folder]

    # -- changing ------------------------------------------------------------------------------

    def release(self, handle: int) -> Writing | None:
        """The last descriptor of an open is gone."""
        writing = self._opens.pop(handle, None)
        if writing is not None:
            self._written.subtract([writing.inode])
            if not self._written[writing.inode]:
                del self._written[writing.inode]
        return writing

    def rename(self, upload: Upload, folder: Folder, name: bytes, uid: int | None) -> None:
        """Another name, and the message that it is or replaces there."""
        self.unname(upload)
        upload.folder, upload.name, upload.uid = folder, name, uid
        upload.guid = folder.mailbox.guid if folder.mailbox is not None else None
        if upload.inode in self._uploads:
            self._by_name[self._inodes.of(folder), name] = upload

    def unname(self, upload: Upload) -> None:
        """Nobody can look it up any more."""
        for key in [key for key, found in self._by_name.items() if found is upload]:
            del self._by_name[key]

    def haunt(self, upload: Upload) -> None:
        """A new file was closed without a byte."""
        self._ghosts[upload.inode] = upload
        if len(self._ghosts) > GHOSTS:
            self.drop(next(iter(self._ghosts.values())))

    def is_ghost(self, upload: Upload) -> bool:
        """Whether it was closed without a byte, and nobody has opened it since."""
        return upload.inode in self._ghosts

    def give_name(self, folder: Folder, name: bytes, over: int | None, heir: Upload | None = None) -> bool:
        """Another file gets this name, and takes the place of message *over*: whoever writes a file of that
        name has none any more.

        :param heir: the file that gets it.
        :return: whether somebody writes message *over*, and goes on writing what is nothing yet.
        """
        losers = self.of_message(folder, over) if over is not None else []
        named = [
            some for some in self.all() if some.folder is folder and some.name == name and some.uid is None
        ]
        for upload in {*losers, *named} - {heir}:
            if upload.temporary or self.is_ghost(upload):
                self.discard(upload)
                continue
            self.unname(upload)
            upload.uid, upload.unnamed = None, True
        return bool(set(losers) - {heir})

    def is_empty(self, upload: Upload) -> bool:
        """Whether it is a ghost, or will be one when it is closed as it is."""
        new = upload.uid is None and not upload.temporary
        return self.is_ghost(upload) or (new and not upload.dirty and not upload.size)

    def link(self, upload: Upload, inode: int) -> None:
        """A temporary has become the message with this inode; its name means that now."""
        if upload.folder in self._inodes:
            self._linked[self._inodes.of(upload.folder), upload.name] = inode
            if len(self._linked) > LINKED:
                self._linked.popitem(last=False)
        if not upload.handles:
            self.discard(upload)

    def linked(self, parent_inode: int, name: bytes) -> int | None:
        """The inode of the message that a temporary of this name has become."""
        return self._linked.get((parent_inode, name)) if self._linked else None

    def unlink(self, parent_inode: int, name: bytes) -> bool:
        """Take away the name of a temporary that has become a message; False: there is no such name."""
        return self._linked.pop((parent_inode, name), None) is not None

    def discard(self, upload: Upload) -> None:
        """Nothing of this upload will be committed; it stays readable for those who have it open."""
        upload.discarded = True
        self.unname(upload)
        if not upload.handles:
            self.drop(upload)

    def drop(self, upload: Upload) -> None:
        """The end of an upload; not yet, if an OPEN was answered with it since whoever wants this has
        looked.
        """
        if upload.handles:
            return
        self._uploads.pop(upload.inode, None)
        self._ghosts.pop(upload.inode, None)
        self.unname(upload)
        upload.close()

    def all(self) -> list[Upload]:
        """Everything that is being written."""
        return list({*self._uploads.values(), *(w.upload for w in self._opens.values())})
