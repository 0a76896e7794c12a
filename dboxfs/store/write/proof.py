"""The proof that is needed before a file with a message may be removed (PROTOCOL section 12).

A whole message is removed for one reason only: the log of its mailbox shows that it was expunged.  That the
index has no record of a file ``u.N`` proves nothing: the index may be older than the file, created again, or
of another place, and a user may have put the file back.

:func:`expunged_since` reads from ``.log`` and ``.log.2`` which uids were expunged, and for each the earliest
time that the expunge can have had.  A file with an older ctime was left by the expunge.  A file that was
made, renamed or linked later (its ctime) was put there by another process, and stays.

Logs have no times in them.  But the mtime of a log says when it was written last, by the same clock as the
ctime of message files: the file system's.  It is the time of the log's last transaction, and all transactions
of the next log are later.  If no time is known, it is 0, and every file stays.

:func:`holds_messages` looks for message files in a directory that is about to be removed as a whole.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Collection

from msgspec import Struct

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
"""Names of files that hold messages: ``u.N``, ``m.N``, and the copies that Dovecot's repair keeps of them."""

_U32 = struct.Struct("<I")
_RANGE = struct.Struct("<II")


class LogBytes(Struct, frozen=True):
    """A whole log file.  ``changed``: when it was written last (its mtime, ns)."""

    data: bytes
    changed: int


def expunged_since(uids: Collection[int], log: LogBytes, older: LogBytes | None = None) -> dict[int, int]:
    """Those of *uids* that the logs show as expunged and not as appended again, with the earliest time (ns)
    of the expunge.

    :param log: ``dovecot.index.log``.
    :param older: ``dovecot.index.log.2``; only used if *log* is its successor.
    :raises FormatError: a log is damaged, so nothing is proven.
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
    """Those of *wanted* that an external record expunges."""
    if kind == RecordType.EXPUNGE_GUID:
        return wanted & {_U32.unpack_from(body, at)[0] for at in range(0, len(body) - 19, 20)}
    if kind != RecordType.EXPUNGE:
        return set()
    ranges = [_RANGE.unpack_from(body, at) for at in range(0, len(body) - 7, 8)]
    return {uid for uid in wanted if any(low <= uid <= high for low, high in ranges)}


async def expunges_of(index: IndexLog, uids: Collection[int]) -> dict[int, int]:
    """:func:`expunged_since` for a locked mailbox; empty if its logs can't be read.  It takes a few
    operations.
    """
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
    """Whether an expunge left the file ``u.<uid>``, which has no record; False: the file may have come later.

    :param found: the file's attributes.
    :param shown: the result of :func:`expunges_of`.
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
