"""The requests of a writable mount (``-o rw``), on top of those that read.

* A file that is created is an :class:`Upload` with an inode of its own (bit 63 set) until its commit: at its
  last close, or, if its name begins with a dot, at the rename that takes the dot away.  Only the process that
  opened it can look up its plain name before that; a temporary with a dot can be read and deleted by anybody,
  is not listed, and ends with the mount.
* A message that is opened for writing stays what it is for everybody, until the commit replaces it.
  A request about its inode is about the message while that is there, and about what is written afterwards:
  never about another message that has got its name.

Everything that is written goes past the kernel's cache (``direct_io``): nobody reads a mixture from there.

This is the kernel's side only: opening, reading, writing and taking away.  Where to look for the rest:
``closing`` (when bytes become a message), ``renaming``, ``changing`` (attributes), ``mailboxes``;
``uploadtable`` has what is being written, ``commits`` what changes the store.

Locks: ``Upload.lock``, held while an upload changes or is committed.  Telling the kernel about names waits
for the lock of a directory in the kernel, which a rename or unlink may hold that waits for us; so it is never
awaited with an upload's lock held.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pyfuse3
from pyfuse3 import FUSEError

from dboxfs.errors import DboxfsError
from dboxfs.fuse.operations import Operations, handler, stale
from dboxfs.store import Folder, Store
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.read import NameReader
from dboxfs.store.names.table import decode
from dboxfs.store.write import StoreWriter
from dboxfs.util.mounts import Mount
from dboxfs.vfs import xattrs
from dboxfs.vfs.attrs import fill
from dboxfs.vfs.close_policy import Closing
from dboxfs.vfs.commit import Commits, check_name, flag_names
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.drafts import UploadTable
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.maintenance import Upkeep
from dboxfs.vfs.node import UID_MASK
from dboxfs.vfs.options import ViewOptions
from dboxfs.vfs.rename import Renaming
from dboxfs.vfs.setattr import Changing
from dboxfs.vfs.shared import Shared
from dboxfs.vfs.unlink import Removals

log = logging.getLogger(__name__)

R = TypeVar("R")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_NS = 1_000_000_000
_REQUESTS = (
    "create", "write", "fsync", "fsyncdir", "unlink", "rename", "link", "mkdir", "rmdir", "mknod", "symlink",
    "setxattr", "removexattr",
)  # fmt: skip


class WritableOperations(Operations):
    """One mounted store that can be written.

    :param writer: writes the store.
    :param reader: has read the names that messages were written under.
    """

    def __init__(
        self,
        store: Store,
        options: ViewOptions,
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
        writer: StoreWriter,
        reader: NameReader,
    ) -> None:
        super().__init__(store, options, spawn, reader)
        self.requests.update(dict.fromkeys(_REQUESTS, 0))
        self._name_files = NameFiles(reader, writer.options)
        self._commits = Commits(store, writer, self._inodes, reader, self._name_files)
        self._removals = Removals(store, writer, spawn)
        self._uploads = UploadTable(self._inodes, self._commits.spool)
        self._shared = Shared(
            store, writer, self._inodes, reader.names, self._commits, self._removals, self._uploads,
            self.notifier, self._folder, self._resolve,
        )  # fmt: skip
        self._closing = Closing(self._shared, spawn)
        self._mailboxes = Mailboxes(self._shared)
        self._renaming = Renaming(self._shared, self._mailboxes)
        self._changing = Changing(self._shared)
        self.upkeep = Upkeep(writer, lambda: self.requests) if writer.options.alone else None

    def mounted(self, mount: Mount | None) -> None:
        self._uploads.membership.device = mount.device if mount is not None else None

    def _kernel_stats(self) -> dict[str, object]:
        upkeep = self.upkeep.stats() if self.upkeep is not None else None
        return {**super()._kernel_stats(), "written": self._shared.writer.stats(), "maintenance": upkeep}

    async def sweep(self) -> None:
        """Remove what a daemon that was killed has left."""
        names = [folder.name for folder in self._store.folders.values() if folder.mailbox is not None]
        await self._shared.writer.sweep(names, [self._name_files.directory])

    async def begin(self) -> None:
        """The mount begins: take out what a crash has left in the files of names."""
        try:
            await self._name_files.mend()
        except (DboxfsError, OSError) as exc:
            log.warning("names of messages: %s", exc)

    async def finish(self) -> None:
        """The mount ends: carry out what was answered already, forget what was not committed."""
        try:
            await self._removals.finish_all()
        finally:
            await self._closing.finish()

    async def _answer(self, name: str, work: Awaitable[R], inode: int = 0) -> R:
        """Count a request that only sometimes is ours, and let nothing out but FUSEError."""
        self.requests[name] += 1
        try:
            return await work
        except FUSEError as exc:
            raise FUSEError(stale(inode, exc.errno)) from exc
        except Exception as exc:
            raise FUSEError(stale(inode, self._errors.errno_of(exc, name))) from exc

    # -- names and attributes ------------------------------------------------------------------

    def _shown(self, folder: Folder) -> Mapping[int, bytes]:
        shown, hidden = super()._shown(folder), self._removals.hidden(folder)
        return {**shown, **dict.fromkeys(hidden, b"")} if hidden else shown

    def _forgotten(self, folder: Folder) -> Container[int]:
        return self._removals.hidden(folder)

    def _is_taken_away(self, folder: Folder) -> bool:
        return self._mailboxes.is_taken_away(folder)

    def _resolve(self, folder: Folder, name: bytes) -> int | None:
        uid = super()._resolve(folder, name)
        return None if uid is not None and uid in self._removals.hidden(folder) else uid

    def _written(self) -> Collection[int]:
        return self._uploads.written

    def _passing(self, entry: pyfuse3.EntryAttributes) -> pyfuse3.EntryAttributes:
        """Attributes of a message.  While it is written over, the kernel has to ask for them each time: it
        makes the size what was truncated and written, and others would find the message empty, or cut."""
        if entry.st_ino in self._uploads.written:
            entry.attr_timeout = 0.0
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        await self.seek(parent_inode)
        upload = self._uploads.by_name(parent_inode, name)
        if upload is not None and self._uploads.may_see(upload, ctx.pid):
            self.requests["lookup"] += 1
            return self._upload_attributes(upload)
        linked = self._uploads.linked(parent_inode, name)
        if linked is not None:
            self.requests["lookup"] += 1
            entry = await self.getattr(self._commits.follow(linked), ctx)
            entry.entry_timeout = 0.0
            return entry
        return self._passing(await super().lookup(parent_inode, name, ctx))

    def _file_of(self, inode: int) -> Upload | None:
        """The file being written that *inode* stands for; None: it is a message, a directory, or nothing."""
        upload = self._uploads.by_inode(inode)
        if upload is not None or not inode & UID_MASK:
            return upload
        now = self._commits.follow(inode)
        folder = self._inodes.folder(now)
        box = folder.mailbox if folder is not None else None
        return None if box is not None and now & UID_MASK in box else self._uploads.orphan(inode)

    def _upload_attributes(self, upload: Upload) -> pyfuse3.EntryAttributes:
        entry = self._attributes.template()
        when = upload.created if upload.received is None else upload.received
        fill(entry, upload.inode, upload.size, when, upload.created)
        entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    async def getattr(self, inode: int, ctx: object) -> pyfuse3.EntryAttributes:
        upload = self._file_of(inode)
        if upload is not None:
            self.requests["getattr"] += 1
            return self._upload_attributes(upload)
        now = self._commits.follow(inode)
        if now == inode or inode in self._open_inodes:
            return self._passing(await super().getattr(inode, ctx))
        entry = await super().getattr(now, ctx)
        entry.st_ino = pyfuse3.InodeT(inode)
        return self._passing(entry)

    # -- opening -------------------------------------------------------------------------------

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        check_name(name)
        folder = self._folder(parent_inode)
        box = self._commits.box(folder)
        await self._store.check(folder)
        await self._know_names(folder)
        if folder.children.get(decode(name)) is not None:
            raise FUSEError(errno.EISDIR)
        there = self._uploads.lay(parent_inode, name, ctx.pid)
        uid = self._resolve(folder, name)
        if flags & os.O_EXCL and (there is not None or uid is not None):
            raise FUSEError(errno.EEXIST)
        while there is not None and (there.temporary or self._uploads.is_ghost(there)):
            if await self._is_there(there, flags):
                return self._opened(there, flags, ctx), self._upload_attributes(there)
            there, uid = self._uploads.lay(parent_inode, name, ctx.pid), self._resolve(folder, name)
        body = await box.open(uid) if uid is not None and not flags & os.O_TRUNC else None
        upload = self._uploads.new(folder, name)
        upload.uid, upload.base = uid, body
        upload.exclusive = bool(flags & os.O_EXCL)
        if flags & os.O_APPEND and not flags & os.O_TRUNC:
            upload.based = 0
        return self._opened(upload, flags, ctx), self._upload_attributes(upload)

    async def _is_there(self, upload: Upload, flags: int) -> bool:
        """Wait for whoever commits or ends *upload*; whether it can be opened then (O_TRUNC empties it)."""
        async with upload.lock:
            if self._uploads.by_inode(upload.inode) is not upload:
                return False
            if flags & os.O_TRUNC:
                upload.truncate(0)
            return True

    def _opened(self, upload: Upload, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        handle = self._next_handle
        self._next_handle += 1
        self._uploads.opened(handle, upload, ctx.pid, append=bool(flags & os.O_APPEND))
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True, keep_cache=False)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        upload = self._uploads.by_inode(inode)
        if upload is not None and await self._answer("open", self._is_there(upload, flags)):
            return self._opened(upload, flags, ctx)
        now = self._commits.follow(inode)
        if flags & _WRITING:
            return await self._answer("open", self._open_message(inode, now, flags, ctx), inode)
        info = await super().open(now, flags, ctx)
        # The kernel may have the bytes of the message that was here, or a size of its own.
        if now != inode or inode in self._uploads.written:
            info.direct_io, info.keep_cache = True, False
        return info

    async def _open_message(self, inode: int, now: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        await self.seek(now)
        if now >> 32 == 0:
            raise FUSEError(errno.EACCES)
        now, body, _ = await self._with_message(now, self._open_body)
        folder, uid = self._folder(now), now & UID_MASK
        upload = self._uploads.replacement(inode, folder, self._names.name(folder, uid))
        upload.uid = uid
        if flags & os.O_TRUNC:
            body.close()
        else:
            upload.base = body
        return self._opened(upload, flags, ctx)

    # -- reading, writing, closing -------------------------------------------------------------

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        writing = self._uploads.of(fh)
        if writing is None:
            return await super().read(fh, offset, size)
        return await self._answer("read", writing.upload.read(size, offset))

    @handler
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        writing = self._uploads.of(fh)
        if writing is None:
            raise FUSEError(errno.EBADF)
        upload = writing.upload
        async with upload.lock:
            return await upload.write(bytes(data), None if writing.append else offset)

    async def flush(self, fh: int) -> None:
        writing = self._uploads.of(fh)
        if writing is not None:
            await self._answer("flush", self._closing.flush(writing))

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        writing = self._uploads.of(fh)
        if writing is not None:
            await self._closing.fsync(writing)

    async def release(self, fh: int) -> None:
        writing = self._uploads.release(fh)
        if writing is None:
            await super().release(fh)
        else:
            await self._answer("release", self._closing.release(writing))

    # -- attributes ----------------------------------------------------------------------------

    @handler
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        writing = self._uploads.of(fh) if fh is not None else None
        upload = writing.upload if writing is not None else self._file_of(inode)
        if upload is None and ctx is not None:  # futimens comes without a handle
            upload = self._uploads.replacing(inode, ctx.pid)
        received = attr.st_mtime_ns // _NS if fields.update_mtime else None
        size = attr.st_size if fields.update_size else None
        if upload is not None:
            async with upload.lock:
                await self._changing.upload(upload, size, received)
            if self._uploads.by_inode(upload.inode) is not None:
                return self._upload_attributes(upload)
        else:
            now = self._commits.follow(inode)
            if now >> 32 and now & UID_MASK:
                await self._with_message(now, partial(self._set_message, size, received))
        self.requests["getattr"] -= 1  # the kernel has not asked for it
        return await self.getattr(inode, None)

    async def _set_message(self, size: int | None, received: int | None, inode: int) -> None:
        facts = await self._facts(inode, inode & UID_MASK)
        await self._changing.message(inode, facts, size, received)

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        if not name.startswith(b"user."):
            raise FUSEError(errno.EOPNOTSUPP)
        if not name.startswith(xattrs.PREFIX):
            raise FUSEError(errno.EINVAL)
        await self._set_xattr(inode, decode(name[len(xattrs.PREFIX) :]), value)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        if not name.startswith(xattrs.PREFIX):
            raise FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)
        word = decode(name[len(xattrs.PREFIX) :])
        if word not in ("flags", "keywords"):
            raise FUSEError(errno.EPERM)
        await self._set_xattr(inode, word, b"")

    async def _set_xattr(self, inode: int, name: str, value: bytes) -> None:
        upload = self._file_of(inode)
        change = partial(self._changing.xattr, upload=upload, name=name, value=value)
        now = self._commits.follow(inode)
        if upload is None:
            await self._with_message(now, change)
        else:
            await change(now)

    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        upload = self._file_of(inode)
        if upload is None or upload.uid is not None:
            return await super().getxattr(self._commits.follow(inode), name, ctx)
        self.requests["getxattr"] += 1
        if name == xattrs.PREFIX + b"flags" and upload.flags:
            return " ".join(flag_names(upload.flags)).encode()
        if name == xattrs.PREFIX + b"keywords":
            return " ".join(upload.keywords).encode("utf-8", "surrogateescape")
        raise FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)

    async def listxattr(self, inode: int, ctx: object) -> Sequence[pyfuse3.XAttrNameT]:
        upload = self._file_of(inode)
        if upload is None or upload.uid is not None:
            return await super().listxattr(self._commits.follow(inode), ctx)
        self.requests["listxattr"] += 1
        there = {"flags": upload.flags, "keywords": upload.keywords}
        return [pyfuse3.XAttrNameT(xattrs.PREFIX + name.encode()) for name, value in there.items() if value]

    # -- taking away ---------------------------------------------------------------------------

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._know_names(self._folder(parent_inode))
        await self._renaming.unlink(parent_inode, name, ctx.pid)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        listing = self._listings[fh]
        if listing is not None:
            await self._removals.finish(listing.folder)

    # -- names and mailboxes -------------------------------------------------------------------

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        for parent in (parent_inode_old, parent_inode_new):
            await self._know_names(self._folder(parent))
        await self._renaming.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx.pid)

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        await self._know_names(self._folder(new_parent_inode))
        if self._uploads.by_inode(inode) is not None:
            target, uid = await self._renaming.link(inode, new_parent_inode, new_name, ctx.pid)
        else:  # which another mount may have replaced
            target, uid = await self._with_message(
                self._commits.follow(inode),
                lambda now: self._renaming.link(now, new_parent_inode, new_name, ctx.pid),
            )
        if isinstance(uid, Upload):
            return self._upload_attributes(uid)
        facts = await self._commits.box(target).facts_of(uid)
        return self._limited(target, self._attributes.message(self._inodes.of(target) | uid, facts))

    @handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        parent, child = await self._mailboxes.create(parent_inode, name)
        return self._limited(parent, self._attributes.folder(child, self._inodes.of(child)))

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._mailboxes.delete(parent_inode, name)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        raise FUSEError(errno.EPERM)

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        raise FUSEError(errno.EPERM)
