"""What turns written bytes into messages, and messages into other ones: saves, replacements, moves, copies.

Each of these returns when the change is on disk, the mailbox has been read again, and the name is recorded.
An inode whose message has got another uid (a replacement, a move) or has become one (an upload) stays usable:
:meth:`Commits.follow` says what it is now.  That memory is bounded (:data:`FOLLOWED`); the kernel is told of
every name that means something else, so it only serves those who were faster.

A change finds the names as they are under the lock of the mailbox: where a message has gone or another one
has its name by then, nothing is changed (:class:`~dboxfs.store.write.Superseded`), and the change is made
again with what is there now (:meth:`Commits.again`).

What the bytes of an upload become (:meth:`Commits.commit`), in the mailbox that it was opened in, whatever
that is called by now:

==========================================  ================================================================
the message that it was opened on           is there: replaced.  Replaced by somebody else: that one is, and
                                            what was only appended goes behind it.  Moved: there.  Expunged by
                                            somebody else: a message of its own under the same name
its name, if it is a new file               is free: it gets it.  Written by another file of this mount at the
                                            same time: that is replaced.  Only appended to: goes behind the
                                            message that has it.  Another message was given it by now, or it
                                            was given to another file: nothing is replaced, it becomes a
                                            message of its own (``<uid>.eml``)
==========================================  ================================================================
"""

from __future__ import annotations

import errno
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar
from weakref import WeakValueDictionary

import trio
from pyfuse3 import FUSEError

from dboxfs.errors import DboxfsError, NoSuchMailbox, NoSuchMessage, StoreBusy
from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.mailbox import FLAG_NAMES
from dboxfs.store.names.codec import LONGEST, can_be
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import BodySource, NewMessage, Source, Spool, StoreWriter, Superseded, Wanted
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.editor_saves import Backups, PutAside
from dboxfs.vfs.node import UID_MASK, Inodes

log = logging.getLogger(__name__)

T = TypeVar("T")

FOLLOWED = 1 << 16
"""Inodes that are followed to what has become of them."""

ATTEMPTS = 100
"""So often a change is made again because others were faster."""

GONE = 20
"""So often in a row a message may be gone before it is believed to be: others replace it again and again."""

_FIRST_WAIT = 0.001
_LONGEST_WAIT = 0.05

_BITS = {name.lower(): bit for bit, name in FLAG_NAMES}


def flag_bits(names: Iterable[str]) -> int:
    """The bits of system flags.

    :raises FUSEError: EINVAL: there is no such flag.
    """
    try:
        return sum({_BITS[name.lower()] for name in names})
    except KeyError:
        raise FUSEError(errno.EINVAL) from None


def flag_names(bits: int) -> list[str]:
    """The system flags that are set."""
    return [name for bit, name in FLAG_NAMES if bits & bit]


class Commits:
    """See the module."""

    def __init__(
        self, store: Store, writer: StoreWriter, inodes: Inodes, reader: NameReader, files: NameFiles
    ) -> None:
        self._store = store
        self._writer = writer
        self._inodes = inodes
        self._names = reader.names
        self._reader = reader
        self._files = files
        writer.tell_names(files)
        self._backups = Backups()
        self._became: OrderedDict[int, int] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[int, bytes], trio.Lock] = WeakValueDictionary()

    # -- inodes --------------------------------------------------------------------------------

    def follow(self, inode: int) -> int:
        """The inode of what *inode* has become, or *inode*."""
        seen = 0
        while (now := self._became.get(inode)) is not None and seen < FOLLOWED:
            inode = now
            seen += 1
        return inode

    def became(self, inode: int, folder: Folder, uid: int) -> None:
        """*inode* is message *uid* of *folder* now."""
        now = self._inodes.of(folder) | uid
        if now != inode:
            self._became[inode] = now
            self._became.move_to_end(inode)
            if len(self._became) > FOLLOWED:
                self._became.popitem(last=False)

    # -- messages ------------------------------------------------------------------------------

    def spool(self, folder: Folder) -> Spool:
        """A temporary file for an upload into *folder*."""
        return self._writer.spool(folder.name)

    @staticmethod
    def box(folder: Folder) -> Mailbox:
        """The mailbox of a folder that can hold messages.

        :raises FUSEError: EPERM: it can't.
        """
        if folder.mailbox is None:
            raise FUSEError(errno.EPERM)
        return folder.mailbox

    async def commit(self, upload: Upload) -> bool:
        """Make a message of what is not committed yet (the lock is held); False: there was nothing.

        :raises Exception: nothing has changed, and nothing of it will ever be committed.
        """
        if not upload.dirty or upload.discarded:
            return False
        try:
            try:
                await self._commit(upload)
            except NoSuchMailbox:  # it may have been renamed a moment ago
                if upload.taken:
                    raise
                await self._store.refresh_tree()
                await self._commit(upload)
        except BaseException as exc:
            upload.failed = upload.failed or getattr(exc, "errno", None) or errno.EIO
            raise
        return True

    def _one_by_one(self, folder: Folder, name: bytes) -> trio.Lock:
        """What those hold who change what a name stands for: each finds what the one before has made of it.

        Who gives the name away (a rename) tells the writers of the old file before another task runs.
        """
        key = self._inodes.of(folder), name
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = trio.Lock()
        return lock

    async def _commit(self, upload: Upload) -> None:
        self._go_home(upload)

        async def once() -> int:
            async with self._one_by_one(upload.folder, upload.name):
                await upload.renew()
                old = await self._find_old(upload)
                name = None if old is None and self._is_taken(upload) else upload.name
                return await self.save(upload.folder, upload, name, replaces=old)

        uid = await self.again(lambda: upload.folder, once)
        upload.committed(uid)
        upload.unnamed = upload.renamed = False
        home = await self._home(upload.folder, upload.guid)
        if home is not None:
            upload.folder, upload.name = home, self._names.name(home, uid)
            self.became(upload.inode, home, uid)

    async def again(self, folder: Callable[[], Folder], change: Callable[[], Awaitable[T]]) -> T:
        """Make a change, again and again as long as others are faster.

        :param folder: whose messages and names it depends on.
        :raises StoreBusy: they always were.
        """
        gone = 0
        for attempt in range(ATTEMPTS):
            try:
                return await change()
            except (Superseded, NoSuchMessage) as exc:
                gone = gone + 1 if isinstance(exc, NoSuchMessage) else 0
                if gone > GONE:
                    raise
                await trio.sleep(min(_FIRST_WAIT * attempt, _LONGEST_WAIT))
                await self._store.refresh_mailbox(folder())
                await self._reader.look(folder())
        raise StoreBusy(f"{folder().name}: a message was replaced by others again and again")

    def _go_home(self, upload: Upload) -> None:
        """The mailbox that it was opened in may have another name by now.

        :raises NoSuchMailbox: it is gone, whatever has its name.
        """
        if upload.guid is None:
            return
        home = self._folder_of(upload.folder, upload.guid)
        if home is None:
            raise NoSuchMailbox(f"{upload.folder.name}: the mailbox is gone")
        upload.folder = home

    def _folder_of(self, before: Folder, guid: bytes) -> Folder | None:
        """The folder of a mailbox that was *before*'s; None: none has it."""
        for folder in (before, *self._store.folders.values()):
            if folder.mailbox is not None and folder.mailbox.guid == guid and folder in self._inodes:
                return folder
        return None

    async def _home(self, folder: Folder, guid: bytes | None) -> Folder | None:
        """Where a message is that was saved in *folder*, whose mailbox may have been renamed meanwhile.

        :param guid: of the mailbox; None: not known.
        :return: None: the mailbox is gone, and the message with it.
        """
        found = self._folder_of(folder, guid) if guid is not None else None
        if found is None and (folder.mailbox is None or folder not in self._inodes):
            with suppress(DboxfsError, OSError):  # the message is there, whatever that meets
                await self._store.refresh_tree()
            return self._folder_of(folder, guid) if guid is not None else None
        return found or folder

    async def _find_old(self, upload: Upload) -> int | None:
        """The message that is to be replaced; None: there is none."""
        uid = upload.uid
        if uid is None:
            uid = self._holder(upload)
            if uid is None or upload.exclusive:
                return None
            is_new = self._backups.is_new(upload.folder.name, uid)
            if upload.based is None and not is_new and not upload.renamed:
                return None
        elif uid not in self.box(upload.folder):
            now = self.follow(self._inodes.of(upload.folder) | uid)
            folder, uid = self._inodes.folder(now), now & UID_MASK
            if folder is None or folder.mailbox is None or uid not in folder.mailbox:
                folder, uid = upload.folder, self._names.heir(upload.folder, upload.uid or 0)
            if uid is None or folder.mailbox is None:
                upload.uid = None  # expunged by somebody else
                return await self._find_old(upload)
            upload.folder, upload.uid, upload.guid = folder, uid, folder.mailbox.guid
            upload.name = self._names.name(folder, uid)
        else:
            upload.name = self._names.name(upload.folder, uid)
            return uid
        if upload.based is not None:
            body = await self.box(upload.folder).open(uid)
            try:
                await upload.rebase(body)
            finally:
                body.close()
        return uid

    def _holder(self, upload: Upload) -> int | None:
        """The message that was written under the name of a new file; None: there is none."""
        if upload.unnamed:
            return None
        uid = self._names.holder(upload.folder, upload.name)
        return uid if uid is not None and uid in self.box(upload.folder) else None

    def _is_taken(self, upload: Upload) -> bool:
        """Whether the name of a new message is another one's."""
        return upload.unnamed or self._holder(upload) is not None

    async def save(self, folder: Folder, upload: Upload, name: bytes | None, *, replaces: int | None) -> int:
        """Save the bytes of *upload* as a message with this name (None: with none); gives its uid."""
        aside: PutAside | None = None
        if replaces is None and name is not None and not upload.flags and not upload.keywords:
            aside = self._given_up(folder, name)
        message = NewMessage(
            upload.source(), upload.received, upload.flags, upload.keywords, replaces=replaces,
            inherits=aside.uid if aside is not None else None,
        )  # fmt: skip
        return await self._save(folder, message, name)

    async def redate(self, folder: Folder, uid: int, received: int) -> int:
        """Give a message another received date: a replacement; gives the new uid.

        :raises NoSuchMessage: it is gone.
        """

        async def once() -> int:
            old = self._now(folder, uid)
            body = await self.box(folder).open(old)
            try:
                source: Source = BodySource(body)
                message = NewMessage(source, received, replaces=old)
                return await self._save(folder, message, self._names.name(folder, old))
            finally:
                body.close()

        return await self.again(lambda: folder, once)

    def _now(self, folder: Folder, uid: int) -> int:
        """The message that *uid* is now, if it was replaced.

        :raises NoSuchMessage: it is gone.
        """
        now = self.follow(self._inodes.of(folder) | uid) & UID_MASK
        found = next((some for some in (uid, now) if some in self.box(folder)), None)
        found = self._names.heir(folder, uid) if found is None else found
        if found is None:
            raise NoSuchMessage(f"{folder.name}: no message with uid {uid}")
        return found

    async def _save(self, folder: Folder, message: NewMessage, name: bytes | None) -> int:
        wanted, guid = Wanted(name, message.replaces) if name is not None else None, self.box(folder).guid
        async with self._announced(folder, wanted):
            saved = await self._writer.save(folder.name, [replace(message, wanted=wanted)])
        uid = saved.uids[0]
        home = await self._home(folder, guid)
        if home is None:
            return uid
        folder = home
        self._backups.saved(folder.name, uid)
        if self.box(folder).guid is None:
            await self._store.refresh_mailbox(folder)
        failed: OSError | DboxfsError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store.refresh_mailbox, folder)
                try:
                    await self._named(folder, uid, name)
                except (OSError, DboxfsError) as exc:
                    failed = exc
        finally:
            if message.replaces is not None:
                self.became(self._inodes.of(folder) | message.replaces, folder, uid)
        if failed is not None:
            if message.replaces is None:
                await self._take_back(folder, uid)
            raise failed
        return uid

    @asynccontextmanager
    async def _announced(self, folder: Folder, wanted: Wanted | None) -> AsyncIterator[None]:
        """While a message comes, whose name was announced: if it doesn't come, the name is nobody's."""
        try:
            yield
        except BaseException:
            if wanted is not None and wanted.uid:
                with trio.CancelScope(shield=True):
                    await self._withdraw(folder, wanted)
            raise

    async def _withdraw(self, folder: Folder, wanted: Wanted) -> None:
        try:
            await self._store.refresh_mailbox(folder)
            await self._files.withdraw(folder, wanted)
        except (DboxfsError, OSError) as exc:
            log.error(
                "%s: a name is promised to uid %d, which was not saved: %s", folder.name, wanted.uid, exc
            )

    async def _take_back(self, folder: Folder, uid: int) -> None:
        """The name can't be kept, and the writer hears of that: then there shall be no message either."""
        try:
            await self._writer.expunge(folder.name, [uid])
            await self._store.refresh_mailbox(folder)
        except (DboxfsError, OSError) as exc:
            log.error("%s: uid %d was saved, but its name can't be: %s", folder.name, uid, exc)

    async def _named(self, folder: Folder, uid: int, name: bytes | None) -> None:
        if name is not None:
            await self._files.record(folder, uid, name)

    async def rename(self, folder: Folder, uid: int, name: bytes, *, over: int | None) -> None:
        """Another name in the same mailbox; *over*: the message that had it, whose place this one takes.

        :raises Superseded: another message has it by now; nothing was changed.
        :raises NoSuchMessage: *uid* is gone.
        """
        self._backups.put_aside(folder.name, self._names.name(folder, uid), name, uid)
        if over is None:
            if self._backups.is_new(folder.name, uid):
                await self._take_over(folder, uid, name)
            async with self._writer.held(folder.name) as there:
                await self._files.rename(folder, uid, name, there)
            return
        async with self._one_by_one(folder, name):
            await self._rename_over(folder, uid, name, over)

    async def _rename_over(self, folder: Folder, uid: int, name: bytes, over: int) -> None:
        named = Wanted(name, over, uid)
        try:
            # The name first: it stands for the one message or the other, whenever somebody dies.
            await self._writer.take_place(folder.name, uid, over, named=named)
        except Superseded:
            raise
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._keep_name(folder, over, named)
            raise
        await self._store.refresh_mailbox(folder)

    async def _keep_name(self, folder: Folder, uid: int, named: Wanted) -> None:
        """Nothing takes the place of a message after all."""
        try:
            if self._files.is_promised(folder, uid, named):
                await self._files.record(folder, uid, named.name)
        except (DboxfsError, OSError) as exc:  # the next writable mount takes the line out
            log.error(
                "%s: the name of uid %d is still promised to another message: %s", folder.name, uid, exc
            )

    def _given_up(self, folder: Folder, name: bytes) -> PutAside | None:
        """What the message had that an editor has just renamed to a backup of this name."""
        found = self._backups.find(folder.name, name)
        return found if found is not None and found.uid in self.box(folder) else None

    async def _take_over(self, folder: Folder, uid: int, name: bytes) -> None:
        aside = self._given_up(folder, name)
        if aside is not None:
            await self._writer.inherit(folder.name, uid, aside.uid)
            await self._store.refresh_mailbox(folder)

    async def move(self, source: Folder, uid: int, target: Folder, name: bytes, *, over: int | None) -> int:
        """Move a message to another mailbox, perhaps over another one; gives its uid there.

        :raises Superseded: another message has the name by now; nothing was changed.
        :raises NoSuchMessage: *uid* is gone.
        """
        named = Wanted(name, over)
        async with self._one_by_one(target, name), self._announced(target, named):
            copied = await self._writer.move(source.name, [uid], target.name, replaces=over, named=named)
            new = copied.uids[0]
            self.became(self._inodes.of(source) | uid, target, new)
            await self._arrived(target, new, name)
        await self._store.refresh_mailbox(source)
        return new

    async def copy(self, source: Folder, uid: int, target: Folder, name: bytes) -> int:
        """Copy a message; gives the uid of the copy.

        :raises Superseded: the name is taken.
        """
        named = Wanted(name)
        async with self._announced(target, named):
            copied = await self._writer.copy(source.name, [uid], target.name, named=named)
        new = copied.uids[0]
        try:
            await self._arrived(target, new, name)
        except (OSError, DboxfsError):
            await self._take_back(target, new)
            raise
        return new

    async def _arrived(self, folder: Folder, uid: int, name: bytes) -> None:
        await self._store.refresh_mailbox(folder)
        await self._named(folder, uid, name)

    async def set_flags(self, inode: int, flags: int | None, keywords: list[str] | None) -> None:
        """Give the message behind *inode* exactly these flags, or keywords.

        :raises FUSEError: EINVAL: something that can't be a keyword.
        """
        folder = self._inodes.folder(inode)
        if folder is None:
            raise FUSEError(errno.ENOENT)
        try:
            await self._writer.replace_flags(folder.name, inode & UID_MASK, flags, keywords)
        except ValueError:
            raise FUSEError(errno.EINVAL) from None
        await self._store.refresh_mailbox(folder)


def check_name(name: bytes) -> None:
    """
    :raises FUSEError: no file of the mount can have this name.
    """
    if len(name) > LONGEST:
        raise FUSEError(errno.ENAMETOOLONG)
    if not can_be(name):
        raise FUSEError(errno.EINVAL)
