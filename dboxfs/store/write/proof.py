"""The proof that is needed before a file with a message may be removed (PROTOCOL section 12).

A whole message is removed for one reason only: the log of its mailbox shows that it was expunged.  That the
index has no record of a file ``u.N`` proves nothing: the index may be older than the file, created again, or
of another place, and a user may have put the file back.

:func:`expunges_of` reads from ``.log`` and ``.log.2`` which uids were expunged, and for each the earliest
time that the expunge can have had (``index.expunges``).  A file with an older ctime was left by the expunge.
A file that was made, renamed or linked later (its ctime) was put there by another process, and stays.

:func:`holds_messages` looks for message files in a directory that is about to be removed as a whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from dboxfs.errors import FormatError
from dboxfs.index.expunges import LogBytes, expunged_since
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.log import IndexLog

MESSAGE_FILE = re.compile(r"[um]\.[0-9]+(\.broken.*)?")
"""Names of files that hold messages: ``u.N``, ``m.N``, and the copies that Dovecot's repair keeps of them."""


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
