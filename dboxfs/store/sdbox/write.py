"""Writing single-dbox: a file for each message (PROTOCOL sections 3, 5, 6, 8).

A message that is saved or copied is a temporary file first; :mod:`dboxfs.store.sdbox.saves` makes a message
of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from dboxfs.errors import NoSuchMessage, Unsupported
from dboxfs.index.state import IndexState
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
from dboxfs.store.write.results import Copied, Saved
from dboxfs.store.write.session import Work, present, visible
from dboxfs.store.write_errors import Superseded

_Marks = Mapping[int, tuple[int, tuple[str, ...]]]
"""Flags and keywords of messages, by uid."""

MARKED_ANEW = 20
"""How often in a row the marks of a message may change while it is moved; after that it is moved with any
marks.
"""


class _MarksChanged(Exception):
    """Messages now have other flags or keywords (``now``) than the ones that were copied."""

    def __init__(self, now: _Marks) -> None:
        super().__init__(now)
        self.now = now


def _check_marks(state: IndexState, marks: _Marks | None) -> None:
    """
    :raises _MarksChanged: messages that still exist have other marks.
    """
    there = visible(state, marks or ())
    now = {uid: log_records.marks(state, uid) for uid in there}
    changed = {uid: found for uid, found in now.items() if marks is not None and found != marks[uid]}
    if changed:
        raise _MarksChanged(changed)


class SdboxWriter:
    """The write paths of a single-dbox store.

    :param done_when_gone: carries out a change that takes messages out of a mailbox; it succeeds once the
        messages are gone, even if a later step fails.
    """

    def __init__(
        self,
        work: Work,
        done_when_gone: Callable[[str, Sequence[int], Awaitable[list[int]]], Awaitable[object]],
    ) -> None:
        self._work = work
        self._disk = work.disk
        self._done_when_gone = done_when_gone
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
        copied, _ = await self._copy(source, uids, target, like=like, replaces=replaces, named=named)
        return copied

    async def _copy(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        like: Mapping[int, CopyAs] | None = None,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> tuple[Copied, _Marks]:
        """:meth:`copy`; also gives the marks that the originals had."""
        self._work.check_key(source, target)
        made: list[Arrival] = []
        directory = self._work.location.mailbox_path(target)
        await need_directory(self._work, target)
        try:
            async with self._work.mailbox(source) as index:
                wanted = visible(index.state, uids)
                if len(wanted) != len(set(uids)):
                    raise NoSuchMessage(
                        f"{self._work.shown(source)}: some of the messages to be copied are gone"
                    )
                guid = self._work.header(index).guid
                rows = index.state.rows_of(wanted).tolist()
                state = index.state
                facts = [(int(state.flags[row]), state.keywords(row)) for row in rows]
                seen = {uid: log_records.marks(state, uid) for uid in wanted}
                attachments = await attachments_of(self._work, source, wanted, guid)
                for uid, (flags, keywords) in zip(wanted, facts, strict=True):
                    new = Arrival(self._disk.temporary(directory), flags, keywords, b"")
                    new.attachments = attachments.get(uid, ())
                    if like is not None and uid in like:
                        copy = like[uid]
                        new.uid, new.flags, new.keywords = copy.uid, copy.flags, copy.keywords
                    made.append(new)
                    await self._link(source, uid, new.temporary)
        except BaseException as error:
            await self._saves.discard(made, error)
            raise
        made[0].replaces, made[0].wanted = replaces, named
        saved = await self._saves.take(target, made)
        return Copied(saved.uid_validity, tuple(wanted), saved.uids), seen

    async def move(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages, then expunge them in the source; a note records the move until it is done.

        :param replaces: the message in the target whose place the first one takes.
        :param named: the name that the first one shall have.
        :raises NoSuchMessage: one of them is gone; nothing was copied.
        :raises Superseded: another message has the name, or the original another one; nothing was moved.  If
            the original is renamed after the copy has replaced a message, both stay.
        """
        wanted = sorted(set(uids))
        note = await self._note_move(source, uids, target)
        try:
            copied, seen = await self._copy(source, uids, target, replaces=replaces, named=named)
            came = dict(zip(wanted, copied.uids, strict=True)) if replaces is None else {}
            try:
                await self._leave(source, wanted, seen, partial(self._mark_again, target, came))
            except Superseded:  # another mount has renamed the original since
                if replaces is None:
                    await self.expunge(target, copied.uids, beside=not self._work.options.alone)
                    raise
        finally:
            await self._work.notes.drop([note])
        return copied

    async def _leave(
        self,
        source: str,
        uids: Sequence[int],
        seen: _Marks,
        changed: Callable[[_Marks, _Marks], Awaitable[None]],
    ) -> None:
        """Expunge the copied messages in the source, if they still have the marks that the copies have.

        :param seen: the marks that were copied.
        :param changed: called with *seen* and the marks that the originals have got since.
        """
        for _ in range(MARKED_ANEW):
            try:
                await self._expunge_marked(source, uids, seen)
            except _MarksChanged as exc:
                await changed(seen, exc.now)
                seen = {**seen, **exc.now}
            else:
                return
        await self._expunge_marked(source, uids, None)

    async def _expunge_marked(self, source: str, uids: Sequence[int], marks: _Marks | None) -> None:
        """Expunge messages.

        :param marks: only if the messages have these marks; None: with any.
        :raises _MarksChanged: a message has other marks; nothing was changed.
        """
        beside = not self._work.options.alone
        await self._done_when_gone(source, uids, self.expunge(source, uids, marks=marks, beside=beside))

    async def _mark_again(self, target: str, came: Mapping[int, int], before: _Marks, now: _Marks) -> None:
        """Give copies the new marks of their originals, unless another process has changed the copy's marks
        since.

        :param came: uids of the copies, by those of the originals.
        """
        async with self._work.mailbox(target) as index:
            state = index.state
            for uid, (flags, keywords) in now.items():
                new = came.get(uid, 0)
                if visible(state, [new]) and log_records.marks(state, new) == before[uid]:
                    await index.append(log_records.exactly(state, new, flags, keywords))

    async def _note_move(self, source: str, uids: Sequence[int], target: str) -> str:
        async with self._work.mailbox(target) as index:
            there, first = self._work.header(index).guid.hex(), index.state.next_uid
        async with self._work.mailbox(source) as index:
            here, moved = (
                self._work.header(index).guid.hex(),
                await inodes_of(self._work, source, index, uids),
            )
        note = Note(target, there, source=source, source_guid=here, moved=moved, first_uid=first)
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
        marks: _Marks | None = None,
        beside: bool = False,
    ) -> list[int]:
        """Expunge messages (None: all), and those whose expunge other processes requested; gives all their
        uids.

        :param heir: the uid that takes the place of the only message in *uids*, if that still exists.
        :param named: the name that the heir shall have.
        :param marks: only if the messages still have these marks; None: with any.
        :param beside: requests of other processes are left to Dovecot: after a crash between the log and the
            files, a rebuild would bring back what was answered already.  If only Dovecot knows where the
            attachments of a message are, the expunge is requested.
        :raises NoSuchMessage: there is no heir.
        :raises OSError: also if they are expunged, but the disk could not confirm it, or a file could not be
            removed (``maintain`` will).
        """
        async with self._work.mailbox(name) as index:
            _check_marks(index.state, marks)
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
                return wanted
            unsynced: OSError | None = None
            try:
                await finish_expunge(index, gone, first or [])
            except OSError as error:
                if any(index.state.row_of(uid) >= 0 for uid in gone):
                    raise
                unsynced = error  # the messages are gone: a file that stayed would bring them back
        await unlink(self._work, name, gone, attachments)
        if unsynced is not None:
            raise unsynced
        self._work.count("expunged", len(gone))
        return gone

    async def undelete(
        self, name: str, messages: Sequence[Expunged], *, named: Wanted | None = None
    ) -> Copied:
        """
        :raises Unsupported: an expunge removes the file of a message.
        """
        raise Unsupported(f"{self._work.location.root}: an sdbox keeps no expunged messages")
