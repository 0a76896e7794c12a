"""Mailboxes: create, delete, rename, subscribe (PROTOCOL section 9).

Everything but subscribing holds ``mailboxes.lock``.  Names are storage names.  The tree decides which
mailboxes exist.  ``dovecot.list.index`` is a cache of it, which Dovecot uses until its refresh flag is set,
so each change of the tree ends with setting that flag.  With LAYOUT=index the list index decides
(:mod:`.list_index`): a mailbox exists as long as it is listed.  A creation lists it in its last step, and a
deletion unlists it before any file is removed.
"""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager

from dboxfs.errors import DboxfsError, NoSuchMailbox, Unsupported
from dboxfs.fsapi import ops
from dboxfs.index import payload
from dboxfs.index.expunges import is_left_by_expunge
from dboxfs.index.log import RecordType, encode_record
from dboxfs.store.indexes.create import make_mailbox_index
from dboxfs.store.indexes.locks import tree_lock
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.location import TreeLayout
from dboxfs.store.write import log_records
from dboxfs.store.write.list_index import ListedMailboxes, listed, own_name, own_name_of
from dboxfs.store.write.mailbox_check import check_mailbox_name
from dboxfs.store.write.mailbox_trees import check_parent, remove_empty_parents, trees
from dboxfs.store.write.proof import expunges_of, holds_messages
from dboxfs.store.write.removing import empty_trash, remove_index_files, remove_tree, was_empty
from dboxfs.store.write.session import Work, message_number, present
from dboxfs.store.write_errors import InvalidName, MailboxExists, MailboxInUse

log = logging.getLogger(__name__)

TRASH = "..DOVECOT-TrasH"
_LIST_FLAG = b"\x01"
_ATTEMPTS = 10

Expunge = Callable[[str, Sequence[int] | None], Awaitable[object]]


class MailboxTree:
    """The tree of mailboxes of one store.

    :param expunge: executes the expunge of some messages of a mailbox (None: all), and all requested ones.
    """

    def __init__(self, work: Work, expunge: Expunge) -> None:
        self._work = work
        self._disk = work.disk
        self._location = work.location
        self._expunge = expunge
        self._trash = os.path.join(self._location.root, TRASH)
        self._by_guid = self._location.layout is TreeLayout.INDEX

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold ``mailboxes.lock``; at the end tell Dovecot to read the tree again."""
        if self._location.volatile is not None:  # a reboot may have removed it
            await self._disk.make_dirs(self._location.volatile)
        async with tree_lock(self._disk, self._location.tree_lock):
            try:
                yield
            finally:
                if not self._by_guid:
                    await self._want_refresh()

    # -- create ------------------------------------------------------------------------------------------

    async def create(self, name: str, own: bytes | None = None, *, parents: bool = True) -> None:
        """Make a mailbox, and the directories above it; *own*: its guid with LAYOUT=index, None: a new one.

        :param parents: False: the folder above it has to be there (NoSuchMailbox).
        :raises MailboxExists: the mailbox exists.
        :raises InvalidName: the name is not allowed.
        """
        check_mailbox_name(self._location, name)
        async with self._locked():
            if self._by_guid:
                async with listed(self._work) as mailboxes:
                    self._refuse_listed(name, mailboxes)
                    if not parents:
                        await check_parent(self._work, name, mailboxes.tree.nodes)
                guid = own or os.urandom(16)
                with self._location.directories.keep(name, guid):
                    await self._create(name, guid)
            else:
                if not parents:
                    await check_parent(self._work, name, None)
                await self._create(name, None)
        self._work.count("mailboxes")

    async def _create(self, name: str, guid: bytes | None) -> None:
        """:param guid: the guid of the mailbox, with LAYOUT=index; this lists it as the last step."""
        path = self._location.mailbox_path(name)
        if await self._disk.exists(path):
            raise MailboxExists(f"{self._work.shown(name)}: the mailbox exists")
        self._work.index(name).forget()
        if self._location.index is None:
            await self._create_whole(name, path, guid)
        else:
            await self._create_apart(name, path, guid)
        try:
            await self._sync_parents(path)
            if guid is not None:
                await self._list(name, guid)
        except (OSError, DboxfsError):
            # A power failure could remove it, with messages that were saved in it by then.
            await self._disk.attempt(self._take_back(name, path))
            raise

    def _refuse_listed(self, name: str, mailboxes: ListedMailboxes) -> None:
        node = mailboxes.tree.nodes.get(name)
        if node is not None and node.guid is not None:
            raise MailboxExists(f"{self._work.shown(name)}: the mailbox exists")

    async def _list(self, name: str, guid: bytes) -> None:
        """List a new mailbox under its name (LAYOUT=index)."""
        state = await self._work.new_index(name).peek()
        async with listed(self._work) as mailboxes:
            self._refuse_listed(name, mailboxes)
            await mailboxes.add(name, guid, state.uid_validity)

    async def _make_index(self, name: str, index: IndexLog, guid: bytes | None) -> bool:
        """Make the index of a mailbox; False: it exists."""
        said = own_name(None, own_name_of(self._work, name)) if guid is not None else ()
        disk, location, view = self._disk, self._location, self._work.map_view
        return await make_mailbox_index(
            disk, location, index, view, contended=False, guid=guid, own_name=said
        )

    async def _take_back(self, name: str, path: str) -> None:
        """Remove a mailbox that was just made, unless another process has put a message there."""
        try:
            async with self._work.index(name).locked() as index:
                if len(index.state):
                    raise MailboxInUse(f"{self._work.shown(name)}: the mailbox has messages")
                await index.append(log_records.index_deleted(), durable=True)
        except DboxfsError:
            self._disk.lost_errors += 1
            return
        self._work.forget(name)
        await self._remove_mailbox(name, path)
        await was_empty(self._disk, os.path.dirname(path))

    async def _create_whole(self, name: str, path: str, guid: bytes | None) -> None:
        """Make the mailbox's directory with its index under a hidden name, then rename it."""
        staging = os.path.join(self._trash, uuid.uuid4().hex)
        if path == self._location.inbox:  # it may be on a disk of its own
            staging = f"{path}.dboxfs-new-{uuid.uuid4().hex}"
        missing = await self._missing_above(path)
        await self._disk.make_dirs(staging)
        try:
            index = IndexLog(self._disk, staging, "dovecot.index", self._work.shown(name))
            await self._make_index(name, index, guid)
            await self._disk.make_dirs(os.path.dirname(path))
            await self._disk.run(ops.Rename(staging, path))
        except OSError:
            await self._disk.attempt(remove_tree(self._disk, staging))
            for directory in missing:
                await self._disk.attempt(was_empty(self._disk, directory))
            raise
        finally:
            await self._disk.attempt(was_empty(self._disk, self._trash))

    async def _missing_above(self, path: str) -> list[str]:
        """The directories above *path* that are not there, the lowest first."""
        missing = []
        while not await self._disk.exists(path := os.path.dirname(path)):
            missing.append(path)
        return missing

    async def _create_apart(self, name: str, path: str, guid: bytes | None) -> None:
        """Make a mailbox whose index is elsewhere: with the index it exists."""
        index = self._work.index(name)
        await self._disk.make_dirs(index.directory)
        made = await self._make_index(name, index, guid)
        await self._disk.make_dirs(path)
        if not made:
            raise MailboxExists(f"{self._work.shown(name)}: the mailbox exists")

    async def _sync_parents(self, path: str) -> None:
        """Make the names that lead to *path* durable."""
        while len(path) > len(self._location.root):
            path = os.path.dirname(path)
            await self._disk.sync_dir(path)

    # -- delete ------------------------------------------------------------------------------------------

    async def delete(self, name: str, *, only_empty: bool = False) -> bytes | None:
        """Delete a mailbox and its messages; its children stay.  A parent without messages is just removed.
        Gives the mailbox's guid; None: it was none, or was marked as deleted before.

        :param only_empty: refuse if there are messages or children.
        :raises MailboxInUse: there are (or a message came meanwhile); or there are message files that are not
            proven to be expunged: then nothing of the directory is removed.
        :raises NoSuchMailbox: the mailbox does not exist.
        """
        if name == "INBOX":
            raise Unsupported("INBOX can't be deleted")
        async with self._locked():
            with ExitStack() as directory:
                if self._by_guid:
                    async with listed(self._work):
                        guid = self._location.directories.guid(name)
                    if guid is not None:  # its files are still to be removed when it is listed no more
                        directory.enter_context(self._location.directories.keep(name, guid))
                deleted = await self._delete(name, only_empty=only_empty)
        self._work.count("mailboxes")
        return deleted

    async def _delete(self, name: str, *, only_empty: bool) -> bytes | None:
        deleted: bytes | None = None
        folder, path = self._location.folder_path(name), self._location.mailbox_path(name)
        if only_empty:
            await self._check_empty(name, folder)
        if await self._disk.exists(path) or await self._disk.exists(self._work.index(name).log_path):
            await self._refuse_message_files(name)
            deleted = await self._mark_deleted(name, only_empty=only_empty)
            self._work.forget(name)
            if self._by_guid:
                await self._unlist(name)
            await self._remove_mailbox(name, path)
        elif self._by_guid:
            await self._unlist(name)
        elif not await self._disk.exists(folder):
            raise NoSuchMailbox(f"{self._work.shown(name)}: no such mailbox")
        await was_empty(self._disk, folder)
        if not await self._disk.exists(self._location.root):
            raise ops.os_error(errno.ENOENT, self._location.root)  # the store went away, nothing deleted
        return deleted

    async def _check_empty(self, name: str, folder: str) -> None:
        if self._by_guid:
            async with listed(self._work) as mailboxes:
                if mailboxes.has_children(name):
                    raise MailboxInUse(f"{self._work.shown(name)}: the mailbox has children")
            return
        entries = await self._disk.listdir(folder)
        if any(entry.is_dir and entry.name != self._location.dirname for entry in entries):
            raise MailboxInUse(f"{self._work.shown(name)}: the mailbox has children")

    async def _unlist(self, name: str) -> None:
        """Unlist a mailbox, or a parent that has no children (LAYOUT=index)."""
        async with listed(self._work) as mailboxes:
            node = mailboxes.tree.nodes.get(name)
            if node is None:
                raise NoSuchMailbox(f"{self._work.shown(name)}: no such mailbox")
            if node.guid is not None or not mailboxes.has_children(name):
                await mailboxes.remove(name)

    async def _refuse_message_files(self, name: str) -> None:
        """Check that the mailbox's directory has no message files but those of its messages and expunged
        ones.

        The file of a message that the index has is no reason to refuse: it is removed with the expunge.

        :raises MailboxInUse: there is another message file.
        """
        directories = (self._location.mailbox_path(name), self._location.alt_mailbox_path(name))
        files = [path for d in directories if d is not None for path in await holds_messages(self._disk, d)]
        if not files:
            return
        uids = {path: self._uid_of(path, directories) for path in files}
        known, shown = set[int](), dict[int, int]()
        try:
            async with self._work.index(name).locked(deleted_ok=True) as index:
                known = set(present(index.state, uids.values()))
                shown = await expunges_of(index, set(uids.values()) - known)
        except FileNotFoundError:
            pass  # there is no index
        for path, uid in uids.items():
            found = await self._disk.stat(path)
            if uid not in known and found is not None and not is_left_by_expunge(found, uid, shown):
                reason = f"its index does not know {path}; move that file away first"
                what = f"{self._work.shown(name)}: not deleted: {reason}"
                log.warning("%s", what)  # the program with the rmdir only gets an errno
                raise MailboxInUse(what)

    @staticmethod
    def _uid_of(path: str, directories: Collection[str | None]) -> int:
        """The uid of a message file of the mailbox; 0: another kind of file, or one in a lower directory."""
        directory, file = os.path.split(path)
        return message_number(file, "u") if directory in directories else 0

    async def _mark_deleted(self, name: str, *, only_empty: bool) -> bytes | None:
        """Expunge all messages and write INDEX_DELETED; None: that was done already."""
        for _ in range(_ATTEMPTS):
            try:
                if not only_empty:
                    await self._expunge(name, None)
                guid = await self._mark_if_empty(name, requested_ok=only_empty)
            except NoSuchMailbox:  # an attempt that a crash ended has marked it
                return None
            if guid is not None:
                return guid
        raise MailboxInUse(
            f"{self._work.shown(name)}: messages keep coming while the mailbox is being deleted"
        )

    async def _mark_if_empty(self, name: str, *, requested_ok: bool) -> bytes | None:
        async with self._work.mailbox(name) as index:
            count = len(index.state)
            if requested_ok and count and count == len(index.state.pending_expunges):
                count = -1
            elif count and requested_ok:
                raise MailboxInUse(f"{self._work.shown(name)}: the mailbox has messages")
            elif not count:
                await index.append(log_records.index_deleted(), durable=True)
                return self._work.header(index).guid
        if count < 0:
            await self._expunge(name, [])  # only the requested ones, none that came since
            return await self._mark_if_empty(name, requested_ok=requested_ok)
        return None

    async def _remove_mailbox(self, name: str, path: str) -> None:
        """Hide the mailbox, then remove its files, also in the alt, control and index trees."""
        if await self._disk.exists(path):
            away = os.path.join(self._trash, uuid.uuid4().hex)
            await self._disk.attempt(self._throw_away(path, away))
            await remove_tree(self._disk, path)
            await self._disk.attempt(remove_tree(self._disk, away))
        await self._disk.sync_dir(os.path.dirname(path))
        alt = self._location.alt_mailbox_path(name)
        if alt is not None:
            await remove_tree(self._disk, alt)
            await was_empty(self._disk, os.path.dirname(alt))
        if self._location.index is not None:
            await remove_index_files(self._disk, self._work.index(name).directory)
        if self._location.control is not None:
            control = os.path.join(self._location.control, self._location.mailbox_dir, name)
            await was_empty(self._disk, control)
        await self._disk.attempt(empty_trash(self._disk, self._trash))

    async def _throw_away(self, path: str, away: str) -> None:
        """Hide a directory in one step.  If that fails (disk full), the caller empties it in place."""
        await self._disk.mkdir(self._trash)
        await self._disk.run(ops.Rename(path, away))

    # -- rename ------------------------------------------------------------------------------------------

    async def rename(self, old: str, new: str, *, parents: bool = True) -> None:
        """Rename a mailbox (or a parent) with all its children.

        :param parents: make the folders above the new name; False: that one has to be there.
        :raises MailboxExists: the new name is taken.
        :raises InvalidName: the new name is not allowed, or is below the old one.
        :raises NoSuchMailbox: the old name does not exist, or the folder above the new one.
        """
        check_mailbox_name(self._location, new)
        if old == "INBOX" or new == "INBOX":
            raise Unsupported("INBOX can't be renamed or replaced")
        if f"{new}/".startswith(f"{old}/"):
            raise InvalidName(f"{new!r}: lies below {old!r}, which is to be renamed")
        async with self._locked():
            if self._by_guid:
                await self._work.locate()
                async with self._work.forgotten(old):  # what changes it is seen under the name that it has
                    moved = await self._rename_listed(old, new, parents=parents)
                for name in moved:
                    await self._tell_name(name)
                return
            if not parents:
                await check_parent(self._work, new, None)
            pairs = [(os.path.join(tree, old), os.path.join(tree, new)) for tree in trees(self._location)]
            there = [await self._disk.exists(source) for source, _ in pairs]
            taken = [await self._disk.exists(target) for _, target in pairs]
            if not any(there):
                raise NoSuchMailbox(f"{self._work.shown(old)}: no such mailbox")
            if any(here and used for here, used in zip(there, taken, strict=True)) or (
                there[0] and any(taken)
            ):
                raise MailboxExists(f"{self._work.shown(new)}: the mailbox exists")
            async with self._work.forgotten(old):
                await self._rename_all([pair for pair, here in zip(pairs, there, strict=True) if here])
            for tree in trees(self._location):
                await self._disk.attempt(remove_empty_parents(self._disk, tree, old))
        self._work.count("mailboxes")

    async def _rename_listed(self, old: str, new: str, *, parents: bool) -> list[str]:
        """Rename in the list index, in one step (LAYOUT=index); gives the new names of all that have another
        one.
        """
        async with listed(self._work) as mailboxes:
            nodes = mailboxes.tree.nodes
            if old not in nodes:
                raise NoSuchMailbox(f"{self._work.shown(old)}: no such mailbox")
            if new in nodes and (nodes[new].guid is not None or mailboxes.has_children(new)):
                raise MailboxExists(f"{self._work.shown(new)}: the mailbox exists")
            if not parents:
                await check_parent(self._work, new, nodes)
            await mailboxes.rename(old, new)
            moved = [name for name in mailboxes.tree.directories if f"{name}/".startswith(f"{new}/")]
        self._work.count("mailboxes")
        return moved

    async def _tell_name(self, name: str) -> None:
        """Write a mailbox's name into its index, for the case that the list index is lost.  Never fails."""
        index = self._work.index(name)
        try:
            async with index.locked():
                await index.append(own_name(index.state, own_name_of(self._work, name)))
        except (DboxfsError, OSError):
            self._disk.lost_errors += 1

    async def _rename_all(self, pairs: list[tuple[str, str]]) -> None:
        """Rename a directory in each tree; if one rename fails, those before it are undone."""
        done: list[tuple[str, str]] = []
        try:
            for source, target in pairs:
                await self._disk.make_dirs(os.path.dirname(target))
                await self._disk.run(ops.Rename(source, target))
                done.append((source, target))
                await self._disk.sync_dir(os.path.dirname(target))
                await self._disk.sync_dir(os.path.dirname(source))
        except OSError:
            for source, target in reversed(done):
                await self._disk.attempt(self._disk.run(ops.Rename(target, source)))
            raise

    # -- the list index ----------------------------------------------------------------------------------

    async def _want_refresh(self) -> None:
        """Tell Dovecot to read the tree again (mailbox-layout section 5).  It is only a cache: never
        fails.
        """
        index = self._work.list_index()
        try:
            async with index.locked(deleted_ok=True):
                found = next((e for e in index.state.extensions if e.name == "list"), None)
                if found is None or found.hdr[:1] == _LIST_FLAG:
                    return
                update = payload.ext_hdr_update(0, _LIST_FLAG)
                intro = log_records.intro(index.state, "list", (len(found.hdr), found.record_size, 4))
                await index.append([intro, encode_record(RecordType.EXT_HDR_UPDATE, update, external=True)])
        except FileNotFoundError:
            return
        except (DboxfsError, OSError):
            self._disk.lost_errors += 1
