"""Transactions for several locked logs, one after the other, as one job of a worker (PROTOCOL section 4).

A change of an mdbox writes the map, the mailboxes, and then the map's tail, each durable before the next
begins.  Nothing is decided in between as long as all goes well, so the whole order is one chain
(:mod:`dboxfs.fsapi.chain`), at whose end the locks are given back.  What fails ends the chain: nothing
behind it has begun, all locks are held, and the caller takes back what has to be taken back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended
from dboxfs.store.disk import AppendFile, Disk


@dataclass(frozen=True, slots=True)
class LogWrite:
    """Bytes for the end of a locked log.

    :param end: where the log ends before it (bytes).
    :param durable: wait for the disk behind it.
    :param unlink: paths of notes that count for nothing once it is done.
    """

    file: AppendFile
    data: bytes
    end: int
    durable: bool = False
    unlink: Sequence[str] = ()


@dataclass(slots=True)
class LogWritten:
    """What became of a :class:`LogWrite` that was begun.

    ``appended``: how much of it is in the log.  ``unsynced``: why it may not be on disk.  ``status``: the
    log's attributes since then, None if its name means another file.
    """

    appended: Appended
    status: os.stat_result | None = None
    unsynced: OSError | None = None


@dataclass(slots=True)
class InTurn:
    """What became of several writes: those that were begun, the last of which may have failed."""

    begun: list[LogWritten] = field(default_factory=list)
    closed: int = 0
    lost_errors: int = 0


def write_in_turn(writes: Sequence[LogWrite], close: Sequence[int] = ()) -> Steps[InTurn]:
    """Write one after the other; if all of it has worked, close open files.

    :param close: descriptors, in the order in which their locks are given back.
    """
    done = InTurn()
    for write in writes:
        try:
            appended: Appended = yield ops.Append(write.file.fd, (write.data,))
        except OSError as error:  # what was done before it must be told
            appended = Appended(0, error)
        written = LogWritten(appended)
        done.begun.append(written)
        if appended.error is not None or appended.written != len(write.data):
            return done
        with suppress(OSError):  # a directory above it was renamed: nobody looks there for this file
            status: os.stat_result = yield ops.Stat(write.file.path, follow=False)
            written.status = status if (status.st_dev, status.st_ino) == write.file.identity else None
        if write.durable:
            try:
                yield ops.Sync(write.file.fd, write.end + len(write.data))
            except OSError as error:
                written.unsynced = error
                return done
        for path in write.unlink:
            try:
                yield ops.Unlink(path)
            except OSError:
                done.lost_errors += 1
    for fd in close:
        done.closed += 1
        try:
            yield ops.Close(fd)
        except OSError:
            done.lost_errors += 1
    return done


async def run_in_turn(disk: Disk, writes: Sequence[LogWrite], close: Sequence[AppendFile] = ()) -> InTurn:
    """:func:`write_in_turn`, and what the files know of it; syncs only where commits do."""
    planned, descriptors = as_durable_as_commits(disk, writes), [file.fd for file in close]
    done = await disk.chain(lambda: write_in_turn(planned, descriptors))
    take_over(disk, writes, done, close)
    return done


def as_durable_as_commits(disk: Disk, writes: Sequence[LogWrite]) -> Sequence[LogWrite]:
    """The writes, waiting for the disk only where commits do."""
    if disk.options.durable:
        return writes
    return [LogWrite(w.file, w.data, w.end, durable=False, unlink=w.unlink) for w in writes]


def take_over(disk: Disk, writes: Sequence[LogWrite], done: InTurn, close: Sequence[AppendFile]) -> None:
    """Have the files know what a job has done with them."""
    disk.lost_errors += done.lost_errors
    for write, written in zip(writes, done.begun, strict=False):
        write.file.took(written.appended.written, written.status)
    for file in close[: done.closed]:
        file.was_closed()
