"""Writing single-dbox: a file for each message (PROTOCOL sections 3, 5, 6, 8).

A message that is saved or copied is a temporary file first; :mod:`dboxfs.store.sdbox.saves` makes a message
of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from msgspec import Struct

from dboxfs.errors import DboxfsError, NoSuchMessage, Unsupported
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.sdbox.arrival import Arrival, need_directory
from dboxfs.store.sdbox.files import attachment_files, attachments_of, unlink
from dboxfs.store.sdbox.saves import SdboxSaves
from dboxfs.store.write import log_records
from dboxfs.store.write.expunges import finish_expunge, heritage
from dboxfs.store.write.leftovers import inodes_of
from dboxfs.store.write.message import CopyAs, NewMessage
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.notes import Note
from dboxfs.store.write.promises import LeftToDovecot
from dboxfs.store.write.results import Copied, Saved, few
from dboxfs.store.write.session import Work, present, visible
from dboxfs.store.write.several import locked_by_guid

log = logging.getLogger(__name__)


class _Gone(Struct, frozen=True):
    """Messages that a mailbox has no more, or that Dovecot is asked to expunge.

    :param uids: ascending.
    :param files: their attachment files, which are still to be removed, as are their own; None: Dovecot
        removes them.
    :param unsynced: the disk could not confirm it.
    """

    uids: list[int]
    files: Sequence[str] | None
    unsynced: OSError | None = None


class SdboxWriter:
    """The write paths of a single-dbox store."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._disk = work.disk
        self._left = LeftToDovecot(work)
        self._saves = SdboxSaves(work, self._left)

    @property
    def groups(self) -> int:
        """The number of groups of saves so far."""
        return sum(queue.groups for queue in self._saves.queues)

    async def add(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Bring messages into a mailbox, in one transaction.

        :raises ValueError: one refers to the text of another: each has a file of its own.
        """
        if any(message.same_as is not None for message in messages):
            raise ValueError("an sdbox has a file for each message")
        return await self._saves.add(name, messages)

    # -- copy --------------------------------------------------------------------------------------------

    async def copy(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        like: Mapping[int, CopyAs] | None = None,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages by hard links.

        :param like: by uid in the source: uid, flags and keywords of the copy.
        :param replaces: the message in the target whose place the first one takes.
        :param named: the name that the first one shall have.
        :raises NoSuchMessage: one of them is gone; nothing was copied.
        """
        self._work.check_key(source, target)
        await need_directory(self._work, target)
        async with self._work.mailbox(source) as index:
            wanted, made = await self._linked(source, index, uids, target, like or {})
        made[0].replaces, made[0].wanted = replaces, named
        saved = await self._saves.take(target, made)
        return Copied(saved.uid_validity, tuple(wanted), saved.uids)

    async def _linked(
        self,
        source: str,
        index: IndexLog,
        uids: Sequence[int],
        target: str,
        like: Mapping[int, CopyAs],
    ) -> tuple[list[int], list[Arrival]]:
        """Link the files of messages of a locked mailbox to temporary ones of another; gives the uids, too.

        :raises NoSuchMessage: one of them is gone; nothing is left.
        """
        directory = self._work.location.mailbox_path(target)
        state, guid = index.state, self._work.header(index).guid
        wanted = visible(state, uids)
        if len(wanted) != len(set(uids)):
            raise NoSuchMessage(f"{self._work.shown(source)}: some of the messages to be copied are gone")
        rows = state.rows_of(wanted).tolist()
        facts = [(int(state.flags[row]), state.keywords(row)) for row in rows]
        made: list[Arrival] = []
        try:
            attachments = await attachments_of(self._work, source, wanted, guid)
            for uid, (flags, keywords) in zip(wanted, facts, strict=True):
                new = Arrival(self._disk.temporary(directory), flags, keywords, b"")
                new.attachments = attachments.get(uid, ())
                if uid in like:
                    copy = like[uid]
                    new.uid, new.flags, new.keywords = copy.uid, copy.flags, copy.keywords
                made.append(new)
                await self._link(source, uid, new.temporary)
        except BaseException as error:
            await self._saves.discard(made, error)
            raise
        return wanted, made

    async def move(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages, then expunge them in the source; both mailboxes are locked meanwhile, and a note
        records the move until it is done.

        Once the messages are gone in the source this succeeds, even if the disk could not confirm it or a
        file could not be removed (``lost_errors``).

        :param replaces: the message in the target whose place the first one takes.
        :param named: the name that the first one shall have.
        :raises NoSuchMessage: one of them is gone; nothing was changed.
        :raises Superseded: another message has the name, or the original another one; nothing was changed.
        :raises OSError: nothing was changed; but a message that was replaced is gone, and both stay.
        """
        self._work.check_key(source, target)
        await need_directory(self._work, target)
        notes: list[str] = []
        try:
            async with locked_by_guid(self._work, [source, target]) as indexes:
                here, there = indexes[source], indexes[target]
                wanted, made = await self._linked(source, here, uids, target, {})
                made[0].replaces, made[0].wanted = replaces, named
                try:
                    notes.append(await self._note_move((source, here), (target, there), wanted))
                    came = await self._saves.bring_one(target, there, made)
                except BaseException as error:
                    await self._saves.discard(made, error)
                    raise
                try:
                    gone = await self._expunge(source, here, wanted, beside=not self._work.options.alone)
                except (DboxfsError, OSError):
                    await self._saves.take_back(target, there, made, came)
                    raise
                copied = Copied(there.state.uid_validity, tuple(wanted), tuple(new.uid for new in made))
            await self._saves.finish(target, came)
            try:
                await self._remove(source, gone)
            except OSError as error:
                self._disk.lost_errors += 1
                log.error("%s: uid %s is moved, but: %s", self._work.shown(source), few(gone.uids), error)
        finally:
            await self._work.notes.drop(notes)
        return copied

    async def _note_move(
        self, source: tuple[str, IndexLog], target: tuple[str, IndexLog], uids: Sequence[int]
    ) -> str:
        (here, old), (there, index) = source, target
        note = Note(
            there, self._work.header(index).guid.hex(), source=here,
            source_guid=self._work.header(old).guid.hex(),
            moved=await inodes_of(self._work, here, old, uids), first_uid=index.state.next_uid,
        )  # fmt: skip
        return await self._work.notes.put(note)

    async def _link(self, source: str, uid: int, temporary: str) -> None:
        for path in self._work.message_paths(source, uid):
            try:
                return await self._work.link_or_copy(path, temporary)
            except FileNotFoundError:
                continue
        raise NoSuchMessage(f"{self._work.shown(source)}: the file of uid {uid} is gone")

    # -- expunge -----------------------------------------------------------------------------------------

    async def expunge(
        self,
        name: str,
        uids: Sequence[int] | None,
        *,
        heir: int | None = None,
        named: Wanted | None = None,
        beside: bool = False,
    ) -> list[int]:
        """Expunge messages (None: all), and those whose expunge other processes requested; gives all their
        uids.

        :param heir: the uid that takes the place of the only message in *uids*, if that still exists.
        :param named: the name that the heir shall have.
        :param beside: requests of other processes are left to Dovecot: after a crash between the log and the
            files, a rebuild would bring back what was answered already.  If only Dovecot knows where the
            attachments of a message are, the expunge is requested.
        :raises NoSuchMessage: there is no heir.
        :raises OSError: also if they are expunged, but the disk could not confirm it, or a file could not be
            removed (``maintain`` will).
        """
        async with self._work.mailbox(name) as index:
            gone = await self._expunge(name, index, uids, heir=heir, named=named, beside=beside)
        await self._remove(name, gone)
        return gone.uids

    async def _expunge(
        self,
        name: str,
        index: IndexLog,
        uids: Sequence[int] | None,
        *,
        heir: int | None = None,
        named: Wanted | None = None,
        beside: bool = False,
    ) -> _Gone:
        """:meth:`expunge` in a locked mailbox, up to the files.

        :raises OSError: the messages are still there.
        """
        wanted = index.state.uids.tolist() if uids is None else present(index.state, uids)
        await self._work.name_one(name, index, named)
        first = heritage(index, heir, wanted[0]) if heir is not None and wanted else None
        gone = wanted if beside else sorted({*wanted, *index.state.pending_expunges.tolist()})
        attachments = await attachment_files(self._work, name, index, gone, beside=beside)
        if attachments is None:
            new = visible(index.state, wanted)
            if new:
                asked = log_records.expunge(index.state, new, external=False)
                await index.append([*(first or []), *asked], durable=True)
            await self._left.note(name, index, wanted)
            self._work.count("expunged", len(wanted))
            return _Gone(wanted, None)
        try:
            await finish_expunge(index, gone, first or [])
        except OSError as error:
            if any(index.state.row_of(uid) >= 0 for uid in gone):
                raise
            return _Gone(gone, attachments, error)
        return _Gone(gone, attachments)

    async def _remove(self, name: str, gone: _Gone) -> None:
        """Remove the files of messages that are expunged, also if that is not on disk: a file that stayed
        would bring its message back.

        :raises OSError: that is not on disk, or a file could not be removed.
        """
        if gone.files is None:
            return
        await unlink(self._work, name, gone.uids, gone.files)
        if gone.unsynced is not None:
            raise gone.unsynced
        self._work.count("expunged", len(gone.uids))

    async def undelete(
        self, name: str, messages: Sequence[Expunged], *, named: Wanted | None = None
    ) -> Copied:
        """
        :raises Unsupported: an expunge removes the file of a message.
        """
        raise Unsupported(f"{self._work.location.root}: an sdbox keeps no expunged messages")
