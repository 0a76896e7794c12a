"""Small records at the end of the newest ``m.N``, as one job of a worker (PROTOCOL section 4, steps 1 and 2).

Most groups of saves go into the file of the group before, which no other process has changed since.  Then
there is nothing to decide between opening and syncing the file.  The job checks every condition that
:mod:`dboxfs.store.mdbox.placement` has for a file.  If one does not hold, the job writes nothing, and the
caller does the same with separate operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from dboxfs.dbox import MESSAGE_HEADER_SIZE, FileHeader, parse_file_header
from dboxfs.errors import FormatError
from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import Appended, LockKind, OpenedFile, OpenShared, TryLock
from dboxfs.store.disk import check_appended
from dboxfs.store.stored_record import FILE_HEAD
from dboxfs.store.write.record import Composed, Place


class NewestFile(Struct, frozen=True):
    """The file, as the map has it.

    :param end: the end of the file by the map (bytes).
    :param version: the dbox version that is written.
    :param map_log: the path of the map's log; *map_mark*: device, inode and size (bytes) up to which it was
        read.
    :param durable: sync the appended bytes.
    """

    path: str
    file_id: int
    end: int
    version: int
    map_log: str
    map_mark: tuple[int, int, int]
    durable: bool


class Placing(Struct, frozen=True):
    """The locked file and the append to it: *written* bytes, records of these *sizes*; or an error."""

    opened: OpenedFile
    key: bytes | None
    sizes: Sequence[int]
    written: int
    error: OSError | None


def append_to_newest(
    target: NewestFile, batch: Sequence[Composed], first: Callable[[], Steps[None]]
) -> Steps[Placing | None]:
    """Run *first*, then append records durably with one write; the file stays open and locked.

    None: the file or the map has changed, or another process has locked the file; nothing was written.

    :raises OSError: of *first*; nothing was written.
    """
    try:
        opened: OpenedFile = yield OpenShared(target.path)
    except FileNotFoundError:
        return None  # in the alternative storage, or purged meanwhile
    taken = False
    try:
        header = (
            (yield from _header_of(target, opened)) if (yield TryLock(opened.fd, LockKind.FLOCK)) else None
        )
        if header is None or not is_good(header, target.version):
            return None
        records = _encode(batch, target.end, header.key)
        yield from first()
        taken = True
        written, error = yield from _append(target, opened.fd, b"".join(records))
        return Placing(opened, header.key, [len(record) for record in records], written, error)
    finally:
        if not taken:
            yield ops.Close(opened.fd)


def is_good(header: FileHeader, version: int) -> bool:
    """Whether records of this dbox version may be appended to a file with this header line."""
    return header.version == version and (version == 3 or header.message_header_size == MESSAGE_HEADER_SIZE)


def _header_of(target: NewestFile, opened: OpenedFile) -> Steps[FileHeader | None]:
    """The header line of the locked file; None: the file or the map has changed."""
    try:
        now = yield ops.Stat(target.path, follow=False)
        mapped = yield ops.Stat(target.map_log, follow=False)
    except FileNotFoundError:
        return None
    if (now.st_dev, now.st_ino, now.st_size) != (opened.stat.st_dev, opened.stat.st_ino, target.end):
        return None
    if (mapped.st_dev, mapped.st_ino, mapped.st_size) != target.map_mark:
        return None
    try:
        header = parse_file_header((yield ops.Read(opened.fd, FILE_HEAD, 0)))
    except FormatError:
        return None
    return header if isinstance(header, FileHeader) else None


def _encode(batch: Sequence[Composed], offset: int, key: bytes | None) -> list[bytes]:
    records = []
    for composed in batch:
        records.append(composed.encode(Place(offset, key)))
        offset += len(records[-1])
    return records


def _append(target: NewestFile, fd: int, data: bytes) -> Steps[tuple[int, OSError | None]]:
    """The bytes written, and the error: then the records may be incomplete or not durable."""
    written = 0
    try:
        answer: Appended = yield ops.Append(fd, (data,))
        written = answer.written
        check_appended(answer, len(data), target.path)
        if target.durable:
            yield ops.Sync(fd, target.end + written)
    except OSError as error:
        return written, error
    return written, None
