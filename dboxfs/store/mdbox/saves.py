"""Bring messages into multi-dbox mailboxes: records, the map, the mailboxes (PROTOCOL section 4).

Saves that are ready together, also into several mailboxes, are one change of two jobs of a worker: the
records and the locks; then the map, the mailboxes, and the map's tail.

If a record was written but its mailbox can't be locked any more, the record gets a map entry with refcount 0.
Like an expunged message it then belongs to no mailbox, and a purge removes it.

A message whose text the storage has already (``NewMessage.same_as``) gets no record of its own: the same
write to the map raises the refcount of the stored record, as with a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import zip_longest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import ops
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import AppendFile
from dboxfs.store.indexes.in_turn import LogWrite, LogWritten, first_and_last, run_in_turn
from dboxfs.store.indexes.snapshot import is_due_behind
from dboxfs.store.mdbox.arriving import Arriving, Save, Share
from dboxfs.store.mdbox.container import Rebuilt, rebuilt
from dboxfs.store.mdbox.placement import LastEnd, Placer
from dboxfs.store.mdbox.references import REFCOUNT_LIMIT, References
from dboxfs.store.size_format import generation_of
from dboxfs.store.write import log_records
from dboxfs.store.write.external import Taking
from dboxfs.store.write.group_commit import GroupCommit, Request
from dboxfs.store.write.log_records import check_keywords
from dboxfs.store.write.message import NewMessage, StoredText, Twin
from dboxfs.store.write.naming import confirming
from dboxfs.store.write.notes import Note, writing
from dboxfs.store.write.record import checked_guid, compose
from dboxfs.store.write.results import Saved
from dboxfs.store.write.session import KEEP_STATES, Work
from dboxfs.store.write_errors import TextGone
from dboxfs.store.write_options import LockMethod

SHARED_LIMIT = 1 << 20
"""A save of at most so many bytes shares a file with other saves that are ready."""

BATCH_BYTES = 4 << 20
"""Bytes of a larger save that are collected in memory, then written with one note and one write a file."""

_TAIL = 64
"""Bytes by which a log grows at most beyond the planned write: the map's tail."""


_Request = Request[Save, Saved]


class MdboxSaves:
    """Brings messages into the mailboxes of a multi-dbox store."""

    def __init__(self, work: Work, references: References) -> None:
        self._work = work
        self._disk = work.disk
        self._apart = Taking(work)
        self._references = references
        self.queue: GroupCommit[Save, Saved] = GroupCommit(self._commit, gathers=True)
        self._last: LastEnd | None = None

    # -- save --------------------------------------------------------------------------------------------

    async def add(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Save *messages* into a mailbox in one transaction."""
        options = await self._work.coding_options(name)
        save = Save(name)
        request: _Request = Request(save, save.name)
        waiting, notes, parts = 0, list[str](), list[str]()
        try:
            for message in messages:
                if message.same_as is not None:
                    check_keywords(message.keywords)
                    if isinstance(message.same_as, Twin) and message.same_as.number >= len(save.arriving):
                        raise ValueError("a message refers to one that comes before it")
                    save.arriving.append(Arriving(message, checked_guid(message)))
                    continue
                message, _ = await self._apart.take(message, options, parts)
                composed = await compose(
                    message, options, mailbox=name, directory=self._work.location.storage
                )
                save.arriving.append(Arriving(message, composed.guid))  # not its bytes as they are stored
                save.waiting.append((save.arriving[-1], composed))
                waiting += composed.room
                if save.placer is None and (waiting > SHARED_LIMIT or not composed.whole):
                    save.placer = Placer(self._work)
                if save.placer is not None and (waiting > BATCH_BYTES or not composed.whole):
                    await self._place_own(save, save.placer, notes)
                    waiting = 0
            if save.placer is not None and save.waiting:
                await self._place_own(save, save.placer, notes)
            if save.placer is not None:
                await save.placer.sync()
            return await self.queue.run(request)
        except BaseException:
            if save.placer is not None and not request.taken:
                await save.placer.rollback()
            if parts and not save.is_mapped:
                await self._disk.discard(parts)
            raise
        finally:
            await self._work.notes.drop(notes)

    async def _place_own(self, save: Save, placer: Placer, notes: list[str]) -> None:
        """Append the records in memory to files of the save's own, not durably yet.

        :param notes: the path of the note about the records of this save is appended.
        """
        waiting, save.waiting = save.waiting, []
        guids = tuple(composed.guid.hex() for _, composed in waiting)
        notes.append(await self._work.notes.put(Note(save.name, messages=guids)))
        placed = await placer.place_in_turn([composed for _, composed in waiting])
        for (arriving, _), where in zip(waiting, placed, strict=True):
            arriving.placed = where

    # -- commit ------------------------------------------------------------------------------------------

    async def _commit(self, group: Sequence[_Request]) -> None:
        shared = Placer(self._work, self._last)
        placers = [shared, *(r.what.placer for r in group if r.what.placer is not None)]
        notes: list[str] = []
        try:
            async with AsyncExitStack() as stack:
                await self._place_shared(stack, shared, group, notes)
                mapping = await stack.enter_async_context(self._work.locked_map())
                shares = await stack.enter_async_context(self._shares(group))
                self._refuse_lost_texts(mapping, shares)
                await self._name(shares)
                if shares:
                    await self._write(mapping, placers, group, shares, notes)
        except BaseException:
            for placer in placers:
                await placer.rollback()
            raise
        finally:
            await self._work.notes.drop(notes)
        if not shares:
            for placer in placers:
                await placer.rollback()
        for placer in placers:
            await placer.close()

    async def _place_shared(
        self, stack: AsyncExitStack, placer: Placer, group: Sequence[_Request], notes: list[str]
    ) -> None:
        """Place all small records of the group, with one write and one sync if they fit into one file.  Then
        take the locks that are free, until *stack* ends.

        :param notes: gets the path of the note that names the records as long as no mailbox has them.
        """
        waiting = [some for request in group for some in request.what.waiting]
        names = sorted({request.what.name for request in group})[: KEEP_STATES // 2]  # all are kept
        if waiting:
            await self._work.notes.prepare()
            notes.append(self._work.notes.path())
        note = Note("", messages=tuple(arriving.guid.hex() for arriving, _ in waiting))
        permissions, todo = self._disk.file_permissions, [composed for _, composed in waiting]
        indexes = [self._work.map, *map(self._work.index, names)]
        noting = partial(writing, notes[0] if notes else "", note, permissions)
        placed = await placer.place_and_lock(stack, indexes, todo, noting)
        for (arriving, _), place in zip(waiting, placed, strict=True):
            arriving.placed = place
        for request in group:
            request.what.waiting.clear()

    @asynccontextmanager
    async def _shares(self, group: Sequence[_Request]) -> AsyncIterator[list[Share]]:
        """Hold the mailboxes of the group; a request whose mailbox can't be locked gets the error."""
        async with AsyncExitStack() as stack:
            shares = []
            for name in sorted({request.what.name for request in group}):
                requests = [request for request in group if request.what.name == name]
                try:
                    index = await stack.enter_async_context(self._work.mailbox(name))
                except (DboxfsError, OSError) as error:
                    for request in requests:
                        request.error = error
                else:
                    shares.append(Share(name, index, requests))
            yield shares

    async def _write(
        self,
        mapping: MapIndex,
        placers: list[Placer],
        group: Sequence[_Request],
        shares: list[Share],
        notes: list[str],
    ) -> None:
        """Carry out the steps from the names of new files to the map's tail; map and mailboxes are locked."""
        await self._meet_rebuild(mapping, placers, group, shares)
        highest = await self._name_files(mapping, placers)
        entries = self._entries(mapping, group, shares)
        batch = log_records.highest_file_id(self._work.map.state, highest) if highest else []
        if entries:
            batch += log_records.append_to_map(self._work.map.state, entries)
        more = log_records.references_of([row for share in shares for row in share.referring], 1)
        batch += log_records.change_refcounts(self._work.map.state, more)
        lost = sorted(map_uid for share in shares for _, map_uid in share.replaced)
        batch += log_records.change_refcounts(self._work.map.state, [(map_uid, -1) for map_uid in lost])
        writes = [self._work.map.plan(batch, durable=True)]
        writes += [share.index.plan(share.records(), durable=True) for share in shares]
        writes.append(self._work.map.plan((), tail=True, unlink=notes, behind=writes[0]))
        for request in group:
            request.what.is_mapped = True
        with confirming(self._work.namer, {share.name: share.wanted for share in shares}) as names:
            done = await run_in_turn(self._disk, writes, self._to_close(placers, shares, writes), names)
        of_map = first_and_last(writes, done)  # one replay for both
        try:
            await self._work.map.settle(*(of_map or (writes[0], done.begun[0])))
        except OSError:
            await self._disown(shares, placers, lost)
            raise
        for placer in placers:
            placer.named = True
        consistent = True
        for share, write, written in zip_longest(shares, writes[1:-1], done.begun[1 : len(shares) + 1]):
            consistent &= await self._settle(share, write, written)
        if len(done.begun) == len(writes):
            if of_map or await self._disk.attempt(self._work.map.settle(writes[-1], done.begun[-1])):
                notes.clear()
                self._last = placers[0].last_end(entries) if len(placers) == 1 else None
        elif consistent and await self._disk.attempt(self._work.map_done(notes)):
            notes.clear()
        for share in shares:
            self._work.count("saved", share.answer())

    def _to_close(
        self, placers: Sequence[Placer], shares: Sequence[Share], writes: Sequence[LogWrite]
    ) -> list[AppendFile]:
        """The files that the job closes, and so unlocks, at its end: of the mailboxes, the map, the ``m.N``.

        Empty with dotlocks, and if an index is about to be made smaller.
        """
        options = self._work.options
        if options.lock_method is LockMethod.DOTLOCK:
            return []
        indexes = [*(share.index for share in shares), self._work.map]
        if options.alone and any(
            is_due_behind(index, len(write.data) + _TAIL)
            for index, write in zip(indexes, [*writes[1:-1], writes[0]], strict=True)
        ):
            return []
        files = [c.file for placer in placers for c in placer.containers if c.file.is_open]
        return [*(index.file for index in indexes), *files]

    @staticmethod
    def _refuse_lost_texts(mapping: MapIndex, shares: list[Share]) -> None:
        """Drop requests whose messages refer to a text that is gone; they get an error."""
        more, now = Counter[int](), generation_of(*mapping.identity)
        for share in shares:
            for request in list(share.requests):
                wanted = Counter(
                    text.map_uid if text.generation == now else 0
                    for text in (arriving.message.same_as for arriving in request.what.arriving)
                    if isinstance(text, StoredText)
                )
                found = [(mapping.lookup(map_uid), map_uid) for map_uid in wanted]
                if all(
                    place is not None and place.refcount + more[map_uid] + wanted[map_uid] < REFCOUNT_LIMIT
                    for place, map_uid in found
                ):
                    more += wanted
                    continue
                request.error = TextGone("a message with the same guid has gone meanwhile")
                share.requests.remove(request)

    async def _name(self, shares: list[Share]) -> None:
        """Give the messages their uids, and tell the namer.

        Requests that the namer refuses leave the group: their records then belong to no mailbox.
        """
        for share in shares:
            uid = share.index.state.next_uid
            messages = [arriving for request in share.requests for arriving in request.what.arriving]
            for arriving in messages:
                share.uids[id(arriving)] = uid = max(uid, arriving.message.uid or 0)
                if arriving.message.wanted is not None:
                    arriving.message.wanted.uid = uid
                uid += 1
            answers = iter(await self._work.name(share.name, share.index, share.wanted))
            for request in list(share.requests):
                errors = [
                    error for error in [next(answers) for _ in request.what.arriving] if error is not None
                ]
                if errors:
                    request.error = errors[0]
                    share.requests.remove(request)
        shares[:] = [share for share in shares if share.requests]

    async def _meet_rebuild(
        self, mapping: MapIndex, placers: list[Placer], group: Sequence[_Request], shares: list[Share]
    ) -> None:
        """Bring together what this group has appended and what a rebuild by Dovecot has made of it meanwhile.

        A record that has a message in its mailbox keeps its map uid: the message is replaced. A record that
        is in no file of the storage any more is copied to a new one.
        """
        met: dict[int, tuple[Placer, Rebuilt]] = {}
        for placer in placers:
            for container in placer.containers:
                found = await rebuilt(self._work, mapping, container)
                if found is not None:
                    met[id(container)] = placer, found
        if not met:
            return
        share_of = {id(request): share for share in shares for request in share.requests}
        for request in group:
            share = share_of.get(id(request))
            for arriving in request.what.arriving:
                placed = arriving.placed
                if placed is None or id(placed.container) not in met:
                    continue
                placer, found = met[id(placed.container)]
                map_uid = found.map_uids.get(placed.offset, 0)
                if found.in_place or (share is not None and share.uids_of(map_uid, arriving.guid)):
                    arriving.map_uid = map_uid
                else:
                    arriving.placed = await placer.copy_to_new(placed) if share is not None else None
        for placer, _ in met.values():
            await placer.sync()

    async def _name_files(self, mapping: MapIndex, placers: list[Placer]) -> int:
        """Give new files their names; gives the highest file_id of them, 0 if there is no new file."""
        new = [c for placer in placers for c in placer.containers if c.new]
        file_id = mapping.highest_file_id
        for container in new:
            while True:
                file_id += 1
                path, *others = self._work.storage_paths(file_id)
                if others and await self._disk.exists(others[0]):
                    continue
                try:
                    await self._disk.run(ops.Publish(container.file.path, path, False))
                except FileExistsError:
                    continue
                break
            container.file.path, container.file_id = path, file_id
            self._work.fs.locks.extend(container, path)
        if new:
            await self._disk.sync_dir(self._work.location.storage)
        return file_id if new else 0

    def _entries(
        self, mapping: MapIndex, group: Sequence[_Request], shares: list[Share]
    ) -> list[log_records.MapEntry]:
        """The map entries for all records that were placed; the shares get the rows of their mailboxes."""
        map_uid = mapping.state.next_uid
        entries: list[log_records.MapEntry] = []
        share_of = {id(request): share for share in shares for request in share.requests}
        for request in group:
            share, places = share_of.get(id(request)), list[int]()
            texts = [arriving.message.same_as for arriving in request.what.arriving]
            twins = Counter(text.number for text in texts if isinstance(text, Twin))
            for number, (arriving, text) in enumerate(zip(request.what.arriving, texts, strict=True)):
                refers, placed = isinstance(text, StoredText) or arriving.map_uid > 0, arriving.placed
                if arriving.map_uid:
                    places.append(arriving.map_uid)
                elif placed is not None:
                    count = 1 + twins[number] if share is not None else 0
                    file_id, offset, size = placed.container.file_id, placed.offset, placed.size
                    entries.append(log_records.MapEntry(map_uid, file_id, offset, size, count))
                    places.append(map_uid)
                    map_uid += 1
                elif isinstance(text, Twin):
                    places.append(places[text.number])
                    refers = request.what.arriving[text.number].map_uid > 0
                else:  # 0: a refused message, whose record is gone
                    places.append(text.map_uid if text is not None else 0)
                if share is not None:
                    share.add_row(arriving, places[-1], refers=refers)
        return entries

    async def _settle(self, share: Share, write: LogWrite, written: LogWritten | None) -> bool:
        """Settle the write to a mailbox; if *written* is None, write it first, since the write to a mailbox
        before it has failed.

        If the write fails, the requests get the error and the references are taken back.  False: that failed,
        too, and the map's tail must not be moved.
        """
        try:
            if written is None:
                written = (await run_in_turn(self._disk, [write])).begun[0]
            await share.index.settle(write, written)
        except OSError as error:
            for request in share.requests:
                request.error = error
            if not await self._references.take_back(share.index, share.appended, share.replaced):
                # the next holder of the map repairs it, and brings none of them back
                new = [row for row in share.appended if row not in share.referring]
                self._work.never_acknowledged |= {message.guid for message in new}
                return False
        return True

    async def _disown(self, shares: list[Share], placers: list[Placer], lost: Sequence[int]) -> None:
        """Take back the references if the map has the change but could not be made durable.

        :param lost: map uids of replaced messages, which their mailboxes still have.
        """
        if self._work.map.tail_is_head:
            return
        for placer in placers:
            placer.named = True
        back = log_records.references_of([row for share in shares for row in share.appended], -1)
        back += [(map_uid, 1) for map_uid in lost]
        await self._disk.attempt(self._references.change(back, tail=True))
