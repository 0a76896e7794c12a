"""Operations for files that other programs write too: open without following links, lock, copy, sync all.

They complete :mod:`dboxfs.fsapi.ops` and follow its rules: plain values, each with the type of its answer,
each one step that a fault or a crash can be put before or behind.  A lock belongs to the *open file* that
took it and ends with :class:`~dboxfs.fsapi.ops.Close` of it at the latest; two open files of one process
exclude each other like those of two processes.  Nothing here waits for a lock: whoever wants it asks again.

How they are carried out: :mod:`dboxfs.fsapi.locked`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from dboxfs.fsapi.ops import Appended, Op, Opened


class LockKind(enum.Enum):
    """Which lock of the operating system.

    RECORD: a write lock of fcntl(2) on the whole file, as an open-file-description lock: it conflicts with
    the ordinary record locks of other processes, and closing another descriptor of the file does not drop it.
    FLOCK: flock(2), exclusive.
    """

    RECORD = "record"
    FLOCK = "flock"


@dataclass(frozen=True, slots=True)
class OpenShared(Op[Opened]):
    """Open an existing regular file for reading and appending; ELOOP if the name is a symbolic link."""

    kind: ClassVar[str] = "open_shared"
    path: str


@dataclass(frozen=True, slots=True)
class TryLock(Op[bool]):
    """Lock an open file exclusively; False: somebody else has it.  Locked already: True."""

    kind: ClassVar[str] = "try_lock"
    fd: int
    lock: LockKind


@dataclass(frozen=True, slots=True)
class SyncAll(Op[None]):
    """Make everything durable that was written to the file system on which an open file lies: data and names.

    For somebody who has written many files and would wait for each of them otherwise (syncfs(2)).
    """

    kind: ClassVar[str] = "sync_all"
    fd: int


@dataclass(frozen=True, slots=True)
class CopyRange(Op[Appended]):
    """Append ``size`` bytes of another open file, from its ``offset`` on, without taking them into memory.

    EBUSY if the target is not ``expected`` bytes long: another program has written to it.  An error after
    some bytes is part of the answer; fewer bytes without an error mean that the source has no more.
    """

    kind: ClassVar[str] = "copy_range"
    source_fd: int
    offset: int
    size: int
    fd: int
    expected: int
