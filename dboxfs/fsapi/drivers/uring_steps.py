"""The operations of the ``uring`` driver, each a generator of entries for the ring.

A generator yields an entry (the arguments of :meth:`Ring.push` behind the tag; the first of them owns all
memory that the entry names), is sent the result (below 0: -errno), and returns the operation's answer or
raises its OSError.  Answers and errors are those of ``posix.py``.  A generator that is closed in the middle
closes the file that it has opened.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from typing import Any

from dboxfs.fsapi import ops
from dboxfs.fsapi.drivers import posix
from dboxfs.fsapi.drivers import uring_abi as abi
from dboxfs.fsapi.drivers.uring_abi import address_of, new_bytes
from dboxfs.fsapi.ops import Appended, Op, OpenedFile, os_error
from dboxfs.fsapi.types import Peek, PeekResult

Entry = tuple[Any, ...]
Steps = Generator[Entry, int, Any]

_AT_FDCWD = -100
_LARGE = 64 << 10
_MOST = 1 << 30


class ByThread(Exception):
    """The ring can't run this operation; a thread can.  The operation has had no effect yet."""


# -- entries ------------------------------------------------------------------------------------------------


def _name(path: str) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "embedded null byte", path)
    return name


def _check(result: int, path: str | None = None, target: str | None = None) -> int:
    if result < 0:
        if target is not None:
            raise OSError(-result, os.strerror(-result), path, None, target)
        raise OSError(-result, os.strerror(-result), path)
    return result


def _openat(path: str, flags: int, how: int = 0) -> Entry:
    name = _name(path)
    return name, abi.OPENAT, _AT_FDCWD, address_of(name), 0, 0, flags, how


def _two_names(opcode: int, source: str, target: str, flags: int = 0) -> Entry:
    names = _name(source), _name(target)
    at = _AT_FDCWD & 0xFFFFFFFF
    return names, opcode, _AT_FDCWD, address_of(names[0]), at, address_of(names[1]), flags


# -- operations ---------------------------------------------------------------------------------------------


def _open(op: ops.Open) -> Steps:
    flags = posix.APPEND_FLAGS if op.append else posix.READ_FLAGS
    flags |= os.O_NOFOLLOW if op.nofollow else 0
    # open_nowait has opened every cached path: don't try without waiting a second time.
    fd = _check((yield _openat(op.path, flags, abi.ASYNC)), op.path)
    try:
        status = os.fstat(fd)
        posix.check_regular(status, op.path)
        if op.advise:
            _check((yield _fadvise(fd, op.advise, 0)), op.path)
    except BaseException:
        os.close(fd)
        raise
    return OpenedFile(fd, status)


def _fadvise(fd: int, size: int, offset: int) -> Entry:
    # The kernel takes the length from ``addr``, or, where that is 0 (and before Linux 6.10), from ``len``.
    return None, abi.FADVISE, fd, 0, min(size, _MOST), offset, os.POSIX_FADV_WILLNEED


def _advise(op: ops.Advise) -> Steps:
    _check((yield _fadvise(op.fd, op.size, op.offset)))


def _read(op: ops.Read) -> Steps:
    return (yield from _read_range(op.fd, op.size, op.offset))


def _read_range(fd: int, size: int, offset: int) -> Steps:
    if size < 0 or offset < 0:
        raise os_error(errno.EINVAL)
    parts: list[bytes] = []
    got = 0
    while got < size:
        wanted = min(size - got, _MOST)
        data = new_bytes(wanted)
        flags = abi.ASYNC if wanted > _LARGE else 0
        count = yield data, abi.READ, fd, address_of(data), wanted, offset + got, 0, flags
        if count == -errno.EINTR:
            continue
        if count == -errno.EAGAIN:  # the file can be read neither without waiting nor by a kernel thread
            raise ByThread
        _check(count)
        parts.append(data if count == wanted else data[:count])
        got += count
        if not count:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _append(op: ops.Append) -> Steps:
    written = 0
    for chunk in op.chunks:
        done = 0
        while done < len(chunk):
            wanted = min(len(chunk) - done, _MOST)
            count = yield chunk, abi.WRITE, op.fd, address_of(chunk) + done, wanted, 0
            if count == -errno.EINTR:
                continue
            if count < 0:
                return Appended(written, os_error(-count))
            done += count
            written += count
    return Appended(written, None)


def _sync(op: ops.Sync) -> Steps:
    if os.fstat(op.fd).st_size != op.expected:
        raise os_error(errno.EBUSY)
    if op.durable:
        _check((yield None, abi.FSYNC, op.fd, 0, 0, 0, abi.FSYNC_DATASYNC))


def _publish(op: ops.Publish) -> Steps:
    flags = 0 if op.replace else posix.RENAME_NOREPLACE
    result = yield _two_names(abi.RENAMEAT, op.temporary, op.path, flags)
    if not op.replace and -result in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise ByThread
    _check(result, op.temporary, op.path)


def _sync_dir(op: ops.SyncDir) -> Steps:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = _check((yield _openat(op.path, flags)), op.path)
    try:
        _check((yield None, abi.FSYNC, fd), op.path)
    finally:
        os.close(fd)


def _close(op: ops.Close) -> Steps:
    _check((yield None, abi.CLOSE, op.fd))


def _rename(op: ops.Rename) -> Steps:
    _check((yield _two_names(abi.RENAMEAT, op.source, op.target)), op.source, op.target)


def _link(op: ops.Link) -> Steps:
    _check((yield _two_names(abi.LINKAT, op.source, op.target)), op.source, op.target)


def _unlink(op: ops.Unlink) -> Steps:
    name = _name(op.path)
    _check((yield name, abi.UNLINKAT, _AT_FDCWD, address_of(name)), op.path)


def _peek_many(op: ops.PeekMany) -> Steps:
    answers: list[PeekResult | OSError] = []
    for request in op.requests:
        try:
            answers.append((yield from _peek(request)))
        except OSError as error:
            answers.append(error)
    return answers


def _peek(request: Peek) -> Steps:
    flags = posix.READ_FLAGS | os.O_NOFOLLOW if request.nofollow else posix.READ_FLAGS
    fd = _check((yield _openat(request.path, flags)), request.path)
    try:
        status = os.fstat(fd)
        posix.check_regular(status, request.path)
        chunks = []
        for offset, size in request.ranges:
            chunks.append((yield from _peek_range(fd, offset, size, status.st_size, request.limit)))
        return PeekResult(status, tuple(chunks))
    finally:
        os.close(fd)


def _peek_range(fd: int, offset: int, size: int | None, file_size: int, limit: int) -> Steps:
    if offset < 0:
        offset = max(0, file_size + offset)
    if size is not None:
        return (yield from _read_range(fd, min(size, limit), offset))
    expected = max(0, file_size - offset)
    data = yield from _read_range(fd, min(expected + 1, limit), offset)
    while len(data) == expected + 1 and len(data) < limit:  # the file grows meanwhile
        expected += 1 << 16
        data += yield from _read_range(fd, min(expected + 1, limit) - len(data), offset + len(data))
    return data


STEPS: dict[type[Op[Any]], Callable[[Any], Steps]] = {
    ops.Open: _open,
    ops.Read: _read,
    ops.Advise: _advise,
    ops.Append: _append,
    ops.Sync: _sync,
    ops.Publish: _publish,
    ops.SyncDir: _sync_dir,
    ops.Close: _close,
    ops.PeekMany: _peek_many,
    ops.Rename: _rename,
    ops.Link: _link,
    ops.Unlink: _unlink,
}
