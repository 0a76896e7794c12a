"""The expunges that the log of a mailbox shows, and when they can have been at the earliest.

Logs have no times in them.  But the mtime of a log says when it was written last, by the same clock as the
ctime of message files: the file system's.  It is the time of the log's last transaction, and all transactions
of the next log are later.  If no time is known, it is 0.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Mapping

from msgspec import Struct

from dboxfs.index.log import (
    EXTERNAL,
    RECORD_HEADER_SIZE,
    RecordType,
    iter_transactions,
    parse_log_header,
    record_kind,
)

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
                for low, high in expunged(kind, body):
                    gone |= {low} & wanted if low == high else {uid for uid in wanted if low <= uid <= high}
        shown.update(dict.fromkeys(gone, since))
        if gone or not tail_only:
            newest = gone
    shown.update(dict.fromkeys(newest, max(since, log.changed)))


def expunged(kind: int, body: memoryview) -> list[tuple[int, int]]:
    """The uids that an external record expunges, as ranges of (first, last); empty for other records."""
    if kind == RecordType.EXPUNGE_GUID:
        uids = [_U32.unpack_from(body, at)[0] for at in range(0, len(body) - 19, 20)]
        return [(uid, uid) for uid in uids]
    if kind != RecordType.EXPUNGE:
        return []
    return [_RANGE.unpack_from(body, at) for at in range(0, len(body) - 7, 8)]


def is_left_by_expunge(found: os.stat_result | None, uid: int, shown: Mapping[int, int]) -> bool:
    """Whether an expunge left the file ``u.<uid>``, which has no record; False: the file may have come later.

    :param found: the file's attributes.
    :param shown: the result of :func:`expunged_since`.
    """
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_ctime_ns < shown.get(uid, 0)
