"""What has to be done now and then where no Dovecot does it (PROTOCOL section 10).

Requests that others left are carried out, messages without a record get one, old temporary files go, indexes
are rewritten when it is time.  It may be run at any time, again and again, beside everything else that the
writer does.  What it removes, and on which proof: PROTOCOL section 12.

Each mailbox is looked at without a lock first, and without keeping its index in memory; only what has
something to be done is locked, and looked at again under its lock.  Between two mailboxes the caller is asked
(*pause*), who may wait, or end it all by a cancellation.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import trio

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.fsapi import DirEntry
from dboxfs.fsapi.temporary import Process, is_alive, is_temporary
from dboxfs.index.state import IndexState
from dboxfs.store.indexes.locks import DOTLOCK_STALE
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.indexes.snapshot import is_due
from dboxfs.store.mdbox.repair import selectable
from dboxfs.store.sdbox.read import SdboxFiles
from dboxfs.store.write import log_records
from dboxfs.store.write.proof import expunges_of, is_left_by_expunge
from dboxfs.store.write.recover import Delete, recover
from dboxfs.store.write.session import Work, message_number

log = logging.getLogger(__name__)

Expunge = Callable[[str, list[int]], Awaitable[list[int]]]
Pause = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Maintained:
    """What :func:`maintain` did, in numbers.

    ``mailboxes``: looked at.  ``expunged``: messages that others asked to expunge.  ``recovered``: unfinished
    ends, and messages that had no record.  ``removed``: files that were nobody's.  ``left``: message files
    without a record that stay, because nothing proves that they were expunged (``dboxfs check`` names them).
    ``failed``: mailboxes and directories that could not be looked at; each is logged.
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
    """Do everything that is due, mailbox after mailbox.

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
        return  # its index is made by whoever changes it first
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
        async with work.mailbox(name):  # which rewrites it, if it is time to
            await _remove_halves(work, index, halves, done)


async def _map(work: Work, done: Maintained) -> None:
    entries: list[DirEntry] = []
    for directory in dict.fromkeys((work.location.storage, work.location.map_dir)):
        entries = await work.disk.listdir(directory)
        await _clean(work, directory, entries, done)
    halves = await _old_halves(work, work.map, entries)
    async with work.locked_map():  # which rewrites it, if it is time to
        await _remove_halves(work, work.map, halves, done)


# -- files without a record --------------------------------------------------------------------------------


async def _adopt(
    work: Work, name: str, state: IndexState, directory: str, entries: list[DirEntry], done: Maintained
) -> None:
    """sdbox: files that no record has.  Seen without a lock they may just be on their way."""
    numbers = [message_number(entry.name, "u") for entry in entries]
    found = np.setdiff1d(np.array(numbers, np.uint32), state.uids)
    if found.any():
        await _adopt_files(work, name, directory, found[found > 0].tolist(), done)


async def _adopt_files(work: Work, name: str, directory: str, uids: list[int], done: Maintained) -> None:
    """Under the mailbox's lock: those that have no record indeed.

    Below next_uid they may be expunged messages whose files are still there, and go if that is proven.  They
    may as well be newer than the index, or put back by hand: then they stay as they are.  At or above it they
    are saves that died before their record: they get one, since nobody knows whether they were asked for
    again.
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
    """Temporary files of dboxfs and Dovecot that are old, and whose process is gone as far as can be told."""
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
    """Seconds since anything about a file has changed."""
    return now - max(found.st_ctime, found.st_mtime)


async def _old_halves(work: Work, index: IndexLog, entries: list[DirEntry]) -> list[str]:
    """A new log, or a snapshot, that a writer of this index did not finish: only the old ones."""
    names = {entry.name for entry in entries if not entry.is_dir}
    found = []
    for path in (index.log_path + ".newlock", index.base_path + ".tmp"):
        if os.path.basename(path) in names:
            status = await work.disk.stat(path)
            if status is not None and _age(status, time.time()) > DOTLOCK_STALE:
                found.append(path)
    return found


async def _remove_halves(work: Work, index: IndexLog, paths: list[str], done: Maintained) -> None:
    """Under the index's lock, which whoever makes one of them holds too: nobody is at it any more."""
    still = await _old_halves(work, index, await work.disk.listdir(index.directory)) if paths else []
    for path in still:
        done.removed += await work.disk.unlink(path)
