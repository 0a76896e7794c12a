"""Names in ``cur/`` and ``new/`` that programs give: their written name, flags and keywords, and how these
are set.

Concurrency: the locks are those of the file system that the view is around.
"""

from __future__ import annotations

import errno
from contextlib import suppress

from msgspec import Struct

from dboxfs.errors import NoSuchMailbox, NoSuchMessage
from dboxfs.store import Folder
from dboxfs.store.names.codec import LONGEST_NAME
from dboxfs.store.names.of_mailbox import encode
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.brought import flag_names
from dboxfs.vfs.changes import mailbox_of
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.views.letters import FORWARDED, Marks, marks_of, split, with_letters
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.maildir_names import LONGEST_BASE, can_be_base, written_name
from dboxfs.vfs.views.places import MaildirPlace, Sub
from dboxfs.vfs.writable import WritableVfs


class MaildirWish(Struct, frozen=True):
    """A name in ``cur/`` or ``new/`` that a program wants to give.

    ``inner``: the written name.  ``marks``: the flags and keywords of its letters.
    """

    place: MaildirPlace
    folder: Folder
    name: bytes
    inner: bytes
    marks: Marks


class MaildirWishes:
    """Reads names, and sets the flags and keywords of their letters."""

    def __init__(self, view: MaildirView, inner: WritableVfs) -> None:
        self._view = view
        self._inner = inner
        self._inodes = view.reading.inodes
        self._names = view.names

    async def wanted(
        self, place: MaildirPlace, name: bytes, *, replace: bool = False, marks: Marks | None = None
    ) -> MaildirWish:
        """Read a name in ``cur/`` or ``new/`` that a program wants to give.

        :param replace: a message that has exactly this name is replaced.
        :param marks: the flags and keywords of its letters; None: those that they mean in this mailbox.
        :raises Refused: EINVAL, ENAMETOOLONG: no message can have this name; EEXIST: another message has its
            base.
        """
        folder = await self._view.checked(place)
        mailbox_of(folder)
        base = split(name)[0]
        if len(name) > LONGEST_NAME or len(base) > LONGEST_BASE:
            raise Refused(errno.ENAMETOOLONG)
        if place.sub not in (Sub.CUR, Sub.NEW) or not can_be_base(base):
            raise Refused(errno.EINVAL)
        said = marks if marks is not None else self.said(folder, name)
        await self._names.know(folder)
        holder, inner = self._names.by_base(folder, base), written_name(place.sub, base)
        if holder is not None:
            if not replace or await self._names.resolve(folder, place.sub, name) != holder:
                raise Refused(errno.EEXIST)
            inner = self._names.inner(folder, holder)
        return MaildirWish(place, folder, name, inner, said)

    def said(self, folder: Folder, name: bytes) -> Marks:
        """The flags and keywords that the letters of a name mean in this mailbox.

        :raises Refused: EINVAL: a letter has no meaning.
        """
        state = mailbox_of(folder).state
        try:
            return marks_of(split(name)[1], state.keyword_names() if state is not None else ())
        except ValueError:
            raise Refused(errno.EINVAL) from None

    async def bring(self, inode: int, marks: Marks) -> None:
        """Give the file *inode* flags and keywords; without letters those that it has stay."""
        if marks != Marks(0):
            flags = " ".join(flag_names(marks.flags)).encode("ascii")
            await self._inner.setxattr(inode, b"user.dbox.flags", flags)
            await self._inner.setxattr(inode, b"user.dbox.keywords", encode(" ".join(marks.keywords)))

    async def mark(self, folder: Folder, uid: int, before: Marks, after: Marks) -> None:
        """Change the flags and keywords that differ between two names of a message; a keyword without a
        letter stays.  The caller says which mailbox it means (:mod:`dboxfs.store.write.meaning`).
        """
        if before == after:
            return
        state = mailbox_of(folder).state
        shown = {*with_letters(state.keyword_names())} if state is not None else set()
        lost = [word for word in before.keywords if word not in after.keywords and _has_letter(word, shown)]
        more = [word for word in after.keywords if word not in before.keywords]
        add, remove = after.flags & ~before.flags, before.flags & ~after.flags
        try:
            if add or remove:
                await self._inner.writer.set_flags(folder.name, [uid], add=add, remove=remove)
            if more or lost:
                await self._inner.writer.set_keywords(folder.name, [uid], add=more, remove=lost)
        except ValueError:  # no keyword can be called so
            raise Refused(errno.EINVAL) from None
        await self._view.reading.store.see(folder)

    async def mark_by_name(self, wanted: MaildirWish, before: Marks) -> None:
        """The same for the message that has just got the written name *wanted*.

        :raises Refused: EIO: it has come, but its mailbox can't be read.
        :raises DboxfsError, OSError: it has come, but its mailbox can't be written.
        """
        if before == wanted.marks:
            return
        await self._names.know(wanted.folder)
        uid = self._view.reading.names.resolve(wanted.folder, wanted.inner)
        if uid is not None:
            with suppress(NoSuchMessage, NoSuchMailbox), as_seen(wanted.folder):  # it is gone already
                await self.mark(wanted.folder, uid, before, wanted.marks)
            return
        if wanted.folder.name in self._view.reading.store.index_errors:
            raise Refused(errno.EIO)


def _has_letter(word: str, shown: set[str]) -> bool:
    return word in shown or word.lower() == FORWARDED.lower()
