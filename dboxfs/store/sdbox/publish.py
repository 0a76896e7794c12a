"""New files get their names, and the log their records, as one job of a worker (PROTOCOL section 3, 3a to 7).

Nothing is decided in between as long as every name is free: the note, the names, the directory, the log, the
note again, and the lock.  A name that is taken ends the job before the log: the uids behind it change, and
the records with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.store.indexes.in_turn import InTurn, LogWrite, as_durable_as_commits, take_over, write_in_turn
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.indexes.snapshot import is_due_behind
from dboxfs.store.write_options import LockMethod


@dataclass(frozen=True, slots=True)
class Publishing:
    """New files of one directory, and what follows.

    :param first: what is done before they get their names; it gets the attributes of the files.
    :param durable: wait for the disk.
    :param log: what the log gets behind that; None: nothing yet.
    :param close: descriptors that are closed at the end, if all of it has worked.
    """

    batch: Sequence[ops.Publish]
    directory: str
    first: Callable[[list[os.stat_result]], Steps[None]]
    durable: bool
    log: LogWrite | None = None
    close: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """What became of it.

    ``errors``: of each name, None if the file has it.  ``written``: what became of the log; None: it is as it
    was.
    """

    errors: list[OSError | None]
    written: InTurn | None = None


def publish_steps(what: Publishing) -> Steps[Published]:
    """Give files their names, and make those durable if all of it worked; then write the log.

    :raises OSError: the names could not be made durable, and the log is as it was.
    """
    found = []
    for op in what.batch:
        found.append((yield ops.Stat(op.temporary, follow=False)))
    yield from what.first(found)
    errors: list[OSError | None] = []
    for op in what.batch:
        try:
            yield op
        except OSError as error:
            errors.append(error)
        else:
            errors.append(None)
    if any(errors):
        return Published(errors)
    if what.durable:
        yield ops.SyncDir(what.directory)
    if what.log is None:
        return Published(errors)
    return Published(errors, (yield from write_in_turn([what.log], what.close)))


async def publish_and_write(index: IndexLog, what: Publishing, write: LogWrite) -> Published:
    """All that is left of a commit, if all names are free: the names, the log, and the lock is given back.

    The lock is kept where it is more than an open file, and where the index is about to be made smaller.

    :raises OSError: as :func:`publish_steps`.
    """
    disk = index.disk
    options = disk.options
    keeps = options.lock_method is LockMethod.DOTLOCK or (
        options.alone and is_due_behind(index, len(write.data))
    )
    close = [] if keeps else [index.file]
    (log,) = as_durable_as_commits(disk, [write])
    what = replace(what, log=log, close=[file.fd for file in close])
    done = await disk.chain(partial(publish_steps, what))
    if done.written is not None:
        take_over(disk, [write], done.written, close)
    return done
