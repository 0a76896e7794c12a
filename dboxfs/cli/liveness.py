"""Whether the daemon of a mount lives and answers, found out without a hang of the asking process."""

from __future__ import annotations

import enum
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from dboxfs.util import mounts
from dboxfs.util.mounts import Mount

DAEMON_SECONDS = 5.0
"""Seconds that a mount may take to answer, and a daemon to end."""


class Answer(enum.Enum):
    """The answer of a mount: GIVEN, it answers; DEAD, it fails at once; NONE, it doesn't answer in time."""

    GIVEN = enum.auto()
    DEAD = enum.auto()
    NONE = enum.auto()


def ask(mount: Mount, seconds: float = DAEMON_SECONDS) -> Answer:
    """Have a child process ask a mount for its statvfs, since the call may never return."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.statvfs(mount.point)
            status = 0
        finally:
            os._exit(status)
    status = -1

    def has_ended() -> bool:
        nonlocal status
        pid, found = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(found) if pid else -1
        return bool(pid)

    if not wait(has_ended, seconds):
        os.kill(child, signal.SIGKILL)  # the child may hang until the FUSE connection ends
        return Answer.NONE
    return Answer.GIVEN if status == 0 else Answer.DEAD


def wait(condition: Callable[[], bool], seconds: float = DAEMON_SECONDS) -> bool:
    """Whether *condition* becomes true within *seconds*."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return _stat(pid)[:1] not in ([], [b"Z"], [b"X"])


def parent(pid: int) -> int:
    """The process that has started *pid*; 0: it is gone."""
    return int((_stat(pid)[1:2] or [b"0"])[0])


def daemons_of(mount: Mount) -> list[int]:
    """Living processes that may be the daemon of a mount: one, if the kernel reports which one it is.

    Else those of all FUSE file systems, or, if there are any, those that have the mountpoint in their command
    line.
    """
    servers = mounts.servers(mount.connection)
    found = [pid for pid in servers if parent(pid) not in servers]  # the others are companions
    point = os.fsencode(mount.point)
    return [pid for pid in found if point in _command(pid)] or found if len(found) > 1 else found


def started(pid: int) -> float | None:
    """When a process was started, seconds since the epoch; None: it is gone."""
    fields = _stat(pid)
    if len(fields) < 20:
        return None
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def _command(pid: int) -> list[bytes]:
    """The program of a process and its arguments; empty: it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as command:
        return command.read().split(b"\0")
    return []


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name; empty: it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()
    return []
