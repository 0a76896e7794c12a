"""What a writer finds when it begins, and what has to be done now and then (PROTOCOL section 10).

:func:`recover` is for the start, whoever else is there: bytes of a transaction that was never finished are
cut off every log and every ``m.N``, before a Dovecot takes them for damage, and the map is repaired.

:func:`maintain` is for stores without a Dovecot: requests that others left are carried out, files without
a record get one or go, old temporary files go, indexes are rewritten when it is time.  It may be run at any
time, again and again; every step is under the lock that guards what it looks at.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.store.indexfiles import IndexFiles
from dboxfs.store.sdbox import SdboxFiles
from dboxfs.store.writing import records
from dboxfs.store.writing.disk import TEMPORARY
from dboxfs.store.writing.indexlog import IndexLog
from dboxfs.store.writing.locks import DOTLOCK_STALE
from dboxfs.store.writing.repair import selectable
from dboxfs.store.writing.torn import cut_torn_records
from dboxfs.store.writing.work import Work, message_number

log = logging.getLogger(__name__)

TEMPORARY_AGE = 36 * 3600
"""Seconds after which a temporary file belongs to nobody (dbox-files section 5)."""

Expunge = Callable[[str, list[int]], Awaitable[list[int]]]
Delete = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Maintained:
    """What :func:`maintain` did, in numbers."""

    expunged: int = 0
    recovered: int = 0
    removed: int = 0


async def recover(work: Work, delete: Delete) -> int:
    """End what an earlier writer began; gives the number of logs and files that had an unfinished end.

    A mailbox that can't be read is left to whoever opens it.

    :param delete: deletes a mailbox; called for those that are marked as deleted and still there.
    """
    cut = 0
    indexes = []
    for name in await selectable(work):
        if await _is_deleted(work, name):
            await delete(name)
        else:
            indexes.append(work.index(name))
    if work.mdbox:
        indexes.append(work.map)
    indexes.append(work.list_index())
    for index in indexes:
        try:
            stale = work.options.alone and await work.disk.exists(index.log_path + ".newlock")
            if stale or await _has_garbage(work, index):
                async with index.locked(deleted_ok=True):
                    cut += 1
                    if stale:  # whoever made it held this lock, and died
                        await work.disk.unlink(index.log_path + ".newlock")
        except (DboxfsError, OSError) as error:
            log.warning("%s: not looked at: %s", index.what, error)
    if work.mdbox and await work.disk.exists(work.map.log_path):
        async with work.locked_map():  # which repairs it, if that is necessary
            pass
        cut += await cut_torn_records(work)
    return cut


async def _is_deleted(work: Work, name: str) -> bool:
    try:
        return (await work.index(name).peek()).deleted
    except (DboxfsError, OSError):
        return False  # damaged, or without an index: no reason to delete anything


async def _has_garbage(work: Work, index: IndexLog) -> bool:
    found = await work.disk.stat(index.log_path)
    if found is None:
        return False
    reader = IndexFiles(work.fs, index.directory, os.path.basename(index.base_path))
    await reader.refresh()
    now = await work.disk.stat(index.log_path)
    return reader.state is not None and now is not None and now.st_size > reader.state.head_offset


async def maintain(work: Work, expunge: Expunge, delete: Delete) -> Maintained:
    """Do everything that is due; see the module.

    :param expunge: executes expunges, and requests, of one mailbox.
    :param delete: as for :func:`recover`.
    """
    done = Maintained()
    done.recovered += await recover(work, delete)
    for name in await selectable(work):
        try:
            done.expunged += len(await expunge(name, []))
            if not work.mdbox:
                await _adopt_files(work, name, done)
            await _clean(work, work.location.mailbox_path(name), done)
            if work.location.index is not None:
                await _clean(work, work.index(name).directory, done)
        except NoSuchMailbox:
            continue
        except (DboxfsError, OSError) as error:
            log.warning("%s: not maintained: %s", name, error)
    if work.mdbox:
        await _clean(work, work.location.storage, done)
        if work.location.index is not None:
            await _clean(work, work.location.map_dir, done)
    return done


async def _adopt_files(work: Work, name: str, done: Maintained) -> None:
    """sdbox: files without a record, under the mailbox's lock.

    Below next_uid they are expunged messages whose files are still there: they go.  At or above it they are
    saves that died before their record: they get one, since nobody knows whether they were asked for again.
    """
    async with work.mailbox(name) as index:
        state = index.state
        for directory in (work.location.mailbox_path(name), work.location.alt_mailbox_path(name)):
            entries = await work.disk.listdir(directory) if directory is not None else []
            numbers = {message_number(entry.name, "u") for entry in entries} - {0}
            for uid in sorted(numbers - set(state.uids.tolist())):
                path = os.path.join(directory or "", f"u.{uid}")
                if uid < state.next_uid:
                    await work.disk.unlink(path)
                    done.removed += 1
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


async def _clean(work: Work, directory: str, done: Maintained) -> None:
    """Old temporary files, stale ``.newlock``, ``dovecot.index.tmp``: nobody's."""
    now = time.time()
    for entry in await work.disk.listdir(directory):
        if entry.is_dir:
            continue
        if entry.name.startswith(TEMPORARY):
            age = TEMPORARY_AGE
        elif entry.name.endswith((".newlock", ".index.tmp")):
            age = int(DOTLOCK_STALE)
        else:
            continue
        path = os.path.join(directory, entry.name)
        found = await work.disk.stat(path)
        if found is not None and now - found.st_ctime > age:
            done.removed += await work.disk.unlink(path)
