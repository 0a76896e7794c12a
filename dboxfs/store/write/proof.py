"""What has to be proven before a file with a message in it may go (PROTOCOL section 12).

A whole message is removed for one reason only: the log of its mailbox shows that it was expunged.  A file
``u.N`` without a record in the index proves nothing: the index may be older than the file, made anew, or of
another place, and a user may have put the file back.

:func:`expunged_since` reads that out of ``.log`` and ``.log.2``: which uids they show as expunged, and the
moment before which the expunge can't have been.  A file that was there before that moment is what the expunge
left; one that was made, renamed or linked later (its ctime) was put there by somebody and stays.

Logs have no times in them.  What is known is when a log was written last (its mtime, which is the file
system's clock, as the ctime of message files is): that is the time of its last transaction, and a time that
all transactions of the next log are behind.  Where nothing is known the moment is 0, and every file stays.

:func:`holds_messages` looks for message files in a directory that is about to be removed as a whole.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Collection
from dataclasses import dataclass

from dboxfs.errors import FormatError
from dboxfs.index.log import (
    EXTERNAL,
    RECORD_HEADER_SIZE,
    RecordType,
    iter_transactions,
    parse_log_header,
    record_kind,
)
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.log import IndexLog

MESSAGE_FILE = re.compile(r"[um]\.[0-9]+(\.broken.*)?")
"""Names of files that hold messages: ``u.N``, ``m.N``, and what Dovecot's repair keeps of them."""

_U32 = struct.Struct("<I")
_RANGE = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class LogBytes:
    """A whole log file.  ``changed``: when it was written last (its mtime, ns)."""

    data: bytes
    changed: int


def expunged_since(uids: Collection[int], log: LogBytes, older: LogBytes | None = None) -> dict[int, int]:
    """Which of *uids* the logs show as expunged, and not there again: the earliest moment (ns) of it each.

    :param log: ``dovecot.index.log``.
    :param older: ``dovecot.index.log.2``; only used if *log* goes on where it ends.
    :raises FormatError: a log is damaged: nothing is proven.
    """
    wanted, shown = set(uids), dict[int, int]()
    header, since = parse_log_header(log.data), 0
    if older is not None:
        before = parse_log_header(older.data)
        if (before.indexid, before.file_seq) == (header.indexid, header.prev_file_seq):
            _follow(wanted, shown, older, 0)
            since = older.changed
    _follow(wanted, shown, log, since)
    return shown


def _follow(wanted: set[int], shown: dict[int, int], log: LogBytes, since: int) -> None:
    """Go through one log, all of which was written after *since*."""
    view = memoryview(log.data)
    newest: set[int] = set()
    for places in iter_transactions(view, parse_log_header(log.data).hdr_size, 0):
        gone, tail_only = set[int](), True
        for pos, size, raw in places:
            kind, body = record_kind(raw, pos), view[pos + RECORD_HEADER_SIZE : pos + size]
            tail_only = tail_only and kind == RecordType.HEADER_UPDATE
            if kind == RecordType.APPEND:
                back = wanted & {_U32.unpack_from(body, at)[0] for at in range(0, len(body) - 7, 8)}
                gone -= back
                for uid in back:
                    shown.pop(uid, None)
            elif raw & EXTERNAL:
                gone |= _expunged(wanted, kind, body)
        shown.update(dict.fromkeys(gone, since))
        if gone or not tail_only:
            newest = gone
    shown.update(dict.fromkeys(newest, max(since, log.changed)))


def _expunged(wanted: set[int], kind: int, body: memoryview) -> set[int]:
    """Those of *wanted* that a record which has happened expunges."""
    if kind == RecordType.EXPUNGE_GUID:
        return wanted & {_U32.unpack_from(body, at)[0] for at in range(0, len(body) - 19, 20)}
    if kind != RecordType.EXPUNGE:
        return set()
    ranges = [_RANGE.unpack_from(body, at) for at in range(0, len(body) - 7, 8)]
    return {uid for uid in wanted if any(low <= uid <= high for low, high in ranges)}


async def expunges_of(index: IndexLog, uids: Collection[int]) -> dict[int, int]:
    """:func:`expunged_since` for a locked mailbox; empty where its logs can't be read.  A few operations."""
    disk, logs = index.disk, []
    for path in (index.log_path, index.log_path + ".2"):
        data, found = await disk.read_whole(path), await disk.stat(path)
        logs.append(LogBytes(data, found.st_mtime_ns) if data is not None and found is not None else None)
    log, older = logs
    try:
        return expunged_since(uids, log, older) if log is not None else {}
    except FormatError:
        return {}


def is_left_by_expunge(found: os.stat_result | None, uid: int, shown: dict[int, int]) -> bool:
    """Whether a file ``u.<uid>`` without a record is what an expunge left, and nothing that came later.

    :param found: the file's attributes.
    :param shown: what :func:`expunges_of` gave.
    """
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_ctime_ns < shown.get(uid, 0)


async def holds_messages(disk: Disk, directory: str) -> list[str]:
    """The paths of all message files in a directory and below it."""
    found = []
    for entry in sorted(await disk.listdir(directory), key=lambda entry: entry.name):
        path = os.path.join(directory, entry.name)
        if entry.is_dir:
            found += await holds_messages(disk, path)
        elif MESSAGE_FILE.fullmatch(entry.name):
            found.append(path)
    return found
