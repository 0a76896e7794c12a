"""``status``: the dboxfs mounts of this machine, the store of each, and whether its daemon lives.

Only a child process accesses a mount, and this process waits for it a second at most.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from shlex import quote

from msgspec import Struct
from msgspec.structs import asdict

from dboxfs.cli.liveness import Answer, ask, daemons_of, started
from dboxfs.cli.logs import one_line
from dboxfs.errors import MountError
from dboxfs.util import mounts
from dboxfs.util.mounts import Mount

_SECONDS = 1.0


class Shown(Struct, frozen=True):
    """A mount.

    :ivar state: ``alive``, ``dead`` (its daemon has ended), ``silent`` (it does not answer in time).
    :ivar age: seconds since its daemon was started; None: no daemon is visible to this process.
    """

    mountpoint: str
    store: str
    state: str
    writable: bool
    pid: int | None
    age: int | None


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs status``."""
    parser.description = (
        "List the dboxfs mounts of this machine: store, state, process and age of the daemon. "
        "Exit status 1 if one of them is dead or does not answer."
    )
    parser.set_defaults(run=status)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="only this one")
    parser.add_argument("--json", action="store_true", help="for programs")


def status(arguments: argparse.Namespace) -> int:
    """``dboxfs status [MOUNTPOINT] [--json]``."""
    found = [mount for mount in mounts.table() if mount.kind == mounts.TYPE]
    if arguments.mountpoint is not None:
        wanted = os.path.abspath(arguments.mountpoint)
        found = [mount for mount in found if mount.point == wanted]
        if not found:
            raise MountError(f"{wanted}: no dboxfs mount; dboxfs status lists all of them")
    shown = [look(mount) for mount in found]
    if arguments.json:
        print(json.dumps([asdict(one) for one in shown], indent=2))
    else:
        _print(shown)
    return 1 if any(one.state != "alive" for one in shown) else 0


def look(mount: Mount) -> Shown:
    """The state of a mount, as far as this process can see it."""
    daemons = daemons_of(mount)
    pid = daemons[0] if daemons else None
    answer = ask(mount, _SECONDS)
    alive = answer is Answer.GIVEN and (pid is not None or os.geteuid() != 0)
    state = "alive" if alive else "silent" if answer is Answer.NONE else "dead"
    since = started(pid) if pid is not None else None
    age = None if since is None else max(0, round(time.time() - since))
    return Shown(mount.point, mount.source, state, "rw" in mount.options, pid, age)


def _print(shown: list[Shown]) -> None:
    if not shown:
        print("no dboxfs mounts")
    for one in shown:
        mode = "rw" if one.writable else "ro"
        daemon = f"pid {one.pid}, {_age(one.age or 0)}" if one.pid is not None else "daemon not found"
        print(one_line(f"{one.mountpoint}  {one.store}  {mode}  {one.state}  {daemon}"))
        if one.state == "dead":
            print(one_line(f"  its daemon has ended: unmount it with dboxfs umount {quote(one.mountpoint)}"))


def _age(seconds: int) -> str:
    """A time for people: ``2 d``, ``3 h``, ``5 min``, ``10 s``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
