"""Transactions for several locked logs, one after the other, as one job of a worker (PROTOCOL section 4).

A change of an mdbox writes the map, the mailboxes, and then the map's tail; each write is durable before the
next begins.  As long as no write fails, there is nothing to decide in between.  So all writes are one chain
(:mod:`dboxfs.fsapi.chain`), which releases the locks at its end.  An error ends the chain: no later write has
begun, all locks are held, and the caller undoes earlier writes as needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import Struct, field

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended
from dboxfs.store.disk import AppendFile, Disk


class LogWrite(Struct, frozen=True):
    """Bytes for the end of a locked log.

    :param end: the end of the log before the write (bytes).
    :param durable: sync the log after the write.
    :param unlink: paths of notes to remove after the write.
    """

    file: AppendFile
    data: bytes
    end: int
    durable: bool = False
    unlink: Sequence[str] = ()


class LogWritten(Struct):
    """The result of a :class:`LogWrite` that was begun.

    ``appended``: the bytes that are in the log.  ``unsynced``: the error of the sync.  ``status``: the log's
    attributes after the write; None: its name means another file.
    """

    appended: Appended
    status: os.stat_result | None = None
    unsynced: OSError | None = None


class Afterwards(Struct, frozen=True):
    """Steps that follow the writes of a job, if all of them have worked and the locks are released.

    :param over: called on the event loop with the answer of the steps, or None if they have failed; not
        called if they did not run.
    """

    steps: Callable[[], Steps[object]]
    over: Callable[[object], None]


class InTurn(Struct):
    """The results of several writes: those that were begun; the last one may have failed.

    ``afterwards``: the answers of the :class:`Afterwards`.
    """

    begun: list[LogWritten] = field(default_factory=list)
    closed: int = 0
    lost_errors: int = 0
    afterwards: list[object] = field(default_factory=list)


def write_in_turn(
    writes: Sequence[LogWrite], close: Sequence[int] = (), afterwards: Sequence[Afterwards] = ()
) -> Steps[InTurn]:
    """Carry out the writes one after the other; if all have worked, close open files, and go on.

    :param close: descriptors, in the order in which their locks are released.
    """
    done = InTurn()
    for write in writes:
        try:
            appended: Appended = yield ops.Append(write.file.fd, (write.data,))
        except OSError as error:  # the results of earlier writes must not get lost
            appended = Appended(0, error)
        written = LogWritten(appended)
        done.begun.append(written)
        if appended.error is not None or appended.written != len(write.data):
            return done
        with suppress(OSError):  # a directory above was renamed: the path does not lead to the file
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
    for more in afterwards:
        answer: object = None
        with suppress(OSError):  # the caller does the same again, and gets the error
            answer = yield from more.steps()
        done.afterwards.append(answer)
    return done


def first_and_last(writes: Sequence[LogWrite], done: InTurn) -> tuple[LogWrite, LogWritten] | None:
    """The first and the last write, both to one log, as one; None: not all writes were carried out."""
    first, last, written = writes[0], writes[-1], done.begun[-1]
    if len(done.begun) < len(writes) or written.appended != Appended(len(last.data), None):
        return None
    size = len(first.data) + len(last.data)
    joined = LogWrite(first.file, first.data + last.data, first.end, first.durable)
    return joined, LogWritten(Appended(size, None), written.status, written.unsynced)


async def run_in_turn(
    disk: Disk,
    writes: Sequence[LogWrite],
    close: Sequence[AppendFile] = (),
    afterwards: Sequence[Afterwards] = (),
) -> InTurn:
    """:func:`write_in_turn` as one job, with the files updated; it syncs only if commits do."""
    planned, descriptors = as_durable_as_commits(disk, writes), [file.fd for file in close]
    done = await disk.chain(lambda: write_in_turn(planned, descriptors, afterwards))
    take_over(disk, writes, done, close, afterwards)
    return done


def as_durable_as_commits(disk: Disk, writes: Sequence[LogWrite]) -> Sequence[LogWrite]:
    """The writes, with a sync only if commits do."""
    if disk.options.durable:
        return writes
    return [LogWrite(w.file, w.data, w.end, durable=False, unlink=w.unlink) for w in writes]


def take_over(
    disk: Disk,
    writes: Sequence[LogWrite],
    done: InTurn,
    close: Sequence[AppendFile],
    afterwards: Sequence[Afterwards] = (),
) -> None:
    """Update the files with the results of a job, and tell of what came afterwards."""
    disk.lost_errors += done.lost_errors
    for write, written in zip(writes, done.begun, strict=False):
        write.file.took(written.appended.written, written.status)
    for file in close[: done.closed]:
        file.was_closed()
    for more, answer in zip(afterwards, done.afterwards, strict=False):
        more.over(answer)
