"""Files that are put back (``-o restore``): staged when they are closed, messages after a commit.

Every process sees a staged file: it can be listed, read, opened again, written at any offset, dated, given
attributes, renamed and removed.  No part of it is in the store yet.  A commit makes messages of all staged
files of a mailbox, in one transaction, in the order of the uids that they bring: so they keep these uids.

The order follows the uid that a file asks for: its attribute ``uid``, or without one the number in a name
``<uid>.eml``, the name that a mount gives to a message without a written name.  A uid below the mailbox's
next uid can't be kept.  Such files come last, together with those that ask for no uid.

A mailbox is committed

* when the mount ends, or a program asks for it (``.dboxfs/commit``): all mailboxes;
* a minute after the last change in it, if it is complete: each of its files has been given a date or an
  attribute, and a new mailbox its identity;
* a minute after the last change in the whole mount.

The attributes ``guid``, ``uidvalidity`` and ``uidnext`` of a mailbox are kept for the commit.  It gives the
mailbox a guid and a UIDVALIDITY only if all its messages came through this mount
(:mod:`dboxfs.vfs.identities`).

Steps of the commit of a mailbox, and the state that a crash after each leaves:

==  =====================================  ==================================================================
 1  guid and UIDVALIDITY of the mailbox    an empty mailbox with the identity of the one that comes back
 2  all its messages, one transaction      whole: all messages are there, with uids, guids, flags and dates
 3  names that are not ``<uid>.eml``       a message whose name is not on disk is ``<uid>.eml``
 4  the next uid                           done; without this step the next uid follows the last message's
==  =====================================  ==================================================================

Staged files that were not committed are lost with the daemon.  The user runs the restoring program again;
messages that are there already are refused to it (EEXIST), or it skips them because size and date are equal.

The kernel keeps names and attributes of staged files, and of temporaries with a dot, as long as those of
messages: their changes come through the kernel, except those that :meth:`Staging.is_other_now` tells it.

Locks: one commit at a time; ``Draft.lock`` of every file that it takes (:mod:`dboxfs.vfs.held_drafts`).
"""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Iterable

import numpy as np
import trio
from msgspec import Struct

from dboxfs.dbox import PREFIX_SIZE, detect, is_encrypted
from dboxfs.errors import DboxfsError
from dboxfs.store import Folder, Store
from dboxfs.store.names.of_mailbox import number_of
from dboxfs.store.write import Eol, NewMessage, RefusedMessage, StoreWriter, Wanted
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.back_already import is_back_already
from dboxfs.vfs.brought import folder_guid, number
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.held_drafts import HeldDrafts, holding
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.identities import MailboxIdentities
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.restore_report import RestoreReport
from dboxfs.vfs.staging_files import StagingFiles
from dboxfs.vfs.staging_order import StagedOrder, asked_uid, in_order, new_message

log = logging.getLogger(__name__)

UNTOUCHED_SECONDS = 60.0
"""Seconds without a change after which a mailbox is committed."""

_LOOK = 5.0


class BroughtMailbox(Struct):
    """The identity that a program has set on a directory, for its mailbox; None: not set."""

    guid: bytes | None = None
    uid_validity: int | None = None
    next_uid: int | None = None


class Staging:
    """The staged files of a mount, and the identities that were set on their mailboxes."""

    def __init__(
        self,
        store: Store,
        writer: StoreWriter,
        inodes: Inodes,
        drafts: Drafts,
        changes: MessageChanges,
        identities: MailboxIdentities,
        forwarding: Forwarding,
        kernel: Kernel,
        files: StagingFiles,
    ) -> None:
        self._identities = identities
        self._store = store
        self._writer = writer
        self._inodes = inodes
        self._kernel = kernel
        self._drafts = drafts
        self._changes = changes
        self._forwarding = forwarding
        self._files = files
        self._brought: dict[Folder, BroughtMailbox] = {}
        self._touched: dict[Folder, float] = {}
        self._came: dict[bytes, array[int]] = {}
        self._known: set[Folder] = set()
        self._lock = trio.Lock()
        self._report = RestoreReport()
        self._vanished = False

    # -- files ---------------------------------------------------------------------------------

    def touch(self, folder: Folder) -> None:
        """A file of a mailbox, or the mailbox, was changed: wait for more changes before a commit."""
        self._touched[folder] = trio.current_time()

    async def stage(self, draft: Draft) -> None:
        """The last descriptor of a new file was closed, or its dot was taken away; the caller holds its lock.

        :raises RefusedMessage: it can't be a message: the program gets the error now, and the file is lost.
        :raises OSError: bytes that don't stay in memory can't be written.
        """
        await draft.settle()
        first = await draft.read(PREFIX_SIZE, 0)
        reason, options = "", self._writer.options
        if not options.codes and is_encrypted(first):
            reason = "the message begins like one that Dovecot's mail_crypt has encrypted"
        elif options.compress is None and options.dbox_version != 3 and detect(first) is not None:
            reason = "the message begins like a compressed one; Dovecot would take it for that"
        if reason:
            error = RefusedMessage(reason)
            draft.fail(error)
            raise error
        draft.staged()
        self.touch(draft.folder)
        self._drafts.rest(draft)
        self._files.relieve()

    def is_other_now(self, folder: Folder, name: bytes) -> None:
        """Have the kernel look up a name again: it stands for another file, or for a shorter one."""
        if folder in self._inodes:
            self._kernel.entry(self._inodes.of(folder), name)

    def may_replace(self, folder: Folder, uid: int) -> None:
        """Check that a program may replace or remove a message.

        :raises Refused: EEXIST: the message did not come through this mount.
        """
        if not self._changes.just_came(folder, uid):
            raise Refused(errno.EEXIST)

    # -- mailboxes -----------------------------------------------------------------------------

    def bring(self, folder: Folder, word: str, value: bytes) -> bool:
        """Keep an attribute of a directory for the commit; False: no commit needs this attribute.

        :raises Refused: EINVAL: the value is invalid.
        """
        if word not in ("guid", "uidvalidity", "uidnext"):
            return False
        brought = self._brought.setdefault(folder, BroughtMailbox())
        if word == "guid":
            brought.guid = folder_guid(value)
        elif word == "uidvalidity":
            brought.uid_validity = number(value, 0xFFFFFFFF)
        else:
            brought.next_uid = number(value, 0xFFFFFFFF)
        self.touch(folder)
        return True

    def value(self, folder: Folder, word: str) -> str | None:
        """The value that was set on a directory; None: none was."""
        brought = self._brought.get(folder)
        if brought is None:
            return None
        if word == "guid":
            return brought.guid.hex() if brought.guid is not None else None
        found = {"uidvalidity": brought.uid_validity, "uidnext": brought.next_uid}.get(word)
        return None if found is None else str(found)

    @property
    def brought(self) -> set[Folder]:
        """The mailboxes whose identity was set for a commit."""
        return set(self._brought)

    def mailbox_is(self, before: Folder, now: Folder | None) -> None:
        """A mailbox was renamed through this mount; None: it was removed, without staged files."""
        touched, brought = self._touched.pop(before, None), self._brought.pop(before, None)
        if now is None:
            return
        self._files.mailbox_is(before, now)
        if touched is not None:
            self._touched[now] = touched
        if brought is not None:
            self._brought[now] = brought
        if before in self._known:
            self._known.add(now)

    def vanish(self, folder: Folder) -> bool:
        """rmdir(2) of INBOX, which always exists: hides it, if it is empty, until a mkdir(2) of it.

        bup removes an empty directory and makes it anew.

        :return: False: this is not an empty INBOX.
        """
        box = folder.mailbox
        if (
            folder.name != "INBOX"
            or box is None
            or len(box)
            or folder.children
            or folder in self._drafts.staged_folders()
        ):
            return False
        self._vanished = True
        return True

    def appear(self, name: str) -> bool:
        """mkdir(2): shows INBOX again; False: this is not a hidden INBOX."""
        was, self._vanished = self._vanished and name == "INBOX", self._vanished and name != "INBOX"
        return was

    def has_vanished(self, folder: Folder | None) -> bool:
        """Whether this is INBOX, and hidden."""
        return self._vanished and folder is not None and folder.name == "INBOX"

    # -- commits -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit mailboxes that have not changed for a minute, as long as the mount lives."""
        while True:
            await trio.sleep(_LOOK)
            now = trio.current_time()
            all_quiet = all(now - when >= UNTOUCHED_SECONDS for when in self._touched.values())
            for folder, when in list(self._touched.items()):
                if now - when >= UNTOUCHED_SECONDS and (all_quiet or self._is_complete(folder)):
                    await self.commit([folder])

    def _is_complete(self, folder: Folder) -> bool:
        """Whether each staged file of a mailbox has a date or an attribute, and a new mailbox its identity:
        programs set the attributes of directories last.
        """
        brought = self._brought.get(folder)
        is_known = brought is not None and None not in (brought.guid, brought.uid_validity)
        is_known |= folder in self._known or not self._changes.is_new_mailbox(folder)
        return is_known and self._drafts.have_attributes(folder)

    async def commit(self, folders: Iterable[Folder] | None = None) -> None:
        """Make messages of staged files, mailbox by mailbox (None: of all mailboxes).

        A mailbox that fails is in the report; its files stay staged, and the next commit tries it again.
        """
        async with self._lock:
            for folder in sorted(self._waiting() if folders is None else folders, key=lambda some: some.name):
                shown = self._store.display_name(folder)
                self._report.under_way = shown
                self._touched.pop(folder, None)
                try:
                    await self._commit(folder)
                except (DboxfsError, OSError) as exc:
                    log.error("%s: could not be committed: %s", shown, exc)
                    self._report.failed[shown] = str(exc)
                    self.touch(folder)
                    self._drafts.rest_all()
                else:
                    self._report.failed.pop(shown, None)
            self._report.under_way = ""

    async def commit_all(self) -> None:
        """Make messages of all staged files, because a program asks for it.

        :raises Refused: EIO: a mailbox could not be committed; the report says why.
        """
        await self.commit()
        if self._report.failed:
            raise Refused(errno.EIO)

    def _waiting(self) -> set[Folder]:
        return set(self._drafts.staged_folders()) | self.brought

    async def _commit(self, before: Folder) -> None:
        folder = self._now(before)
        async with holding(self._drafts, before) as held:
            await self._identify(before, folder)
            brought = self._brought.get(before)
            next_uid = brought.next_uid if brought is not None else None
            if held.inodes:
                await self._changes.again(lambda: folder, lambda: self._save(folder, held, next_uid))
        self._brought.pop(before, None)
        if brought is not None:
            self._known.add(before)
        if brought is not None and brought.next_uid is not None:
            await self._set_next_uid(folder, brought.next_uid)
        self._report.mailboxes += 1
        if before not in self._drafts.folders():
            self._files.end(before)

    def _now(self, folder: Folder) -> Folder:
        """The folder that has now the mailbox that *folder* had when its files were staged."""
        for draft in self._drafts.staged(folder):
            guid = draft.standing.guid
            found = self._changes.folder_with(folder, guid) if guid is not None else None
            return folder if found is None else found
        return folder

    async def _identify(self, before: Folder, folder: Folder) -> None:
        """Give the mailbox the guid and UIDVALIDITY that were set on its directory, if it can have them."""
        brought, box, shown = self._brought.get(before), mailbox_of(folder), self._store.display_name(folder)
        if brought is None or (brought.guid is None and brought.uid_validity is None):
            return
        why = self._identities.why_not(folder, brought.guid) if brought.guid is not None else None
        if why is not None:
            self._report.tell(shown, b"", "guid", why)
            brought.guid = None
        if self._writer.options.by_folder and len(box) and brought.guid not in (None, box.guid):
            self._report.tell(
                shown, b"", "guid", "its messages are encrypted with the key of the guid it has"
            )
            brought.guid = None
        if brought.guid in (None, box.guid) and brought.uid_validity in (None, box.uid_validity):
            return
        came = self._came.get(box.guid or b"", array("I"))
        if len(box) and not np.isin(box.uids, np.frombuffer(came, np.uint32)).all():
            why = "the mailbox has messages that were there before"
            self._report.tell(shown, b"", "guid and UIDVALIDITY", why)
            brought.guid = brought.uid_validity = None
            return
        old = box.guid
        await self._identities.give(folder, guid=brought.guid, uid_validity=brought.uid_validity)
        if old is not None and box.guid is not None:
            self._came[box.guid] = self._came.pop(old, came)
        self._drafts.mailbox_got(before, old, box.guid)

    async def _save(self, folder: Folder, held: HeldDrafts, next_uid: int | None) -> None:
        """Save staged files in one transaction.

        :param next_uid: of the mailbox that is put back: messages without a uid of their own get none below.
        """
        box, shown = mailbox_of(folder), self._store.display_name(folder)
        files = []
        for inode in held.inodes:
            draft = held.look(inode)
            if draft is not None and not await self._is_there(folder, held, draft):
                files.append(StagedOrder.of(draft))
        ordered, messages = list[tuple[StagedOrder, int | None]](), list[NewMessage]()
        for some, uid in in_order(files, box.uid_next):
            draft = held.look(some.inode)
            if draft is None:  # another file was given its name
                continue
            is_free = self._changes.is_free(folder, draft.name)
            name = Wanted(draft.name) if is_free and draft.name != b"%d.eml" % (uid or 0) else None
            ordered.append((some, uid))
            messages.append(new_message(draft, uid or next_uid, name))
            if not is_free:
                self._report.tell(shown, draft.name, "name", "a message has it already")
        if not messages:
            return
        arrived = await self._changes.save_all(folder, messages)
        messages.clear()
        self._came.setdefault(box.guid or b"", array("I")).extend(arrived.saved.uids)
        for at, ((some, uid), now) in enumerate(zip(ordered, arrived.saved.uids, strict=True)):
            draft = held.take(some.inode)
            if draft is not None:
                self._count(shown, draft, uid, now, arrived.not_kept.get(at))
                self._report.size += draft.size
                self._became(held, draft, folder, now)

    def _became(self, held: HeldDrafts, draft: Draft, folder: Folder, uid: int) -> None:
        draft.committed(uid)
        self._forwarding.became(draft.inode, folder, uid)
        self._drafts.drop(draft)
        self.is_other_now(folder, draft.name)
        held.give_back(draft)

    async def _is_there(self, folder: Folder, held: HeldDrafts, draft: Draft) -> bool:
        """Whether the mailbox has this message already; if so, the message gets the file's name."""
        uid, convert = asked_uid(draft), self._writer.options.eol is Eol.LF
        if uid is None or not await is_back_already(mailbox_of(folder), uid, draft, convert=convert):
            return False
        if self._changes.has_no_name(folder, uid) and self._changes.is_free(folder, draft.name):
            await self._changes.rename(folder, uid, b"%d.eml" % uid, draft.name, over=None)
        self._report.there += 1
        self._came.setdefault(mailbox_of(folder).guid or b"", array("I")).append(uid)
        taken = held.take(draft.inode)
        if taken is not None:
            self._became(held, taken, folder, uid)
        return True

    def _count(self, shown: str, draft: Draft, asked: int | None, uid: int, other: str | None) -> None:
        """Count a message for the report, with the uid or guid that it could not keep.

        :param other: why it doesn't have the guid that it brought; None: it has it.
        """
        report, brought = self._report, draft.brought
        report.messages += 1
        if brought.uid is not None and brought.uid != uid:
            why = "others have given uids meanwhile"
            if asked is None:
                is_there = brought.uid in mailbox_of(draft.folder)
                why = "it is another message's" if is_there else "the mailbox is beyond it"
            report.tell(shown, draft.name, f"uid {brought.uid}, is {uid}", why)
        report.kept_uid += uid in (brought.uid, number_of(draft.name))
        report.kept_guid += brought.guid is not None and other is None
        if other is not None and brought.guid is not None:
            report.tell(shown, draft.name, f"guid {brought.guid.decode('utf-8', 'replace')}", other)

    async def _set_next_uid(self, folder: Folder, next_uid: int) -> None:
        box = mailbox_of(folder)
        if box.guid is not None and next_uid > box.uid_next:
            with as_seen(folder):
                await self._writer.set_identity(
                    folder.name, guid=box.guid, uid_validity=box.uid_validity, next_uid=next_uid
                )
            await self._store.refresh_mailbox(folder)

    # -- report --------------------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """The content of restore.json."""
        staged = sum(self._drafts.staged_folders().values())
        return self._report.describe(staged=staged, on_disk=self._files.size)

    def close(self) -> None:
        """The mount ends: delete the temporaries of files that are not committed."""
        self._files.close()
