"""Unacknowledged work of dead writers: taken back or finished (PROTOCOL section 13).

The notes (:mod:`~dboxfs.store.write.notes`) name this work; it is resolved before any other change of the
store:

* sdbox: a ``u.N`` that a note names, with this inode number and without a record, is unlinked;
* mdbox: a record whose guid a note names belongs to no mailbox: if the map has it and no mailbox does, its
  refcount becomes 0 (``repair``); if the map doesn't have it, it is cut off the end of its ``m.N``, or gets a
  map record with refcount 0 if other writers have appended behind it (``torn_tails``);
* a move whose copies are in the target is finished: the messages are expunged in the source; sdbox:
  a ``u.N`` of the source without a record and with the copy's inode number is unlinked;
* removals that were promised are executed (``promises``).

A note stays for the next time if its mailbox can't be locked, or if another process holds an ``m.N``.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Sequence

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.fsapi import ops
from dboxfs.index.mailbox import map_uids
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write.notes import Note
from dboxfs.store.write.promises import Expunge, keep_after_death
from dboxfs.store.write.session import Work, present

log = logging.getLogger(__name__)


async def resolve(work: Work, expunge: Expunge) -> int:
    """Take back or finish the work of dead writers; gives the number of their notes.

    :param expunge: expunges messages of a mailbox, as the writer does.
    """
    left = await work.notes.left()
    guids = {bytes.fromhex(guid) for note in left.values() if note is not None for guid in note.messages}
    work.never_acknowledged |= guids
    for path, note in left.items():
        try:
            if note is not None:
                await _resolve(work, path, note, expunge)
        except (DboxfsError, OSError) as error:
            gone = isinstance(error, NoSuchMailbox) and note is not None and not note.promised
            if not gone:  # else its files are gone with it; a promise holds for the mailbox's new name
                log.warning("%s: what a dead writer began is left for later: %s", path, error)
                continue
        if note is None or not note.messages:
            await work.notes.drop([path])
    return len(left)


async def forget(work: Work) -> None:
    """Drop the notes of messages; called after the recovery of map and storage, which has used them."""
    work.never_acknowledged = frozenset()
    if work.passed_over:
        return
    left = await work.notes.left()
    await work.notes.drop([path for path, note in left.items() if note is not None and note.messages])


async def _resolve(work: Work, path: str, note: Note, expunge: Expunge) -> None:
    if note.files:
        async with work.mailbox(note.mailbox) as index:
            if work.header(index).guid.hex() == note.guid:
                await _unlink_unrecorded(
                    work, index, note.mailbox, note.files, "a save that was interrupted is taken back"
                )
    if note.promised:
        await keep_after_death(work, path, note, expunge)
    if note.moved:
        if work.mdbox:
            async with work.locked_map():
                pass  # this repairs the map, if a writer died between map and mailboxes
        copied = await _copied(work, note)
        if copied and await _is(work, note.source, note.source_guid):
            source, target = work.shown(note.source), work.shown(note.mailbox)
            log.info("%s: a move to %s that was interrupted is finished", source, target)
            await expunge(note.source, copied)
            if not work.mdbox:
                async with work.mailbox(note.source) as index:  # the writer may have died behind the expunge
                    await _unlink_unrecorded(
                        work, index, note.source, note.moved, "a move that was interrupted is finished"
                    )


async def _unlink_unrecorded(
    work: Work, index: IndexLog, name: str, files: Iterable[tuple[int, int]], why: str
) -> None:
    for uid, inode in files:
        path = work.message_paths(name, uid)[0]
        found = await work.disk.stat(path)
        if found is None or found.st_ino != inode or not stat.S_ISREG(found.st_mode):
            continue
        if index.state.row_of(uid) < 0:
            await work.disk.unlink(path)
            log.info("%s: %s", path, why)


async def _copied(work: Work, note: Note) -> list[int]:
    """The uids in the source of a move's messages, if all their copies are in the target; else empty."""
    async with work.mailbox(note.mailbox) as index:
        if work.header(index).guid.hex() != note.guid:
            return []
        state = index.state
        uids = [int(uid) for uid in state.uids if uid >= note.first_uid]
        column = map_uids(state)
        there = {int(column[row]) for row in state.rows_of(uids).tolist()} if column is not None else set()
    if column is None:
        return await _copied_files(work, note, uids)
    return [uid for uid, _ in note.moved] if all(key in there for _, key in note.moved) else []


async def _copied_files(work: Work, note: Note, uids: Sequence[int]) -> list[int]:
    """:func:`_copied` of an sdbox: a copy is the same file, or, without hard links, a file with the same
    bytes, which include the message's GUID.
    """
    paths = [work.message_paths(note.mailbox, uid)[0] for uid in uids]
    answers = await work.disk.run_all([ops.Stat(path, follow=False) for path in paths])
    found = {p: a for p, a in zip(paths, answers, strict=True) if isinstance(a, os.stat_result)}
    inodes = {status.st_ino for status in found.values()}
    async with work.mailbox(note.source) as index:
        left = set(present(index.state, [uid for uid, _ in note.moved]))
    for uid, inode in note.moved:
        if inode in inodes or uid not in left:  # the writer has copied all before it expunged one
            continue
        copy = None
        for path in work.message_paths(note.source, uid):
            status = await work.disk.stat(path)
            sizes = [
                other for other, its in found.items() if status is not None and its.st_size == status.st_size
            ]
            copy = copy or await _same(work, path, sizes)
        if copy is None:
            return []
        del found[copy]
    return [uid for uid, _ in note.moved]


async def _same(work: Work, path: str, others: Iterable[str]) -> str | None:
    """The first of *others* with the same bytes as *path*; None: there is none."""
    for other in others:
        if await work.disk.read_whole(other) == await work.disk.read_whole(path):
            return other
    return None


async def _is(work: Work, name: str, guid: str) -> bool:
    async with work.mailbox(name) as index:
        return work.header(index).guid.hex() == guid


async def inodes_of(
    work: Work, name: str, index: IndexLog, uids: Iterable[int]
) -> tuple[tuple[int, int], ...]:
    """``Note.moved`` for messages of a locked mailbox of an sdbox; those that are gone are left out."""
    keys = []
    for uid in present(index.state, uids):
        for path in work.message_paths(name, uid):
            found = await work.disk.stat(path)
            if found is not None:
                keys.append((uid, found.st_ino))
                break
    return tuple(keys)
