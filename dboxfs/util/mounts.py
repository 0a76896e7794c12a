"""Facts from the kernel about mounts, without entering any mount.

A daemon that sent a request to its own mount (stat, statvfs, opening a file) would wait for itself, and if it
is killed meanwhile, the waiting thread never ends.  So the device of a mount comes from ``mountinfo``
(proc(5)), and the mount of a descriptor from ``mnt_id`` in its ``fdinfo``: neither sends a request.

The ``fdinfo`` of a ``/dev/fuse`` descriptor has its connection (``fuse_connection``, from Linux 6.16 on, and
only once it is mounted); the number of a connection is the minor number of the mount's device.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from dboxfs.errors import MountError

OWN = "/proc/self/mountinfo"
TYPE = "fuse.dboxfs"

_FUSE = "/dev/fuse"
_CONNECTIONS = "/sys/fs/fuse/connections"
_MNT_FORCE, _MNT_DETACH = 1, 2
_CLONE_NEWNS = 0x20000
_REPORTING = (6, 16)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of ``mountinfo``.  ``device``: major and minor number, as text.  ``kind``: the fs type.

    Not part of the identity, since a remount changes them: ``options`` of the mount itself (``ro``,
    ``nosuid`` ...), and ``source``, the name of the mounted store.
    """

    mnt_id: int
    device: str
    point: str
    kind: str
    source: str = field(default="", compare=False)
    options: tuple[str, ...] = field(default=(), compare=False)

    @property
    def connection(self) -> int:
        """The number of the FUSE connection."""
        return int(self.device.partition(":")[2])


def table(path: str = OWN) -> list[Mount]:
    """The mounts of a mount namespace, in the order in which they were made.

    :raises OSError: *path* can't be read.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [_mount(line) for line in file]


def _mount(line: str) -> Mount:
    fields, _, rest = line.partition(" - ")
    mnt_id, _, device, _, point, options, *_ = fields.split()
    kind, _, rest = rest.partition(" ")
    source = _unescaped(rest.partition(" ")[0])
    return Mount(int(mnt_id), device, _unescaped(point), kind, source, tuple(options.split(",")))


def _unescaped(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    return os.fsdecode(raw)


def mounted_on(point: str) -> Mount | None:
    """The dboxfs mount on *point*; None: there is none, or another file system covers it."""
    here = [mount for mount in table() if mount.point == point]
    return here[-1] if here and here[-1].kind == TYPE else None


def is_automount(point: str) -> bool:
    """Whether an automount keeps *point* for a mount: a process that opens the directory waits for it."""
    here = [mount for mount in table() if mount.point == point]
    return bool(here) and here[-1].kind == "autofs"


def mount_of(path: str) -> Mount | None:
    """The mount of an existing path, by its name; None: unknown."""
    real = os.path.realpath(path)
    above = [mount for mount in table() if os.path.commonpath((mount.point, real)) == mount.point]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def is_there(mount: Mount) -> bool:
    """Whether *mount* is still in the table of this process.

    The whole line is compared: the kernel gives the numbers to the next mount, wherever that is made.
    """
    return mount in table()


def detach(mount: Mount) -> None:
    """Remove a mount that no daemon serves any more, even if programs use it."""
    if os.geteuid() == 0:
        _umount2(mount.point, _MNT_DETACH)
    else:
        command = ["fusermount3", "-u", "-z", "-q", "--", mount.point]
        subprocess.run(command, capture_output=True, check=False)


_PER_MOUNT = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21,
}  # fmt: skip
_MS_RDONLY, _MS_REMOUNT = 1, 32


def remount(mount: Mount, *, read_only: bool) -> None:
    """Make the kernel refuse all writing, or allow it again; other options stay.

    :raises OSError: EBUSY: a file is open for writing; EPERM: this process is not root's.
    """
    flags = _MS_REMOUNT | sum(flag for name, flag in _PER_MOUNT.items() if name in mount.options)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(mount.point), None, flags | (_MS_RDONLY if read_only else 0), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mount.point)


class Membership:
    """Finds out whether descriptors of any process belong to one mounted file system, at any mount point.

    The own table is read again when the kernel reports a change; that of another mount namespace each time.
    It never waits for a lock that a user of a FUSE mount holds while waiting for an answer.

    :param device: of the file system; None: unknown, and every descriptor counts as one of it.
    :param outside: maps a store's own inode number to the one in the mount.
    """

    def __init__(self, device: str | None, outside: Callable[[int], int] = lambda inode: inode) -> None:
        self.device = device
        self.outside = outside
        self._own: dict[int, str] = {}
        self._file = -1
        self._poll = select.poll()

    def has(self, pid: int, mnt_id: int | None) -> bool:
        """Whether mount *mnt_id*, of which process *pid* has a file open, shows this file system.

        True if that is unknown: a mount that was removed lazily is in no table any more.
        """
        if self.device is None or mnt_id is None:
            return True
        device = self._look_up(mnt_id)
        if device is None:
            with suppress(OSError):
                device = {m.mnt_id: m.device for m in table(f"/proc/{pid}/mountinfo")}.get(mnt_id)
        return device is None or device == self.device

    def _look_up(self, mnt_id: int) -> str | None:
        if self._file < 0:
            self._file = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._file, select.POLLPRI)
            self._own = {mount.mnt_id: mount.device for mount in table()}
        elif self._poll.poll(0):
            self._own = {mount.mnt_id: mount.device for mount in table()}
        return self._own.get(mnt_id)

    def close(self) -> None:
        """Close the descriptor of the table."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


# -- connections -------------------------------------------------------------------------------


def devices() -> set[int]:
    """The descriptors of this process that serve FUSE connections."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == _FUSE:
                found.add(int(name))
    return found


def servers(connection: int) -> list[int]:
    """Living processes that serve a connection, as far as the kernel reports that (:func:`reports`).

    If it doesn't: all processes that serve any connection, or are about to.  Only root sees those of other
    users.
    """
    found = {pid: set(_connections(pid)) for pid in _processes()}
    exact = [pid for pid, numbers in found.items() if connection in numbers]
    if exact or reports() or any(numbers - {None} for numbers in found.values()):
        return exact
    return [pid for pid, numbers in found.items() if numbers]


def reports() -> bool:
    """Whether this kernel reports the connection of a descriptor (Linux 6.16), once it has one: before
    mount(2), a descriptor of ``/dev/fuse`` has none.
    """
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= _REPORTING


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _connections(pid: int) -> Iterator[int | None]:
    """The connections of a process's descriptors of ``/dev/fuse``; None: not reported."""
    with suppress(OSError, ValueError):  # it has ended, or belongs to another user
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") == _FUSE:
                yield _connection_of(pid, descriptor)


def _connection_of(pid: int, descriptor: str) -> int | None:
    with open(f"/proc/{pid}/fdinfo/{descriptor}", "rb") as info:
        number = info.read().partition(b"fuse_connection:")[2].split()
    return int(number[0]) if number else None


def who_else_has(mount: Mount) -> int | None:
    """A process in another mount namespace that also has the file system of *mount*; None: this process sees
    none.

    The table of a process in a chroot lacks what it can't reach: then, as root, the whole one is read.
    """
    known = {os.readlink("/proc/self/ns/mnt")}
    for pid in _processes():
        with suppress(OSError, ValueError):
            namespace = f"/proc/{pid}/ns/mnt"
            if (name := os.readlink(namespace)) in known:
                continue
            if os.readlink(f"/proc/{pid}/root") == "/":
                found = table(f"/proc/{pid}/mountinfo")
            else:
                known.add(name)
                found = _whole_table(namespace)
            if any(some.device == mount.device for some in found):
                return pid
    return None


def _whole_table(namespace: str) -> list[Mount]:
    """All mounts of a mount namespace, by a child that enters it and runs nothing of it.

    :raises OSError: it can't be entered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    entered, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b"1" if libc.setns(fd, _CLONE_NEWNS) == 0 else b"0")
        signal.pause()
        os._exit(0)
    try:
        if os.read(entered, 1) != b"1":
            raise PermissionError(errno.EPERM, "the namespace can't be entered", namespace)
        return list(table(f"/proc/{child}/mountinfo"))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for one in (fd, entered, told):
            os.close(one)


def who_uses(mount: Mount) -> int | None:
    """A process that has its root, its working directory or an open file in *mount*; None: this process sees
    none.

    Links in /proc are only read, never followed, so no daemon gets a request.
    """
    inside = mount.point.rstrip("/") + "/"
    for pid in _processes():
        with suppress(OSError):
            links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
            links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
            if any((_target(link) + "/").startswith(inside) for link in links):
                return pid
    return None


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


class Abort:
    """Aborts one connection: all processes that wait for an answer get ECONNABORTED, and no process waits
    again.

    It is made while the mount works, so that the abort needs no look-up.  Aborting sends no request and never
    waits.

    :param mount: the mount of the connection.
    :raises MountError: this process may not write to ``/sys/fs/fuse/connections``, and is not root's.
    """

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._control = -1
        try:
            path = f"{_CONNECTIONS}/{mount.connection}/abort"
            self._control = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as exc:
            if os.geteuid():
                raise MountError(
                    f"{mount.point}: its connection can't be aborted ({_CONNECTIONS}: {exc.strerror}); "
                    "mount fusectl there, or be root"
                ) from None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that a process must keep when it closes all others."""
        return (self._control,) if self._control >= 0 else ()

    def __call__(self) -> None:
        """Abort the connection.  Does nothing if it is gone.

        :raises OSError: the kernel refuses.
        """
        if self._control >= 0:
            with suppress(OSError):  # the connection is gone
                os.write(self._control, b"1")
            return
        # A descriptor of the mount's root, which takes no request, keeps the mount busy: so it stays, and no
        # program writes into the directory below it.  Below a mount that is gone an automount may be, which
        # would make it anew for the descriptor.
        with suppress(OSError):
            if not is_there(self._mount):
                return
            root = os.open(self._mount.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if mnt_id_of(root) == self._mount.mnt_id:
                    # It begins with an abort, and then fails with EBUSY.
                    _umount2(self._mount.point, _MNT_FORCE)
            finally:
                os.close(root)

    def close(self) -> None:
        """Close the descriptor."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1


def mnt_id_of(descriptor: int) -> int:
    """The mount that a descriptor of this process belongs to.

    :raises OSError: /proc can't be read.
    """
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:
        return int(info.read().partition(b"mnt_id:")[2].split()[0])


def _umount2(point: str, flags: int) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(point), flags)
