"""Gives a mailbox the guid and UIDVALIDITY that a backup has kept.

IMAP clients, Dovecot and the files of names know a mailbox by both; clients have cached the message of each
(UIDVALIDITY, uid).  So only a mailbox that is empty, or has only messages that came through this mount, gets
them.  No two mailboxes of a store get the same guid; a directory that is copied within a mount would bring
one twice.

Steps, and the state that a crash after each leaves:

==  =====================================  ==================================================================
 1  the new identity, in the index         a mailbox with it, whose messages are called ``<uid>.eml``
 2  names that are not ``<uid>.eml``, in   the same with those names that are on disk
    the file of names of that identity
==  =====================================  ==================================================================
"""

from __future__ import annotations

import errno
import logging

from dboxfs.store import Folder, Store
from dboxfs.store.location import TreeLayout
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import StoreWriter, Wanted
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.keep_names import keep_names

log = logging.getLogger(__name__)


class MailboxIdentities:
    """Gives mailboxes of a mounted store another guid or UIDVALIDITY."""

    def __init__(
        self,
        store: Store,
        writer: StoreWriter,
        changes: MessageChanges,
        drafts: Drafts,
        reader: NameReader,
        files: NameFiles,
    ) -> None:
        self._store = store
        self._writer = writer
        self._changes = changes
        self._drafts = drafts
        self._names = reader.names
        self._files = files

    def why_not(self, folder: Folder, guid: bytes) -> str | None:
        """Why a mailbox can't get another guid; None: it can."""
        if guid == mailbox_of(folder).guid:
            return None
        if self._store.location.layout is TreeLayout.INDEX:
            return "it names the directory of the mailbox"
        other = self._other_with(folder, guid)
        return None if other is None else f"{self._store.display_name(other)} has it"

    def _other_with(self, folder: Folder, guid: bytes) -> Folder | None:
        """Another mailbox that has this guid; None: there is none."""
        for other in self._store.folders.values():
            if other is not folder and other.mailbox is not None and other.mailbox.guid == guid:
                return other
        return None

    async def give(self, folder: Folder, *, guid: bytes | None, uid_validity: int | None) -> None:
        """Give a mailbox this guid, and this UIDVALIDITY (None: those that it has).

        A guid that it can't have (:meth:`why_not`) is not given; the caller reports it.

        :raises Refused: EPERM: its index was never read.
        :raises DboxfsError, OSError: the index can't be written; nothing has changed.
        """
        box = mailbox_of(folder)
        before, validity = box.guid, box.uid_validity
        if before is None:
            raise Refused(errno.EPERM)
        if guid is None or self.why_not(folder, guid) is not None:
            guid = before
        validity = validity if uid_validity is None else uid_validity
        if (guid, validity) == (before, box.uid_validity):
            return
        names = [(uid, Wanted(name)) for uid, name in self._names.unusual(folder).items() if uid in box]
        with self._store.renumbered(folder):
            with as_seen(folder):
                await self._writer.set_identity(folder.name, guid=guid, uid_validity=validity, next_uid=1)
            await self._store.refresh_mailbox(folder)
        self._changes.is_known_as(before, guid)
        await keep_names(self._store, self._files, folder, names)
        self._drafts.mailbox_got(folder, before, box.guid)
