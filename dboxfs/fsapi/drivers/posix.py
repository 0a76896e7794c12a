"""The operations of :mod:`dboxfs.fsapi.ops` as system calls.  Everything here may block: workers call it.

Rules for every call: descriptors are close-on-exec; no call overwrites bytes; a new file is made with O_EXCL
and O_NOFOLLOW; a file gets its final name by one atomic step.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat as stat_module
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Chain, execute_chain
from dboxfs.fsapi.drivers.acting import acting_as
from dboxfs.fsapi.drivers.base import peek_each
from dboxfs.fsapi.drivers.posix_copy import copy_range
from dboxfs.fsapi.ops import Appended, Op, OpenedFile, os_error
from dboxfs.fsapi.types import DirEntry, Peek, PeekResult, Permissions

R = TypeVar("R")

_IOV_MAX, _AT_FDCWD = 1024, -100
RENAME_NOREPLACE = 1
_libc = ctypes.CDLL(None, use_errno=True)

# O_NONBLOCK: opening a FIFO that lies in a mailstore must not wait for a writer; regular files ignore it.
READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
APPEND_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
# struct flock: l_type, l_whence, l_start, l_len, l_pid (0 is demanded); start 0 and length 0: the whole file
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_NO_LOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
_HELD = (errno.EAGAIN, errno.EACCES)


def execute(op: Op[R]) -> R:
    """Run one operation and return its answer; OSError: as the system raises it."""
    result: R = _CALLS[type(op)](op)
    return result


def dispose(job: ops.Job[Any]) -> None:
    """Close the file that a job has opened whose caller is gone."""
    if isinstance(job.result, OpenedFile):
        os.close(job.result.fd)


def check_regular(status: os.stat_result, path: str) -> None:
    """Refuse files that are not regular: EISDIR for a directory, ESPIPE for a FIFO or a device."""
    if not stat_module.S_ISREG(status.st_mode):
        directory = stat_module.S_ISDIR(status.st_mode)
        raise os_error(errno.EISDIR if directory else errno.ESPIPE, path)


def _open(op: ops.Open) -> OpenedFile:
    flags = APPEND_FLAGS if op.append else READ_FLAGS
    fd = os.open(op.path, flags | os.O_NOFOLLOW if op.nofollow else flags)
    try:
        status = os.fstat(fd)
        check_regular(status, op.path)
        if op.advise:
            os.posix_fadvise(fd, 0, op.advise, os.POSIX_FADV_WILLNEED)
    except BaseException:
        os.close(fd)
        raise
    return OpenedFile(fd, status)


def _create(op: ops.Create) -> OpenedFile:
    fd = os.open(op.path, _CREATE_FLAGS, op.permissions.mode & 0o700)
    try:
        _set_permissions(fd, op.permissions)
        return OpenedFile(fd, os.fstat(fd))
    except BaseException:
        os.close(fd)
        os.unlink(op.path)
        raise


def _set_permissions(fd: int, permissions: Permissions) -> None:
    uid = -1 if permissions.uid is None else permissions.uid
    gid = -1 if permissions.gid is None else permissions.gid
    if (uid, gid) != (-1, -1):
        os.fchown(fd, uid, gid)
    os.fchmod(fd, permissions.mode)


def _read(op: ops.Read) -> bytes:
    return _pread(op.fd, op.size, op.offset)


def _pread(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if not data or len(data) == size:
        return data
    parts = [data]
    got = len(data)
    while data and got < size:
        data = os.pread(fd, size - got, offset + got)
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _advise(op: ops.Advise) -> None:
    os.posix_fadvise(op.fd, op.offset, op.size, os.POSIX_FADV_WILLNEED)


def _append(op: ops.Append) -> Appended:
    views = [memoryview(chunk) for chunk in op.chunks if chunk]
    written = 0
    try:
        while views:
            count = os.writev(op.fd, views[:_IOV_MAX])
            written += count
            while count:
                if count < len(views[0]):
                    views[0] = views[0][count:]
                    break
                count -= len(views.pop(0))
    except OSError as error:
        return Appended(written, error)
    return Appended(written, None)


def _truncate(op: ops.Truncate) -> None:
    size = os.fstat(op.fd).st_size
    if size > op.expected:
        raise os_error(errno.EBUSY)
    if size > op.size:
        os.ftruncate(op.fd, op.size)


def _sync(op: ops.Sync) -> None:
    if os.fstat(op.fd).st_size != op.expected:
        raise os_error(errno.EBUSY)
    if op.durable:
        os.fdatasync(op.fd)


def _publish(op: ops.Publish) -> None:
    if op.replace:
        os.rename(op.temporary, op.path)
        return
    try:
        _rename_noreplace(op.temporary, op.path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        os.link(op.temporary, op.path)
        os.unlink(op.temporary)


def _rename_noreplace(source: str, target: str) -> None:
    """renameat2 with RENAME_NOREPLACE; EINVAL or ENOSYS if the file system or the C library has none."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise os_error(errno.ENOSYS, source)
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source, None, target)


def _sync_dir(op: ops.SyncDir) -> None:
    fd = os.open(op.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _close(op: ops.Close) -> None:
    os.close(op.fd)


def _stat(op: ops.Stat) -> os.stat_result:
    return os.stat(op.path, follow_symlinks=op.follow)


def _listdir(op: ops.Listdir) -> list[DirEntry]:
    with os.scandir(op.path) as entries:
        return [
            DirEntry(entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink())
            for entry in entries
            if entry.name.startswith(op.prefix)
        ]


def _readlink(op: ops.Readlink) -> str:
    return os.readlink(op.path)


def _statvfs(op: ops.Statvfs) -> os.statvfs_result:
    return os.statvfs(op.path)


def _peek_many(op: ops.PeekMany) -> list[PeekResult | OSError]:
    return peek_each(op.requests, _peek)


def _peek(request: Peek) -> PeekResult:
    fd = os.open(request.path, READ_FLAGS | os.O_NOFOLLOW if request.nofollow else READ_FLAGS)
    try:
        status = os.fstat(fd)
        check_regular(status, request.path)
        return PeekResult(
            status, tuple(_peek_range(fd, item, status.st_size, request.limit) for item in request.ranges)
        )
    finally:
        os.close(fd)


def _peek_range(fd: int, wanted: tuple[int, int | None], file_size: int, limit: int) -> bytes:
    offset, size = wanted
    if offset < 0:
        offset = max(0, file_size + offset)
    if size is None:
        return _read_to_end(fd, offset, max(0, file_size - offset), limit)
    return _pread(fd, min(size, limit), offset)


def _read_to_end(fd: int, offset: int, expected: int, limit: int) -> bytes:
    """Up to ``limit`` bytes to the end of the file, which may grow meanwhile."""
    data = os.pread(fd, min(expected + 1, limit), offset)
    if len(data) == expected:  # all that it had, and there is no more
        return data
    if len(data) < min(expected, limit):
        data += _pread(fd, min(expected + 1, limit) - len(data), offset + len(data))
    while len(data) == expected + 1 and len(data) < limit:
        expected += 1 << 16
        data += _pread(fd, min(expected + 1, limit) - len(data), offset + len(data))
    return data


def _willneed_many(op: ops.WillneedMany) -> None:
    for path, size in op.files:
        try:
            fd = os.open(path, READ_FLAGS | os.O_NOFOLLOW)
        except (OSError, ValueError):
            continue  # the reader's own open gets the error
        try:
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def _rename(op: ops.Rename) -> None:
    os.rename(op.source, op.target)


def _link(op: ops.Link) -> None:
    os.link(op.source, op.target, follow_symlinks=False)


def _unlink(op: ops.Unlink) -> None:
    os.unlink(op.path)


def _mkdir(op: ops.Mkdir) -> None:
    mode = op.permissions.mode & 0o700
    try:
        # a Dovecot that looks into every new directory may do so at once
        with acting_as(op.permissions.uid, op.permissions.gid):
            os.mkdir(op.path, mode)
    except PermissionError:  # the owner may not make it here, but root may
        os.mkdir(op.path, mode)
    try:
        _give(op.path, op.permissions)
    except BaseException:
        os.rmdir(op.path)
        raise


def _give(path: str, permissions: Permissions) -> None:
    """Set owner and mode of a new directory, and of none that a link leads to which has taken its place."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _set_permissions(fd, permissions)
    finally:
        os.close(fd)


def _rmdir(op: ops.Rmdir) -> None:
    os.rmdir(op.path)


def _as_owner(op: ops.AsOwner[R]) -> R:
    with acting_as(op.uid, op.gid):
        return execute(op.op)


def _chain(op: Chain[R]) -> R:
    return execute_chain(op, execute)


# -- files that other programs write too --------------------------------------------------------------------


def _open_shared(op: ops.OpenShared) -> OpenedFile:
    fd = os.open(op.path, _SHARED_FLAGS)
    try:
        status = os.fstat(fd)
        check_regular(status, op.path)
        return OpenedFile(fd, status)
    except BaseException:
        os.close(fd)
        raise


def _try_lock(op: ops.TryLock | ops.AppendLocked) -> bool:
    try:
        if op.lock is ops.LockKind.RECORD:
            fcntl.fcntl(op.fd, _F_OFD_SETLK, _WHOLE_FILE)
        else:
            fcntl.flock(op.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _unlock(op: ops.Unlock | ops.AppendLocked) -> None:
    if op.lock is ops.LockKind.RECORD:
        fcntl.fcntl(op.fd, _F_OFD_SETLK, _NO_LOCK)
    else:
        fcntl.flock(op.fd, fcntl.LOCK_UN)


def _append_locked(op: ops.AppendLocked) -> Appended | None:
    if not _try_lock(op):
        return None
    try:
        return _append_at(op)
    finally:
        _unlock(op)


def _is_as_seen(seen: ops.FileAsSeen) -> bool:
    try:
        return seen.is_like(os.lstat(seen.path))
    except FileNotFoundError:
        return seen.is_like(None)


def _append_at(op: ops.AppendLocked) -> Appended | None:
    try:
        if not all(map(_is_as_seen, op.seen)):
            return None
        written, error = os.write(op.fd, op.data), None
    except OSError as exc:
        return Appended(0, exc)
    if written < len(op.data):
        rest = _append(ops.Append(op.fd, (op.data[written:],)))
        written, error = written + rest.written, rest.error
    if written < len(op.data):
        with suppress(OSError):  # else the next process that locks the file cuts it off
            _truncate(ops.Truncate(op.fd, op.end, op.end + written))
    elif error is None:
        error = _append(ops.Append(op.note_fd, (op.note,))).error
    return Appended(written, error)


def _sync_all(op: ops.SyncAll) -> None:
    if _libc.syncfs(op.fd) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise os_error(code)
    os.sync()


_CALLS: dict[type[Op[Any]], Callable[[Any], Any]] = {
    ops.Open: _open,
    ops.Create: _create,
    ops.Read: _read,
    ops.Advise: _advise,
    ops.Append: _append,
    ops.Truncate: _truncate,
    ops.Sync: _sync,
    ops.Publish: _publish,
    ops.SyncDir: _sync_dir,
    ops.Close: _close,
    ops.Stat: _stat,
    ops.Listdir: _listdir,
    ops.Readlink: _readlink,
    ops.Statvfs: _statvfs,
    ops.PeekMany: _peek_many,
    ops.WillneedMany: _willneed_many,
    ops.Rename: _rename,
    ops.Link: _link,
    ops.Unlink: _unlink,
    ops.Mkdir: _mkdir,
    ops.Rmdir: _rmdir,
    Chain: _chain,
    ops.AsOwner: _as_owner,
    ops.OpenShared: _open_shared,
    ops.TryLock: _try_lock,
    ops.AppendLocked: _append_locked,
    ops.Unlock: _unlock,
    ops.SyncAll: _sync_all,
    ops.SetTimes: lambda op: os.utime(op.fd, ns=(op.mtime_ns, op.mtime_ns)),
    ops.SetXattr: lambda op: os.setxattr(op.path, op.name, op.value, follow_symlinks=False),
    ops.CopyRange: copy_range,
}
