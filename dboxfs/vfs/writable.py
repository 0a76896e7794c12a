"""A mail file system that programs can write to (``-o rw``), around a read-only one.

* A new file is a draft with an inode of its own until its commit: at its last close, or, if its name begins
  with a dot, at the rename to a name without one.  Before that only the process that opened it can look up
  its plain name.  Every process can read and delete a temporary with a dot; it is not listed, and is lost
  with the mount.
* A message that is opened for writing stays unchanged for other processes, until the commit replaces it.  A
  request about its inode is about the message while that exists, and about the draft afterwards: never about
  another message that has got its name.

Each kind of request has a module; this one only says which.  Locks: ``CONCURRENCY.md``.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial

from dboxfs.errors import DboxfsError
from dboxfs.store import Folder
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.follow import NameFollower
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import StoreWriter
from dboxfs.util.mounts import Mount
from dboxfs.vfs.apart import Apart
from dboxfs.vfs.attrs import NS, Attrs
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.close_policy import ClosePolicy, OpenDraft
from dboxfs.vfs.commit import Committer
from dboxfs.vfs.content import Budget, Temporary
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.identities import MailboxIdentities
from dboxfs.vfs.link import LinkRequest
from dboxfs.vfs.listing import Directory, ListingRow, OpenDirectory
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.maintenance import Maintenance
from dboxfs.vfs.missing import MissingNames
from dboxfs.vfs.names import NameLocks
from dboxfs.vfs.node import DRAFTS, ROOT, Node, is_deleted, is_in_control_tree
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.opening import Opening
from dboxfs.vfs.packed_drafts import PackedDrafts
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.removals import Removals
from dboxfs.vfs.rename import RenameRequest
from dboxfs.vfs.setattr import Setattr
from dboxfs.vfs.staging import Staging
from dboxfs.vfs.staging_files import StagingFiles
from dboxfs.vfs.undelete import UndeleteRequest
from dboxfs.vfs.unlink import UnlinkRequest
from dboxfs.vfs.xattr_request import XattrRequest

log = logging.getLogger(__name__)

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class WritableVfs:
    """Answers every request of a writable mount.

    :param reading: the read-only file system of the same store.
    :param writer: writes the store.
    :param name_reader: has read the written names of messages.
    :param restore: files are staged (``-o restore``).
    :ivar writer, drafts, removals, reading: for views.
    :ivar maintenance: the periodic work of a store without a Dovecot; None: a Dovecot does it.
    """

    def __init__(
        self, reading: ReadOnlyVfs, writer: StoreWriter, name_reader: NameReader, *, restore: bool = False
    ) -> None:
        self._reading = reading
        self._writer = writer
        store, host = reading.store, reading.host
        inodes, folders, names, forwarding = (
            reading.inodes, reading.folders, reading.names, reading.forwarding,
        )  # fmt: skip
        self._name_files = NameFiles(name_reader, writer.options)
        locks = NameLocks(inodes)
        changes = MessageChanges(store, writer, inodes, forwarding, locks, name_reader, self._name_files)
        self._spool, packed, budget = changes.spool, PackedDrafts(), Budget()
        self._drafts = Drafts(inodes, reading.open_files, self._temporary, host.outside, packed, budget)
        committer = Committer(store, inodes, names.written, forwarding, locks, changes)
        identities = MailboxIdentities(store, writer, changes, self._drafts, name_reader, self._name_files)
        self._staging_files = StagingFiles(partial(changes.spool, plain=True), packed, budget, host.spawn)
        staging = Staging(
            store, writer, inodes, self._drafts, changes, identities, forwarding, host.kernel,
            self._staging_files,
        ) if restore else None  # fmt: skip
        self.staging = staging
        self._missing = MissingNames(store, inodes, names, host.kernel) if restore else None
        self._removals = Removals(store, writer, names, host.spawn)
        self.writer, self.drafts, self.removals, self.reading = writer, self._drafts, self._removals, reading
        self._close_policy = ClosePolicy(host, inodes, self._drafts, committer, staging)
        self._mailboxes = Mailboxes(
            store, writer, inodes, folders, names, self._drafts, self._removals, host.kernel, staging
        )
        self._opening = Opening(
            store, inodes, folders, names, forwarding, self._drafts, self._close_policy, staging,
            self._mailboxes, Apart(self._drafts, reading.open_files),
        )  # fmt: skip
        self._rename = RenameRequest(
            inodes, folders, names, forwarding, self._drafts, changes, committer, self._mailboxes,
            host.kernel, staging,
        )  # fmt: skip
        self._undelete = (
            UndeleteRequest(reading.deleted, inodes, names, self._drafts, changes, writer, host.kernel)
            if reading.deleted is not None
            else None
        )
        self._link = LinkRequest(folders, inodes, names, forwarding, self._drafts, changes, committer)
        self._unlink = UnlinkRequest(
            inodes, folders, names, self._drafts, self._removals, staging, host.kernel
        )
        self._setattr = Setattr(
            store,
            inodes,
            names,
            forwarding,
            self._drafts,
            writer,
            changes,
            committer,
            host.kernel,
            reading.full_names,
            identities,
            staging,
            self._mailboxes,
        )
        self._xattr = XattrRequest(reading, self._drafts, self._setattr, staging, self._draft_of)
        self.maintenance = Maintenance(writer, host.requests) if writer.options.alone else None
        reading.report.more.append(self._stats)
        if staging is not None:
            reading.control.serve(b"restore.json", staging.describe)
            reading.control.commands(b"commit", staging.commit_all)
            reading.listings.staged = self._staged_rows
            reading.tell_new_names()

    def _temporary(self, folder: Folder) -> Temporary:
        """The temporary file of a draft in *folder*."""
        if self.staging is not None:
            return self._staging_files.segment(folder)
        return self._spool(folder)

    def _staged_rows(self, folder: Folder) -> list[ListingRow]:
        """The staged files of a directory, for a listing."""
        found = [(draft.name, self._draft_attrs(draft)) for draft in self._drafts.staged(folder)]
        return [
            ListingRow(0, name, a.inode, a.size, a.modified_ns // NS, a.changed_ns, 0.0) for name, a in found
        ]

    def _stats(self) -> Mapping[str, object]:
        maintenance = self.maintenance.stats() if self.maintenance is not None else None
        return {"written": self._writer.stats(), "maintenance": maintenance}

    # -- life ----------------------------------------------------------------------------------

    @property
    def follower(self) -> NameFollower | None:
        """Watches the files of names."""
        return self._reading.follower

    def mounted(self, mount: Mount | None) -> None:
        """The mount was made; None: it was not found among the kernel's mounts."""
        self._drafts.membership.device = mount.device if mount is not None else None

    async def begin(self) -> None:
        """The mount begins: take lines of writers that died out of the files of names."""
        try:
            await self._name_files.mend()
        except (DboxfsError, OSError) as exc:
            log.warning("names of messages: %s", exc)

    async def sweep(self) -> None:
        """Remove the files that a killed daemon has left."""
        await self._writer.sweep(self._all_mailboxes(), [self._name_files.directory])

    def _all_mailboxes(self) -> list[str]:
        """The storage names of all mailboxes."""
        folders = self._reading.store.folders.values()
        return [folder.name for folder in folders if folder.mailbox is not None]

    async def finish(self) -> None:
        """The mount ends: finish removals; commit staged files, and drafts that their openers have closed."""
        try:
            await self._removals.finish_all()
            if self.staging is not None:
                await self.staging.commit()
        finally:
            await self._close_policy.finish()
            if self.staging is not None:
                self.staging.close()
            await self._remove_again()

    async def _remove_again(self) -> None:
        """Remove files of expunged messages that could not be removed: this mount alone knows of them."""
        if not self._writer.stats()["lost_errors"]:
            return
        try:
            await self._writer.recover(self._all_mailboxes())
        except (DboxfsError, OSError) as exc:
            log.warning("files of expunged messages may be left: %s", exc)

    # -- names and attributes ------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, pid: int = 0) -> Attrs:
        """The attributes of the entry *name* of the directory *parent*, as thread *pid* sees it.

        :return: with inode 0: there is none, and the kernel may remember that.
        :raises Refused: ENOENT: there is none.
        """
        draft = self._drafts.by_name(parent, name)
        if draft is not None and self._drafts.may_see(draft, pid):
            return self._draft_attrs(draft)
        inbox = self._reading.store.folders.get("INBOX") if parent == ROOT and name == b"INBOX" else None
        if self.staging is not None and self.staging.has_vanished(inbox):
            raise Refused(errno.ENOENT)
        linked = self._drafts.linked(parent, name)
        if linked is None:
            if draft is None and self._missing is not None:
                missing = await self._missing.find(parent, name)
                if missing is not None:
                    return missing
            found = await self._reading.lookup(parent, name)
            apart = self._opening.apart.find(found.inode, pid)
            return found if apart is None else self._draft_attrs(apart)
        attrs = await self.getattr(self._reading.forwarding.follow(linked))
        attrs.entry_timeout = 0.0
        return attrs

    def _draft_of(self, inode: int) -> Draft | None:
        """The draft that *inode* stands for; None: it stands for a message, a directory, or nothing."""
        draft = self._drafts.by_inode(inode)
        if draft is not None or inode not in self._reading.open_files.written:
            return draft
        now = self._reading.forwarding.now(inode)
        box = now.folder.mailbox if now.folder is not None else None
        return None if box is not None and now.uid in box else self._drafts.orphan(inode)

    def _draft_attrs(self, draft: Draft) -> Attrs:
        when = draft.created if draft.received is None else draft.received
        kept = self.staging is not None and (draft.is_staged or draft.is_temporary)
        return self._reading.attributes.draft(draft.inode, draft.size, when, draft.created, kept=kept)

    async def getattr(self, inode: int, pid: int = 0) -> Attrs:
        """The attributes of *inode*.  If the process of thread *pid* is writing the file, the size is that of
        its draft, so that it finds the end of its own bytes.

        :raises Refused: ESTALE: it is a message or a draft, and gone; ENOENT: a directory that is gone.
        """
        draft = self._draft_of(inode)
        if draft is not None:
            return self._draft_attrs(draft)
        now = self._reading.forwarding.follow(inode)
        if now == inode or inode in self._reading.open_files.being_read:
            attrs = await self._reading.getattr(inode)
        else:
            attrs = await self._reading.folders.steady(
                now, lambda found: self._reading.message_attrs(found, inode)
            )
        if inode in self._reading.open_files.written and (own := self._drafts.replacing(inode, pid)):
            attrs.size = own.size
        return attrs

    async def setattr(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        """Give a file another length (bytes), or a received date (seconds since the epoch).

        Modes, owners, and dates of directories are accepted, and change nothing.

        :param file: the open file of the request (ftruncate, futimens); None: the request came by name.
        """
        new = file.draft if isinstance(file, OpenDraft) else self._drafts.by_inode(inode)
        is_new = new is not None and new.uid is None and self._drafts.by_inode(new.inode) is new
        if new is not None and is_new and size is None and not new.lock.locked():
            if received is not None:
                self._setattr.date_new(new, received)
            return self._draft_attrs(new)
        return await self._reading.folders.steady(
            inode, lambda found: self._set_attributes(found, size, received, file, pid)
        )

    async def _set_attributes(
        self, inode: int, size: int | None, received: int | None, file: OpenFile | None, pid: int
    ) -> Attrs:
        draft = file.draft if isinstance(file, OpenDraft) else self._draft_of(inode)
        draft = draft or self._drafts.replacing(inode, pid)  # futimens comes without a handle
        if draft is not None:
            async with draft.lock:
                await self._setattr.draft(draft, size, received)
            if self._drafts.by_inode(draft.inode) is not None:
                return self._draft_attrs(draft)
        else:
            now = self._reading.forwarding.now(inode)
            if now.is_message:
                change = partial(self._set_message, size, received, pid)
                await self._reading.forwarding.use(now.inode, change)
        return await self.getattr(inode)

    async def _set_message(self, size: int | None, received: int | None, pid: int, node: Node) -> None:
        facts = await self._reading.scans.facts(node)
        await self._setattr.message(self._reading.inodes.node(node.inode), facts, size, received, pid)

    # -- files ---------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT by thread *pid*.

        :raises Refused: the file can't be made.
        """
        opened, draft = await self._opening.create(parent, name, flags, pid)
        return opened, self._draft_attrs(draft)

    async def mknod(self, parent: int, name: bytes, pid: int) -> Attrs:
        """mknod(2) of a regular file by thread *pid*.

        :raises Refused: the file can't be made.
        """
        return self._draft_attrs(await self._opening.hold(parent, name, pid))

    async def open(self, inode: int, flags: int, pid: int = 0) -> Opened:
        """open(2) of a file by thread *pid*.

        :raises Refused: ESTALE: it is gone; EACCES: a control file, for writing.
        """
        draft = self._drafts.by_inode(inode) if inode & DRAFTS else None
        written = await self._opening.open_draft(draft, flags, pid) if draft is not None else None
        if written is not None:
            return written
        command = self._reading.control.command(inode) if flags & _WRITING else None
        if command is not None:
            return Opened(command, direct_io=True, keep_cache=False)
        if flags & _WRITING:
            _refuse_deleted(inode)
            return await self._reading.folders.steady(
                inode, lambda found: self._opening.open_message(found, flags, pid)
            )
        now = self._reading.forwarding.follow(inode)
        opened = await self._reading.open_to_read(now, flags)
        if now == inode and inode not in self._reading.open_files.written:
            return opened
        # The kernel may keep pages of the message that this inode was, or a size of a write.
        return Opened(opened.file, direct_io=True, keep_cache=False)

    async def opendir(self, inode: int) -> OpenDirectory:
        """Open a directory, or the control directory.

        :raises Refused: ENOENT: it is gone.
        """
        return await self._reading.opendir(inode)

    async def fsyncdir(self, directory: OpenDirectory) -> None:
        """Return when all removals from a directory are on disk.

        :raises Exception: they are not.
        """
        if isinstance(directory, Directory):
            await self._removals.finish(directory.folder)

    # -- extended attributes -------------------------------------------------------------------

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute; see :class:`XattrRequest`."""
        return await self._xattr.get(inode, name)

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes."""
        return await self._xattr.names(inode)

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        await self._xattr.set(inode, name, value)

    async def removexattr(self, inode: int, name: bytes) -> None:
        """Take an extended attribute away."""
        await self._xattr.remove(inode, name)

    # -- names, and mailboxes ------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """unlink(2) by thread *pid*."""
        _refuse_deleted(parent)
        await self._unlink.unlink(parent, name, pid)

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, pid: int
    ) -> None:
        """rename(2) by thread *pid*, with the flags of renameat2(2)."""
        if self._undelete is not None and is_deleted(old_parent):
            await self._undelete.rename(old_parent, old, new_parent, new, flags, pid)
            return
        _refuse_deleted(old_parent)
        _refuse_deleted(new_parent)
        await self._rename.rename(old_parent, old, new_parent, new, flags, pid)

    async def link(self, inode: int, new_parent: int, new: bytes, pid: int) -> Attrs:
        """link(2) by thread *pid*; gives the attributes of the new file."""
        _refuse_deleted(inode)
        made = await self._link.link(inode, new_parent, new, pid)
        if isinstance(made, Draft):
            return self._draft_attrs(made)
        target = made.directory()
        facts = await mailbox_of(target).facts_of(made.uid)
        return self._reading.attributes.message(made.inode, facts, target)

    async def mkdir(self, parent: int, name: bytes) -> Attrs:
        """mkdir(2): make a mailbox."""
        made = await self._mailboxes.create(parent, name)
        return self._reading.attributes.folder(made, self._reading.inodes.of(made))

    async def rmdir(self, parent: int, name: bytes) -> None:
        """rmdir(2): delete a mailbox without messages."""
        await self._mailboxes.delete(parent, name)

    async def statfs(self) -> os.statvfs_result:
        """The values of the file system that the store lies on."""
        return await self._reading.statfs()


def _refuse_deleted(inode: int) -> None:
    """Refuse a change below the control directory, with EPERM: only deleted messages may be moved out."""
    if is_in_control_tree(inode):
        raise Refused(errno.EPERM)
