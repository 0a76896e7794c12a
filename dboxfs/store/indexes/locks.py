"""Locks that Dovecot and dboxfs both respect (PROTOCOL section 2).

Waiting is polling with an end, so that no worker hangs in the kernel and a wait can be cancelled.  A lock is
taken on an open file and is worth something only if the path still names that file: every function here
looks again after locking, and begins anew if it doesn't.
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
"""Seconds after which a dotlock on a log that nobody touches counts for nothing."""

SUBSCRIPTIONS_STALE = 30.0
"""The same for ``subscriptions.lock``."""

_LOCKED_HEAD = 512
"""Bytes of a file that are read as soon as it is locked."""

_FIRST_WAIT = 0.0005
_LONGEST_WAIT = 0.01


class _Patience:
    """Waits between attempts, and when to give up."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._deadline = trio.current_time() + timeout
        self._wait = _FIRST_WAIT

    async def wait(self) -> None:
        """Wait a little.

        :raises StoreBusy: it has taken too long already.
        """
        if trio.current_time() >= self._deadline:
            raise StoreBusy(f"{self._path}: locked by another program for more than {self._timeout:g} s")
        await trio.sleep(self._wait * random.uniform(0.5, 1.0))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def lock_kind(method: LockMethod) -> LockKind | None:
    """The lock of the operating system on a log; None: there is another file beside it."""
    return {LockMethod.FCNTL: LockKind.RECORD, LockMethod.FLOCK: LockKind.FLOCK}.get(method)


async def lock_log(disk: Disk, path: str) -> AppendFile:
    """Open and lock the log at *path*; its ``size`` is what it is now.  :func:`unlock_log` gives it back.

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
    """Open and lock files in this order, up to the first that is locked by others or is not there.

    Gives for each its attributes since then, and its first *head* bytes.
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
            pass  # who locks it by itself meets it again, and says so
        if opened is not None:
            with suppress(OSError):  # it is closed whatever the answer is
                yield ops.Close(opened.fd)
        break
    return found


async def unlock_log(file: AppendFile) -> None:
    """Give a log back."""
    if file.disk.options.lock_method is LockMethod.DOTLOCK:
        await file.disk.discard([file.path + ".lock"])
    await file.close()


async def _open_and_lock(disk: Disk, path: str, patience: _Patience, method: LockMethod) -> AppendFile | None:
    """The locked file with its ``head``, None if the path names another one by now."""
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
    """Hold the lock file *path* (``mailboxes.lock``); the body hears no cancellation.

    The file is made under another name, locked, and linked to its name, so that nobody ever sees it
    unlocked while it counts.  One that nobody has locked is left from a crash, and is taken over.

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
    """Make the lock file *path*, whose existence is the lock; it will be renamed or unlinked by the caller.

    :param stale: seconds after which one that nobody touches is taken away.
    :raises StoreBusy: another program has it.
    """
    patience = _Patience(path, disk.options.lock_timeout)
    while True:
        try:
            return await disk.create(path)
        except FileExistsError:
            await _wait_or_break(disk, path, stale, patience)


async def link_exclusive(disk: Disk, source: str, path: str, stale: float) -> None:
    """As :func:`take_exclusive`, for a file that is whole already: give it the lock's name too."""
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
