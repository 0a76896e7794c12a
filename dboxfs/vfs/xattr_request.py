"""Extended attributes in a writable mount: of messages, mailboxes, and drafts.

:mod:`dboxfs.vfs.setattr` decides which attribute of a message or a mailbox can be set,
:mod:`dboxfs.vfs.brought` which one of a draft.

Locks: those of :class:`~dboxfs.vfs.setattr.Setattr`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial

from dboxfs.vfs import xattrs
from dboxfs.vfs.desktop_xattrs import TAGS, is_desktop, keywords_of
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.readonly import ReadOnlyVfs
from dboxfs.vfs.setattr import Setattr
from dboxfs.vfs.staging import Staging


class XattrRequest:
    """Answers getxattr, listxattr, setxattr and removexattr.

    :param draft_of: gives the draft that an inode stands for.
    """

    def __init__(
        self,
        reading: ReadOnlyVfs,
        drafts: Drafts,
        setattr_: Setattr,
        staging: Staging | None,
        draft_of: Callable[[int], Draft | None],
    ) -> None:
        self._reading = reading
        self._drafts = drafts
        self._setattr = setattr_
        self._staging = staging
        self._draft_of = draft_of

    async def get(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute.

        :raises Refused: ENODATA: there is none; EOPNOTSUPP: a name that doesn't begin with ``user.``.
        """
        draft, told = self._draft_of(inode), self._told(inode, name)
        if told is not None:
            return told.encode()
        if draft is None or draft.uid is not None:
            return await self._reading.getxattr(self._reading.forwarding.follow(inode), name)
        word = xattrs.word(name)
        value = draft.brought.value(word) if word is not None else None
        if value is None:
            raise Refused(errno.ENODATA)
        return xattrs.encoded(value)

    def _told(self, inode: int, name: bytes) -> str | None:
        """The value that was set on a directory for the commit of its mailbox; None: none was."""
        node, word = self._reading.inodes.node(inode), xattrs.word(name)
        if self._staging is None or word is None or node.folder is None or node.uid:
            return None
        return self._staging.value(node.folder, word)

    async def names(self, inode: int) -> Sequence[bytes]:
        """The names of the extended attributes.

        :raises Refused: ESTALE, ENOENT: it is gone.
        """
        draft = self._draft_of(inode)
        if draft is None or draft.uid is not None:
            return await self._reading.listxattr(self._reading.forwarding.follow(inode))
        return [xattrs.PREFIX + name.encode() for name in draft.brought.names]

    async def set(self, inode: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute.

        :raises Refused: EINVAL: no such attribute, or an invalid value; EPERM: it can't be changed.
        """
        known, new = xattrs.WORDS.get(name), self._drafts.by_inode(inode)
        if known is not None and new is not None and new.uid is None and not new.lock.locked():
            self._setattr.bring(new, known, value)  # a backup that is put back: nine of these a message
            return
        if is_desktop(name):
            await self._set_desktop(inode, name, value)
            return
        word = xattrs.word(name)
        if word is None:
            raise Refused(errno.EINVAL)
        await self._reading.folders.steady(inode, lambda found: self._set_xattr(found, word, value))

    async def _set_desktop(self, inode: int, name: bytes, value: bytes) -> None:
        """Set the tags; other desktop attributes of a message can only be set to the value that they have."""
        draft, node = self._draft_of(inode), self._reading.forwarding.now(inode)
        if name == TAGS:
            is_new = draft is not None and draft.uid is None
            before = node.mailbox().keywords(node.uid) if node.is_message and not is_new else ()
            await self.set(inode, b"user.dbox.keywords", keywords_of(value, before))
        elif draft is None and await self.get(inode, name) != value:
            raise Refused(errno.EPERM)

    async def remove(self, inode: int, name: bytes) -> None:
        """Remove an extended attribute: flags or keywords; of a new file any.

        :raises Refused: ENODATA: there is none; EPERM: it can't be removed.
        """
        if name == TAGS:
            await self._set_desktop(inode, name, b"")
            return
        word, draft = xattrs.word(name), self._draft_of(inode)
        if word is None:
            raise Refused(errno.EPERM if is_desktop(name) else errno.ENODATA)
        if draft is not None and await self._bring_without(draft, word):
            return
        if word not in ("flags", "keywords"):
            self._setattr.check_removal(self._reading.forwarding.now(inode), word)
            return
        await self._reading.folders.steady(inode, lambda found: self._set_xattr(found, word, b""))

    async def _set_xattr(self, inode: int, word: str, value: bytes) -> None:
        draft, forwarding = self._draft_of(inode), self._reading.forwarding
        change = partial(self._setattr.xattr, draft=draft, word=word, value=value)
        if draft is None:
            await forwarding.use(forwarding.now(inode).inode, change)
            return
        async with draft.lock:  # a commit may have taken its attributes already
            if draft.uid is None:
                await change(forwarding.now(inode))
                return
        await change(forwarding.now(inode))

    async def _bring_without(self, draft: Draft, word: str) -> bool:
        """Remove an attribute of a draft; False: it is a message by now."""
        async with draft.lock:
            if draft.uid is not None:
                return False
            draft.bring(draft.brought.without(word))
        if word == "received":
            self._reading.host.kernel.at_once(draft.inode)
        return True
