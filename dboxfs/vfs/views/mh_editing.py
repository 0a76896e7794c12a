"""``.mh_sequences``, written: programs change flags with it.

A program reads the file, and writes it anew: in place (nmh, Python), or as another file that it links or
renames to the name, which it has unlinked before (mutt).  The view compares the content that the process has
read last with the one that it has written:

* A message that was in a sequence and is not any more loses the flag (of ``unseen``: gets \\Seen), if the
  process can have known of it.  Messages that came since keep their flags.
* A process that has read nothing can only add to sequences.
* A message that the process itself has just delivered counts as being in no sequence.  The next content says
  its flags: if it is not in ``unseen`` then, it was read (mutt saves, Python's ``add``).

A content counts when the descriptor through which it was written is closed.  If the file is empty then and
another descriptor is open, the process has only cut it, and nothing changes.  If a process that has the file
open for writing unlinks it, the file counts as empty (nmh).

Concurrency: all state changes between two checkpoints.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trio

from dboxfs.store import Folder
from dboxfs.store.write.meaning import as_seen
from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.brought import flag_names
from dboxfs.vfs.changes import mailbox_of
from dboxfs.vfs.control import OpenControlFile
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.holders import process_of
from dboxfs.vfs.open_files import OpenFile
from dboxfs.vfs.reader import Opened
from dboxfs.vfs.views.foreign import Foreign
from dboxfs.vfs.views.letters import FLAGS, SEEN
from dboxfs.vfs.views.mh import MhView
from dboxfs.vfs.views.mh_names import name_of
from dboxfs.vfs.views.mh_sequences import (
    FLAGGED,
    NAME,
    REPLIED,
    SEQUENCES_LARGEST,
    UNSEEN,
    Mask,
    Sequences,
    parse_sequences,
)
from dboxfs.vfs.views.mh_shown import SequencesShown
from dboxfs.vfs.writable import WritableVfs

HIDDEN_SECONDS = 5.0
"""A program that has unlinked the file, or made the mailbox, has so many seconds to make the file."""

FRESH_SECONDS = 300.0
"""A program that has delivered a message has so many seconds to write its flags."""

READERS = 64
"""Processes whose last read content is remembered, at most."""

REMEMBERED_BYTES = 8 << 20
"""Bytes of these contents in all, at most; one is always kept."""

_BITS = ((FLAGGED, FLAGS["F"]), (REPLIED, FLAGS["R"]))

_Key = tuple[int, int]
"""Process, and inode of the mailbox."""


class Base(NamedTuple):
    """The content that a process has read, and the mailbox's next uid at that time."""

    content: bytes
    uid_next: int


class _Fresh(NamedTuple):
    """Numbers of messages that a process has delivered and whose flags it may write until *until* (trio's
    clock).
    """

    numbers: set[int]
    until: float


class _Edit:
    """The file of one mailbox, while it is open to be written.

    ``dirty``: it was written, and the flags are not changed yet.
    """

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.dirty = False
        self.writers: set[SequencesWriter] = set()


class _OpenSequences(OpenControlFile):
    """``.mh_sequences``, opened to be read: its content then.

    :param seen: is called when the process reads it.
    """

    __slots__ = ("_seen",)

    def __init__(self, content: bytes, seen: Callable[[], None]) -> None:
        super().__init__(content)
        self._seen = seen

    async def read(self, size: int, offset: int) -> bytes:
        self._seen()
        return await super().read(size, offset)


class SequenceEdits:
    """The files of all mailboxes that are open to be written, and what each process has read of them."""

    def __init__(self, view: MhView, inner: WritableVfs, foreign: Foreign) -> None:
        self._view = view
        self._inner = inner
        self._foreign = foreign
        self._edits: dict[int, _Edit] = {}
        self._bases: OrderedDict[_Key, Base] = OrderedDict()
        self._fresh: OrderedDict[_Key, _Fresh] = OrderedDict()
        self._hidden: dict[int, float] = {}
        view.shown.own = self._own

    async def _own(self, folder: Folder) -> tuple[bytes, int]:
        return await self._foreign.small(self._view.reading.inodes.of(folder), NAME)

    # -- hidden files --------------------------------------------------------------------------

    def hides(self, inode: int) -> bool:
        """Whether the file of the mailbox *inode* was unlinked, or not made yet."""
        if inode not in self._hidden:
            return False
        if trio.current_time() >= self._hidden[inode]:
            del self._hidden[inode]
            return False
        return True

    def hide(self, inode: int) -> None:
        """Hide the file of a mailbox, until a program makes it or :data:`HIDDEN_SECONDS` are over."""
        self._hidden[inode] = trio.current_time() + HIDDEN_SECONDS

    # -- what each process knows ---------------------------------------------------------------

    def has_read(self, inode: int, pid: int, base: Base) -> None:
        """The process of thread *pid* has read the file."""
        key = process_of(pid), inode
        self._bases[key] = base
        self._bases.move_to_end(key)
        while len(self._bases) > 1 and (
            len(self._bases) > READERS
            or sum(len(some.content) for some in self._bases.values()) > REMEMBERED_BYTES
        ):
            self._bases.popitem(last=False)

    def brings(self, inode: int, pid: int, number: int) -> None:
        """The process of thread *pid* delivers a message with this number."""
        key = process_of(pid), inode
        numbers = {*self._numbers(key), number}
        self._fresh[key] = _Fresh(numbers, trio.current_time() + FRESH_SECONDS)
        self._fresh.move_to_end(key)
        if len(self._fresh) > READERS:
            self._fresh.popitem(last=False)

    def _numbers(self, key: _Key) -> set[int]:
        fresh = self._fresh.get(key)
        return fresh.numbers if fresh is not None and trio.current_time() < fresh.until else set()

    async def shown(self, inode: int, pid: int) -> SequencesShown:
        """The file of the mailbox *inode* as the process of thread *pid* sees it."""
        folder = (await self._view.reading.folders.checked(inode)).directory()
        shown = await self._view.shown.show(folder, self._numbers((process_of(pid), inode)))
        edit = self._edits.get(inode)
        return shown if edit is None or not edit.dirty else shown._replace(content=bytes(edit.content))

    async def attrs(self, inode: int, pid: int) -> Attrs:
        """The attributes of the file of the mailbox *inode*."""
        return self._view.sequences_attrs(inode, await self.shown(inode, pid))

    # -- opening -------------------------------------------------------------------------------

    async def create(self, inode: int, flags: int, pid: int) -> tuple[Opened, Attrs]:
        """open(2) with O_CREAT.

        :raises Refused: EEXIST: with O_EXCL, and it is there.
        """
        if flags & os.O_EXCL and not self.hides(inode):
            raise Refused(errno.EEXIST)
        opened = await self.open(inode, flags, pid)
        self._hidden.pop(inode, None)
        return opened, await self.attrs(inode, pid)

    async def open(self, inode: int, flags: int, pid: int) -> Opened:
        """Open the file of the mailbox *inode*."""
        shown = await self.shown(inode, pid)
        base = Base(shown.content, shown.uid_next)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            read = _OpenSequences(shown.content, lambda: self.has_read(inode, pid, base))
            return Opened(read, direct_io=True, keep_cache=False)
        edit = self._edits.get(inode)
        if edit is None:
            edit = self._edits[inode] = _Edit(shown.content)
        elif not edit.dirty:
            edit.content[:] = shown.content
        if flags & os.O_TRUNC:
            self.truncate(edit, 0)
        writer = SequencesWriter(self, edit, inode, pid, base, appends=bool(flags & os.O_APPEND))
        edit.writers.add(writer)
        return Opened(writer, direct_io=True, keep_cache=False)

    def truncate(self, edit: _Edit, size: int) -> None:
        """Cut the file to *size* bytes, or fill it with line ends up to them.

        :raises Refused: EFBIG.
        """
        if size > SEQUENCES_LARGEST:
            raise Refused(errno.EFBIG)
        if size != len(edit.content):
            edit.content[size:] = b"\n" * (size - len(edit.content))
            edit.dirty = True

    async def setattr(self, inode: int, size: int | None, file: OpenFile | None, pid: int) -> Attrs:
        """Give the file another length (bytes)."""
        if size is not None:
            edit = file.edit if isinstance(file, SequencesWriter) else self._edits.get(inode)
            if edit is not None:
                self.truncate(edit, size)
        return await self.attrs(inode, pid)

    # -- a content becomes flags ---------------------------------------------------------------

    async def closed(self, writer: SequencesWriter, *, released: bool = False) -> None:
        """A descriptor that may have written the file is closed; *released*: the last one of its open."""
        edit = writer.edit
        if released:
            edit.writers.discard(writer)
        is_last = not edit.writers - {writer}
        try:
            if edit.dirty and (is_last or (writer.has_written and edit.content)):
                edit.dirty = False
                try:
                    await self.says(writer.inode, bytes(edit.content), writer.pid)
                except BaseException:
                    edit.dirty = not released
                    raise
        finally:
            if not edit.writers and self._edits.get(writer.inode) is edit:
                del self._edits[writer.inode]

    async def removed(self, inode: int, pid: int) -> None:
        """unlink(2) of the file by thread *pid*.

        :raises Refused: ENOENT: it is not there.
        """
        if self.hides(inode):
            raise Refused(errno.ENOENT)
        edit, process = self._edits.get(inode), process_of(pid)
        if edit is not None and any(process_of(writer.pid) == process for writer in edit.writers):
            edit.content.clear()
            edit.dirty = False
            await self.says(inode, b"", pid)
        self.hide(inode)

    async def replaced(self, inode: int, content: bytes, pid: int) -> None:
        """Another file, with this content, is renamed or linked to the name.

        :raises Refused: EFBIG.
        """
        if len(content) > SEQUENCES_LARGEST:
            raise Refused(errno.EFBIG)
        await self.says(inode, content, pid)
        self._hidden.pop(inode, None)

    async def says(self, inode: int, content: bytes, pid: int) -> None:
        """The process of thread *pid* has written this content: change the flags that differ.

        :raises Refused, DboxfsError, OSError: a change failed.
        """
        folder = (await self._view.reading.folders.checked(inode)).directory()
        key, new = (process_of(pid), inode), parse_sequences(content)
        base, fresh = self._bases.get(key), self._numbers(key)
        if base is None and not content:  # touch, creat
            return
        self._fresh.pop(key, None)
        await self._view.names.know(folder)
        await self._bring(folder, new, process_of(pid))
        await self._mark(folder, new, base, fresh)
        await self._keep(folder, inode, new, merge=base is None)
        self.has_read(inode, pid, Base(content, mailbox_of(folder).uid_next))

    async def _bring(self, folder: Folder, new: Sequences, process: int) -> None:
        """Give flags to the files that the process has open and that become messages at their close."""
        for draft in self._inner.drafts.of_folder(folder):
            number = name_of(draft.name.removesuffix(b".eml"))
            if number is None or draft.uid is not None or draft.creator != process:
                continue
            which = np.array([number.number], np.int64)
            bits = 0 if new.has(UNSEEN, which)[0] else SEEN
            bits |= sum(bit for name, bit in _BITS if new.has(name, which)[0])
            flags = " ".join(flag_names(bits)).encode("ascii")
            await self._inner.setxattr(draft.inode, b"user.dbox.flags", flags)

    async def _mark(self, folder: Folder, new: Sequences, base: Base | None, fresh: set[int]) -> None:
        """Change the flags that differ."""
        box = mailbox_of(folder)
        if box.state is None:
            return
        uids, numbers = self._view.names.numbers(folder)
        rows = box.state.rows_of(uids)
        uids, numbers = uids[rows >= 0], numbers[rows >= 0]
        flags = box.state.flags[rows[rows >= 0]]
        is_fresh = np.isin(numbers, np.fromiter(fresh, np.int64, len(fresh)))
        old = parse_sequences(base.content) if base is not None else None
        known = uids < (base.uid_next if base is not None else 0)
        add, remove = np.zeros(len(uids), np.uint8), np.zeros(len(uids), np.uint8)
        for name, bit in ((UNSEEN, SEEN), *_BITS):
            now = new.has(name, numbers)
            before: Mask = old.has(name, numbers) if old is not None else np.zeros(len(uids), bool)
            came, went = now & (~before | is_fresh), ~now & ((before & known) | is_fresh)
            gets, loses = (went, came) if name == UNSEEN else (came, went)
            add[gets & ((flags & bit) == 0)] |= bit
            remove[loses & ((flags & bit) != 0)] |= bit
        changes = add.astype(np.uint16) << 8 | remove
        with as_seen(folder):
            for change in np.unique(changes[changes != 0]).tolist():
                await self._inner.writer.set_flags(
                    folder.name, uids[changes == change].tolist(), add=change >> 8, remove=change & 0xFF
                )
        await self._view.reading.store.see(folder)

    async def _keep(self, folder: Folder, inode: int, new: Sequences, *, merge: bool) -> None:
        """Keep the program's own sequences; *merge*: beside those that are there, which it has not read."""
        before = parse_sequences((await self._view.shown.own(folder))[0]).lines
        lines = {**before, **new.lines} if merge else dict(new.lines)
        if lines != before:
            await self._foreign.put(inode, NAME, b"".join(line + b"\n" for line in lines.values()))


class SequencesWriter:
    """The file, opened to be written.

    :param base: its content at the open.
    :ivar has_written: whether bytes were written through it.
    """

    def __init__(
        self, edits: SequenceEdits, edit: _Edit, inode: int, pid: int, base: Base, *, appends: bool
    ) -> None:
        self._edits = edits
        self._base = base
        self._appends = appends
        self.edit = edit
        self.inode = inode
        self.pid = pid
        self.has_written = False

    async def read(self, size: int, offset: int) -> bytes:
        if not self.edit.dirty:
            self._edits.has_read(self.inode, self.pid, self._base)
        return bytes(self.edit.content[offset : offset + size])

    async def write(self, data: bytes, offset: int) -> int:
        content = self.edit.content
        at = len(content) if self._appends else offset
        if at > len(content):
            self._edits.truncate(self.edit, at)
        if at + len(data) > SEQUENCES_LARGEST:
            raise Refused(errno.EFBIG)
        content[at : at + len(data)] = data
        self.edit.dirty = self.has_written = True
        return len(data)

    async def flush(self) -> None:
        await self._edits.closed(self)

    async def fsync(self) -> None:
        """Does nothing: the content counts at the close."""

    async def release(self) -> None:
        await self._edits.closed(self, released=True)
