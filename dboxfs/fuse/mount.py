"""Makes the mount, answers the kernel until the file system is unmounted, and cleans up.

:func:`run` is the whole life of a mount in one trio task tree.  It ends when the file system is unmounted
(from outside, or because of SIGTERM or SIGINT) and returns normally then.  The mountpoint is checked before
libfuse is called, because libfuse's own messages go to stderr and tell little.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from shlex import quote

import pyfuse3
import trio
from msgspec import Struct

from dboxfs.errors import MountError
from dboxfs.fsapi import FileSystem
from dboxfs.fuse import HOOK, loop
from dboxfs.fuse.adapter import Adapter
from dboxfs.fuse.companion import Companion
from dboxfs.fuse.kernels import why_not_safe
from dboxfs.fuse.notify import Notifier
from dboxfs.fuse.pusher import Pusher
from dboxfs.fuse.signals import Commander, Signals
from dboxfs.util import mounts
from dboxfs.util.addresses import Address
from dboxfs.util.machine import MTAB, MTAB_REMEDY
from dboxfs.util.mounts import Mount
from dboxfs.vfs.host import Host, Spawn, spawner
from dboxfs.vfs.observed import Observed
from dboxfs.vfs.options import Entries, MountOptions, Opens, wants_no_open
from dboxfs.vfs.serving import Mountable, Serving

log = logging.getLogger(__name__)

MAX_TASKS = 1024
"""Requests that are answered at the same time, at most."""


def check_mountpoint(path: str) -> str:
    """The absolute path of a usable mountpoint.

    :raises MountError: it is missing, no directory, not empty, already mounted on, not writable; or FUSE is
    missing.
    """
    path = os.path.abspath(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise MountError(f"{path}: no such directory; make it with: mkdir {quote(path)}") from None
    except OSError as exc:
        if exc.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            what = "a dead mount is here, whose daemon has ended; remove it with: dboxfs umount"
            raise MountError(f"{path}: {what} {quote(path)}") from None
        raise MountError(f"{path}: {exc.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise MountError(f"{path}: not a directory; give an empty directory to mount on")
    if mounts.is_automount(os.path.realpath(path)):
        _check_fuse()
        return path
    if os.path.ismount(path):
        raise MountError(
            f"{path}: something is mounted there already; unmount it first: dboxfs umount {quote(path)}"
        )
    try:
        if os.listdir(path):
            raise MountError(f"{path}: not empty; what is in it would be hidden. Give an empty directory")
    except PermissionError:
        raise MountError(f"{path}: permission denied") from None
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountError(f"{path}: you must be able to write there to mount on it")
    _check_fuse()
    return path


def _check_fuse() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError(
            "/dev/fuse is missing; load the kernel module (modprobe fuse) or allow the device here"
        ) from None
    except OSError as exc:
        raise MountError(f"/dev/fuse: {exc.strerror}; may you use FUSE here?") from None
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing; install the package fuse3")
    if os.geteuid() != 0 and not os.path.exists(MTAB):
        raise MountError(f"{MTAB} is missing: fusermount3 can't unmount without it; {MTAB_REMEDY}")


async def run(
    fs: FileSystem,
    what: Mountable,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    companion: Companion | None = None,
    commander: Callable[[Serving], Commander] = lambda serving: Commander(),
) -> None:
    """Mount *what* on *mountpoint* and serve it until it is unmounted.

    :param fs: the file API that *what* is read through.
    :param ready: called once the mount answers.
    :param companion: forked before the process had any thread; it is ended when the mount ends.
    :param commander: makes the callbacks that a HUP uses.
    :raises NoSuchStore: there is no store.
    :raises MountError: the mount can't be made.
    """
    notifier, requests = Notifier(), dict[str, int]()
    polling: loop.LoopLowlevel | None = None
    observed = Observed()
    below = _mode_below(mountpoint)

    def kernel() -> dict[str, object]:
        return {**_kernel_stats(notifier, polling), "mountpoint_mode": below}

    def host(nursery: trio.Nursery) -> Host:
        return Host(spawner(nursery), notifier, requests, kernel, observed)

    async with what.serving(host) as serving, trio.open_nursery() as nursery:
        adapter = Adapter(serving.top, requests, serving.writes)
        adapter.observed, adapter.released = observed, serving.released
        tell_metrics = _metrics_endpoint(options.metrics, mountpoint, spawner(nursery))
        device, mount = _init(adapter, what.name, mountpoint, options, serving.owner)
        try:
            pusher = None
            if wants_no_open(options, what.kind):
                pusher = _do_without_open(adapter, serving, notifier, device, options)
        except MountError:
            pyfuse3.close(unmount=True)
            raise
        polling = loop.install(lambda: fs.in_flight > 0) if options.fast_loop else None
        notifier.start()
        signals = Signals(serving, observed, notifier, commander(serving))
        try:
            await nursery.start(signals.run)
            tell = _told(mountpoint, what.name, options, ready)
            begin = _Beginning(options, device, mount, companion, pusher, fs.limits.readahead, tell)
            nursery.start_soon(begin.run, adapter.greeted, notifier)
            serving.start(mount)
            tell_metrics(serving.metrics)
            await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
            log.info("%s: unmounted", mountpoint)
            await serving.finish()
            nursery.cancel_scope.cancel()
        finally:
            loop.uninstall()
            notifier.stop()
            if pusher is not None:
                pusher.stop()
            if adapter.unopened is not None:
                adapter.unopened.close()
            if companion is not None:
                companion.stop()
            pyfuse3.close(unmount=True)
            # libfuse leaves a mount whose connection was ended, so that no process writes into the directory
            # below it.  So do we, unless a signal told us to unmount.
            if signals.told.is_set() and mount is not None and mounts.is_there(mount):
                mounts.detach(mount)


def _mode_below(mountpoint: str) -> str | None:
    """The permission bits of the directory that is mounted on, in octal: programs see it when the mount is
    gone.  None: of an automount, which brings the mount again.
    """
    if mounts.is_automount(os.path.realpath(mountpoint)):
        return None
    return f"{stat.S_IMODE(os.stat(mountpoint).st_mode):04o}"


def _metrics_endpoint(
    address: Address | None, mountpoint: str, spawn: Spawn
) -> Callable[[Callable[[], str]], None]:
    """Listen at the address of ``-o metrics=``; gives the function that begins to answer there.

    :raises MountError: the daemon can't listen there, or the address lies in the mount.
    """
    if address is None:
        return lambda make: None
    if address.path and os.path.commonpath((mountpoint, os.path.realpath(address.path))) == mountpoint:
        raise MountError(f"-o metrics={address}: lies in the mount; give a path elsewhere")
    from dboxfs.util.text_endpoint import listen, serve  # most mounts need no HTTP

    try:
        listener = listen(address)
    except OSError as exc:
        raise MountError(f"-o metrics={address}: {exc.strerror}; give another address") from None
    log.info("metrics are told at %s", address)
    return lambda make: spawn(partial(serve, listener, address, make))


def _told(mountpoint: str, name: str, options: MountOptions, ready: Callable[[], None]) -> Callable[[], None]:
    """Gives a function that logs that the mount is there, and then calls *ready*."""

    def tell() -> None:
        mode = "read-only" if options.write is None else "writable"
        log.info("%s: mounted, %s, %s", mountpoint, name, mode)
        ready()

    return tell


def _do_without_open(
    adapter: Adapter, serving: Serving, notifier: Notifier, device: int, options: MountOptions
) -> Pusher | None:
    """Make the mount work without OPEN (:mod:`dboxfs.vfs.unopened`); gives the thread that fills the kernel's
    page cache then, or None: files are opened.

    :raises MountError: that is impossible here, and ``-o open=none`` asks for it.
    """
    system = os.uname()
    why_not = why_not_safe(system.release, system.version) or HOOK.why_not()
    if why_not and options.opens is Opens.NONE:
        raise MountError(f"-o open=none: {why_not}; leave it out")
    if why_not:
        log.info("files are opened one by one, which takes more requests: %s", why_not)
        return None
    pusher = Pusher.onto(device)
    adapter.unopened = serving.unopen(pusher, lambda: {"pushed_to_kernel": pusher.stats()})
    notifier.keeps_listings = True
    pusher.start()
    return pusher


def _kernel_stats(notifier: Notifier, polling: loop.LoopLowlevel | None) -> dict[str, object]:
    """The kernel's part of stats.json."""
    counted = None
    if polling is not None:
        counted = {"polled": polling.polled, "spun": polling.spun, "slept": polling.slept}
    return {
        "invalidations": notifier.sent,
        "entries": {"by": notifier.means.value, "epochs": notifier.epochs},
        "loop": counted,
    }


def _init(
    adapter: Adapter, what: str, mountpoint: str, options: MountOptions, owner: int | None
) -> tuple[int, Mount | None]:
    """Make the mount; gives the descriptor of ``/dev/fuse``, and the mount as the kernel lists it.

    :param owner: uid of the owner of the stores; None: there are several owners.
    """
    name = what.encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else "?" for c in name).replace("\\", "\\\\").replace(",", "\\,")
    given = {f"fsname={name}", "subtype=dboxfs", *options.fuse}
    given.add("ro" if options.write is None else "rw")
    if options.allow_other:
        given.add("allow_other")
    if not _all_is_allowed(options, owner):
        given.add("default_permissions")
    before, point = mounts.devices(), os.path.realpath(mountpoint)
    try:
        pyfuse3.init(adapter, mountpoint, given)
    except (RuntimeError, UnicodeError) as exc:
        hint = ""
        if options.allow_other and os.geteuid() != 0:
            hint = "; allow_other needs the line user_allow_other in /etc/fuse.conf"
        raise MountError(f"{mountpoint}: the kernel or fusermount3 refused the mount{hint}") from exc
    return max(mounts.devices() - before), mounts.mounted_on(point)


def _all_is_allowed(options: MountOptions, owner: int | None) -> bool:
    """Whether the modes allow everything to every user whom the kernel lets into the mount.

    Then the kernel need not compare them (``default_permissions``).  If it did, it would ask for the
    attributes of a directory at the first use of a path after each CREATE, UNLINK and RENAME in it, and for
    those of each file that is created: two GETATTR for each file that is saved.

    :param owner: uid of the owner of the stores; None: there are several owners.
    """
    if options.allow_other:
        return False
    user, view = os.geteuid(), options.view
    return user == 0 or (user == (owner if view.uid is None else view.uid) and not view.umask & 0o700)


class _Beginning(Struct, frozen=True):
    """The steps of a mount's start that have to wait for the kernel's first request.

    None of them makes a call on the mount itself (:mod:`dboxfs.util.mounts`).
    """

    options: MountOptions
    device: int
    mount: Mount | None
    companion: Companion | None
    pusher: Pusher | None
    readahead: int
    ready: Callable[[], None]

    async def run(self, greeted: trio.Event, notifier: Notifier) -> None:
        """Wait for the kernel, report that the mount is ready, and listen to the companion."""
        await greeted.wait()
        notifier.choose(self.options.entries, self.device, self.mount, self.companion)
        if self.companion is not None and notifier.means is not Entries.COMPANION:
            self._take_as_guard(self.companion)
        elif self.pusher is not None:
            self.pusher.guarded = self.companion is not None
        if self.mount is not None:
            _widen_readahead(self.mount.device, self.readahead)
        self.ready()
        await notifier.listen()
        await self._guard_ends()

    def _take_as_guard(self, companion: Companion) -> None:
        """The companion isn't needed for names: it guards the pusher, or is ended where there is none."""
        if self.pusher is None or self.mount is None:
            companion.stop()
            return
        try:
            companion.own(self.device, self.mount)
        except (MountError, OSError) as exc:
            log.info("messages are not put into the kernel's cache ahead: %s", exc)
            companion.stop()
        else:
            self.pusher.guarded = True

    async def _guard_ends(self) -> None:
        """Wait until the companion ends, and stop pushing then."""
        if self.companion is None or self.pusher is None or not self.pusher.guarded:
            return
        with suppress(EOFError):
            while True:
                await trio.lowlevel.wait_readable(self.companion.fileno())
                self.companion.tickets()
        self.pusher.guarded = False
        log.error("the companion process has ended: nothing is put into the kernel's cache ahead any more")


def _widen_readahead(device: str, readahead: int) -> None:
    """Let the kernel ask for *readahead* bytes of a large message at once instead of 128 KiB.

    libfuse has no option for it, sysfs has, for root.  Without it a large message takes 8 times the requests.
    """
    path = f"/sys/class/bdi/{device}/read_ahead_kb"
    try:
        with open(path, "w") as setting:
            setting.write(str(max(128, readahead >> 10)))
    except OSError as exc:
        log.debug("%s: %s", path, exc.strerror)
