"""``umount``: unmounts, and waits for the daemon to end.

A mount whose daemon has died is *aborted*: processes that wait for the daemon get an error at once; after an
unmount alone they would go on waiting. A daemon is dead if no process serves the connection and the mount
does not answer; a child process asks the mount, since the call may never return.

A mount with ``-o restore`` commits the staged files first, and stays mounted if that fails.

The mount may go on in a place that this process doesn't see: a mount namespace that was copied while it
existed (containers, ``unshare -m``, systemd units with a ``Private...=`` option) has a mount of its own. Then
the daemon goes on, and a line says so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Iterator
from shlex import quote

from dboxfs.cli import restoring
from dboxfs.cli.liveness import Answer, ask, daemons_of, lives, wait
from dboxfs.cli.logs import tell
from dboxfs.errors import MountError
from dboxfs.util import mounts
from dboxfs.util.machine import MTAB, MTAB_REMEDY
from dboxfs.util.mounts import Mount

SLOW_SECONDS = 55.0
"""Further seconds that a daemon may take to end, if only its own work keeps it running."""


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
    daemons = daemons_of(mount)
    status = 0
    if arguments.force or (not arguments.lazy and _is_dead(mount, daemons)):
        _abort(mount)
    else:
        report = None if arguments.lazy else restoring.commit_all(mount.point)
        if report is not None and (status := restoring.tell(report)):
            return status
        _unmount(mount, lazy=arguments.lazy)
    wait(lambda: not mounts.is_there(mount))
    if not arguments.lazy and not _have_ended(mount, daemons, patient=not arguments.force):
        tell(_why(mount, daemons))
    return 0


def clear_dead(mountpoint: str, *, replace: bool) -> None:
    """Handle a dead mount on *mountpoint*, which the kernel's caches may hide.

    :param replace: remove it.
    :raises MountError: *replace* is not set, or the user may not remove it; or its daemon does not answer.
    """
    mount = next((found for name in _names_of(mountpoint) if (found := mounts.mounted_on(name))), None)
    if mount is None or not _is_dead(mount, daemons_of(mount)):
        return
    if not replace:
        raise MountError(
            f"{mountpoint}: a dead mount is here, whose daemon has ended; give --replace, or remove it with: "
            f"dboxfs umount {quote(mountpoint)}"
        )
    _abort(mount)


def _names_of(mountpoint: str) -> Iterator[str]:
    """Paths under which the kernel may know *mountpoint*.  The last one needs its daemon, which may hang."""
    above, name = os.path.split(mountpoint)
    yield mountpoint
    yield os.path.join(os.path.realpath(above), name)
    yield os.path.realpath(mountpoint)


def _is_dead(mount: Mount, daemons: list[int]) -> bool:
    """Whether the daemon of a mount is dead, so that the mount will never answer.

    :raises MountError: a daemon is there, but does not answer.
    """
    answer = ask(mount)
    if answer is Answer.NONE and daemons:
        raise MountError(
            f"{mount.point}: its daemon (process {daemons[0]}) does not answer: try again later, or end it "
            f"with dboxfs umount --force {quote(mount.point)}, which loses what is being written"
        )
    return answer is not Answer.GIVEN


def _abort(mount: Mount) -> None:
    try:
        mounts.Abort(mount)()
    except MountError as exc:  # the detach below at least keeps further processes out
        tell(str(exc))
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
                f"let it finish: dboxfs umount --lazy {quote(point)}"
            )
        remedy = f"; {MTAB_REMEDY}" if MTAB in reason else ""
        raise MountError(f"{point}: {reason}{remedy}")


def _program(pid: int) -> str:
    """The program of process *pid*, in parentheses; empty if it is not known."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as comm:
            return f" ({comm.read().strip()})"
    except OSError:
        return ""


def _have_ended(mount: Mount, daemons: list[int], *, patient: bool) -> bool:
    """Wait for the daemon to end.

    :param daemons: the processes that may be it: several, if the kernel doesn't report which one it is.
    :param patient: if no other namespace has the mount, wait as long as a slow machine may need.
    """

    def ended() -> bool:
        return not daemons or not all(map(lives, daemons))

    return wait(ended) or (patient and mounts.who_else_has(mount) is None and wait(ended, SLOW_SECONDS))


def _why(mount: Mount, daemons: list[int]) -> str:
    """A line about the reason why a daemon is still there, as far as it is known."""
    daemon = next(filter(lives, daemons), daemons[0])
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
