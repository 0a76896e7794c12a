"""Properties of this machine that may disturb mounts, with advice.

Each function checks one property and gives remarks; an empty list: all is well.  Files are read below a root,
so that a test can make its own machine.  The functions write nothing and enter no mount.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from shlex import quote

from msgspec import Struct

from dboxfs.util.mounts import TYPE, mount_of
from dboxfs.util.network import network_kind

ERROR, WARNING, NOTE = "error", "warning", "note"

MTAB = "/etc/mtab"
"""The list of mounts, usually a link.  Without it fusermount3 mounts, but does not unmount (libfuse 3.14)."""
MTAB_REMEDY = "as root: ln -s ../proc/self/mounts /etc/mtab"

_WATCHES_A_MAILBOX = 2


class Remark(Struct, frozen=True):
    """The result of a check.

    :ivar level: :data:`ERROR`: mounts do not work; :data:`WARNING`: mail or time may be lost; :data:`NOTE`.
    :ivar what: the problem and its place.
    :ivar remedy: the advice.
    """

    level: str
    what: str
    remedy: str


class Machine(Struct, frozen=True):
    """A machine, or one for a test.

    :ivar root: the directory that stands for ``/``.
    :ivar uid: the user whose rights count; 0: root.
    :ivar which: gives the path of a program; None: not installed.
    """

    root: str = "/"
    uid: int = 0
    which: Callable[[str], str | None] = shutil.which

    def read(self, path: str) -> str | None:
        """The text of a file; None: it can't be read."""
        try:
            with open(os.path.join(self.root, path.lstrip("/")), errors="replace") as file:
                return file.read()
        except OSError:
            return None


def fuse_device(machine: Machine) -> list[Remark]:
    """Whether /dev/fuse can be opened."""
    path = os.path.join(machine.root, "dev/fuse")
    if not os.path.exists(path):
        return [Remark(ERROR, "/dev/fuse is missing", "modprobe fuse; in a container: give it this device")]
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        what = f"/dev/fuse can't be opened: {exc.strerror}"
        return [Remark(ERROR, what, "chmod 666 /dev/fuse; in a container: allow the device (c 10:229 rwm)")]
    return []


def fusermount(machine: Machine) -> list[Remark]:
    """Whether the program that mounts for users is installed, and finds what it needs."""
    found = []
    if machine.uid != 0 and machine.which("fusermount3") is None:
        found.append(
            Remark(ERROR, "fusermount3 is missing: only root can mount", "install the package fuse3")
        )
    if machine.uid != 0 and not os.path.lexists(os.path.join(machine.root, MTAB.lstrip("/"))):
        what = f"{MTAB} is missing: fusermount3 can't unmount without it, so users can't mount"
        found.append(Remark(ERROR, what, MTAB_REMEDY))
    return found


def user_allow_other(machine: Machine) -> list[Remark]:
    """Whether users may let others into their mounts."""
    text = machine.read("/etc/fuse.conf") or ""
    if machine.uid == 0 or re.search(r"^\s*user_allow_other\s*$", text, re.MULTILINE):
        return []
    what = "/etc/fuse.conf has no line user_allow_other: -o allow_other is refused"
    return [Remark(NOTE, what, "if others shall look into your mounts: add the line, as root")]


def updatedb(machine: Machine) -> list[Remark]:
    """Whether locate reads every mount each night."""
    text = machine.read("/etc/updatedb.conf")
    if text is None:
        return []
    pruned = re.search(r"^\s*PRUNEFS\s*=\s*\"([^\"]*)\"", text, re.MULTILINE)
    if pruned is not None and TYPE in pruned[1].split():
        return []
    what = f"/etc/updatedb.conf: PRUNEFS has no {TYPE}: updatedb walks through mounts that root may read"
    return [Remark(NOTE, what, f"add {TYPE} to PRUNEFS in /etc/updatedb.conf")]


def watches(machine: Machine, mailboxes: int) -> list[Remark]:
    """Whether inotify's limits are high enough for so many mailboxes."""
    found = []
    for name, wanted, usual in (
        ("max_user_watches", _WATCHES_A_MAILBOX * mailboxes + 16, 8192),
        ("max_user_instances", 16, 128),
    ):
        text = machine.read(f"/proc/sys/fs/inotify/{name}")
        limit = int(text) if text is not None and text.strip().isdigit() else None
        if limit is not None and limit < wanted:
            what = f"fs.inotify.{name} is {limit}, wanted are {wanted}: changes are found by asking again"
            more = max(4 * wanted, usual)
            found.append(Remark(WARNING, what, f"sysctl fs.inotify.{name}={more}, also in /etc/sysctl.d"))
    return found


def network(paths: Sequence[str]) -> list[Remark]:
    """Which of *paths* other machines may write to."""
    found = []
    for path in dict.fromkeys(paths):
        mount = mount_of(path)
        kind = network_kind(mount) if mount is not None else None
        if mount is not None and kind is not None:
            what = f"{path}: lies on a network file system ({kind} on {mount.point}): what other machines"
            what += " change is not told by inotify, and a file may be shown older than it is"
            remedy = "write to it through one mount at a time, on the machine where its Dovecot runs"
            found.append(Remark(WARNING, what, remedy))
    return found


def mirrors(point: str, mode: str) -> list[Remark]:
    """Whether the directory below the mount on *point* looks like a store without mail.

    :param mode: the permission bits of that directory, in octal.
    """
    if not int(mode, 8) & 0o444:
        return []
    what = f"{point}: when the mount is gone, the empty directory below it (mode {mode}) can be listed: a"
    what += " program that mirrors it takes all mail for deleted"
    remedy = f"begin a backup with cd -P {quote(point)}/.dboxfs/.. which fails then; while nothing is mounted"
    remedy += f" there, for a mount of root's: chmod 0 {quote(point)}"
    return [Remark(NOTE, what, remedy)]


def backups(machine: Machine) -> list[Remark]:
    """Whether a backup of the whole machine would walk into a mount."""
    text = machine.read("/proc/self/mountinfo") or ""
    points = [line.split()[4] for line in text.splitlines() if f" - {TYPE} " in line]
    if not points:
        return []
    what = f"{points[0]} and {len(points) - 1} more" if points[1:] else points[0]
    what += ": mounted; a backup of the whole machine would have all mail twice"
    return [Remark(NOTE, what, "exclude it by its path, or with --one-file-system (rsync -x)")]
