"""Remove temporary files of killed processes at once, if it is sure that the process is gone.

Dovecot's clean-up, and :mod:`~dboxfs.store.write.maintain`, wait 36 hours.  This module removes only files
whose name proves that their process is gone (:mod:`dboxfs.fsapi.temporary`): for instance an upload of a
killed daemon, which can never be committed.  No lock is needed: no other process uses such a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from dboxfs.fsapi import ops
from dboxfs.fsapi.temporary import PREFIX, Process, booted, is_left_over
from dboxfs.store.write.session import Work

log = logging.getLogger(__name__)


async def sweep(work: Work, names: Iterable[str], more: Iterable[str] = ()) -> int:
    """Remove left-over files; gives their number.

    :param names: storage names of all mailboxes.
    :param more: further directories to look into.
    """
    location = work.location
    directories = {*more, location.root, location.control_dir, location.index or location.root}
    for name in names:
        directories |= {location.mailbox_path(name), location.index_path(name)}
    if work.mdbox:
        directories |= {location.storage, location.map_dir}
    here, since = Process.this(), booted()
    removed = 0
    for directory in sorted(directories):
        try:
            entries = await work.disk.run(ops.Listdir(directory, PREFIX))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            log.warning("%s: not looked at for left-over files: %s", directory, error.strerror)
            continue
        for entry in entries:
            path = os.path.join(directory, entry.name)
            found = None if entry.is_dir else await work.disk.stat(path)
            if found is not None and is_left_over(entry.name, found, here, since):
                removed += await _remove(work, path)
    if removed:
        log.info("%d temporary files of a process that was killed were removed", removed)
    return removed


async def _remove(work: Work, path: str) -> bool:
    try:
        return await work.disk.unlink(path)
    except OSError as error:
        log.warning("%s: could not be removed: %s", path, error.strerror)
        return False
