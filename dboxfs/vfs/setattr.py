"""setattr and setxattr in a writable mount: dates, lengths, flags, keywords, subscriptions, identities.

Identities (uid, guid, saved date and the like) of a message or a mailbox from before this mount can't be
changed: EPERM.  A message that came through this mount accepts such an attribute and ignores it, so that a
program that puts a backup back can go on: its uid and guid are settled, and attributes that only inform are
never set.  With ``-o restore`` every message accepts the informing ones: a restore that runs again after a
kill meets the messages that it has brought before.

Locks: the caller holds ``Draft.lock`` of a draft.
"""

from __future__ import annotations

import errno
import logging

from dboxfs.store import Facts, Folder, Store
from dboxfs.store.write import StoreWriter
from dboxfs.vfs import xattrs
from dboxfs.vfs.brought import INFORMING, Brought, folder_guid, number
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.commit import Committer
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.identities import MailboxIdentities
from dboxfs.vfs.mailboxes import Mailboxes
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import DRAFTS, Inodes, Node
from dboxfs.vfs.options import FullNames
from dboxfs.vfs.staging import Staging

log = logging.getLogger(__name__)


class Setattr:
    """Answers setattr and setxattr.

    :param full_names: makes the value of ``user.dbox.mailbox``.
    """

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        names: Names,
        forwarding: Forwarding,
        drafts: Drafts,
        writer: StoreWriter,
        changes: MessageChanges,
        committer: Committer,
        kernel: Kernel,
        full_names: FullNames,
        identities: MailboxIdentities,
        staging: Staging | None,
        mailboxes: Mailboxes,
    ) -> None:
        self._identities = identities
        self._staging = staging
        self._mailboxes = mailboxes
        self._store = store
        self._full_names = full_names
        self._inodes = inodes
        self._names = names
        self._forwarding = forwarding
        self._drafts = drafts
        self._writer = writer
        self._changes = changes
        self._committer = committer
        self._kernel = kernel

    # -- lengths and dates ---------------------------------------------------------------------

    async def draft(self, draft: Draft, size: int | None, received: int | None) -> None:
        """Change the length or the received date of a draft; the caller holds its lock.

        :param size: bytes.  :param received: seconds since the epoch.
        """
        if size is not None:
            draft.truncate(size)
        elif received is not None:
            self.date_new(draft, received)
            if draft.uid is not None and not draft.dirty and draft.handles:
                await self._redate(draft, draft.uid, received)

    def date_new(self, draft: Draft, received: int) -> None:
        """Give a draft a received date, for the message that it will be; no other task holds its lock.

        :param received: seconds since the epoch.
        """
        if received == 0 and draft.uid is None and (draft.received or 0) < 0:
            return  # borg sets dates before 1970 to 0; the attribute "received" has the right one
        draft.set_received(received)
        self._touch(draft)

    def bring(self, draft: Draft, word: str, value: bytes) -> None:
        """Set ``user.dbox.<word>`` of a draft that is no message yet; no other task holds its lock.

        :raises Refused: EINVAL: no such attribute, or an invalid value.
        """
        draft.bring(draft.brought.told(word, value))
        self._touch(draft)
        if word == "received":
            self._kernel.at_once(draft.inode)

    def _touch(self, draft: Draft) -> None:
        if self._staging is not None:
            self._staging.touch(draft.folder)

    async def _redate(self, draft: Draft, uid: int, received: int) -> None:
        """Give the message of a draft that is committed and still open another date."""
        folder, box = draft.folder, mailbox_of(draft.folder)
        if uid not in box or (await box.facts_of(uid)).received == received:
            return
        new = await self._changes.redate(folder, uid, received)
        draft.moved(draft.folder, draft.name, new, draft.standing.guid)
        self._forwarding.became(draft.inode, draft.folder, new)
        if not draft.inode & DRAFTS:
            self._kernel.entry(self._inodes.of(draft.folder), draft.name)

    async def message(
        self, node: Node, facts: Facts, size: int | None, received: int | None, pid: int
    ) -> None:
        """The same for a message that no process is writing.

        :param pid: the thread that asks.
        :raises Refused: EEXIST: with ``-o restore``, the message did not come through this mount.
        """
        folder = node.directory()
        cuts = size is not None and size != facts.size
        dates = size is None and received not in (None, facts.received)
        if (cuts or dates) and self._staging is not None:
            self._staging.may_replace(folder, node.uid)
        if cuts and size == 0:
            self._drafts.emptied.note(node.inode, pid)
        elif cuts and size is not None:
            await self._cut(node, size)
        elif dates and received is not None:
            name = self._names.name(folder, node.uid)
            await self._changes.redate(folder, node.uid, received)
            self._kernel.entry(self._inodes.of(folder), name)

    async def _cut(self, node: Node, size: int) -> None:
        """truncate(2) by name: make a replacement with the first *size* bytes, or with zeros behind them."""
        folder, body = node.directory(), await node.mailbox().open(node.uid)
        name = self._names.name(folder, node.uid)
        draft = self._drafts.replacement(node.inode, folder, name, node.uid, body)
        try:
            async with draft.lock:
                draft.truncate(size)
                await self._committer.commit(draft)
        finally:
            draft.close()
        self._kernel.entry(self._inodes.of(folder), name)

    # -- extended attributes -------------------------------------------------------------------

    async def xattr(self, node: Node, draft: Draft | None, word: str, value: bytes) -> None:
        """Set ``user.dbox.<word>``.

        :param node: the message, or directory.
        :param draft: the draft that the inode stands for; None: it stands for no draft.
        :raises Refused: EINVAL: no such attribute, or an invalid value; EPERM: it can't be changed.
        """
        if draft is not None and draft.uid is None:
            self.bring(draft, word, value)
        elif draft is not None or node.is_message:
            await self._message_xattr(node, word, value)
        elif node.directory().parent is not None:
            await self._folder_xattr(node.directory(), word, value)
        else:
            raise Refused(errno.EPERM)

    def check_removal(self, node: Node, word: str) -> None:
        """removexattr(2) of a message or mailbox: accepted without effect where the file came through this
        mount, because rsync -X removes attributes that its source doesn't have.

        :raises Refused: ENODATA: there is no such attribute; EPERM: the file was there before this mount.
        """
        folder = node.directory()
        if word not in (xattrs.MESSAGE if node.is_message else xattrs.folder_names(folder)):
            raise Refused(errno.ENODATA)
        if self._staging is not None:
            return
        is_new = node.is_message and self._changes.just_came(folder, node.uid)
        if not (is_new or (not node.is_message and self._changes.is_new_mailbox(folder))):
            raise Refused(errno.EPERM)

    async def _message_xattr(self, node: Node, word: str, value: bytes) -> None:
        """Set an attribute of a message: only flags, keywords and the received date can be changed."""
        told = Brought().told(word, value)
        if word == "flags":
            await self._changes.set_flags(node, told.flags, None)
            return
        if word == "keywords":
            await self._changes.set_flags(node, None, list(told.keywords))
            return
        box = node.mailbox()
        found = await xattrs.message_value(box, node.uid, word)
        if found is not None and xattrs.encoded(found) == value:
            return
        if self._staging is not None and word in INFORMING:
            return
        if told.received is not None:
            await self.message(node, await box.facts_of(node.uid), None, told.received, 0)
        elif not self._changes.just_came(node.directory(), node.uid):
            raise Refused(errno.EPERM)

    async def _folder_xattr(self, folder: Folder, word: str, value: bytes) -> None:
        """Set an attribute of a mailbox: its subscription or, while it has no messages, its identity."""
        if word == "subscribed":
            if value not in (b"0", b"1"):
                raise Refused(errno.EINVAL)
            await self._writer.subscribe(folder.name, value == b"1")
            return
        if word in xattrs.FOLDER_SETTABLE:
            folder = await self._mailboxes.need_mailbox(folder)
        elif word not in xattrs.folder_names(folder):
            raise Refused(errno.EINVAL)
        if self._staging is not None and folder.mailbox is not None:
            self._staging.bring(folder, word, value)
            return
        guid = folder_guid(value) if word == "guid" else None
        validity = number(value, 0xFFFFFFFF) if word == "uidvalidity" else None
        found = await xattrs.folder_value(self._store, folder, word, self._full_names)
        if found is not None and xattrs.encoded(found) == value:
            return
        box = folder.mailbox
        if box is None or not self._changes.is_new_mailbox(folder):
            raise Refused(errno.EPERM)
        if (guid is not None or validity is not None) and not len(box):
            why = self._identities.why_not(folder, guid) if guid is not None else None
            if why is not None:
                log.info("%s keeps its guid: %s", self._store.display_name(folder), why)
            await self._identities.give(folder, guid=guid, uid_validity=validity)
