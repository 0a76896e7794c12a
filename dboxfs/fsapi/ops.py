"""The operations that a driver runs: plain values, each with the type of its answer.

The protocol between :class:`~dboxfs.fsapi.filesystem.FileSystem` and a driver is: an :class:`Op` goes in, a
:class:`Job` comes back at once, the operation runs elsewhere, and ``job.done(job)`` is called exactly once on
the event loop's thread, never from inside ``submit``.  An operation is small: one or two system calls that
belong together, so that tests can put a fault or a crash between any two steps of a longer protocol.

An open file is an ``int`` that the driver gave out (a descriptor for drivers over the operating system).
No operation overwrites bytes: :class:`Append` writes at the end, :class:`Truncate` undoes an append.

A lock (:class:`TryLock`) belongs to the *open file* that took it and ends with its :class:`Close` at the
latest; two open files of one process exclude each other like those of two processes.  No operation waits for
a lock: the caller asks again.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from msgspec import Struct

from dboxfs.fsapi.types import DirEntry, Peek, PeekResult, Permissions

R = TypeVar("R")


class Op(Struct, Generic[R], frozen=True):
    """An operation that answers with an ``R`` or an :class:`OSError`."""

    kind: ClassVar[str] = "op"


class OpenedFile(Struct, frozen=True):
    """A file that was opened or created: the driver's number for it, and its attributes at that time."""

    fd: int
    stat: os.stat_result


class Appended(Struct, frozen=True):
    """How many bytes of an :class:`Append` reached the file, and the error that stopped the rest."""

    written: int
    error: OSError | None


class Open(Op[OpenedFile], frozen=True):
    """Open an existing file.  ``advise``: bytes from its beginning that the kernel shall read ahead.

    ``nofollow``: ELOOP if the last component of the path is a symbolic link.
    """

    kind: ClassVar[str] = "open"
    path: str
    append: bool = False
    advise: int = 0
    nofollow: bool = False


class Create(Op[OpenedFile], frozen=True):
    """Create a file that must not exist (no symbolic link is followed), open for appending and reading."""

    kind: ClassVar[str] = "create"
    path: str
    permissions: Permissions


class Read(Op[bytes], frozen=True):
    """Read up to ``size`` bytes.  Fewer come only at the end of the file, or if a driver reads short."""

    kind: ClassVar[str] = "read"
    fd: int
    size: int
    offset: int


class Advise(Op[None], frozen=True):
    """Bring a range into the kernel's page cache without waiting for it."""

    kind: ClassVar[str] = "advise"
    fd: int
    size: int
    offset: int


class Append(Op[Appended], frozen=True):
    """Write at the end of the file.  An error after some bytes is part of the answer, not an exception."""

    kind: ClassVar[str] = "append"
    fd: int
    chunks: tuple[bytes, ...]


class Truncate(Op[None], frozen=True):
    """Cut a file back to ``size``; EBUSY if it is longer than ``expected``: another program appended."""

    kind: ClassVar[str] = "truncate"
    fd: int
    size: int
    expected: int


class Sync(Op[None], frozen=True):
    """Make the file's data and size durable (unless ``durable`` is off, for bulk loads).

    EBUSY if the file is not ``expected`` bytes long: another program has written to it.
    """

    kind: ClassVar[str] = "sync"
    fd: int
    expected: int
    durable: bool = True


class Publish(Op[None], frozen=True):
    """Give a temporary file its final name, atomically.  Without ``replace``: EEXIST if the name is taken."""

    kind: ClassVar[str] = "publish"
    temporary: str
    path: str
    replace: bool


class SyncDir(Op[None], frozen=True):
    """Make the names in a directory durable."""

    kind: ClassVar[str] = "sync_dir"
    path: str


class Close(Op[None], frozen=True):
    """Close an open file.  Its number is free afterwards, also after an error."""

    kind: ClassVar[str] = "close"
    fd: int


class Stat(Op[os.stat_result], frozen=True):
    """Attributes by name; ``follow``: of the target of a symbolic link."""

    kind: ClassVar[str] = "stat"
    path: str
    follow: bool = True


class Listdir(Op[list[DirEntry]], frozen=True):
    """All entries of a directory but ``.`` and ``..``, in no particular order.

    :param prefix: only entries whose names begin with it.
    """

    kind: ClassVar[str] = "listdir"
    path: str
    prefix: str = ""


class Readlink(Op[str], frozen=True):
    """The target of a symbolic link."""

    kind: ClassVar[str] = "readlink"
    path: str


class Statvfs(Op[os.statvfs_result], frozen=True):
    """The file system on which a path lies; one without numbers, where it is none of this machine's."""

    kind: ClassVar[str] = "statvfs"
    path: str


class PeekMany(Op[list[PeekResult | OSError]], frozen=True):
    """Open, stat, read and close several files one after the other; one answer or error each."""

    kind: ClassVar[str] = "peek"
    requests: tuple[Peek, ...]


class WillneedMany(Op[None], frozen=True):
    """Bring the first bytes of files, (path, size), into the kernel's cache.  No links, no errors."""

    kind: ClassVar[str] = "advise"
    files: tuple[tuple[str, int], ...]


class Rename(Op[None], frozen=True):
    """Rename; an existing file of the new name is replaced atomically."""

    kind: ClassVar[str] = "rename"
    source: str
    target: str


class Link(Op[None], frozen=True):
    """Another name for a file; EEXIST if the name is taken."""

    kind: ClassVar[str] = "link"
    source: str
    target: str


class Copy(Op[None], frozen=True):
    """Copy a file as a whole, its bytes; EEXIST if ``target`` is taken and ``replace`` is not set.

    EOPNOTSUPP: the driver has no copies, or none that never replace.
    """

    kind: ClassVar[str] = "copy"
    source: str
    target: str
    replace: bool


class Unlink(Op[None], frozen=True):
    """Remove a name of a file."""

    kind: ClassVar[str] = "unlink"
    path: str


class Mkdir(Op[None], frozen=True):
    """Make a directory with exactly these permissions."""

    kind: ClassVar[str] = "mkdir"
    path: str
    permissions: Permissions


class Rmdir(Op[None], frozen=True):
    """Remove an empty directory."""

    kind: ClassVar[str] = "rmdir"
    path: str


# -- files that other programs write too --------------------------------------------------------------------


class LockKind(enum.Enum):
    """Which lock of the operating system.

    RECORD: a write lock of fcntl(2) on the whole file, as an open-file-description lock: it conflicts with
    the ordinary record locks of other processes, and closing another descriptor of the file does not drop it.
    FLOCK: flock(2), exclusive.
    """

    RECORD = "record"
    FLOCK = "flock"


class OpenShared(Op[OpenedFile], frozen=True):
    """Open an existing regular file for reading and appending; ELOOP if the name is a symbolic link."""

    kind: ClassVar[str] = "open_shared"
    path: str


class TryLock(Op[bool], frozen=True):
    """Lock an open file exclusively; False: another open file has the lock.  Locked already: True."""

    kind: ClassVar[str] = "try_lock"
    fd: int
    lock: LockKind


class Unlock(Op[None], frozen=True):
    """Release the lock of an open file, which stays open; does nothing if it has none."""

    kind: ClassVar[str] = "unlock"
    fd: int
    lock: LockKind


class FileAsSeen(Struct, frozen=True):
    """A file as it was read last.  ``identity``: device and inode; None: there was none."""

    path: str
    identity: tuple[int, int] | None
    size: int

    def is_like(self, status: os.stat_result | None) -> bool:
        """Whether a file with these attributes (None: no file) is as it was."""
        if status is None or self.identity is None:
            return status is None and self.identity is None
        return (status.st_dev, status.st_ino) == self.identity and status.st_size == self.size


class AppendLocked(Op[Appended | None], frozen=True):
    """Lock an open file, append to it if all files in ``seen`` are as they were, and unlock it.

    ``seen``: the file itself, and others.  None: one is not as it was, or another process has the lock;
    nothing was written.  A write that fails in the middle is cut off again.  Once all is written, ``note`` is
    appended to the open file ``note_fd``; an error of that is part of an answer with all bytes of ``data``.
    Only drivers with a lane know this operation.
    """

    kind: ClassVar[str] = "append_locked"
    fd: int
    seen: tuple[FileAsSeen, ...]
    data: bytes
    lock: LockKind
    note_fd: int
    note: bytes

    @property
    def end(self) -> int:
        """Where the file ends, bytes."""
        return self.seen[0].size


class SyncAll(Op[None], frozen=True):
    """Make all data and names on the file system of an open file durable (syncfs(2)).

    For a writer of many files, which would otherwise wait for each of them.
    """

    kind: ClassVar[str] = "sync_all"
    fd: int


class CopyRange(Op[Appended], frozen=True):
    """Append ``size`` bytes of another open file, from its ``offset`` on, without a copy in this process.

    EBUSY if the target is not ``expected`` bytes long: another program has written to it.  An error after
    some bytes is part of the answer; fewer bytes without an error mean that the source has no more.
    """

    kind: ClassVar[str] = "copy_range"
    source_fd: int
    offset: int
    size: int
    fd: int
    expected: int


# -- copies that other programs read as plain files ----------------------------------------------------------


class SetTimes(Op[None], frozen=True):
    """Set mtime and atime of an open file: ns since the epoch, before 1970 negative."""

    kind: ClassVar[str] = "set_times"
    fd: int
    mtime_ns: int


class SetXattr(Op[None], frozen=True):
    """Set an extended attribute of a file or directory."""

    kind: ClassVar[str] = "set_xattr"
    path: str
    name: str
    value: bytes


class AsOwner(Op[R], frozen=True):
    """Run an operation with the rights of another user, in a process of root.

    This user owns the files that it makes, and it can't reach files that this user may not reach: a symbolic
    link in a user's directory leads nowhere where the user could not go.
    """

    kind: ClassVar[str] = "as_owner"
    op: Op[R]
    uid: int
    gid: int


def itself(op: Op[Any]) -> Op[Any]:
    """An operation, whosever rights it is done with."""
    return op.op if isinstance(op, AsOwner) else op


# -- one operation on its way -------------------------------------------------------------------------------


class Job(Generic[R]):
    """One operation on its way through a driver.

    ``done`` is called once, on the loop's thread, when either ``error`` or ``result`` is set.  ``cancel`` may
    be called at any time before that: an operation that has not begun is then never run and ends with
    ECANCELED; one that has begun ends as it would have.
    """

    __slots__ = ("cancelled", "done", "error", "op", "result")

    def __init__(self, op: Op[R], done: Callable[[Job[R]], None]) -> None:
        self.op = op
        self.done = done
        self.result: R | None = None
        self.error: BaseException | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Don't begin this operation if it hasn't begun."""
        self.cancelled = True

    def run(self, execute: Callable[[Op[R]], R]) -> None:
        """Run the operation with ``execute`` and keep its result or error (called by drivers, any thread)."""
        if self.cancelled:
            self.error = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            return
        try:
            self.result = execute(self.op)
        except OSError as error:
            self.error = error.with_traceback(None)  # its frames would keep this job, and value() copies it
        except ValueError as error:  # a path with a NUL byte
            self.error = OSError(errno.EINVAL, str(error))
        except BaseException as error:  # noqa: BLE001 - raised by value() in the task that asked
            self.error = error

    def value(self) -> R:
        """The answer, or the operation's error raised."""
        if self.error is not None:
            raise fresh(self.error)
        result: Any = self.result
        return result  # type: ignore[no-any-return]


def fresh(error: BaseException) -> BaseException:
    """A copy of an OSError, so that several tasks can raise it without sharing a traceback."""
    if not isinstance(error, OSError) or error.errno is None:
        return error
    if error.filename2 is not None:
        return OSError(error.errno, error.strerror, error.filename, None, error.filename2)
    return OSError(error.errno, error.strerror, error.filename)


def os_error(code: int, path: str | None = None) -> OSError:
    """The OSError (of the fitting subclass) of an errno."""
    return OSError(code, os.strerror(code), path)
