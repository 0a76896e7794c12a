"""The commit of a draft: which message its bytes become, or replace.

The draft belongs to the mailbox that it was opened in, also after a rename of that mailbox.

A draft that was opened on a message:

=============================================  =============================================================
the message                                    the draft
=============================================  =============================================================
is there                                       replaces it
was replaced by another process                replaces the new one; bytes that were only appended go behind
                                               the new one's bytes
was moved                                      replaces it in its new mailbox
was expunged by another process                becomes a message of its own, under the same name
=============================================  =============================================================

A new file:

=============================================  =============================================================
its name at the commit                         the draft
=============================================  =============================================================
is free                                        becomes a message with this name
belongs to a message that came through this    replaces that message, unless it was made with O_EXCL
mount a short while ago, or the file was
renamed to this name
belongs to a message, and the file was only    goes behind that message's bytes
appended to
belongs to another message, or another file    replaces nothing and becomes a message of its own
was given it                                   (``<uid>.eml``)
=============================================  =============================================================

:meth:`Committer.commit` returns when the message is on disk, the mailbox has been read again, and the name is
recorded.  When it raises, nothing has changed, and nothing of the draft will ever be committed.

Locks: the caller holds :attr:`Draft.lock`; a commit takes the name's lock
(:class:`~dboxfs.vfs.names.NameLocks`).
"""

from __future__ import annotations

from dboxfs.errors import NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.store.location import Kind
from dboxfs.store.names.table import WrittenNames
from dboxfs.store.write import NewMessage
from dboxfs.vfs.changes import MessageChanges, mailbox_of
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.draft_stages import Stage
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.names import NameLocks
from dboxfs.vfs.node import Inodes


class Committer:
    """Makes a new message of a draft, or a replacement of the message that it was opened on."""

    def __init__(
        self,
        store: Store,
        inodes: Inodes,
        names: WrittenNames,
        forwarding: Forwarding,
        locks: NameLocks,
        changes: MessageChanges,
    ) -> None:
        self._store = store
        self._inodes = inodes
        self._names = names
        self._forwarding = forwarding
        self._locks = locks
        self._changes = changes

    async def commit(self, draft: Draft) -> bool:
        """Commit the uncommitted bytes; False: there were none, or the draft was removed.

        :raises Exception: nothing has changed, and nothing of the draft will ever be committed.
        """
        if not draft.dirty or draft.is_removed:
            return False
        try:
            try:
                await self._commit(draft)
            except NoSuchMailbox:  # it may have been renamed a moment ago
                if draft.taken:
                    raise
                await self._store.refresh_tree()
                await self._commit(draft)
        except BaseException as exc:
            draft.fail(exc)
            raise
        return True

    async def _commit(self, draft: Draft) -> None:
        self._go_home(draft)

        async def once() -> int | None:
            async with self._locks.of(draft.folder, draft.name):
                await draft.renew()
                old = await self._find_old(draft)
                if draft.is_removed:  # by an unlink that came meanwhile
                    return None
                name = None if old is None and self._is_taken(draft) else draft.name
                self._check_home(draft)
                return await self.save(draft, draft.folder, name, replaces=old)

        uid = await self._changes.again(lambda: draft.folder, once)
        if uid is None:
            return
        guid = draft.standing.guid
        draft.committed(uid)
        home = await self._changes.home(draft.folder, guid)
        if home is not None:
            is_there = (
                home.mailbox is not None and uid in home.mailbox
            )  # else another process has replaced it already
            draft.moved(home, self._names.name(home, uid) if is_there else draft.name, uid, guid)
            self._forwarding.became(draft.inode, home, uid)

    async def save(self, draft: Draft, folder: Folder, name: bytes | None, *, replaces: int | None) -> int:
        """Save the bytes of a draft as a message with this name (None: with none); gives its uid.

        :raises Superseded: another message has the name by now; nothing was changed.
        :raises DboxfsError, OSError: nothing was changed.
        """
        brought = draft.brought
        is_plain = replaces is None and name is not None and not brought.flags and not brought.keywords
        message = NewMessage(
            draft.source(),
            brought.received,
            brought.flags,
            brought.keywords,
            replaces=replaces,
            uid=brought.uid,
            saved=brought.saved if self._store.location.kind is Kind.MDBOX else None,
            guid_text=brought.guid,
            orig_mailbox=brought.orig_mailbox,
            inherits=self._changes.inherited(folder, name) if is_plain and name is not None else None,
            pop3_uidl=brought.pop3_uidl,
        )
        return await self._changes.save(folder, message, name)

    # -- the mailbox, and the message that is replaced -----------------------------------------

    def _go_home(self, draft: Draft) -> None:
        """Follow the mailbox that the draft was opened in, which may have been renamed.

        :raises NoSuchMailbox: it is gone, even if another mailbox has its name.
        """
        guid = draft.standing.guid
        if guid is None:
            return
        home = self._changes.folder_with(draft.folder, guid)
        if home is None:
            raise NoSuchMailbox(f"{draft.folder}: the mailbox is gone")
        draft.mailbox_is(home)

    @staticmethod
    def _check_home(draft: Draft) -> None:
        """Check that the draft's folder still has the mailbox that the draft was opened in.

        :raises NoSuchMailbox: the mailbox is gone, and another one has its name.
        """
        if draft.standing.guid not in (None, mailbox_of(draft.folder).guid):
            raise NoSuchMailbox(f"{draft.folder}: the mailbox is gone")

    async def _find_old(self, draft: Draft) -> int | None:
        """The message that is to be replaced; None: there is none."""
        uid = draft.uid
        if uid is not None and uid in mailbox_of(draft.folder):
            draft.moved(draft.folder, self._names.name(draft.folder, uid), uid, draft.standing.guid)
            return uid
        if uid is not None and not self._follow(draft, uid):
            await self._changes.be_sure_of_names(draft.folder)  # another mount may have replaced it just now
            if not self._follow(draft, uid):
                draft.expunged()
        old = draft.uid if draft.uid is not None else self._replaced_by_name(draft)
        if old is not None and draft.based is not None:
            await draft.rebase(await mailbox_of(draft.folder).open(old))
        return old

    def _follow(self, draft: Draft, uid: int) -> bool:
        """Let the draft follow message *uid*, which was moved or replaced; False: that message is gone."""
        now = self._forwarding.now(self._inodes.message(draft.folder, uid).inode)
        folder, heir = now.folder, now.uid or None
        if folder is None or folder.mailbox is None or now.uid not in folder.mailbox:
            folder, heir = draft.folder, self._names.heir(draft.folder, uid)
        if heir is None or folder.mailbox is None:
            return False
        draft.moved(folder, self._names.name(folder, heir), heir, folder.mailbox.guid)
        return True

    def _replaced_by_name(self, draft: Draft) -> int | None:
        """The message that a new file replaces because it has the same name; None: there is none."""
        uid = self._holder(draft)
        if uid is None or draft.standing.exclusive:
            return None
        if draft.standing.takes_place or draft.based is not None:
            return uid
        return uid if self._changes.is_new(draft.folder, uid) else None

    def _holder(self, draft: Draft) -> int | None:
        """The message that was written under the name of a new file; None: there is none."""
        if draft.stage is Stage.NAMELESS:
            return None
        uid = self._names.holder(draft.folder, draft.name)
        return uid if uid is not None and uid in mailbox_of(draft.folder) else None

    def _is_taken(self, draft: Draft) -> bool:
        """Whether the name of a new message belongs to another one."""
        return draft.stage is Stage.NAMELESS or self._holder(draft) is not None
