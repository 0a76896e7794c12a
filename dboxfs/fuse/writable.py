"""The requests of a writable mount (``-o rw``), on top of those that read.

* A file that is created is an :class:`Upload` with an inode of its own (bit 63 set) until its commit: at its
  last close, or, if its name begins with a dot, at the rename that takes the dot away.  Only the process that
  opened it can look up its plain name before that; a temporary with a dot can be read and deleted by anybody,
  is not listed, and ends with the mount.
* A message that is opened for writing stays what it is for everybody, until the commit replaces it.
* Which close is the last: :mod:`dboxfs.fuse.opener`.

* A message with a written name answers to ``<uid>.eml`` too: a second name with an inode of its own.
  Whoever writes a file of that name (a restored backup is full of them) writes another message: opening it
  with O_TRUNC begins a new file, otherwise it can't be written; unlink takes only the second name away (as
  long as the mount lasts); a rename goes over nothing.

Everything that is written goes past the kernel's cache (``direct_io``): nobody reads a mixture from there.

Locks: ``Upload.lock``, held while an upload changes or is committed.  Telling the kernel about names waits
for the lock of a directory in the kernel, which a rename or unlink may hold that waits for us; so it is never
awaited with an upload's lock held.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import FUSEError

from dboxfs.fuse import opener, xattrs
from dboxfs.fuse.attributes import fill
from dboxfs.fuse.commits import SECOND_NAME, Commits, check_name, flag_bits
from dboxfs.fuse.control import NAME as CONTROL_NAME
from dboxfs.fuse.inodes import ROOT, UID_MASK
from dboxfs.fuse.names import NameFiles, WrittenNames
from dboxfs.fuse.operations import Operations, handler
from dboxfs.fuse.options import ViewOptions
from dboxfs.fuse.removals import Removals
from dboxfs.fuse.uploads import Budget, Upload
from dboxfs.store import Folder, Store
from dboxfs.store.names import storage_part
from dboxfs.store.writing import StoreWriter

log = logging.getLogger(__name__)

R = TypeVar("R")

_UPLOADS = 1 << 63
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_NS = 1_000_000_000
_REQUESTS = (
    "create", "write", "fsync", "fsyncdir", "unlink", "rename", "link", "mkdir", "rmdir", "mknod", "symlink",
    "setxattr", "removexattr",
)  # fmt: skip


class _Writing:
    """One open file that may write.  ``pid``: who opened it.  ``append``: O_APPEND."""

    __slots__ = ("append", "killed", "pid", "upload")

    def __init__(self, upload: Upload, pid: int, *, append: bool) -> None:
        self.upload = upload
        self.pid = pid
        self.append = append
        self.killed = False


class WritableOperations(Operations):
    """One mounted store that can be written.

    :param writer: writes the store.
    :param names: the names that messages were written under.
    """

    def __init__(
        self,
        store: Store,
        options: ViewOptions,
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
        writer: StoreWriter,
        names: WrittenNames,
    ) -> None:
        super().__init__(store, options, spawn, names)
        self.requests.update(dict.fromkeys(_REQUESTS, 0))
        self._writer = writer
        files = NameFiles(store.fs, names, store.owner, writer.options)
        self._commits = Commits(store, writer, self._inodes, names, files)
        self._removals = Removals(store, writer, spawn)
        self._budget = Budget()
        self._numbers = itertools.count(1)
        self._writing: dict[int, _Writing] = {}
        self._uploads: dict[int, Upload] = {}
        self._unlinked: set[tuple[int, bytes]] = set()
        self._by_name: dict[tuple[int, bytes], Upload] = {}

    async def finish(self) -> None:
        """The mount ends: carry out what was answered already, forget what was not committed."""
        try:
            await self._removals.finish_all()
        finally:
            for upload in {*self._uploads.values(), *(w.upload for w in self._writing.values())}:
                upload.close()

    async def _answer(self, name: str, work: Awaitable[R]) -> R:
        """Count a request that only sometimes is ours, and let nothing out but FUSEError."""
        self.requests[name] += 1
        try:
            return await work
        except FUSEError:
            raise
        except Exception as exc:
            raise FUSEError(self._errors.errno_of(exc, name)) from exc

    # -- names and attributes ------------------------------------------------------------------

    def _shown(self, folder: Folder) -> Mapping[int, bytes]:
        shown, hidden = super()._shown(folder), self._removals.hidden(folder)
        return {**shown, **dict.fromkeys(hidden, b"")} if hidden else shown

    def _resolve(self, folder: Folder, name: bytes) -> int | None:
        uid = super()._resolve(folder, name)
        return None if uid is not None and uid in self._removals.hidden(folder) else uid

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        upload = self._by_name.get((parent_inode, name))
        if upload is not None and (upload.temporary or upload.uid is None):
            mine = any(w.upload is upload and w.pid == ctx.pid for w in self._writing.values())
            if upload.temporary or mine:
                self.requests["lookup"] += 1
                return self._upload_attributes(upload)
        if (parent_inode, name) in self._unlinked and not self._is_own(parent_inode, name):
            self.requests["lookup"] += 1
            raise FUSEError(errno.ENOENT)
        entry = await super().lookup(parent_inode, name, ctx)
        if entry.st_ino & UID_MASK and parent_inode >> 32:
            folder = self._folder(parent_inode)
            if self._resolve(folder, name) is not None and self._own(folder, name) is None:
                entry.st_ino = pyfuse3.InodeT(entry.st_ino | SECOND_NAME)
                entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    def _own(self, folder: Folder, name: bytes) -> int | None:
        """The message whose first name this is: not one that only answers to it as ``<uid>.eml`` too."""
        uid = self._resolve(folder, name)
        return uid if uid is not None and self._names.written(folder, uid) in (None, name) else None

    def _is_own(self, parent_inode: int, name: bytes) -> bool:
        return self._own(self._folder(parent_inode), name) is not None

    def _upload_attributes(self, upload: Upload) -> pyfuse3.EntryAttributes:
        entry = self._attributes.template()
        when = upload.created if upload.received is None else upload.received
        fill(entry, upload.inode, upload.size, when, upload.created)
        entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    async def getattr(self, inode: int, ctx: object) -> pyfuse3.EntryAttributes:
        upload = self._uploads.get(inode)
        if upload is not None:
            self.requests["getattr"] += 1
            return self._upload_attributes(upload)
        now = self._commits.follow(inode)
        if now == inode or inode in self._open_inodes:
            return await super().getattr(inode, ctx)
        entry = await super().getattr(now, ctx)
        entry.st_ino = pyfuse3.InodeT(inode)
        return entry

    # -- opening -------------------------------------------------------------------------------

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        check_name(name)
        folder = self._folder(parent_inode)
        box = self._commits.box(folder)
        await self._store.check(folder)
        if folder.children.get(_decode(name)) is not None:
            raise FUSEError(errno.EISDIR)
        there = self._by_name.get((parent_inode, name))
        uid = self._own(folder, name)
        if flags & os.O_EXCL and (there is not None or uid is not None):
            raise FUSEError(errno.EEXIST)
        if there is not None and there.temporary:
            upload = there
            if flags & os.O_TRUNC:
                async with upload.lock:
                    upload.truncate(0)
        else:
            upload = self._new_upload(_UPLOADS | next(self._numbers), folder, name)
            upload.uid = uid
            if uid is not None and not flags & os.O_TRUNC:
                upload.base = await box.open(uid)
            self._uploads[upload.inode] = upload
            self._by_name[parent_inode, name] = upload
        return self._opened(upload, flags, ctx), self._upload_attributes(upload)

    def _new_upload(self, inode: int, folder: Folder, name: bytes) -> Upload:
        directory = self._commits.directory(folder)
        return Upload(self._store.fs, self._budget, directory, inode, folder, name)

    def _opened(self, upload: Upload, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        handle = self._next_handle
        self._next_handle += 1
        upload.handles += 1
        self._writing[handle] = _Writing(upload, ctx.pid, append=bool(flags & os.O_APPEND))
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True, keep_cache=False)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        upload = self._uploads.get(inode)
        if upload is not None:
            return await self._answer("open", self._open_upload(upload, flags, ctx))
        now = self._commits.follow(inode)
        if flags & _WRITING:
            return await self._answer("open", self._open_message(inode, now, flags, ctx))
        info = await super().open(now, flags, ctx)
        if now != inode:  # the kernel may have the bytes of the message that was here
            info.direct_io, info.keep_cache = True, False
        return info

    async def _open_upload(self, upload: Upload, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            async with upload.lock:
                upload.truncate(0)
        return self._opened(upload, flags, ctx)

    async def _open_message(self, inode: int, now: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if now >> 32 == 0:
            raise FUSEError(errno.EACCES)
        folder, uid = self._folder(now), now & UID_MASK
        box = self._commits.box(folder)
        if inode >> 63 and inode >> 32 != SECOND_NAME >> 32:
            if not flags & os.O_TRUNC:
                raise FUSEError(errno.EOPNOTSUPP)
            return self._opened(self._new_upload(inode, folder, b"%d.eml" % (inode & UID_MASK)), flags, ctx)
        body = await box.open(uid)
        upload = self._new_upload(inode, folder, self._names.name(folder, uid))
        upload.uid = uid
        if flags & os.O_TRUNC:
            body.close()
        else:
            upload.base = body
        return self._opened(upload, flags, ctx)

    # -- reading and writing -------------------------------------------------------------------

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        writing = self._writing.get(fh)
        if writing is None:
            return await super().read(fh, offset, size)
        return await self._answer("read", writing.upload.read(size, offset))

    @handler
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        writing = self._writing.get(fh)
        if writing is None:
            raise FUSEError(errno.EBADF)
        upload = writing.upload
        async with upload.lock:
            return await upload.write(bytes(data), None if writing.append else offset)

    async def flush(self, fh: int) -> None:
        writing = self._writing.get(fh)
        if writing is not None:
            await self._answer("flush", self._flush(writing))

    async def _flush(self, writing: _Writing) -> None:
        upload = writing.upload
        if opener.killed(writing.pid):
            writing.killed = True
            return
        async with upload.lock:
            upload.check()
            if upload.discarded or not upload.dirty:
                return
            if upload.temporary or self._is_held(writing):
                await upload.settle()
                return
            await self._commits.commit(upload)
        await self._tell(upload)

    def _is_held(self, writing: _Writing) -> bool:
        """Whether who opened the file has it open still, apart from having opened it again."""
        inode, pid = writing.upload.inode, writing.pid
        opens = [w for w in self._writing.values() if w.pid == pid and w.upload.inode == inode]
        return opener.held(pid, inode) >= len(opens)

    async def _tell(self, upload: Upload) -> None:
        """Have the kernel look up the name again, before whoever has closed the file does."""
        parent = self._inodes.of(upload.folder) if upload.folder in self._inodes else 0
        if parent and upload.inode >> 63 == 0:
            await trio.to_thread.run_sync(_invalidate, parent, upload.name)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        writing = self._writing.get(fh)
        if writing is not None:
            async with writing.upload.lock:
                writing.upload.check()
                await writing.upload.settle()

    async def release(self, fh: int) -> None:
        writing = self._writing.pop(fh, None)
        if writing is None:
            await super().release(fh)
        else:
            await self._answer("release", self._release(writing))

    async def _release(self, writing: _Writing) -> None:
        upload = writing.upload
        async with upload.lock:
            upload.handles -= 1
            if upload.handles or (upload.temporary and not upload.discarded):
                return
            try:
                if not (writing.killed or upload.failed or upload.discarded):
                    await self._commits.commit(upload)
            finally:
                self._drop(upload)
        await self._tell(upload)

    def _drop(self, upload: Upload) -> None:
        self._uploads.pop(upload.inode, None)
        self._unname(upload)
        upload.close()

    def _unname(self, upload: Upload) -> None:
        if upload.folder in self._inodes:
            key = (self._inodes.of(upload.folder), upload.name)
            if self._by_name.get(key) is upload:
                del self._by_name[key]

    # -- attributes ----------------------------------------------------------------------------

    @handler
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        writing = self._writing.get(fh) if fh is not None else None
        upload = writing.upload if writing is not None else self._uploads.get(inode)
        received = attr.st_mtime_ns // _NS if fields.update_mtime else None
        if upload is not None:
            async with upload.lock:
                await self._set_upload(upload, attr.st_size if fields.update_size else None, received)
            if upload.inode in self._uploads:
                return self._upload_attributes(upload)
            return await self._changed(inode, received)
        now = self._commits.follow(inode)
        if now >> 32 and now & UID_MASK:
            folder, uid = self._folder(now), now & UID_MASK
            facts = await self._facts(now, uid)
            if fields.update_size and attr.st_size != facts.size:
                raise FUSEError(errno.EOPNOTSUPP)
            if received is not None and not fields.update_size and received != facts.received:
                name = self._names.name(folder, uid)
                await self._commits.redate(folder, uid, received)
                self.notifier.entry(self._inodes.of(folder), name)
        return await self._changed(inode, received)

    async def _set_upload(self, upload: Upload, size: int | None, received: int | None) -> None:
        if size is not None:
            upload.truncate(size)
        elif received is not None:
            upload.received = received
            if upload.uid is not None and not upload.dirty and upload.handles:
                box = self._commits.box(upload.folder)
                if upload.uid in box and (await box.facts_of(upload.uid)).received != received:
                    upload.uid = await self._commits.redate(upload.folder, upload.uid, received)
                    self._commits.became(upload.inode, upload.folder, upload.uid)
                    self.notifier.entry(self._inodes.of(upload.folder), upload.name)

    async def _changed(self, inode: int, received: int | None) -> pyfuse3.EntryAttributes:
        self.requests["getattr"] -= 1  # the kernel has not asked for it
        return await self.getattr(inode, None)

    # -- taking away ---------------------------------------------------------------------------

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        upload = self._by_name.get((parent_inode, name))
        if upload is not None:
            async with upload.lock:
                await self._discard(upload)
            if upload.uid is None:
                return
        folder = self._folder(parent_inode)
        uid = self._resolve(folder, name)
        if uid is None:
            raise FUSEError(errno.ENOENT)
        if self._own(folder, name) is None:
            self._unlinked.add((parent_inode, name))
            return
        await self._removals.remove(folder, uid)

    async def _discard(self, upload: Upload) -> None:
        """Nothing of this upload will be committed; it stays readable for those who have it open."""
        upload.discarded = True
        self._unname(upload)
        if not upload.handles:
            self._drop(upload)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        folder = self._child(parent_inode, name)
        await self._removals.finish(folder)
        if any(upload.folder is folder and upload.handles for upload in self._uploads.values()):
            raise FUSEError(errno.ENOTEMPTY)
        await self._writer.delete_mailbox(folder.name, only_empty=True)
        for upload in [upload for upload in self._uploads.values() if upload.folder is folder]:
            self._drop(upload)
        await self._store.refresh_tree()

    def _child(self, parent_inode: int, name: bytes) -> Folder:
        child = self._folder(parent_inode).children.get(_decode(name))
        if child is None:
            raise FUSEError(errno.ENOENT)
        return child

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        listing = self._listings[fh]
        if listing is not None:
            await self._removals.finish(listing.folder)

    # -- renaming ------------------------------------------------------------------------------

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
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        check_name(name_new)
        source, target = self._folder(parent_inode_old), self._folder(parent_inode_new)
        upload = self._by_name.get((parent_inode_old, name_old))
        child = source.children.get(_decode(name_old))
        over = self._own(target, name_new)
        taken = target.children.get(_decode(name_new)) is not None
        if flags & pyfuse3.RENAME_NOREPLACE and (over is not None or taken):
            raise FUSEError(errno.EEXIST)
        if child is not None:
            if over is not None:
                raise FUSEError(errno.ENOTDIR)
            await self._rename_folder(child, target, name_new)
            return
        if taken:
            raise FUSEError(errno.EISDIR)
        self._commits.box(target)
        if upload is not None and (upload.temporary or upload.uid is None):
            await self._rename_upload(upload, target, name_new, over)
        else:
            await self._rename_message(source, name_old, target, name_new, over)
        self.notifier.entry(parent_inode_new, name_new)

    async def _rename_folder(self, folder: Folder, target: Folder, name: bytes) -> None:
        await self._removals.finish_all()
        new = self._storage_name(target, name)
        if target.children.get(_decode(name)) is not None:
            raise FUSEError(errno.EEXIST)
        await self._writer.rename_mailbox(folder.name, new)
        await self._store.refresh_tree()

    async def _rename_upload(self, upload: Upload, target: Folder, name: bytes, over: int | None) -> None:
        async with upload.lock:
            upload.check()
            was_temporary, before = upload.temporary, (upload.folder, upload.name, upload.uid)
            other = self._by_name.get((self._inodes.of(target), name))
            if other is not None and other is not upload and other.temporary:
                await self._discard(other)
            self._unname(upload)
            upload.folder, upload.name, upload.uid = target, name, over
            self._by_name[self._inodes.of(target), name] = upload
            if was_temporary and not upload.temporary:
                try:
                    await self._commits.commit(upload)
                except BaseException:  # nothing has changed: neither its name, and it may be tried again
                    self._unname(upload)
                    upload.folder, upload.name, upload.uid = before
                    upload.failed = 0
                    self._by_name[self._inodes.of(upload.folder), upload.name] = upload
                    raise
                if not upload.handles:
                    self._drop(upload)

    async def _rename_message(
        self, source: Folder, name_old: bytes, target: Folder, name_new: bytes, over: int | None
    ) -> None:
        uid = self._resolve(source, name_old)
        if uid is None:
            raise FUSEError(errno.ENOENT)
        if source is target:
            await self._commits.rename(source, uid, name_new, over=over if over != uid else None)
        else:
            await self._commits.move(source, uid, target, name_new, over=over)

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        check_name(new_name)
        target = self._folder(new_parent_inode)
        self._commits.box(target)
        if self._own(target, new_name) is not None or (new_parent_inode, new_name) in self._by_name:
            raise FUSEError(errno.EEXIST)
        upload = self._uploads.get(inode)
        if upload is not None and (upload.temporary or upload.uid is None):
            if new_name.startswith(b"."):
                raise FUSEError(errno.EOPNOTSUPP)
            async with upload.lock:
                uid = await self._commits.save(target, upload, new_name, replaces=None)
        else:
            now = self._commits.follow(inode)
            if now >> 32 == 0 or not now & UID_MASK:
                raise FUSEError(errno.EPERM)
            uid = await self._commits.copy(self._folder(now), now & UID_MASK, target, new_name)
        box = self._commits.box(target)
        entry = self._attributes.message(self._inodes.of(target) | uid, await box.facts_of(uid))
        return self._limited(target, entry)

    # -- mailboxes -----------------------------------------------------------------------------

    def _storage_name(self, parent: Folder, name: bytes) -> str:
        """The storage name of a mailbox that is shown as *name*.

        :raises FUSEError: EINVAL: there can't be one.
        """
        check_name(name)
        try:
            part = storage_part(_decode(name), utf8=self._store.location.utf8)
        except ValueError:
            raise FUSEError(errno.EINVAL) from None
        return f"{parent.name}/{part}" if parent.name else part

    @handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        parent = self._folder(parent_inode)
        if name == CONTROL_NAME and parent_inode == ROOT:
            raise FUSEError(errno.EEXIST)
        storage = self._storage_name(parent, name)
        if self._resolve(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        await self._writer.create_mailbox(storage)
        await self._store.refresh_tree()
        child = self._store.folders.get(storage)
        if child is None or child not in self._inodes:
            raise FUSEError(errno.EIO)
        return self._limited(parent, self._attributes.folder(child, self._inodes.of(child)))

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

    # -- extended attributes -------------------------------------------------------------------

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        if not name.startswith(b"user."):
            raise FUSEError(errno.EOPNOTSUPP)
        if not name.startswith(xattrs.PREFIX):
            raise FUSEError(errno.EINVAL)
        await self._set(inode, _decode(name[len(xattrs.PREFIX) :]), value)

    async def _set(self, inode: int, name: str, value: bytes) -> None:
        upload = self._uploads.get(inode)
        now = self._commits.follow(inode)
        message = upload is not None or (now >> 32 != 0 and now & UID_MASK != 0)
        if message and name in ("flags", "keywords"):
            words = _words(value)
            flags = flag_bits(words) if name == "flags" else None
            if upload is not None and upload.uid is None:
                upload.flags = upload.flags if flags is None else flags
                upload.keywords = upload.keywords if flags is not None else tuple(words)
            else:
                await self._commits.set_flags(now, flags, words if flags is None else None)
        elif not message and name == "subscribed" and now >> 32:
            if value not in (b"0", b"1"):
                raise FUSEError(errno.EINVAL)
            await self._writer.subscribe(self._folder(now).name, value == b"1")
        elif name in (xattrs.MESSAGE if message else xattrs.folder_names(self._folder(now))):
            raise FUSEError(errno.EPERM)
        else:
            raise FUSEError(errno.EINVAL)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        if not name.startswith(xattrs.PREFIX):
            raise FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)
        word = _decode(name[len(xattrs.PREFIX) :])
        if word not in ("flags", "keywords"):
            raise FUSEError(errno.EPERM)
        await self._set(inode, word, b"")

    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        upload = self._uploads.get(inode)
        if upload is None or upload.uid is not None:
            return await super().getxattr(self._commits.follow(inode), name, ctx)
        self.requests["getxattr"] += 1
        if name == xattrs.PREFIX + b"keywords":
            return " ".join(upload.keywords).encode("utf-8", "surrogateescape")
        raise FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.EOPNOTSUPP)

    async def listxattr(self, inode: int, ctx: object) -> Sequence[pyfuse3.XAttrNameT]:
        upload = self._uploads.get(inode)
        if upload is None or upload.uid is not None:
            return await super().listxattr(self._commits.follow(inode), ctx)
        self.requests["listxattr"] += 1
        return []


def _words(value: bytes) -> list[str]:
    """
    :raises FUSEError: EINVAL: no text.
    """
    try:
        return value.decode("utf-8").split()
    except UnicodeDecodeError:
        raise FUSEError(errno.EINVAL) from None


def _invalidate(parent: int, name: bytes) -> None:
    with suppress(FileNotFoundError):
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
