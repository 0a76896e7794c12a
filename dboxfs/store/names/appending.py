"""Lines are appended to a file of names, by one job of a worker where no other process has the lock."""

from __future__ import annotations

import os

from msgspec import Struct

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import LockKind, OpenedFile, OpenShared, TryLock
from dboxfs.store.disk import check_appended
from dboxfs.store.names.read import Seen


class LinesAppended(Struct, frozen=True):
    """The result of :func:`append_steps`: the file, and the bytes ``before`` that it had behind ``seen``.

    ``appended``: False: another process has written meanwhile, and nothing was appended.
    """

    status: os.stat_result
    seen: Seen
    before: bytes
    appended: bool = True


def append_steps(
    path: str, kind: LockKind, seen: Seen, known: Seen, data: bytes, *, durable: bool
) -> Steps[LinesAppended | None]:
    """Lock the file, read new lines, cut off a torn end, append *data*, sync; None: the file is locked.

    :param known: the state that *data* was decided on: if the file has changed since, nothing is appended.
    :raises FileNotFoundError: there is no file.
    :raises OSError: the file is unchanged, but for a torn end.
    """
    opened: OpenedFile = yield OpenShared(path)
    fd = opened.fd
    try:
        if not (yield TryLock(fd, kind)):
            return None
        status: os.stat_result = yield ops.Stat(path, follow=False)
        if (status.st_dev, status.st_ino) != (opened.stat.st_dev, opened.stat.st_ino):
            return None
        size = status.st_size
        before: bytes | None = None
        if seen.end <= size and seen.end:
            before = seen.behind(status, (yield ops.Read(fd, size - seen.start, seen.start)))
        if before is None:
            seen = Seen((status.st_dev, status.st_ino))
            before = (yield ops.Read(fd, size, 0)) if size else b""
        if seen.end + len(before) < size:
            return None
        now = seen.after(before)
        whole = now.end
        if known.has_grown(now):
            return LinesAppended(status, seen, before, appended=False)
        if size > whole:
            yield ops.Truncate(fd, whole, size)
        written = 0
        try:
            answer: ops.Appended = yield ops.Append(fd, (data,))
            written = answer.written
            check_appended(answer, len(data), path)
            if durable:
                yield ops.Sync(fd, whole + len(data))
        except OSError:
            yield ops.Truncate(fd, whole, whole + written)
            raise
        return LinesAppended(status, seen, before)
    finally:
        yield ops.Close(fd)
