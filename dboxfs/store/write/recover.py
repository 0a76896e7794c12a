"""Recovery before a writer's first change (PROTOCOL section 10).

:func:`recover` runs at the start, also beside other processes.  It cuts unfinished transactions off every log
and every ``m.N``, before a Dovecot takes them for damage.  It finishes the deletion of mailboxes, and repairs
the map.

A store may have thousands of mailboxes, and hardly ever one with an unfinished end.  So the ends of all logs
are first read without a lock, many at once: the part that the snapshot does not cover is split into
transactions (not replayed).  Only a log that looks unfinished is locked and checked again.

A later run, when a mount ends after an error, also tries to remove files again that could not be removed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec import Struct

from dboxfs.errors import CorruptFile, DboxfsError, FormatError
from dboxfs.fsapi import Peek, PeekResult
from dboxfs.index.base import LogPosition, parse_log_position
from dboxfs.index.expunges import expunged, is_left_by_expunge
from dboxfs.index.log import (
    EXTERNAL,
    HEADER_SIZE,
    RECORD_HEADER_SIZE,
    TYPE_MASK,
    RecordType,
    iter_transactions,
    parse_log_header,
    record_kind,
)
from dboxfs.index.state import BASE_HEADER_SIZE
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.repair import selectable
from dboxfs.store.mdbox.torn_tails import cut_torn_records
from dboxfs.store.sdbox.files import unlink
from dboxfs.store.write.proof import expunges_of
from dboxfs.store.write.session import Work

log = logging.getLogger(__name__)

MOST_LOOKED_FOR = 4096
"""Expunged messages of a mailbox whose files are looked for, at most."""

_NAMES_AT_ONCE = 256
_LONGEST = 1 << 31
_MARKS = (RecordType.INDEX_DELETED, RecordType.INDEX_UNDELETED)

Delete = Callable[[str], Awaitable[object]]


class LogEnd(Struct, frozen=True):
    """The end of a log.

    ``unfinished``: there are bytes behind the last whole transaction.  ``deleted``: the mailbox is marked as
    deleted.  ``newlock``: a process was making or rotating the log.  ``expunged``: uids whose expunge the
    snapshot does not have; the last :data:`MOST_LOOKED_FOR`.
    """

    unfinished: bool
    deleted: bool
    newlock: bool
    expunged: tuple[int, ...] = ()


async def recover(work: Work, delete: Delete, names: Iterable[str] | None = None) -> int:
    """Finish the work of an earlier writer; gives the number of logs and files that had an unfinished end.

    A mailbox that can't be read is skipped (and logged): opening it raises the error.

    :param delete: deletes a mailbox; called for mailboxes that are marked as deleted and still exist.
    :param names: the storage names of all mailboxes, if the caller knows them.
    """
    boxes = list(names) if names is not None else await selectable(work)
    cut = 0
    for start in range(0, len(boxes), _NAMES_AT_ONCE):
        some = boxes[start : start + _NAMES_AT_ONCE]
        indexes = [work.new_index(name) for name in some]
        for name, index, end in zip(some, indexes, await look_at_ends(work, indexes), strict=True):
            cut += await _finish(work, index, end)
            if end is not None and end.deleted:
                await _delete(work, delete, name)
            elif end is not None and end.expunged and not work.options.alone:  # else the maintenance does it
                await _unlink_expunged(work, name, end.expunged)
    others = [work.map, work.list_index()] if work.mdbox else [work.list_index()]
    for index, end in zip(others, await look_at_ends(work, others), strict=True):
        cut += await _finish(work, index, end)
    if work.mdbox:
        cut += await cut_torn_records(work)
    elif not work.options.alone:  # else the maintenance does it
        await _remove_again(work, boxes)
    return cut


async def _remove_again(work: Work, names: Iterable[str]) -> None:
    """sdbox: remove files of expunged messages that this writer could not remove before."""
    for name in filter(work.unremoved, names):
        try:
            async with work.mailbox(name) as index:
                paths = await work.still_unremoved(name, index)
        except (DboxfsError, OSError) as error:
            log.warning("%s: not looked at: %s", work.shown(name), error)
        else:
            await work.disk.attempt(unlink(work, name, [], paths))


async def _unlink_expunged(work: Work, name: str, uids: Sequence[int]) -> None:
    """sdbox: remove the files of messages that a writer has expunged before it died.  A rebuild by Dovecot
    would bring them back.
    """
    paths = [path for uid in uids for path in work.message_paths(name, uid)]
    if not any(isinstance(found, PeekResult) for found in await work.fs.peek([Peek(p, ()) for p in paths])):
        return
    try:
        async with work.mailbox(name) as index:
            shown = await expunges_of(index, [uid for uid in uids if index.state.row_of(uid) < 0])
            for uid in sorted(shown):
                for path in work.message_paths(name, uid):
                    if is_left_by_expunge(await work.disk.stat(path), uid, shown):
                        await work.disk.unlink(path)
                        log.info("%s: a removal that was interrupted is finished", path)
    except (DboxfsError, OSError) as error:
        log.warning("%s: not looked at: %s", work.shown(name), error)


async def _delete(work: Work, delete: Delete, name: str) -> None:
    try:
        await delete(name)
    except (DboxfsError, OSError) as error:
        log.warning("%s: marked as deleted, but can't be deleted: %s", work.shown(name), error)


async def _finish(work: Work, index: IndexLog, end: LogEnd | None) -> int:
    """Cut an unfinished end off a log: locking the log does that."""
    if end is None or not (end.unfinished or (end.newlock and work.options.alone)):
        return 0
    try:
        async with index.locked(deleted_ok=True):
            if end.newlock and work.options.alone:  # its maker held this lock, and died
                await work.disk.unlink(index.log_path + ".newlock")
    except (DboxfsError, OSError) as error:
        log.warning("%s: not looked at: %s", index.what, error)
        return 0
    return 1


async def look_at_ends(work: Work, indexes: Sequence[IndexLog]) -> list[LogEnd | None]:
    """The ends of logs; None: there is no log, or it can't be read (which is logged)."""
    first = []
    for index in indexes:
        first.append(Peek(index.base_path, ((0, BASE_HEADER_SIZE),)))
        first.append(Peek(index.log_path + ".newlock", ()))
    found = await work.fs.peek(first)
    bases, locks = found[::2], found[1::2]
    positions = [_position(base) for base in bases]
    peeks = [
        Peek(index.log_path, ((0, HEADER_SIZE), (position.head_offset, None)), limit=_LONGEST)
        for index, position in zip(indexes, positions, strict=True)
    ]
    ends: list[LogEnd | None] = []
    for index, position, data, lock in zip(indexes, positions, await work.fs.peek(peeks), locks, strict=True):
        try:
            ends.append(await _end(work, index, position, data, newlock=isinstance(lock, PeekResult)))
        except FileNotFoundError:
            ends.append(None)
        except (DboxfsError, OSError) as error:
            log.warning("%s: not looked at: %s", index.what, error)
            ends.append(None)
    return ends


def _position(base: PeekResult | OSError) -> LogPosition:
    """The log position that a snapshot covers; zeros if there is none or it is damaged."""
    if isinstance(base, PeekResult):
        try:
            return parse_log_position(base.chunks[0])
        except FormatError:
            pass  # opening the mailbox raises the error
    return LogPosition(0, 0, 0)


async def _end(
    work: Work, index: IndexLog, position: LogPosition, data: PeekResult | OSError, *, newlock: bool
) -> LogEnd:
    """
    :raises CorruptFile, OSError: the log can't be read.
    """
    if isinstance(data, OSError):
        raise data
    head, tail = data.chunks
    start = position.head_offset
    try:
        header = parse_log_header(head)
        if (position.indexid, position.file_seq) != (header.indexid, header.file_seq) or not start:
            start = header.hdr_size
            (again,) = await work.fs.peek([Peek(index.log_path, ((start, None),), limit=_LONGEST)])
            if isinstance(again, OSError):
                raise again
            tail = again.chunks[0]
        view, end, deleted = memoryview(tail), 0, False
        gone: deque[int] = deque(maxlen=MOST_LOOKED_FOR)
        for places in iter_transactions(view, 0, start):
            for at, size, raw in places:
                end = at + size
                if raw & EXTERNAL and not work.mdbox:
                    for low, high in expunged(record_kind(raw, at), view[at + RECORD_HEADER_SIZE : end]):
                        gone.extend(range(max(low, high - MOST_LOOKED_FOR), high + 1))
                if raw & EXTERNAL and raw & TYPE_MASK in _MARKS:
                    deleted = raw & TYPE_MASK == RecordType.INDEX_DELETED
    except FormatError as error:
        raise CorruptFile(index.log_path, error.offset, error.reason) from error
    return LogEnd(end < len(tail), deleted, newlock, tuple(dict.fromkeys(gone)))
