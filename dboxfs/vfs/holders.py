"""Finds the processes that have a file open, in /proc, without a call on the mount.

The kernel sends FLUSH for every descriptor that is closed, also for copies of one that stays open (dup, a
child that execs or exits).  A close is the last one when no process that can have got the descriptor holds
one any more, for writing.  These processes are the one that opened the file and all that it or they have
forked since.  A closing process continues only after the answer to its FLUSH.  So a look at every FLUSH
(:meth:`Holders.look`) sees every child of a holder before the parent can end and the child gets another
parent.  The kernel takes the descriptor that is being closed out of the table before it sends FLUSH.

Of each process the descriptors are read before the children: a child that is forked after that inherits only
descriptors that were seen.

A look is made for every file that is saved, on the thread that answers the kernel.  Each system call gives
the interpreter's lock away for a moment to a worker that waits for it, so a look makes as few as possible:
ten for a process with three descriptors and without children.

A descriptor is recognised by the inode number in ``fdinfo`` (Linux 5.14 and later) together with the mount
there (:class:`~dboxfs.util.mounts.Membership`): other mounts have files with the same numbers. Children are
known by ``/proc/<pid>/task/<tid>/children`` (CONFIG_PROC_CHILDREN). Where one of these is missing, or /proc
can't be read (another user's process, hidepid), no process seems to hold the file, and every close with bytes
counts as the last.

Limits: a descriptor that was sent over a socket to a process that is no descendant is not found; of more than
:data:`MOST_PROCESSES` processes only so many are looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from dboxfs.util.mounts import Membership

MOST_PROCESSES = 64
"""Processes that one look reads, at most."""

_OTHERS = ("/dev/", "pipe:", "socket:", "anon_inode:", "/memfd:", "/proc/")
_PF_SIGNALED = 0x400
_FEW, _HOLES = 32, 8
_LINKS = 2
_MOST_BYTES = 1 << 16
_LONG = 2048  # a page of short records is never less than this while there are more
_TICKS = os.sysconf("SC_CLK_TCK")


class Holders:
    """The processes that may hold one open file.

    :param pid: the process that opens it now.
    :param membership: tells which descriptors belong to this mount.
    :ivar opener_holds: whether that process held the file at the last :meth:`look`.
    """

    __slots__ = ("_members", "_membership", "_opener", "_since", "opener_holds")

    def __init__(self, pid: int, membership: Membership) -> None:
        self._membership = membership
        self.opener_holds = False
        self._opener = pid
        self._members = {pid} if pid > 0 else set()
        # Start times in /proc count ticks since the boot, rounded down.
        self._since = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS) - 1

    def look(self, inode: int, opens: Callable[[int], int]) -> bool:
        """Whether a process holds a descriptor of this open.  Takes 40 µs for a process without children,
        4 µs more for each descriptor, 20 µs for one of a file.

        :param opens: gives how often a process has opened the same file itself; these descriptors are no
            copies of the opener's.
        """
        found = False
        todo, seen = list(self._members), set(self._members)
        while todo and len(seen) <= MOST_PROCESSES:
            pid = todo.pop()
            count = held(pid, inode, self._membership)
            if count < 0:
                self._members.discard(pid)
                continue
            own = opens(pid)
            holds = count >= own > 0 if pid == self._opener else count > own
            found |= holds
            if pid == self._opener:
                self.opener_holds = holds
            for child in children(pid)[-MOST_PROCESSES:]:
                if len(seen) <= MOST_PROCESSES and child not in seen and _started(child) >= self._since:
                    seen.add(child)
                    todo.append(child)
                    self._members.add(child)
        if self._opener not in self._members:
            self.opener_holds = False
        return found


def held(pid: int, inode: int, membership: Membership) -> int:
    """How many descriptors, open for writing, process *pid* has of the file *inode* of this mount.

    :return: -1: there is no such process; 0 also for a process that is ending and has closed everything.
    """
    directory = f"/proc/{pid}/fd/"
    try:
        count = os.stat(directory).st_size  # since Linux 6.2 the number of descriptors; 0 before
        found, beyond = _probed(directory, count if count <= _FEW else 0)
        if not count or len(found) < count:
            listed = [name for name in os.listdir(directory) if int(name) >= beyond]
            found.update((name, _target(directory + name)) for name in listed)
    except FileNotFoundError:
        return -1
    except OSError:
        return 0
    files = [name for name, target in found.items() if not target.startswith(_OTHERS)]
    return sum(_is_ours(pid, name, inode, membership) for name in files)


def _probed(directory: str, count: int) -> tuple[dict[str, str], int]:
    """The targets of the lowest descriptors, at most *count*, and the first number that was not probed.

    Descriptors mostly are 0, 1, 2 …, and to list them takes five system calls.
    """
    found: dict[str, str] = {}
    number = 0
    while len(found) < count and number < count + _HOLES:
        name = str(number)
        number += 1
        with suppress(FileNotFoundError):
            found[name] = os.readlink(directory + name)
    return found, number


def _target(path: str) -> str:
    """The target of a descriptor; for one that was closed meanwhile, a target that counts as no file."""
    try:
        return os.readlink(path)
    except OSError:
        return _OTHERS[0]


def _is_ours(pid: int, descriptor: str, inode: int, membership: Membership) -> bool:
    try:
        info = _read(f"/proc/{pid}/fdinfo/{descriptor}")
        lines = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
        flags, number = int(lines[b"flags"], 8), int(lines[b"ino"])
    except (OSError, KeyError, ValueError):
        return False  # closed meanwhile, or an old kernel
    if number != membership.outside(inode) or flags & os.O_ACCMODE == os.O_RDONLY:
        return False
    return membership.has(pid, int(lines[b"mnt_id"]) if b"mnt_id" in lines else None)


def children(pid: int) -> list[int]:
    """The processes that are children of *pid* now."""
    found: list[int] = []
    try:
        threads = [str(pid)] if _has_one_thread(pid) else os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except (OSError, ValueError):
        pass  # it is gone, or the kernel has no such file
    return found


def process_of(thread: int) -> int:
    """The process that a thread belongs to; the kernel tells FUSE the thread."""
    try:
        if _has_one_thread(thread):
            return thread
        return int(_read(f"/proc/{thread}/status").partition(b"\nTgid:")[2].split(b"\n", 1)[0])
    except (OSError, ValueError):
        return thread


def _has_one_thread(pid: int) -> bool:
    """Whether the process of thread *pid* has no other thread: each has a link in that directory.

    :raises OSError: it is gone.
    """
    return os.stat(f"/proc/{pid}/task").st_nlink == _LINKS + 1


def killed(pid: int) -> bool:
    """Whether a signal is ending *pid*: the file may lack bytes that it would have written."""
    fields = _stat(pid)
    return bool(fields) and bool(int(fields[6]) & _PF_SIGNALED)


def _started(pid: int) -> int:
    """When a process was forked (ticks since the boot); 0: there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """The fields of ``/proc/<pid>/stat`` from the state on; empty: no such process, or it can't be read."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return []


def _read(path: str) -> bytes:
    """The content of a file of /proc; one read gives a page at most, or one record that is longer."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(fd, _MOST_BYTES)
        while len(piece) >= _LONG:
            piece = os.read(fd, _MOST_BYTES)
            data += piece
        return data
    finally:
        os.close(fd)
