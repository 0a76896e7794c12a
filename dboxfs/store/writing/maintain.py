"""What has to be done now and then where no Dovecot does it (PROTOCOL section 10).

Requests that others left are carried out, files without a record get one or go, old temporary files go,
indexes are rewritten when it is time.  It may be run at any time, again and again, beside everything else
that the writer does.

Each mailbox is looked at without a lock first, and without keeping its index in memory; only what has
something to be done is locked, and looked at again under its lock.  Between two mailboxes the caller is asked
(*pause*), who may wait, or end it all by a cancellation.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import trio

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.fsapi import DirEntry
from dboxfs.fsapi.temporary import PREFIX
from dboxfs.index.state import IndexState
from dboxfs.store.sdbox import SdboxFiles
from dboxfs.store.writing import records
from dboxfs.store.writing.locks import DOTLOCK_STALE
from dboxfs.store.writing.recovery import Delete, recover
from dboxfs.store.writing.repair import selectable
from dboxfs.store.writing.snapshot import is_due
from dboxfs.store.writing.work import Work, message_number

log = logging.getLogger(__name__)

Expunge = Callable[[str, list[int]], Awaitable[list[int]]]
Pause = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Maintained:
    """What :func:`maintain` did, in numbers.

    ``mailboxes``: looked at.  ``expunged``: messages that others asked to expunge.  ``recovered``: unfinished
    ends, and messages that had no record.  ``removed``: files that were nobody's.  ``failed``: mailboxes and
    directories that could not be looked at; each is logged.
    """

    mailboxes: int = 0
    expunged: int = 0
    recovered: int = 0
    removed: int = 0
    failed: int = 0


async def maintain(
    work: Work, expunge: Expunge, delete: Delete, pause: Pause = trio.lowlevel.checkpoint
) -> Maintained:
    """Do everything that is due; see the module.

    :param expunge: executes expunges, and requests, of one mailbox.
    :param delete: as for :func:`~dboxfs.store.writing.recovery.recover`.
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
            log.warning("%s: not maintained: %s", name, error)
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
    index = work.index_directory(name)
    if index != directory:
        await _clean(work, index, await work.disk.listdir(index), done)
    if await is_due(work.new_index(name), state):
        async with work.mailbox(name):
            pass  # which rewrites it


async def _map(work: Work, done: Maintained) -> None:
    for directory in dict.fromkeys((work.location.storage, work.location.map_dir)):
        await _clean(work, directory, await work.disk.listdir(directory), done)
    async with work.locked_map():
        pass  # which rewrites it, if it is time to


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

    Below next_uid they are expunged messages whose files are still there: they go.  At or above it they are
    saves that died before their record: they get one, since nobody knows whether they were asked for again.
    """
    async with work.mailbox(name) as index:
        state = index.state
        for uid in uids:
            path = os.path.join(directory, f"u.{uid}")
            if state.row_of(uid) >= 0 or not await work.disk.exists(path):
                continue
            if uid < state.next_uid:
                done.removed += await work.disk.unlink(path)
            elif await _is_whole(work, name, uid):
                row = records.Appended(uid, 0, (), records.NO_GUID)
                await index.append(records.append_messages(state, [row], mdbox=False), durable=True)
                done.recovered += 1
            else:
                log.warning("%s: no whole message and no record; left alone", path)


async def _is_whole(work: Work, name: str, uid: int) -> bool:
    files = SdboxFiles(work.fs, work.location, name)
    (scanned,) = await files.scan(np.array([uid], np.uint32))
    return scanned.error is None


# -- left-over files ---------------------------------------------------------------------------------------


async def _clean(work: Work, directory: str, entries: list[DirEntry], done: Maintained) -> None:
    """Old temporary files, stale ``.newlock``, ``dovecot.index.tmp``: nobody's."""
    now = time.time()
    for entry in entries:
        if entry.is_dir:
            continue
        if entry.name.startswith(PREFIX):
            age = work.options.temporary_age
        elif entry.name.endswith((".newlock", ".index.tmp")):
            age = DOTLOCK_STALE
        else:
            continue
        path = os.path.join(directory, entry.name)
        found = await work.disk.stat(path)
        if found is not None and now - found.st_ctime > age:
            done.removed += await work.disk.unlink(path)
