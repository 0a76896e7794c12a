"""Bring messages into a single-dbox mailbox: a file for each message (PROTOCOL sections 3, 5, 6).

A save or a copy first makes a finished ``.temp.*`` file in the mailbox's directory.  The next steps are the
same for both: under the mailbox's lock the file gets uid and name, then the index record is written.  Saves
and copies into one mailbox that are ready together are one transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from msgspec import Struct

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.sdbox.arrival import Arrival, ArrivalRequest, need_directory, write_and_lock
from dboxfs.store.sdbox.files import attachment_files, link_parts, number_again, part_links, unlink
from dboxfs.store.sdbox.publish import Publishing, publish_and_write, publish_steps
from dboxfs.store.sdbox.saved import keep_saved_dates
from dboxfs.store.sdbox.strays import discard_moved
from dboxfs.store.sync_all import can_sync_all, sync_all
from dboxfs.store.write import log_records
from dboxfs.store.write.external import Taking
from dboxfs.store.write.group_commit import GroupCommit, Request
from dboxfs.store.write.message import NewMessage
from dboxfs.store.write.naming import confirming
from dboxfs.store.write.notes import Note, writing
from dboxfs.store.write.promises import LeftToDovecot
from dboxfs.store.write.record import Composed, Spooled, compose, new_file
from dboxfs.store.write.results import Saved, side_by_side
from dboxfs.store.write.session import Work, present, visible
from dboxfs.store.write_options import WriteOptions

_AT_ONCE = 16


class Replaced(Struct, frozen=True):
    """Messages that go as others come.  ``attachments``: their files; None: Dovecot alone knows them, and is
    asked to expunge the messages.
    """

    uids: Sequence[int]
    attachments: Sequence[str] | None


class SdboxSaves:
    """Brings messages into the mailboxes of a single-dbox store.

    :param left: notes of replaced messages that only Dovecot can remove.
    """

    def __init__(self, work: Work, left: LeftToDovecot) -> None:
        self._work = work
        self._left = left
        self._disk = work.disk
        self._apart = Taking(work)
        self._queues: dict[str, GroupCommit[list[Arrival], Saved]] = {}

    @property
    def queues(self) -> list[GroupCommit[list[Arrival], Saved]]:
        """The queues of waiting saves, one for each mailbox."""
        return list(self._queues.values())

    # -- save --------------------------------------------------------------------------------------------

    async def add(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Save *messages* into a mailbox in one transaction."""
        made: list[Arrival] = []
        parts: list[str] = []
        found: list[Arrival | None] = [None] * len(messages)
        directory = self._work.location.mailbox_path(name)
        options = await self._work.coding_options(name)
        many = len(messages) >= options.sync_together
        together = many and await can_sync_all(self._disk, directory)
        later = len(messages) == 1 and self._queue(name).is_quiet

        async def prepare(at: int, message: NewMessage) -> None:
            message, files = await self._apart.take(message, options, parts)
            new = await self._prepare(name, message, made, options, sync=not together, later=later)
            new.attachments = tuple((path, path) for path in files)
            found[at] = new

        try:
            await side_by_side(prepare, messages, at_once=_AT_ONCE)
            if together:
                await sync_all(self._disk, made[-1].temporary)
        except BaseException as error:
            await self.discard(made, error)
            await self._disk.discard(parts)
            raise
        try:
            return await self.take(name, [new for new in found if new is not None])
        finally:
            if parts:
                await self._disk.discard(parts)  # the messages have links to them

    async def _prepare(
        self,
        name: str,
        message: NewMessage,
        made: list[Arrival],
        options: WriteOptions,
        *,
        sync: bool,
        later: bool,
    ) -> Arrival:
        """Write one message to a temporary file.

        :param later: leave a small one to the commit, which writes it and takes the lock in one job.
        """
        directory = self._work.location.mailbox_path(name)
        composed = await compose(message, options, mailbox=None, directory=directory)
        new = Arrival("", message.flags, message.keywords, composed.guid, message.replaces, message.inherits)
        new.uid, new.wanted = message.uid or 0, message.wanted
        new.has_pop3_uidl, new.saved = message.pop3_uidl is not None, message.saved
        made.append(new)
        if isinstance(composed, Spooled):
            await self._finish(composed, new, sync=sync)
            return new
        if later and composed.whole:
            begun = new_file(options.dbox_version)
            new.data = begun.header + composed.encode(begun.first)
            return new
        try:
            await self._write(composed, new, directory, sync=sync)
        except FileNotFoundError:
            await need_directory(self._work, name)
            await self._write(composed, new, directory, sync=sync)
        return new

    async def _write(self, composed: Composed, new: Arrival, directory: str, *, sync: bool) -> None:
        """Write the file under a temporary name; ``new`` knows that name as long as there may be a file."""
        begun = new_file(self._work.options.dbox_version)
        while True:
            new.temporary = self._disk.temporary(directory)
            try:
                if composed.whole:
                    data = begun.header + composed.encode(begun.first)
                    await self._disk.write_new(new.temporary, data, sync=sync)
                    return
                file = await self._disk.create(new.temporary)
                break
            except FileExistsError:
                new.temporary = ""
        try:
            await composed.write_to(file, begun.first, begun.header)
            if sync:
                await file.sync()
        finally:
            await file.close()

    async def _finish(self, spooled: Spooled, new: Arrival, *, sync: bool) -> None:
        """Complete the file that a message was spooled to."""
        file = await spooled.take(self._disk)
        new.temporary = file.path
        try:
            await spooled.write_to(file, spooled.place)
            if sync:
                await file.sync()
        finally:
            await file.close()

    async def take(self, name: str, new: list[Arrival]) -> Saved:
        """Make messages of finished temporary files, in one transaction with other requests that are ready.

        On an error the temporary files are removed.
        """
        request: ArrivalRequest = Request(new, name)
        try:
            return await self._queue(name).run(request)
        except BaseException as error:
            if not request.taken or request.error is not None:
                await self.discard(new, error)
            raise

    def _queue(self, name: str) -> GroupCommit[list[Arrival], Saved]:
        queue = self._queues.get(name)
        if queue is None:

            async def commit(group: Sequence[ArrivalRequest]) -> None:
                async with AsyncExitStack() as stack:
                    there = await write_and_lock(self._work, name, group, stack)
                    if there:
                        await self._commit(name, there)

            queue = self._queues[name] = GroupCommit(commit, gathers=True)
        return queue

    async def discard(self, made: Sequence[Arrival], error: BaseException) -> None:
        """Remove temporary files after *error*."""
        paths = [new.temporary for new in made if new.temporary]
        await self._disk.discard(paths)
        if paths and isinstance(error, NoSuchMailbox | FileNotFoundError):  # it may have been renamed
            await discard_moved(self._work, paths)

    # -- commit ------------------------------------------------------------------------------------------

    async def _commit(self, name: str, group: Sequence[ArrivalRequest]) -> None:
        async with self._work.mailbox(name) as index:
            validity = index.state.uid_validity
            group, replaced = await self._bring(name, index, group)
        await self.finish(name, replaced)
        for request in group:
            request.result = Saved(
                validity, tuple(new.uid for new in request.what), tuple(new.guid for new in request.what)
            )

    async def bring_one(self, name: str, index: IndexLog, new: list[Arrival]) -> Replaced:
        """Make messages of finished temporary files, in a mailbox that the caller has locked and that stays
        locked; gives the messages that they replace, for :meth:`finish` and :meth:`take_back`.

        :raises Superseded, DboxfsError, OSError: nothing was changed; the temporary files are still there.
        """
        request: ArrivalRequest = Request(new, name)
        _, replaced = await self._bring(name, index, [request], keep_lock=True)
        if request.error is not None:
            raise request.error
        return replaced

    async def _bring(
        self, name: str, index: IndexLog, group: Sequence[ArrivalRequest], *, keep_lock: bool = False
    ) -> tuple[Sequence[ArrivalRequest], Replaced]:
        """Give the files uids, names and records, in a locked mailbox; gives the requests that were carried
        out, and the messages that they replace.

        :param keep_lock: False: the lock may be released with the last step.
        """
        await self._take_uids(name, index, [new for request in group for new in request.what])
        group = await self._name(name, index, group)
        news = [new for request in group for new in request.what]
        if not news:
            return group, Replaced((), ())
        olds = self._inherit(index, news)
        beside = not self._work.options.alone
        replaced = Replaced(olds, await attachment_files(self._work, name, index, olds, beside=beside))
        notes: list[str] = []
        try:
            await link_parts(self._work, index, news)
            if not await self._publish(name, index, news, replaced, notes, keep_lock=keep_lock):
                if any(new.wanted is not None and new.wanted.uid != new.uid for new in news):
                    await self._name(name, index, group)
                await self._write_log(index, news, replaced, notes)
        except BaseException as error:
            if isinstance(error, OSError):
                await self.take_back(name, index, news, replaced)
            else:
                await self._unpublish(name, index, news)
            if isinstance(error, FileNotFoundError) and not await self._is_there(name):
                what = f"{index.what}: the mailbox was renamed or removed while a message was saved"
                raise NoSuchMailbox(what) from error
            raise
        finally:
            await self._work.notes.drop(notes)
        if replaced.attachments is None and replaced.uids:
            await self._left.note(name, index, replaced.uids)
        self._work.count("saved", len(news))
        return group, replaced

    async def finish(self, name: str, replaced: Replaced) -> None:
        """Remove the files of replaced messages."""
        if replaced.attachments is not None:
            await self._disk.attempt(unlink(self._work, name, replaced.uids, replaced.attachments))

    async def _is_there(self, name: str) -> bool:
        return await self._disk.exists(self._work.location.mailbox_path(name))

    async def _take_uids(self, name: str, index: IndexLog, news: Sequence[Arrival]) -> None:
        """Give the messages the next uids, without those whose file is in the alternative storage."""
        uid = index.state.next_uid
        alt = self._work.location.alt_mailbox_path(name)
        todo = list(news)
        while todo:
            free = []
            for new in todo:
                free.append(max(uid, new.uid))
                uid = free[-1] + 1
            if alt is not None:
                looks = [ops.Stat(os.path.join(alt, f"u.{number}")) for number in free]
                answers = await self._disk.run_all(looks)
                for answer in answers:
                    if isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError):
                        raise answer
                numbers = [n for n, st in zip(free, answers, strict=True) if isinstance(st, OSError)]
            else:
                numbers = free
            for new, number in zip(todo, numbers, strict=False):
                new.uid = number
            todo = todo[len(numbers) :]

    async def _name(
        self, name: str, index: IndexLog, group: Sequence[ArrivalRequest]
    ) -> list[ArrivalRequest]:
        """Tell the namer the uids; gives the requests that it has accepted."""
        fine = []
        for request in group:
            for new in request.what:
                if new.wanted is not None:
                    new.wanted.uid = new.uid
        answers = iter(
            await self._work.name(name, index, [new.wanted for request in group for new in request.what])
        )
        for request in group:
            errors = [error for error in [next(answers) for _ in request.what] if error is not None]
            if errors:
                request.error = errors[0]
            else:
                fine.append(request)
        return fine

    def _inherit(self, index: IndexLog, news: Sequence[Arrival]) -> list[int]:
        """Give new messages the flags and keywords of those that they replace or inherit from; gives the uids
        of the replaced messages that still exist.
        """
        state = index.state
        olds = visible(state, (new.replaces for new in news if new.replaces is not None))
        givers = visible(state, (new.inherits for new in news if new.inherits is not None))
        for new in news:
            if new.replaces is not None and new.replaces in olds:
                new.flags, new.keywords = log_records.marks(state, new.replaces)
            elif new.inherits is not None and new.inherits in givers:
                new.flags, new.keywords = log_records.marks(state, new.inherits)
        return olds

    async def _publish(
        self,
        name: str,
        index: IndexLog,
        news: list[Arrival],
        replaced: Replaced,
        notes: list[str],
        *,
        keep_lock: bool,
    ) -> bool:
        """Give the files their names; a uid whose name is taken is skipped.

        :param notes: gets the paths of the notes that name the files as long as they have no record.
        :return: whether the records are in the log, too; then the lock is released, if that is a close of the
            log and *keep_lock* is not set.  False: a name was taken, or a message brings a saved date, whose
            record depends on its uid.
        """
        directory = self._work.location.mailbox_path(name)
        todo, durable = list(news), self._work.options.durable
        while todo:
            await self._work.notes.prepare()
            notes.append(self._work.notes.path())
            noting = self._noting(name, index, todo, notes[-1])
            batch = [
                ops.Publish(new.temporary, os.path.join(directory, f"u.{new.uid}"), False) for new in todo
            ]
            what = Publishing(batch, directory, noting, durable)
            if len(todo) == len(news) and all(new.saved is None for new in news):
                write = index.plan(self._records(index, news, replaced), durable=True, unlink=notes)
                with confirming(self._work.namer, {name: [new.wanted for new in news]}) as names:
                    done = await publish_and_write(index, what, write, names, keep_lock=keep_lock)
                if done.written is not None:
                    await index.settle(write, done.written.begun[0])
                    notes.clear()
                    return True
            else:
                done = await self._disk.chain(partial(publish_steps, what))
            taken = []
            for new, error in zip(todo, done.errors, strict=True):
                if isinstance(error, FileExistsError):
                    taken.append(new)
                elif error is not None:
                    raise error
            await number_again(self._work, index, news, taken)
            todo = taken
        return False

    def _noting(
        self, name: str, index: IndexLog, news: Sequence[Arrival], path: str
    ) -> Callable[[list[os.stat_result]], Steps[None]]:
        """Steps that write the note of a group; called with the attributes of its files."""
        guid, permissions = self._work.header(index).guid.hex(), self._disk.file_permissions
        uids = [new.uid for new in news]

        def program(found: list[os.stat_result]) -> Steps[None]:
            for new, entry in zip(news, found, strict=True):
                new.inode = entry.st_ino
            files = tuple((uid, entry.st_ino) for uid, entry in zip(uids, found, strict=True))
            yield from writing(path, Note(name, guid, files), permissions)

        return program

    def _records(
        self,
        index: IndexLog,
        news: Sequence[Arrival],
        replaced: Replaced,
        dates: Sequence[bytes] = (),
    ) -> list[bytes]:
        """The records that are appended to the log.

        :param dates: records of saved dates.
        """
        rows = [
            log_records.AppendedRow(
                new.uid, new.flags, new.keywords, new.guid, has_pop3_uidl=new.has_pop3_uidl
            )
            for new in sorted(news, key=lambda new: new.uid)
        ]
        batch = [*log_records.append_messages(index.state, rows, mdbox=False), *dates]
        if replaced.uids:
            execute = replaced.attachments is not None
            batch += log_records.expunge(index.state, replaced.uids, external=execute)
        return batch

    async def _write_log(
        self, index: IndexLog, news: Sequence[Arrival], replaced: Replaced, notes: list[str]
    ) -> None:
        dates = sorted((new.uid, new.saved) for new in news if new.saved is not None)
        records = self._records(index, news, replaced, await keep_saved_dates(index, dates))
        await index.append(records, durable=True, unlink=notes)
        notes.clear()

    async def take_back(
        self, name: str, index: IndexLog, news: Sequence[Arrival], replaced: Replaced
    ) -> None:
        """Remove the files that were published.

        If the log has the records already, the messages are expunged again, unless some of them replaced
        others: those are expunged by now, so both would be lost.
        """
        uids = present(index.state, (new.uid for new in news))
        if len(uids) == len(news):
            if replaced.uids:
                return
            await self._disk.attempt(index.append(log_records.expunge(index.state, uids, external=True)))
        await self._unpublish(name, index, news)

    async def _unpublish(self, name: str, index: IndexLog, news: Sequence[Arrival]) -> None:
        """Remove the files that have no record."""
        known = set(present(index.state, (new.uid for new in news)))
        gone = [new for new in news if new.uid not in known]
        names = [self._work.message_paths(name, new.uid)[0] for new in gone]
        links = [link for _, link in part_links(self._work, index, gone)]
        found = await self._disk.run_all([ops.Stat(path, follow=False) for path in names])
        published = [
            path
            for path, st, new in zip(names, found, gone, strict=True)
            if not isinstance(st, OSError) and st.st_ino == new.inode
        ]
        await self._disk.discard(published + links)
