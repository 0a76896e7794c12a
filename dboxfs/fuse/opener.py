"""Who has a file open: looked up in /proc, which never enters the mount.

The kernel sends FLUSH for every descriptor that is closed, also for copies of one that stays open (dup, a
child that execs or exits).  A close is the last one for the process that opened the file when that process
holds no descriptor of it any more, for writing (but for those of other opens of the same file).  The
descriptor that is being closed has left the table by the time FLUSH is sent.

A descriptor is recognised by the inode number in ``fdinfo`` (Linux 5.14 and later).  Where that is missing,
or /proc can't be read, nobody seems to hold anything.
"""

from __future__ import annotations

import os

_OTHERS = ("/dev/", "pipe:", "socket:", "anon_inode:", "/memfd:", "/proc/")
_PF_SIGNALED = 0x400


def held(pid: int, inode: int) -> int:
    """How many descriptors, open for writing, process (or thread) *pid* has of the file *inode*."""
    if pid <= 0:
        return 0
    directory = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return 0
    return sum(_is_ours(pid, descriptor, inode) for descriptor in descriptors)


def _is_ours(pid: int, descriptor: str, inode: int) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(_OTHERS):
            return False
        with open(f"/proc/{pid}/fdinfo/{descriptor}", "rb") as info:
            lines = dict(line.split(b":", 1) for line in info.read().splitlines() if b":" in line)
        flags, number = int(lines[b"flags"], 8), int(lines[b"ino"])
    except (OSError, KeyError, ValueError):
        return False  # closed meanwhile, or a kernel that doesn't say
    return number == inode and flags & os.O_ACCMODE != os.O_RDONLY


def killed(pid: int) -> bool:
    """Whether *pid* is ending because of a signal: what it has written is not what it wanted to write."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return bool(int(fields[6]) & _PF_SIGNALED)
    except (OSError, IndexError, ValueError):
        return False
