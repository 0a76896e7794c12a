"""setattr and setxattr in a writable mount: dates, lengths, flags, keywords, subscriptions.

Locks: the caller holds ``Draft.lock`` of a draft.
"""

from __future__ import annotations

import errno

from dboxfs.store import Facts
from dboxfs.store.write import StoreWriter
from dboxfs.store.write.log_records import check_keywords
from dboxfs.vfs import xattrs
from dboxfs.vfs.changes import MessageChanges, flag_bits, flag_names, mailbox_of
from dboxfs.vfs.draft import Draft
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import DRAFTS, Inodes, Node


class Setattr:
    """Answers setattr and setxattr."""

    def __init__(
        self,
        inodes: Inodes,
        names: Names,
        forwarding: Forwarding,
        drafts: Drafts,
        writer: StoreWriter,
        changes: MessageChanges,
        kernel: Kernel,
    ) -> None:
        self._inodes = inodes
        self._names = names
        self._forwarding = forwarding
        self._drafts = drafts
        self._writer = writer
        self._changes = changes
        self._kernel = kernel

    # -- lengths and dates ---------------------------------------------------------------------

    async def draft(self, draft: Draft, size: int | None, received: int | None) -> None:
        """Cut a file that is being written, or give it a received date; its lock is held.

        :param size: bytes.  :param received: seconds since the epoch.
        """
        if size is not None:
            draft.truncate(size)
        elif received is not None:
            draft.set_received(received)
            if draft.uid is not None and not draft.dirty and draft.handles:
                await self._redate(draft, draft.uid, received)

    async def _redate(self, draft: Draft, uid: int, received: int) -> None:
        """The file is committed, and open still: its message gets the date."""
        folder, box = draft.folder, mailbox_of(draft.folder)
        if uid not in box or (await box.facts_of(uid)).received == received:
            return
        new = await self._changes.redate(folder, uid, received)
        draft.moved(draft.folder, draft.name, new, draft.standing.guid)
        self._forwarding.became(draft.inode, draft.folder, new)
        if not draft.inode & DRAFTS:
            self._kernel.entry(self._inodes.of(draft.folder), draft.name)

    async def message(self, node: Node, facts: Facts, size: int | None, received: int | None) -> None:
        """The same for a message that nobody writes.

        :raises Refused: EOPNOTSUPP: another length.
        """
        if size is not None and size != facts.size:
            raise Refused(errno.EOPNOTSUPP)
        if received is not None and size is None and received != facts.received:
            folder = node.directory()
            name = self._names.name(folder, node.uid)
            await self._changes.redate(folder, node.uid, received)
            self._kernel.entry(self._inodes.of(folder), name)

    # -- extended attributes -------------------------------------------------------------------

    def draft_xattrs(self, draft: Draft) -> dict[str, str]:
        """The attributes that a file has which is no message yet, by their names behind ``user.dbox.``."""
        return {"flags": " ".join(flag_names(draft.flags)), "keywords": " ".join(draft.keywords)}

    async def xattr(self, node: Node, draft: Draft | None, word: str, value: bytes) -> None:
        """Set ``user.dbox.<word>``.

        :param node: the message, or directory.
        :param draft: the file being written that it is; None: it is none.
        :raises Refused: EINVAL: no such attribute, or no such value; EPERM: it can't be set.
        """
        is_file = draft is not None or node.is_message
        if is_file and word in ("flags", "keywords"):
            words = _words(value)
            if draft is not None and draft.uid is None:
                _set_later(draft, word, words)
            elif word == "flags":
                await self._changes.set_flags(node, flag_bits(words), None)
            else:
                await self._changes.set_flags(node, None, words)
        elif word == "subscribed" and node.directory().parent is not None:
            if value not in (b"0", b"1"):
                raise Refused(errno.EINVAL)
            await self._writer.subscribe(node.directory().name, value == b"1")
        elif word in (xattrs.MESSAGE if is_file else xattrs.folder_names(node.directory())):
            raise Refused(errno.EPERM)
        else:
            raise Refused(errno.EINVAL)


def _set_later(draft: Draft, word: str, words: list[str]) -> None:
    """What a file will have when it is committed.

    :raises Refused: EINVAL: one of the words can't be a flag, or a keyword.
    """
    if word == "flags":
        draft.set_flags(flag_bits(words))
        return
    try:
        check_keywords(words)
    except ValueError:
        raise Refused(errno.EINVAL) from None
    draft.set_keywords(tuple(words))


def _words(value: bytes) -> list[str]:
    """
    :raises Refused: EINVAL: no text.
    """
    try:
        return value.decode("utf-8").split()
    except UnicodeDecodeError:
        raise Refused(errno.EINVAL) from None
