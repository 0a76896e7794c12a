"""How the operations of :mod:`dboxfs.fsapi.lock_ops` are carried out, and how to run any single operation.

:data:`POSIX_CALLS` and :data:`MEMORY_CALLS` are what the drivers register.  :func:`run` and :func:`run_all`
are for protocols that are made of many single steps: whoever follows one must know which steps were done,
so a step that was asked for is never dropped by a cancellation.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat as stat_module
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.lock_ops import CopyRange, LockKind, OpenShared, SyncAll, TryLock
from dboxfs.fsapi.ops import Appended, Job, Op, Opened, os_error

if TYPE_CHECKING:
    from dboxfs.fsapi.filesystem import FileSystem
    from dboxfs.fsapi.handle import Handle

R = TypeVar("R")

_OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
# struct flock: l_type, l_whence, l_start, l_len, l_pid (0 is demanded); start 0 and length 0: the whole file
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_HELD = (errno.EAGAIN, errno.EACCES)
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_PIECE = 1 << 20


async def run(fs: FileSystem, op: Op[R]) -> R:
    """Run one operation to its end, whatever is cancelled meanwhile.  Not a checkpoint for cancellation.

    :raises OSError: the operation's; EBADF: the file system is closed.
    """
    (answer,) = await run_all(fs, [op])
    if isinstance(answer, OSError):
        raise answer
    return answer


async def run_all(fs: FileSystem, batch: Sequence[Op[R]]) -> list[R | OSError]:
    """Run operations side by side, all to their end: an answer or an error for each.  See :func:`run`."""
    if fs._state != "running":
        raise os_error(errno.EBADF)
    missing = len(batch)
    over = trio.Event()

    def done(job: Job[R]) -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            over.set()

    jobs = [fs.submit(op, done) for op in batch]
    if jobs:
        with trio.CancelScope(shield=True):
            await over.wait()
    answers: list[R | OSError] = []
    for job in jobs:
        try:
            answers.append(job.value())
        except OSError as error:
            answers.append(error)
    return answers


async def settle(handle: Handle) -> int:
    """Bring all that was written through a handle to its file and give the driver's number of that file.

    Nothing is made durable and no name is given.  The number is good until the handle is closed.

    :raises OSError: a write failed, or the handle is closed.
    """
    await handle.wait_open()
    writer = handle._writer
    while writer is not None and not writer.settled:
        await handle.writable()
        writer.check()
        writer.flush()
        if not writer.settled:
            await handle._park()
    if writer is not None:
        writer.check()
    return handle._fd


async def sync(handle: Handle) -> None:
    """Make all that was written through a handle durable, unless the file system does without.  No commit:
    a new file has no name of its own yet.  Nobody may write through the handle meanwhile.

    :raises OSError: a write or the sync failed, and bytes may be lost; or the handle is closed.
    """
    fd = await settle(handle)
    await run(handle._fs, ops.Sync(fd, handle.size, handle._fs.sync))


def hand_over(handle: Handle) -> str:
    """Give a new file, settled and never committed, to the caller; gives its temporary name.

    The handle goes on reading what it wrote.  It must not write any more, and when it is closed it leaves
    the file.

    :raises ValueError: there is no such file.
    """
    writer = handle._writer
    if writer is None or writer.temporary is None or not writer.settled:
        raise ValueError(f"{handle.path}: no new file that could be handed over")
    path, writer.temporary = writer.temporary, None
    writer.committed = writer.flushed
    return path


# -- the operating system -----------------------------------------------------------------------------------


def _open_shared(op: OpenShared) -> Opened:
    fd = os.open(op.path, _OPEN_FLAGS)
    try:
        status = os.fstat(fd)
        if not stat_module.S_ISREG(status.st_mode):
            raise os_error(errno.EINVAL, op.path)
        return Opened(fd, status)
    except BaseException:
        os.close(fd)
        raise


def _try_lock(op: TryLock) -> bool:
    try:
        if op.lock is LockKind.RECORD:
            fcntl.fcntl(op.fd, _F_OFD_SETLK, _WHOLE_FILE)
        else:
            fcntl.flock(op.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _sync_all(op: SyncAll) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(op.fd) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise os_error(code)
    os.sync()


def _copy_range(op: CopyRange) -> Appended:
    if os.fstat(op.fd).st_size != op.expected:
        raise os_error(errno.EBUSY)
    flags = fcntl.fcntl(op.fd, fcntl.F_GETFL)
    # copy_file_range refuses files that are open for appending; the place to write to is known anyway.
    fcntl.fcntl(op.fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
    try:
        return _copy(op)
    finally:
        fcntl.fcntl(op.fd, fcntl.F_SETFL, flags)


def _copy(op: CopyRange) -> Appended:
    done = 0
    try:
        while done < op.size:
            count = os.copy_file_range(
                op.source_fd, op.fd, op.size - done, op.offset + done, op.expected + done
            )
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno in _NO_COPY and done == 0:
            return _copy_by_hand(op)
        return Appended(done, error)
    return Appended(done, None)


def _copy_by_hand(op: CopyRange) -> Appended:
    done = 0
    try:
        while done < op.size:
            piece = os.pread(op.source_fd, min(_PIECE, op.size - done), op.offset + done)
            if not piece:
                break
            done += os.pwrite(op.fd, piece, op.expected + done)
    except OSError as error:
        return Appended(done, error)
    return Appended(done, None)


POSIX_CALLS: dict[type[Op[Any]], Callable[[Any], Any]] = {
    OpenShared: _open_shared,
    TryLock: _try_lock,
    SyncAll: _sync_all,
    CopyRange: _copy_range,
}


# -- files in memory ----------------------------------------------------------------------------------------


def _memory_open_shared(driver: Any, op: OpenShared) -> Opened:
    node = driver.tree.find(op.path, follow=False)
    if node.is_symlink:
        raise os_error(errno.ELOOP, op.path)
    if node.is_dir:
        raise os_error(errno.EISDIR, op.path)
    opened: Opened = driver._add_file(node, True)
    return opened


def _memory_try_lock(driver: Any, op: TryLock) -> bool:
    key = (id(driver._file(op.fd).node), op.lock)
    holder = driver.lock_holders.get(key)
    if holder not in driver._files:
        driver.lock_holders[key] = holder = op.fd
    return bool(holder == op.fd)


def _memory_sync_all(driver: Any, op: SyncAll) -> None:
    driver._file(op.fd)  # EBADF


def _memory_copy_range(driver: Any, op: CopyRange) -> Appended:
    target = driver._file(op.fd).node
    if len(target.data) != op.expected:
        raise os_error(errno.EBUSY)
    piece = bytes(driver._file(op.source_fd).node.data[op.offset : op.offset + op.size])
    target.data += piece
    return Appended(len(piece), None)


MEMORY_CALLS: dict[type[Op[Any]], Callable[[Any, Any], Any]] = {
    OpenShared: _memory_open_shared,
    TryLock: _memory_try_lock,
    SyncAll: _memory_sync_all,
    CopyRange: _memory_copy_range,
}
