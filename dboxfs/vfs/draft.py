"""A file being written: its bytes, which are no message yet, and the attributes that the message will have.

Its stages and events: :mod:`dboxfs.vfs.draft_stages`.  Only the methods of :class:`Draft` change a draft.

Besides its stage, a draft may have *failed*: a write or a commit has met an error. Every later call gets
that error again, and nothing of the draft is ever committed.

Concurrency: a caller that changes or commits the bytes holds :attr:`Draft.lock`; an event is atomic.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio
from msgspec.structs import replace

from dboxfs.store import Body, Folder
from dboxfs.store.write import Source
from dboxfs.util.lock import Lock
from dboxfs.util.mounts import Membership
from dboxfs.vfs.brought import Brought
from dboxfs.vfs.content import Budget, Content, PackedContent, Temporary
from dboxfs.vfs.draft_stages import DraftEvent, Stage, Standing, guid_of
from dboxfs.vfs.errors import Refused, errno_of
from dboxfs.vfs.holders import Holders


class PackedDraft(NamedTuple):
    """A draft that is staged, and that nobody has open, as values."""

    standing: Standing
    created: int
    creator: int
    brought: Brought
    content: PackedContent


class Draft:
    """One file being written.

    :param inode: the number under which the kernel knows it.
    :param spool: makes the temporary file of a draft in a folder.
    :param base: the message that it was opened on, if its bytes stay; the draft closes it.
    :param based: 0 for a file that is only appended to; None for any other.
    :ivar lock: held while its bytes change or are committed.
    :ivar created: seconds since the epoch.
    """

    __slots__ = (
        "__weakref__", "_brought", "_content", "_creator", "_failed", "_handles", "_is_left", "_spool",
        "_standing", "_written", "created", "inode", "lock",
    )  # fmt: skip

    def __init__(
        self,
        inode: int,
        standing: Standing,
        spool: Callable[[Folder], Temporary],
        budget: Budget,
        base: Body | None = None,
        based: int | None = None,
    ) -> None:
        self.inode = inode
        self.lock = Lock()
        self.created = int(time.time())
        self._standing = standing
        self._spool = spool
        self._content = Content(budget, base, based)
        self._failed = 0
        self._handles = 0
        self._creator = 0
        self._brought = Brought()
        self._written = 0.0
        self._is_left = False

    # -- its state -----------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Its stage, place and message now, as an immutable value."""
        return self._standing

    @property
    def stage(self) -> Stage:
        return self._standing.stage

    @property
    def folder(self) -> Folder:
        return self._standing.folder

    @property
    def name(self) -> bytes:
        return self._standing.name

    @property
    def uid(self) -> int | None:
        """The message that it is, or that it replaces with its commit; None: none yet."""
        return self._standing.uid

    @property
    def is_temporary(self) -> bool:
        return self.stage is Stage.TEMPORARY

    @property
    def is_staged(self) -> bool:
        return self.stage is Stage.STAGED

    @property
    def is_removed(self) -> bool:
        return self.stage is Stage.REMOVED

    @property
    def failed(self) -> int:
        """The errno that a write or a commit has met; 0: none."""
        return self._failed

    @property
    def handles(self) -> int:
        """How many opens of it have not been released."""
        return self._handles

    @property
    def creator(self) -> int:
        """The process that opened it first."""
        return self._creator

    @property
    def received(self) -> int | None:
        """Received date, seconds since the epoch; None: the time of the commit."""
        return self._brought.received

    @property
    def brought(self) -> Brought:
        """The attributes that the message will have, as an immutable value."""
        return self._brought

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._content.size

    @property
    def dirty(self) -> bool:
        """It has uncommitted bytes."""
        return self._content.dirty

    @property
    def based(self) -> int | None:
        """How many of its first bytes are a message's (:class:`Content`)."""
        return self._content.based

    @property
    def taken(self) -> bool:
        """Its temporary file was handed over to a commit."""
        return self._content.taken

    @property
    def is_empty(self) -> bool:
        """It is a ghost, or becomes one if it is closed now."""
        return self.stage is Stage.GHOST or (self.stage is Stage.NEW and not self.dirty and not self.size)

    @property
    def written(self) -> float:
        """When bytes last came (``trio.current_time``)."""
        return self._written

    @property
    def is_left(self) -> bool:
        """Its opener has closed it, and was told that its bytes are durable; others still hold it."""
        return self._is_left

    # -- events --------------------------------------------------------------------------------

    def opened(self, process: int) -> None:
        """A process has opened it."""
        self._handles += 1
        self._creator = self._creator or process
        self._standing = self._standing.after(DraftEvent.OPENED)

    def released(self) -> None:
        """The last descriptor of an open is gone."""
        self._handles -= 1

    def made_by(self, process: int) -> None:
        """*process* has made the file without opening it (mknod)."""
        self._creator = process

    def closed_empty(self) -> None:
        """It is a ghost from now on."""
        self._standing = self._standing.after(DraftEvent.EMPTY)

    def staged(self) -> None:
        """It was closed, and waits for the commit of its mailbox."""
        self._standing = self._standing.after(DraftEvent.CLOSED)

    def committed(self, uid: int) -> None:
        """Its bytes are message *uid*."""
        self._standing = replace(self._standing.after(DraftEvent.COMMITTED), uid=uid, takes_place=False)
        self._brought = Brought(received=self._brought.received)  # a replacement is another message
        self._content.committed()

    def moved(self, folder: Folder, name: bytes, uid: int, guid: bytes | None) -> None:
        """Its message has this uid and name now, in this mailbox."""
        self._standing = replace(
            self._standing.after(DraftEvent.MOVED), folder=folder, name=name, uid=uid, guid=guid
        )

    def expunged(self) -> None:
        """Another process has expunged its message."""
        self._standing = replace(self._standing.after(DraftEvent.EXPUNGED), uid=None)

    def renamed(self, folder: Folder, name: bytes, over: int | None, *, takes_place: bool = False) -> None:
        """It was renamed, over message *over* or to a name that is free."""
        event = DraftEvent.TO_DOT if name.startswith(b".") else DraftEvent.TO_PLAIN
        event = event if over is None else DraftEvent.ONTO
        self._standing = replace(
            self._standing.after(event),
            folder=folder,
            name=name,
            uid=over,
            guid=guid_of(folder),
            takes_place=takes_place,
        )

    def not_renamed(self, before: Standing) -> None:
        """A rename has failed and changed nothing: the draft is as before, and may be renamed again."""
        self._standing, self._failed = before, 0

    def mailbox_is(self, folder: Folder) -> None:
        """The mailbox that it was opened in is *folder* by now."""
        self._standing = replace(self._standing, folder=folder)

    def mailbox_got(self, guid: bytes | None) -> None:
        """The mailbox that it was opened in was given another guid."""
        self._standing = replace(self._standing, guid=guid)

    def name_taken(self) -> None:
        """Another file was given its name."""
        standing = self._standing.after(DraftEvent.NAME_TAKEN)
        self._standing = replace(standing, uid=None)

    def removed(self) -> None:
        """It, or its message, is removed."""
        self._standing = self._standing.after(DraftEvent.REMOVED)

    def kept(self) -> None:
        """Its message could not be removed."""
        self._standing = self._standing.after(DraftEvent.KEPT)

    def left(self) -> bool:
        """Only processes other than its opener hold it from now on; False: that was known already."""
        first, self._is_left = not self._is_left, True
        return first

    def not_left(self) -> None:
        """No task waits for those other processes any more."""
        self._is_left = False

    # -- attributes of the message -------------------------------------------------------------

    def set_received(self, received: int) -> None:
        """Give the message this received date (seconds since the epoch)."""
        self._brought = replace(self._brought, received=received)

    def bring(self, brought: Brought) -> None:
        """Give the message these attributes."""
        self._brought = brought

    # -- bytes ---------------------------------------------------------------------------------

    @property
    def _scratch(self) -> bool:
        """Its name began with a dot when it was opened or renamed last, even if that name is gone by now."""
        return self.uid is None and self.name.startswith(b".")

    def _temporary(self) -> Temporary:
        """A temporary file where its message will be."""
        return self._spool(self.folder)

    async def write(self, data: bytes, offset: int | None) -> int:
        """Write *data* at *offset* (None: at the end, wherever that is); gives the bytes written.

        :raises Refused: EFBIG: the file would have too many extents or too many zeros, and nothing has
            changed; or the errno of an earlier write or commit that has failed.
        :raises OSError: the temporary file can't be written.
        """
        self.check()
        self._written = trio.current_time()
        with self._failing():
            await self._content.write(data, offset, self._temporary)
        return len(data)

    def truncate(self, size: int) -> None:
        """ftruncate: shorten the file, put zeros behind it, or (0) begin it again.

        :raises Refused: EFBIG: too many zeros; nothing has changed.
        """
        self.check()
        with self._failing():
            self._content.truncate(size)

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes at *offset*, fewer than *size* at the end."""
        return await self._content.read(size, offset)

    async def settle(self) -> None:
        """Hand everything to the file system, so that its errors are known.

        :raises OSError: it can't be written.
        """
        with self._failing():
            await self._content.settle()

    async def sync(self) -> None:
        """Make the bytes durable, in a temporary file, if commits are; :meth:`settle` included.

        :raises OSError: they are not.
        """
        with self._failing():
            await self._content.sync(self._temporary, scratch=self._scratch)

    async def renew(self) -> None:
        """Get a new temporary file if a commit has taken the old one.

        :raises OSError: it can't be written.
        """
        await self._content.renew(self._temporary)

    async def rebase(self, body: Body) -> None:
        """Put the bytes of *body* in front of those that were appended; the draft closes *body*."""
        await self._content.rebase(body)

    def source(self) -> Source:
        """The bytes, for a save.

        :raises Refused: an earlier write or commit has failed.
        """
        self.check()
        return self._content.source()

    # -- errors and the end --------------------------------------------------------------------

    def check(self) -> None:
        """
        :raises Refused: an earlier write or commit has failed.
        """
        if self._failed:
            raise Refused(self._failed)

    def fail(self, error: BaseException) -> None:
        """Nothing of it will ever be committed; later calls get the first error."""
        self._failed = self._failed or errno_of(error)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """After an error the bytes may be lost, even if the kernel reports no error for the next call."""
        try:
            yield
        except Refused:
            raise
        except OSError as exc:
            self._failed = exc.errno or errno.EIO
            raise

    def pack(self) -> PackedDraft | None:
        """What :meth:`unpack` makes the same draft of; None: it is not one that waits, and nothing else."""
        is_busy = self._handles or self._failed or self._is_left or self.lock.locked()
        content = self._content.pack() if self.is_staged and not is_busy else None
        if content is None:
            return None
        return PackedDraft(self._standing, self.created, self._creator, self._brought, content)

    @classmethod
    def unpack(
        cls, inode: int, packed: PackedDraft, spool: Callable[[Folder], Temporary], budget: Budget
    ) -> Draft:
        """The draft that was packed."""
        draft = cls(inode, packed.standing, spool, budget)
        draft._content = Content.unpack(packed.content, budget)
        draft.created, draft._creator, draft._brought = packed.created, packed.creator, packed.brought
        return draft

    def close(self) -> None:
        """Give up all bytes; the temporary file is deleted."""
        self.removed()
        self._content.close()


class Writing:
    """One open of a draft.

    ``pid``: the process that has opened it.  ``inode``: the inode that the kernel has opened.
    """

    __slots__ = ("draft", "holders", "inode", "pid")

    def __init__(self, draft: Draft, pid: int, membership: Membership) -> None:
        self.draft = draft
        self.pid = pid
        self.inode = draft.inode
        self.holders = Holders(pid, membership)
