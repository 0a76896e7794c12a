"""Locks that Dovecot and dboxfs both respect (PROTOCOL section 2).

A wait is a poll with a time limit, so that no worker hangs in the kernel and a wait can be cancelled.  A lock
on an open file is valid only if the path still names that file: each function checks that after locking, and
begins again if not.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from dboxfs.errors import StoreBusy
from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import LockKind, OpenedFile, OpenShared, TryLock
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.write_options import LockMethod

DOTLOCK_STALE = 180.0
"""Seconds without a change after which a dotlock on a log is stale."""

SUBSCRIPTIONS_STALE = 30.0
"""The same for ``subscriptions.lock``."""

_LOCKED_HEAD = 512
"""Bytes of a file that are read directly after locking it."""

_FIRST_WAIT = 0.0005
_LONGEST_WAIT = 0.01


class _Patience:
    """The waits between attempts, and their time limit."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._deadline = trio.current_time() + timeout
        self._wait = _FIRST_WAIT

    async def wait(self) -> None:
        """Wait a little.

        :raises StoreBusy: the time limit is over.
        """
        if trio.current_time() >= self._deadline:
            raise StoreBusy(f"{self._path}: locked by another program for more than {self._timeout:g} s")
        await trio.sleep(self._wait * random.uniform(0.5, 1.0))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def lock_kind(method: LockMethod) -> LockKind | None:
    """The lock of the operating system on a log; None: the lock is a file beside it."""
    return {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}.get(method)


async def lock_log(disk: Disk, path: str) -> AppendFile:
    """Open and lock the log at *path*, with its current ``size``.  :func:`unlock_log` releases it.

    :raises FileNotFoundError: there is no log.
    :raises StoreBusy: another program holds it.
    """
    patience = _Patience(path, disk.options.lock_timeout)
    method = disk.options.lock_method
    if method is LockMethod.DOTLOCK:
        await _take_dotlock(disk, path, patience)
    try:
        while True:
            file = await _open_and_lock(disk, path, patience, method)
            if file is not None:
                return file
    except BaseException:
        if method is LockMethod.DOTLOCK:
            await disk.discard([path + ".lock"])
        raise


def lock_in_turn(
    paths: Sequence[str], kind: LockKind, head: int
) -> Steps[list[tuple[OpenedFile, os.stat_result, bytes]]]:
    """Open and lock files in this order, up to the first that another process has locked or that is missing.

    Gives for each its attributes after locking, and its first *head* bytes.
    """
    found: list[tuple[OpenedFile, os.stat_result, bytes]] = []
    for path in paths:
        opened: OpenedFile | None = None
        try:
            opened = yield OpenShared(path)
            if (yield TryLock(opened.fd, kind)):
                now: os.stat_result = yield ops.Stat(path, follow=False)
                if (now.st_dev, now.st_ino) == (opened.stat.st_dev, opened.stat.st_ino):
                    found.append((opened, now, (yield ops.Read(opened.fd, head, 0))))
                    continue
        except OSError:
            pass  # locking this file alone meets the error again, and raises it
        if opened is not None:
            with suppress(OSError):  # it is closed even after an error
                yield ops.Close(opened.fd)
        break
    return found


async def unlock_log(file: AppendFile) -> None:
    """Release the lock of a log and close it."""
    if file.disk.options.lock_method is LockMethod.DOTLOCK:
        await file.disk.discard([file.path + ".lock"])
    await file.close()


async def _open_and_lock(disk: Disk, path: str, patience: _Patience, method: LockMethod) -> AppendFile | None:
    """The locked file with its ``head``; None: the path names another file by now."""
    kind = lock_kind(method)
    file, locked, now = await disk.open_locked(path, kind, _LOCKED_HEAD)
    try:
        while not locked:
            await patience.wait()
            assert kind is not None
            locked = await file.try_lock(kind)
            if locked:
                now = await disk.stat(path)
    except BaseException:
        await file.close()
        raise
    if now is None or (now.st_dev, now.st_ino) != file.identity:
        await file.close()
        if now is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return None
    file.stat, file.size = now, now.st_size
    return file


async def _take_dotlock(disk: Disk, path: str, patience: _Patience) -> None:
    """Make ``<path>.lock``, which holds ``pid:host``."""
    while True:
        try:
            file = await disk.create(path + ".lock")
        except FileExistsError:
            if await _dotlock_is_stale(disk, path + ".lock"):
                await disk.unlink(path + ".lock")
            else:
                await patience.wait()
            continue
        try:
            await file.append(f"{os.getpid()}:{os.uname().nodename}".encode())
        except OSError:
            await disk.discard([file.path])
            raise
        finally:
            await file.close()
        return


async def _dotlock_is_stale(disk: Disk, path: str) -> bool:
    found = await disk.stat(path)
    if found is None:
        return False
    if time.time() - found.st_mtime > DOTLOCK_STALE:
        return True
    pid, _, host = (await disk.read_whole(path) or b"").decode("ascii", "replace").partition(":")
    if host != os.uname().nodename or not pid.isdigit() or int(pid) == os.getpid():
        return False
    return not os.path.exists(f"/proc/{pid}") and os.path.exists("/proc/self")


@asynccontextmanager
async def tree_lock(disk: Disk, path: str) -> AsyncIterator[None]:
    """Hold the lock file *path* (``mailboxes.lock``); the body is shielded from cancellation.

    The file is made under another name, locked, and linked to its name, so that no process ever sees it
    without a lock while it is in use.  An unlocked file is left from a crash, and is taken over.

    :raises StoreBusy: another program holds it.
    """
    patience = _Patience(path, disk.options.lock_timeout)
    while True:
        file = await _link_new_lock(disk, path)
        if file is None:
            file = await _lock_existing(disk, path, patience)
        if file is not None:
            break
        await patience.wait()
    try:
        with trio.CancelScope(shield=True):
            yield
    finally:
        await disk.discard([path])
        await file.close()


async def _link_new_lock(disk: Disk, path: str) -> AppendFile | None:
    file = await disk.create(f"{path}{random.getrandbits(64):016x}")
    own = file.path
    file.path = path
    try:
        await file.try_lock(LockKind.RECORD)
        await disk.run(ops.Link(own, path))
    except FileExistsError:
        await file.close()
        return None
    except BaseException:
        await file.close()
        raise
    finally:
        await disk.discard([own])
    return file


async def _lock_existing(disk: Disk, path: str, patience: _Patience) -> AppendFile | None:
    try:
        return await _open_and_lock(disk, path, patience, LockMethod.FCNTL)
    except FileNotFoundError:
        return None


async def take_exclusive(disk: Disk, path: str, stale: float) -> AppendFile:
    """Make the lock file *path*, whose existence is the lock; the caller renames or unlinks it.

    :param stale: seconds without a change after which an existing file is removed.
    :raises StoreBusy: another program has it.
    """
    patience = _Patience(path, disk.options.lock_timeout)
    while True:
        try:
            return await disk.create(path)
        except FileExistsError:
            await _wait_or_break(disk, path, stale, patience)


async def link_exclusive(disk: Disk, source: str, path: str, stale: float) -> None:
    """As :func:`take_exclusive`, for a complete file: link it to the lock's name, too."""
    patience = _Patience(path, disk.options.lock_timeout)
    while True:
        try:
            return await disk.run(ops.Link(source, path))
        except FileExistsError:
            await _wait_or_break(disk, path, stale, patience)


async def _wait_or_break(disk: Disk, path: str, stale: float, patience: _Patience) -> None:
    found = await disk.stat(path)
    if found is not None and time.time() - found.st_mtime > stale:
        await disk.unlink(path)
    else:
        await patience.wait()
