"""Changes of messages, as a mount makes them: each with the message's name, and visible when it returns.

Every method returns when the change is on disk, the mailbox has been read again, and the name is recorded.
An inode whose message has got another uid is forwarded (:mod:`dboxfs.vfs.forwarding`).

A change compares the names again under the lock of the mailbox.  If the message has gone by then, or another
one has its name, nothing is changed (:class:`~dboxfs.store.write.Superseded`), and the change is made again
with the mailbox as it is now (:meth:`MessageChanges.again`).

Locks: :meth:`MessageChanges.move` and a rename over a message hold the lock of the name that gets another
meaning (:class:`~dboxfs.vfs.names.NameLocks`).  A commit already holds it when it calls
:meth:`MessageChanges.save`, which takes none.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import trio
from msgspec.structs import replace

from dboxfs.errors import DboxfsError, NoSuchMailbox, NoSuchMessage, StoreBusy
from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.read import NameReader
from dboxfs.store.stored_once import Arrived, StoredOnce
from dboxfs.store.write import BodySource, Copied, NewMessage, Source, StoreWriter, Superseded, Wanted
from dboxfs.store.write.meaning import as_seen, called
from dboxfs.store.write.spool import Spool
from dboxfs.vfs.editor_saves import EditorSaves
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.keep_names import keep_names
from dboxfs.vfs.names import NameLocks
from dboxfs.vfs.new_guids import NewGuids
from dboxfs.vfs.node import Inodes, Node

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 100
"""How often a change is tried at most, when other writers keep changing the message or its name."""

GONE = 20
"""How many tries in a row have to miss a message before it counts as gone: another mount may replace it again
and again."""

_FIRST_DELAY = 0.001
_LONGEST_DELAY = 0.05


def mailbox_of(folder: Folder) -> Mailbox:
    """The mailbox of a folder.

    :raises NoSuchMailbox: the folder is gone, or has another name.
    :raises Refused: EPERM: the folder has none, so it can't hold messages.
    """
    if folder.mailbox is None:
        if folder.parent is not None and folder.parent.children.get(folder.shown) is not folder:
            raise NoSuchMailbox(f"{folder}: the mailbox is gone")
        raise Refused(errno.EPERM)
    return folder.mailbox


async def look_again(store: Store, folder: Folder) -> Folder:
    """The folder that has the name of *folder* now, as the target of a new message.

    A folder without a mailbox may just have got one: another program makes or renames a mailbox in several
    steps, and the store may have seen only the first of them.
    """
    if folder.mailbox is None:
        await store.refresh_tree()
    return store.folders.get(folder.name, folder)


class MessageChanges:
    """Makes the changes of messages."""

    def __init__(
        self,
        store: Store,
        writer: StoreWriter,
        inodes: Inodes,
        forwarding: Forwarding,
        locks: NameLocks,
        reader: NameReader,
        files: NameFiles,
    ) -> None:
        self._store = store
        self._writer = writer
        self._once = StoredOnce(store, writer)
        self._inodes = inodes
        self._forwarding = forwarding
        self._locks = locks
        self._names = reader.names
        self._reader = reader
        self._files = files
        self._editor_saves = EditorSaves()
        self._filled: set[bytes] = set()
        self._new_guids = NewGuids(store)
        writer.tell_names(files)

    # -- repeating a change, and finding its mailbox -------------------------------------------

    async def again(
        self,
        folder: Callable[[], Folder],
        change: Callable[[], Awaitable[T]],
        *,
        source: Folder | None = None,
    ) -> T:
        """Make a change, and make it again each time that another writer was faster.

        :param folder: gives the folder whose messages and names the change depends on.
        :param source: the folder that a message comes from; None: the same.
        :raises StoreBusy: another writer was faster :data:`ATTEMPTS` times.
        :raises NoSuchMessage: the message is gone.
        """
        gone = 0
        for attempt in range(ATTEMPTS):
            try:
                return await change()
            except (Superseded, NoSuchMessage) as exc:
                gone = gone + 1 if isinstance(exc, NoSuchMessage) else 0
                if gone > GONE:
                    raise
                await trio.sleep(min(_FIRST_DELAY * attempt, _LONGEST_DELAY))
                for some in {folder(), source or folder()}:
                    await self._store.refresh_mailbox(some)
                    await self._reader.look(some)
        raise StoreBusy(f"{folder()}: a message was replaced by others again and again")

    def folder_with(self, before: Folder, guid: bytes) -> Folder | None:
        """The folder that has the mailbox *guid* now, which was in *before*; None: no folder has it."""
        for folder in (before, *self._store.folders.values()):
            if folder.mailbox is not None and folder.mailbox.guid == guid and folder in self._inodes:
                return folder
        return None

    async def home(self, folder: Folder, guid: bytes | None) -> Folder | None:
        """The folder of a message that was saved in *folder*, whose mailbox may have been renamed meanwhile.

        :param guid: of the mailbox; None: not known.
        :return: None: the mailbox is gone, and the message with it.
        """
        found = self.folder_with(folder, guid) if guid is not None else None
        if found is None and (folder.mailbox is None or folder not in self._inodes):
            with suppress(DboxfsError, OSError):  # the message is saved, even if this fails
                await self._store.refresh_tree()
            return self.folder_with(folder, guid) if guid is not None else None
        return found or folder

    # -- new messages --------------------------------------------------------------------------

    def spool(self, folder: Folder, *, plain: bool = False) -> Spool:
        """A file for the text of a new message (*plain*: of several), which goes with its mailbox."""
        guid = (folder.mailbox.guid if folder.mailbox is not None else None) or b""
        home = partial(self.folder_with, folder, guid)
        return self._writer.spool(folder.name, plain=plain, home=lambda: (home() or folder).name)

    def just_came(self, folder: Folder, uid: int) -> bool:
        """Whether a message came through this mount, a short while ago or into a mailbox without messages."""
        return self._editor_saves.is_new(folder.name, uid) or self.is_new_mailbox(folder)

    def is_new_mailbox(self, folder: Folder) -> bool:
        """Whether a mailbox has no messages, or had none before this mount saved some."""
        box = folder.mailbox
        return box is not None and (not len(box) or box.guid in self._filled)

    def is_known_as(self, before: bytes, guid: bytes) -> None:
        """A mailbox was given another guid."""
        if before in self._filled:
            self._filled.add(guid)

    async def save(self, folder: Folder, message: NewMessage, name: bytes | None) -> int:
        """Save a message under this name (None: ``<uid>.eml``); gives its uid.

        :raises Superseded: another message has the name by now; nothing was changed.
        :raises DboxfsError, OSError: nothing was changed.
        """
        wanted, guid = Wanted(name, message.replaces) if name is not None else None, mailbox_of(folder).guid
        seen = as_seen(folder)
        if guid is not None and not len(mailbox_of(folder)):
            self._filled.add(guid)
        async with self._announced(folder, wanted):
            with seen:
                arrived = await self._once.save(folder.name, [replace(message, wanted=wanted)])
        uid = arrived.saved.uids[0]
        self._new_guids.tell(folder, uid, arrived)
        home = await self.home(folder, guid)
        if home is None:
            return uid
        folder = home
        self._editor_saves.saved(folder.name, uid)
        if mailbox_of(folder).guid is None:
            await self._store.refresh_mailbox(folder)
        failed: OSError | DboxfsError | None = None
        try:
            await self._store.see(folder)
            try:
                if wanted is not None:
                    await self._files.confirm(folder, uid, wanted)
            except (OSError, DboxfsError) as exc:
                failed = exc
        finally:
            if message.replaces is not None:
                self._forwarding.became(self._inodes.message(folder, message.replaces).inode, folder, uid)
        if failed is not None:
            if message.replaces is None:
                await self._take_back(folder, uid)
            raise failed
        return uid

    async def save_all(self, folder: Folder, messages: Sequence[NewMessage]) -> Arrived:
        """Save messages into a mailbox in one transaction, each under the name in its ``wanted``.

        A name that can't be recorded is logged, and the message is ``<uid>.eml``.

        :raises Superseded: another message has one of the names by now; nothing was changed.
        :raises DboxfsError, OSError: nothing was changed.
        """
        guid, seen = mailbox_of(folder).guid, as_seen(folder)
        if guid is not None and not len(mailbox_of(folder)):
            self._filled.add(guid)
        async with self._announced(folder, *(message.wanted for message in messages)):
            with seen:
                arrived = await self._once.save(folder.name, messages)
        await self._store.see(folder)
        for uid in arrived.saved.uids:
            self._editor_saves.saved(folder.name, uid)
        wanted = [(uid, m.wanted) for m, uid in zip(messages, arrived.saved.uids, strict=True)]
        named = [(uid, some) for uid, some in wanted if some is not None]
        await keep_names(self._store, self._files, folder, named)
        return arrived

    async def be_sure_of_names(self, folder: Folder) -> None:
        """Read the names of a mailbox again, before the caller decides that a message is gone.

        :raises OSError: they can't be read.
        """
        await self._reader.be_sure(folder)

    def is_free(self, folder: Folder, name: bytes) -> bool:
        """Whether no message has this name."""
        return self._names.resolve(folder, name) is None

    def has_no_name(self, folder: Folder, uid: int) -> bool:
        """Whether a message is called ``<uid>.eml``."""
        return self._names.name(folder, uid) == b"%d.eml" % uid

    @asynccontextmanager
    async def _announced(self, folder: Folder, *names: Wanted | None) -> AsyncIterator[None]:
        """Wraps the save of a message; if it fails after its name was announced, the name is withdrawn."""
        try:
            yield
        except BaseException:
            with trio.CancelScope(shield=True):
                for wanted in names:
                    if wanted is not None and wanted.uid:
                        await self._withdraw(folder, wanted)
            raise

    async def _withdraw(self, folder: Folder, wanted: Wanted) -> None:
        try:
            await self._store.refresh_mailbox(folder)
            await self._files.withdraw(folder, wanted)
        except (DboxfsError, OSError) as exc:
            log.error("%s: a name is promised to uid %d, which was not saved: %s", folder, wanted.uid, exc)

    async def _take_back(self, folder: Folder, uid: int) -> None:
        """Expunge a message whose name can't be recorded: its writer gets an error, so none may stay."""
        try:
            with trio.CancelScope(shield=True):
                with as_seen(folder):
                    await self._writer.expunge(folder.name, [uid])
                await self._store.see(folder)
        except (DboxfsError, OSError) as exc:
            log.error("%s: uid %d was saved, but its name can't be: %s", folder, uid, exc)

    async def redate(self, folder: Folder, uid: int, received: int) -> int:
        """Give a message another received date, which makes a replacement; gives the new uid.

        :raises NoSuchMessage: it is gone.
        """

        async def once() -> int:
            old = self._now(folder, uid)
            body = await mailbox_of(folder).open(old)
            try:
                source: Source = BodySource(body)
                message = NewMessage(source, received, replaces=old)
                return await self.save(folder, message, self._names.name(folder, old))
            finally:
                body.close()

        return await self.again(lambda: folder, once)

    def _now(self, folder: Folder, uid: int) -> int:
        """The uid that message *uid* has now: another one, if it was replaced.

        :raises NoSuchMessage: it is gone.
        """
        box, now = mailbox_of(folder), self._forwarding.now(self._inodes.message(folder, uid).inode)
        if uid in box:
            return uid
        found = now.uid if now.folder is folder and now.uid in box else self._names.heir(folder, uid)
        if found is None:
            raise NoSuchMessage(f"{folder}: no message with uid {uid}")
        return found

    # -- names ---------------------------------------------------------------------------------

    async def rename(self, folder: Folder, uid: int, old: bytes, name: bytes, *, over: int | None) -> None:
        """Give a message another name in its mailbox; *over*: the message with that name, which it replaces.

        :param old: its name so far.
        :raises Superseded: another message has *name*, or this one another name, by now; nothing was changed.
        :raises NoSuchMessage: *uid* is gone.
        """
        self._editor_saves.put_aside(folder.name, self._names.name(folder, uid), name, uid)
        if over is None:
            if self._editor_saves.is_new(folder.name, uid):
                await self._take_over(folder, uid, name)
            with as_seen(folder), called(folder, uid, old):
                async with self._writer.held(folder.name) as there:
                    await self._files.rename(folder, uid, name, there)
            return
        async with self._locks.of(folder, name):
            await self._rename_over(folder, uid, old, name, over)

    async def _rename_over(self, folder: Folder, uid: int, old: bytes, name: bytes, over: int) -> None:
        named = Wanted(name, over, uid)
        try:
            # The name is written first: after a crash at any point it stands for one message or the other.
            with as_seen(folder), called(folder, uid, old):
                await self._writer.take_place(folder.name, uid, over, named=named)
        except Superseded:
            raise
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._keep_name(folder, over, named)
            raise
        await self._store.see(folder)

    async def _keep_name(self, folder: Folder, uid: int, named: Wanted) -> None:
        """Message *uid* keeps its name: the rename over it has failed."""
        try:
            await self._files.keep(folder, uid, named)
        except (DboxfsError, OSError) as exc:  # the next writable mount takes the line out
            log.error("%s: the name of uid %d is still promised to another message: %s", folder, uid, exc)

    async def _take_over(self, folder: Folder, uid: int, name: bytes) -> None:
        heir_of = self.inherited(folder, name)
        if heir_of is not None:
            with as_seen(folder):
                await self._writer.inherit(folder.name, uid, heir_of)
            await self._store.see(folder)

    def is_new(self, folder: Folder, uid: int) -> bool:
        """Whether the message came through this mount a short while ago."""
        return self._editor_saves.is_new(folder.name, uid)

    def inherited(self, folder: Folder, name: bytes) -> int | None:
        """The message whose flags and keywords a new one of this name inherits: the editor's backup."""
        aside = self._editor_saves.find(folder.name, name)
        return aside.uid if aside is not None and aside.uid in mailbox_of(folder) else None

    # -- moves, copies, flags ------------------------------------------------------------------

    async def move(
        self, source: Folder, uid: int, old: bytes, target: Folder, name: bytes, *, over: int | None
    ) -> int:
        """Move a message to another mailbox; *over*: the message that it replaces there; gives its uid there.

        :param old: its name so far.
        :raises Superseded: another message has *name*, or this one another name, by now; nothing was changed.
        :raises NoSuchMessage: *uid* is gone.
        """
        named, before = Wanted(name, over), mailbox_of(source).guid
        guid, seen = mailbox_of(target).guid, as_seen(source, target)
        async with self._locks.of(target, name), self._announced(target, named):
            with seen, called(source, uid, old):
                copied = await self._writer.move(source.name, [uid], target.name, replaces=over, named=named)
            new = copied.uids[0]
            home = await self.home(target, guid)
            if home is not None:
                self._forwarding.became(self._inodes.message(source, uid).inode, home, new)
                await self._arrived(home, new, named)
        await self._store.see(await self.home(source, before) or source)
        return new

    async def copy(self, source: Folder, uid: int, target: Folder, name: bytes) -> Node:
        """Copy a message; gives the copy, in the folder that has the target mailbox by then.

        :raises Superseded: the name is taken.
        """
        copying = partial(self._writer.copy, source.name, [uid], target.name)
        with as_seen(source, target):
            return await self.bring(target, name, lambda named: copying(named=named))

    async def bring(self, target: Folder, name: bytes, come: Callable[[Wanted], Awaitable[Copied]]) -> Node:
        """Add a message with *come* under the name *name*; gives it, in the folder that has the mailbox now.

        :raises Superseded: the name is taken.
        """
        named, guid = Wanted(name), mailbox_of(target).guid
        async with self._announced(target, named):
            copied = await come(named)
        new = copied.uids[0]
        home = await self.home(target, guid)
        if home is None:
            return self._inodes.message(target, new)
        try:
            await self._arrived(home, new, named)
        except (OSError, DboxfsError):
            await self._take_back(home, new)
            raise
        return self._inodes.message(home, new)

    async def look_again(self, folder: Folder) -> Folder:
        """See :func:`look_again`."""
        return await look_again(self._store, folder)

    async def _arrived(self, folder: Folder, uid: int, named: Wanted) -> None:
        await self._store.see(folder)
        await self._files.confirm(folder, uid, named)

    async def set_flags(self, node: Node, flags: int | None, keywords: list[str] | None) -> None:
        """Give a message exactly these flags, or keywords; None: they stay.

        :raises Refused: EINVAL: a text that can't be a keyword; ENOENT: its mailbox is gone.
        """
        folder = node.directory()
        try:
            with as_seen(folder):
                await self._writer.replace_flags(folder.name, node.uid, flags, keywords)
        except ValueError:
            raise Refused(errno.EINVAL) from None
        await self._store.see(folder)
