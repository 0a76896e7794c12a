"""Names of temporary files, which tell the process that made them::

    .temp.<seconds>.P<pid>Q<number>M<microseconds>.<host>.<boot>-<pid namespace>-<start>

The beginning is Dovecot's own pattern, so that Dovecot's clean-up removes leftovers after 36 hours
(dbox-files section 5).  The end has the first 8 hex digits of the kernel's boot id, the inode number of the
pid namespace, and the start of the process (clock ticks since the boot).  If /proc can't be read, the name
has no such end, and only Dovecot's clean-up removes the file.

:func:`is_left_over` answers yes only if it is certain: it looks up a process of the same boot, host and pid
namespace in /proc; a process of an earlier boot is gone if the file system is local to this machine and the
file has not been changed since the boot.  Other hosts, other containers, and names of another form: no.
"""

from __future__ import annotations

import os
import re
import stat
import time

from msgspec import Struct

PREFIX = ".temp."

_ANY_NAME = re.compile(r"\.temp\.\d+\.P\d+Q\d+M\d+\..+")
_NAME = re.compile(r"\.temp\.\d+\.P(\d+)Q\d+M\d+\.(.+)\.([0-9a-f]{8})-(\d+)-(\d+)")
_TOKEN = re.compile(r"(\d{1,10})-([0-9a-f]{8}-\d+)-(\d+)")
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "jfs", "reiserfs", "tmpfs", "zfs", "bcachefs"})


class Process(Struct, frozen=True):
    """A process that makes temporary files.  ``mark``: boot and pid namespace; "": not known."""

    pid: int
    host: str
    mark: str
    start: str

    @classmethod
    def this(cls) -> Process:
        """This process, now (a fork is another one)."""
        pid = os.getpid()
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                boot = file.read()[:8]
            mark = f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
        except OSError:
            mark = ""
        return cls(pid, os.uname().nodename.replace("/", "_"), mark, _start(pid))

    @property
    def token(self) -> str:
        """A text by which :func:`lives` recognizes this process until the next boot; "-": there is none."""
        return f"{self.pid}-{self.mark}-{self.start}" if self.mark and self.start else "-"

    def temporary_name(self, number: int) -> str:
        """A name for a temporary file; another *number* gives another name."""
        now = time.time_ns()
        name = f"{PREFIX}{now // 10**9}.P{self.pid}Q{number}M{now // 1000 % 10**6}.{self.host}"
        return f"{name}.{self.mark}-{self.start}" if self.mark and self.start else name


def is_temporary(name: str) -> bool:
    """Whether a name is one that dboxfs or Dovecot gives to a temporary file."""
    return _ANY_NAME.fullmatch(name) is not None


def is_alive(name: str, here: Process) -> bool:
    """Whether a temporary file certainly belongs to a process that still runs on this machine."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] != here.host or f"{found[3]}-{found[4]}" != here.mark:
        return False
    return _start(int(found[1])) == found[5]


def is_left_over(name: str, status: os.stat_result, here: Process, booted: float) -> bool:
    """Whether the process that made a temporary file has certainly ended.

    :param status: the file's attributes.
    :param booted: the time of this machine's boot (seconds since the epoch).
    """
    found = _NAME.fullmatch(name)
    if found is None or found[2] != here.host or not here.mark or not stat.S_ISREG(status.st_mode):
        return False
    if f"{found[3]}-{found[4]}" == here.mark:
        return _start(int(found[1])) != found[5]
    if here.mark.startswith(found[3]):
        return False  # another pid namespace
    return status.st_ctime < booted - 1 and is_local(status.st_dev)


def lives(token: str, here: Process) -> bool:
    """Whether the process that made *token* still runs; False for one of another machine or container."""
    found = _TOKEN.fullmatch(token)
    return found is not None and found[2] == here.mark and _start(int(found[1])) == found[3]


def booted() -> float:
    """When this machine was booted (seconds since the epoch)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _start(pid: int) -> str:
    """Clock ticks from the boot to the start of a process; "": there is no such process.

    A zombie counts as ended, unless another of its threads still runs: it may be in the middle of a write.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        ended = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        return "" if ended else fields[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def is_local(device: int) -> bool:
    """Whether no other machine can have a device mounted."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    return any(line[2] == number and line[line.index("-") + 1] in _LOCAL for line in lines if "-" in line)
