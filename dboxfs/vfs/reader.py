"""Messages that are open for reading, and the push of small ones into the kernel's page cache.

A small message is pushed whole into the kernel's cache when it is opened, so that the kernel needs no READ.
That happens only while no process has the inode open: else the kernel would wait for a READ in flight, which
only we can answer.  A message that was pushed before is not pushed again; if the kernel has dropped it, it
sends a READ.

If a message's pages in the kernel may be outdated (it was damaged, replaced, or open for writing), the
client's own OPEN drops them: it is answered without ``keep_cache``.

An open message can be read to its end even if it is expunged: the :class:`~dboxfs.store.Body` holds its file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from dboxfs.errors import CorruptFile
from dboxfs.store import Body, Facts, Store
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.forwarding import Forwarding
from dboxfs.vfs.host import Host
from dboxfs.vfs.kernel_pages import Doubts
from dboxfs.vfs.node import Node
from dboxfs.vfs.open_files import AtOpen, OpenFile, OpenFiles

PUSH_MOST = 2 << 20
"""Messages up to this many bytes are put into the kernel's cache when they are opened."""


class Opened(NamedTuple):
    """The answer to an OPEN.

    ``direct_io``: reads go past the kernel's cache, and past the size that it knows.  ``keep_cache``: the
    kernel's pages of the file are still right.  ``flushes``: :meth:`OpenFile.flush` does something, so the
    kernel has to send FLUSH for each descriptor that is closed.
    """

    file: OpenFile
    direct_io: bool
    keep_cache: bool
    flushes: bool = True


class OpenMessage:
    """A message that is open for reading.  Made by :meth:`Reader.open`.

    :ivar facts: the attributes for fstat(2).  :ivar marks: those for fgetxattr(2), when the message is gone.
    """

    __slots__ = ("_body", "_inode", "_reader", "facts", "marks")

    def __init__(self, reader: Reader, inode: int, body: Body, facts: Facts, marks: AtOpen | None) -> None:
        self._reader = reader
        self._inode = inode
        self._body = body
        self.facts = facts
        self.marks = marks

    async def read(self, size: int, offset: int) -> bytes:
        self._reader.asked(self._inode)
        try:
            return self._body.pread(size, offset)
        except BlockingIOError:
            pass
        return await self._reader.read(self._body, size, offset)

    async def write(self, data: bytes, offset: int) -> int:
        raise Refused(errno.EBADF)

    async def flush(self) -> None:
        """Does nothing: nothing was written."""

    async def fsync(self) -> None:
        """Does nothing: nothing was written."""

    async def release(self) -> None:
        self._body.close()
        self._reader.closed(self._inode, self)


class Reader:
    """Opens messages for reading."""

    def __init__(self, store: Store, forwarding: Forwarding, open_files: OpenFiles, host: Host) -> None:
        self._store = store
        self._forwarding = forwarding
        self._open_files = open_files
        self._kernel = host.kernel
        self._observed = host.observed
        self._pushed = host.pushed
        self._doubts = Doubts()
        self._pushes = 0
        self._pushed_bytes = 0

    def stats(self) -> Mapping[str, object]:
        """Messages and bytes that were put into the kernel's cache."""
        return {"pushed_to_kernel": {"messages": self._pushes, "bytes": self._pushed_bytes}}

    # -- opening -------------------------------------------------------------------------------

    async def open(self, asked: Node, flags: int) -> Opened:
        """Open a message, or its replacement.

        :param flags: of open(2).  With O_NOATIME nothing is pushed: backup programs use it, and borg opens
            every file, even if it only looks at attributes.
        :raises Refused: ENOENT: its mailbox is gone.
        :raises DboxfsError, OSError: as :meth:`dboxfs.store.Mailbox.open`.
        """
        inode = asked.inode
        found = self._body_now(asked)
        if found is None:
            found = await self._forwarding.use(inode, self.body, anew=True)
        node, body, facts = found
        try:
            same = node.inode == inode
            may_push = same and body.size <= PUSH_MOST and not flags & os.O_NOATIME
            pushed = may_push and await self._push(inode, body)
            doubtful = self._doubts.settle(asked.base, asked.uid)
        except BaseException:
            body.close()
            raise
        resized = not same or facts.size != body.size
        if resized:  # it was damaged when its size was read, and is repaired now; or it was replaced
            facts = replace(facts, size=body.size)
            self._kernel.at_once(inode)
        file = OpenMessage(self, inode, body, facts, AtOpen.of(node.mailbox(), node.uid))
        self._open_files.begin_reading(inode, file)
        keep_cache = not resized and (pushed or not doubtful)
        return Opened(file, direct_io=resized, keep_cache=keep_cache, flushes=False)

    @staticmethod
    def _body_now(node: Node) -> tuple[Node, Body, Facts] | None:
        """:meth:`body` of a message that is there, without a wait; None: not now."""
        box = node.folder.mailbox if node.folder is not None else None
        body = box.open_now(node.uid) if box is not None else None
        if box is None or body is None:
            return None
        return node, body, box.changed(box.known(node.uid), node.uid)

    @staticmethod
    async def body(node: Node) -> tuple[Node, Body, Facts]:
        """The bytes of a message, and its size and dates; for :meth:`Forwarding.use`."""
        box = node.mailbox()
        body = box.open_now(node.uid) or await box.open(node.uid)
        try:
            facts = await box.facts_of(node.uid)
        except BaseException:
            body.close()
            raise
        return node, body, facts

    async def _push(self, inode: int, body: Body) -> bool:
        """Put a whole small message into the kernel's cache; False: it was not put there."""
        if not body.size or inode in self._open_files or not self._pushed.first(inode):
            return False
        try:
            data = body.pread(body.size, 0)
        except BlockingIOError:
            data = await self.read(body, body.size, 0)
            if inode in self._open_files:  # meanwhile
                return False
        if not self._kernel.push(inode, data):
            return False
        self._observed.pushed([inode])
        self._pushes += 1
        self._pushed_bytes += len(data)
        body.handed()
        return True

    # -- called by open messages ---------------------------------------------------------------

    async def read(self, body: Body, size: int, offset: int) -> bytes:
        """Read bytes, and wait for the disk; reports damage to the store.

        :raises CorruptFile, OSError: they can't be read.
        """
        try:
            return await body.read(size, offset)
        except CorruptFile as exc:
            self._store.report_damage(exc)
            raise

    def asked(self, inode: int) -> None:
        """The kernel asks for bytes, so it doesn't have all of this message's pages."""
        self._pushed.forget(inode)

    def closed(self, inode: int, file: OpenMessage) -> None:
        """The last descriptor of an open was closed."""
        self._open_files.end_reading(inode, file)

    # -- pages that may be outdated ------------------------------------------------------------

    def forget(self, inode: int) -> None:
        """The kernel doesn't have the pages of this message."""
        self._pushed.forget(inode)

    def doubt(self, folder: Node) -> None:
        """The files of a mailbox may have been repaired: all its messages may have other bytes."""
        box = folder.mailbox()
        self._doubts.raise_about(folder.inode, box.uids)
        for uid in box.uids.tolist():
            self._pushed.forget(folder.inode | uid)

    def gone(self, folder_inode: int) -> None:
        """A mailbox is gone."""
        self._doubts.forget(folder_inode)
