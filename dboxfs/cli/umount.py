"""``umount``: take a mount away, and wait for its daemon to end.

A mount whose daemon has died is *aborted*: whatever waits for the daemon gets an error at once, where
taking the mount away alone would leave it waiting. A daemon is dead when no process serves the connection
and the mount answers nothing; whether it answers is asked by a child process, since the one that asks may
never come back.

A mount with ``-o restore`` commits what is staged first, and stays if that fails.

The mount may live on where this process doesn't see it: a mount namespace that was copied while it was
there (containers, ``unshare -m``, systemd units with a ``Private...=`` option) has a mount of its own. Then
the daemon goes on, and that is said.
"""

from __future__ import annotations

import argparse
import enum
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from dboxfs.cli import restoring
from dboxfs.errors import MountError
from dboxfs.util import mounts
from dboxfs.util.mounts import Mount

DAEMON_SECONDS = 5.0
"""Seconds that a mount may take to answer, and a daemon to end."""


class _Answer(enum.Enum):
    GIVEN = enum.auto()
    DEAD = enum.auto()
    NONE = enum.auto()


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs umount``."""
    parser.description = "Unmount MOUNTPOINT, also one whose daemon has died."
    parser.set_defaults(run=umount)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-z", "--lazy", action="store_true", help="detach now even if it is in use")
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="end the connection first, also of a living daemon: programs that wait for it get an error, "
        "what is being written is lost",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing if nothing is mounted there")


def umount(arguments: argparse.Namespace) -> int:
    """``dboxfs umount MOUNTPOINT``."""
    given = os.path.abspath(arguments.mountpoint)
    mount = next((found for name in _names_of(given) if (found := mounts.mounted_on(name))), None)
    if mount is None:
        if arguments.quiet:
            return 0
        raise MountError(f"{given}: no dboxfs mount")
    daemons = mounts.servers(mount.connection)
    status = 0
    if arguments.force or (not arguments.lazy and _is_dead(mount, daemons)):
        _abort(mount)
    else:
        report = None if arguments.lazy else restoring.commit_all(mount.point)
        if report is not None and (status := restoring.tell(report)):
            return status
        _unmount(mount, lazy=arguments.lazy)
    _wait(lambda: not mounts.is_there(mount))
    if not arguments.lazy and not _wait(lambda: not any(map(_lives, daemons))):
        print(f"dboxfs: {_why(mount, daemons)}", file=sys.stderr)
    return 0


def _names_of(mountpoint: str) -> Iterator[str]:
    """What the kernel may call *mountpoint*.  The last one asks its daemon, which may be dead or hang."""
    above, name = os.path.split(mountpoint)
    yield mountpoint
    yield os.path.join(os.path.realpath(above), name)
    yield os.path.realpath(mountpoint)


def _is_dead(mount: Mount, daemons: list[int]) -> bool:
    """Whether nobody will ever answer there.

    :raises MountError: somebody might, but doesn't.
    """
    answer = _ask(mount)
    if answer is _Answer.NONE and daemons:
        raise MountError(
            f"{mount.point}: its daemon (process {daemons[0]}) does not answer; wait, or end it, and what is "
            f"being written: dboxfs umount --force {mount.point}"
        )
    return answer is not _Answer.GIVEN


def _ask(mount: Mount) -> _Answer:
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

    if not _wait(has_ended):
        os.kill(child, signal.SIGKILL)  # it ends when the connection does
        return _Answer.NONE
    return _Answer.GIVEN if status == 0 else _Answer.DEAD


def _abort(mount: Mount) -> None:
    try:
        mounts.Abort(mount)()
    except MountError as exc:  # then at least nobody new gets in
        print(f"dboxfs: {exc}", file=sys.stderr)
    mounts.detach(mount)
    if mounts.is_there(mount):
        raise MountError(f"{mount.point}: its daemon is dead, but you may not unmount it; try as root")


def _unmount(mount: Mount, *, lazy: bool) -> None:
    point = mount.point
    command = ["fusermount3", "-u", point] if os.geteuid() else ["umount", point]
    if lazy:
        command.insert(-1, "-z" if os.geteuid() else "-l")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()[-1:] or ["failed"]
        reason = lines[0].removeprefix("umount: ").removeprefix(point + ": ")
        user = mounts.who_uses(mount) if "busy" in reason.lower() else None
        if user is not None:
            raise MountError(
                f"{point}: in use by process {user}{_program(user)}; end it, or detach the mount now and "
                f"let it finish: dboxfs umount --lazy {point}"
            )
        raise MountError(f"{point}: {reason}")


def _program(pid: int) -> str:
    """What runs as *pid*, in parentheses; nothing if that can't be known."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as comm:
            return f" ({comm.read().strip()})"
    except OSError:
        return ""


def _wait(condition: Callable[[], bool]) -> bool:
    """Whether something soon is so."""
    deadline, pause = time.monotonic() + DAEMON_SECONDS, 0.001
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def _lives(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return False


def _why(mount: Mount, daemons: list[int]) -> str:
    """Why a daemon is still there, as far as can be told."""
    daemon = next(filter(_lives, daemons), daemons[0])
    point, holder = mount.point, mounts.who_else_has(mount)
    if holder is not None:
        return (
            f"{point}: unmounted here; process {holder} has it too, in a mount namespace of its own, and the "
            f"daemon (process {daemon}) goes on until that is gone"
        )
    return (
        f"{point}: unmounted; its daemon (process {daemon}) is still at work: "
        f"kill -USR1 {daemon} has it log what it does"
    )
