"""Give new files their names, and the log their records, as one job of a worker (PROTOCOL section 3, 3a to
7).

As long as every name is free, the steps need no decision: the note, the names, the directory, the log, the
note again, and the lock.  If a name is taken, the job ends before the log, since the uids of the files and
their records have to change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.store.indexes.in_turn import (
    Afterwards,
    InTurn,
    LogWrite,
    as_durable_as_commits,
    take_over,
    write_in_turn,
)
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.indexes.snapshot import is_due_behind
from dboxfs.store.write_options import LockMethod


class Publishing(Struct, frozen=True):
    """New files of one directory, and the steps that follow.

    :param first: steps before the files get their names; called with the attributes of the files.
    :param durable: sync the directory before the log is written.
    :param log: the write to the log after that; None: the log is not written yet.
    :param close: descriptors that are closed at the end, if all steps have worked.
    :param afterwards: steps behind that.
    """

    batch: Sequence[ops.Publish]
    directory: str
    first: Callable[[list[os.stat_result]], Steps[None]]
    durable: bool
    log: LogWrite | None = None
    close: Sequence[int] = ()
    afterwards: Sequence[Afterwards] = ()


class Published(Struct, frozen=True):
    """Result of a :class:`Publishing`.

    ``errors``: one for each name, None if the file has its name.  ``written``: the result of the write to the
    log; None: the log was not written.
    """

    errors: list[OSError | None]
    written: InTurn | None = None


def publish_steps(what: Publishing) -> Steps[Published]:
    """Give files their names and make the names durable, if all of them were free; then write the log.

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
    return Published(errors, (yield from write_in_turn([what.log], what.close, what.afterwards)))


async def publish_and_write(
    index: IndexLog,
    what: Publishing,
    write: LogWrite,
    afterwards: Sequence[Afterwards] = (),
    *,
    keep_lock: bool = False,
) -> Published:
    """Carry out the rest of a commit, if all names are free: the names, the log, and the release of the lock.

    The lock stays held if it is a dotlock, or if the index is about to be made smaller.

    :param afterwards: steps behind the write.
    :param keep_lock: the lock stays held in any case.
    :raises OSError: as :func:`publish_steps`.
    """
    disk = index.disk
    options = disk.options
    keeps = (
        keep_lock
        or options.lock_method is LockMethod.DOTLOCK
        or (options.alone and is_due_behind(index, len(write.data)))
    )
    close = [] if keeps else [index.file]
    (log,) = as_durable_as_commits(disk, [write])
    what = replace(what, log=log, close=[file.fd for file in close], afterwards=afterwards)
    done = await disk.chain(partial(publish_steps, what))
    if done.written is not None:
        take_over(disk, [write], done.written, close, what.afterwards)
    return done
