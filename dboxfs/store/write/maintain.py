"""Regular upkeep of a store that no Dovecot serves (PROTOCOL section 10).

The maintenance executes requests that other processes left, gives messages without a record one, removes old
temporary files, and rewrites indexes that are due.  It may run at any time, any number of times, and beside
all other work of the writer.  PROTOCOL section 12 lists the files that it removes and the proof for each.

Each mailbox is first read without a lock, and its index is not kept in memory.  Only a mailbox that needs
work is locked, and checked again under its lock.  Between two mailboxes the caller's *pause* is called, which
may wait, or end the maintenance by a cancellation.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable

import numpy as np
import trio
from msgspec import Struct

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.fsapi import DirEntry
from dboxfs.fsapi.temporary import Process, is_alive, is_temporary
from dboxfs.index.expunges import is_left_by_expunge
from dboxfs.index.state import IndexState
from dboxfs.store.indexes.locks import DOTLOCK_STALE
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.indexes.snapshot import is_due
from dboxfs.store.mdbox.repair import selectable
from dboxfs.store.sdbox.read import SdboxFiles
from dboxfs.store.write import log_records
from dboxfs.store.write.proof import expunges_of
from dboxfs.store.write.recover import Delete, recover
from dboxfs.store.write.session import Work, message_number

log = logging.getLogger(__name__)

Expunge = Callable[[str, list[int]], Awaitable[list[int]]]
Pause = Callable[[], Awaitable[object]]


class Maintained(Struct):
    """Counts of the work of :func:`maintain`.

    ``mailboxes``: maintained.  ``expunged``: messages whose expunge was requested.  ``recovered``: unfinished
    ends, and messages that had no record.  ``removed``: left-over files.  ``left``: message files without a
    record that stay, because it is not proven that they were expunged (``dboxfs check`` names them).
    ``failed``: mailboxes and directories that could not be maintained; each is logged.
    """

    mailboxes: int = 0
    expunged: int = 0
    recovered: int = 0
    removed: int = 0
    left: int = 0
    failed: int = 0


async def maintain(
    work: Work, expunge: Expunge, delete: Delete, pause: Pause = trio.lowlevel.checkpoint
) -> Maintained:
    """Do all upkeep that is due, mailbox after mailbox.

    :param expunge: executes expunges, and requests, of one mailbox.
    :param delete: as for :func:`~dboxfs.store.write.recover.recover`.
    :param pause: called before each mailbox and directory.
    """
    done = Maintained()
    names = await selectable(work)
    done.recovered += await recover(work, delete, names)
    for name in names:
        await pause()
        try:
            await _mailbox(work, name, expunge, done)
            done.mailboxes += 1
        except NoSuchMailbox:
            continue
        except (DboxfsError, OSError) as error:
            log.warning("%s: not maintained: %s", work.shown(name), error)
            done.failed += 1
    await pause()
    if work.mdbox:
        try:
            await _map(work, done)
        except (DboxfsError, OSError) as error:
            log.warning("%s: not maintained: %s", work.location.storage, error)
            done.failed += 1
    return done


async def _mailbox(work: Work, name: str, expunge: Expunge, done: Maintained) -> None:
    try:
        state = await work.new_index(name).peek()
    except FileNotFoundError:
        return  # the first change of the mailbox makes its index
    if state.has_pending_requests:
        done.expunged += len(await expunge(name, []))
    directory = work.location.mailbox_path(name)
    entries = await work.disk.listdir(directory)
    if not work.mdbox:
        await _adopt(work, name, state, directory, entries, done)
        alt = work.location.alt_mailbox_path(name)
        if alt is not None:
            await _adopt(work, name, state, alt, await work.disk.listdir(alt), done)
    await _clean(work, directory, entries, done)
    index = work.new_index(name)
    if index.directory != directory:
        entries = await work.disk.listdir(index.directory)
        await _clean(work, index.directory, entries, done)
    halves = await _old_halves(work, index, entries)
    if halves or await is_due(index, state):
        async with work.mailbox(name):  # this rewrites the index, if it is due
            await _remove_halves(work, index, halves, done)


async def _map(work: Work, done: Maintained) -> None:
    entries: list[DirEntry] = []
    for directory in dict.fromkeys((work.location.storage, work.location.map_dir)):
        entries = await work.disk.listdir(directory)
        await _clean(work, directory, entries, done)
    halves = await _old_halves(work, work.map, entries)
    async with work.locked_map():  # this rewrites the map, if it is due
        await _remove_halves(work, work.map, halves, done)


# -- files without a record --------------------------------------------------------------------------------


async def _adopt(
    work: Work, name: str, state: IndexState, directory: str, entries: list[DirEntry], done: Maintained
) -> None:
    """sdbox: look for files without a record.  Seen without a lock, they may be saves in progress."""
    numbers = [message_number(entry.name, "u") for entry in entries]
    found = np.setdiff1d(np.array(numbers, np.uint32), state.uids)
    if found.any():
        await _adopt_files(work, name, directory, found[found > 0].tolist(), done)


async def _adopt_files(work: Work, name: str, directory: str, uids: list[int], done: Maintained) -> None:
    """Handle files that have no record under the mailbox's lock either.

    A file below next_uid may be left from an expunge; it is removed if that is proven.  It may also be newer
    than the index, or a user may have put it back: then it stays.  A file at or above next_uid is a save
    whose writer died before the record: it gets one, since the program may not have saved the message again.
    """
    async with work.mailbox(name) as index:
        state = index.state
        shown = await expunges_of(index, [uid for uid in uids if uid < state.next_uid])
        for uid in uids:
            path = os.path.join(directory, f"u.{uid}")
            found = await work.disk.stat(path) if state.row_of(uid) < 0 else None
            if found is None:
                continue
            if uid < state.next_uid:
                if is_left_by_expunge(found, uid, shown) or work.is_unremoved(path, found):
                    done.removed += await work.disk.unlink(path)
                else:
                    done.left += 1
            elif await _is_whole(work, name, uid):
                row = log_records.AppendedRow(uid, 0, (), log_records.NO_GUID)
                await index.append(log_records.append_messages(state, [row], mdbox=False), durable=True)
                done.recovered += 1
            else:
                log.warning("%s: no whole message and no record; left alone", path)


async def _is_whole(work: Work, name: str, uid: int) -> bool:
    files = SdboxFiles(work.fs, work.location, name)
    (scanned,) = await files.scan(np.array([uid], np.uint32))
    return scanned.error is None


# -- left-over files ---------------------------------------------------------------------------------------


async def _clean(work: Work, directory: str, entries: list[DirEntry], done: Maintained) -> None:
    """Remove old temporary files of dboxfs and Dovecot whose process is not known to be alive."""
    here, now = Process.this(), time.time()
    for entry in entries:
        if entry.is_dir or not is_temporary(entry.name) or is_alive(entry.name, here):
            continue
        path = os.path.join(directory, entry.name)
        found = await work.disk.stat(path)
        if (
            found is not None
            and stat.S_ISREG(found.st_mode)
            and _age(found, now) > work.options.temporary_age
        ):
            done.removed += await work.disk.unlink(path)


def _age(found: os.stat_result, now: float) -> float:
    """Seconds since content or attributes of a file have changed."""
    return now - max(found.st_ctime, found.st_mtime)


async def _old_halves(work: Work, index: IndexLog, entries: list[DirEntry]) -> list[str]:
    """Old unfinished files of this index: a new log, or a snapshot."""
    names = {entry.name for entry in entries if not entry.is_dir}
    found = []
    for path in (index.log_path + ".newlock", index.base_path + ".tmp"):
        if os.path.basename(path) in names:
            status = await work.disk.stat(path)
            if status is not None and _age(status, time.time()) > DOTLOCK_STALE:
                found.append(path)
    return found


async def _remove_halves(work: Work, index: IndexLog, paths: list[str], done: Maintained) -> None:
    """Remove unfinished files under the index's lock; a writer that makes one holds it, too, so none is at
    work.
    """
    still = await _old_halves(work, index, await work.disk.listdir(index.directory)) if paths else []
    for path in still:
        done.removed += await work.disk.unlink(path)
