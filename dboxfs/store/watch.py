"""Watches for changes of the store's files: inotify on directories, with one descriptor for the whole store,
or for all stores of a site.

A watch is a directory, a key and a callback; the callback gets the set of names in that directory that
changed since the last call (``None`` in the set means that the directory itself was removed or renamed, or
that events were lost: the callback has to read all of it again).  Callbacks run on the event loop's thread,
one after the other, and must not block.

A watch belongs to the directory, not to its name: it stays when the directory, or one above it, is renamed.
So the caller watches names again from time to time with :meth:`Watcher.add`, which says whether a name still
means the same directory.  Several names may lead to one directory (symbolic links).

The number of watches is limited (``fs.inotify.max_user_watches``).  On a network file system inotify does not
report changes of other machines, so nothing is watched there (:mod:`dboxfs.util.network`).
:meth:`Watcher.add` reports a directory that can't be watched, and the log names the first one; the caller
must then check the files at each request.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
from collections.abc import Callable

import trio
from inotify_simple import INotify, flags

from dboxfs.util.network import NetworkMounts

log = logging.getLogger(__name__)

Callback = Callable[[set[str | None]], None]

SETTLE = 0.004
"""Seconds for which events are gathered after the first one: a change of a store causes several."""

_EVENTS = (
    flags.MODIFY
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
_MASK = _EVENTS | flags.ONLYDIR


_REMEDIES = {
    errno.ENOSPC: "no watches left: raise the sysctl fs.inotify.max_user_watches, then mount again",
    errno.EMFILE: "no instances left: raise the sysctl fs.inotify.max_user_instances, then mount again",
}
"""Advice for an errno of inotify(7), whose own texts speak of devices and files."""


class Watched(enum.Enum):
    """The result of :meth:`Watcher.add`.

    ``NEW``: the directory was not watched under this name before, so earlier changes are unknown.
    """

    NO = enum.auto()
    NEW = enum.auto()
    STILL = enum.auto()


class Inotify:
    """One inotify descriptor, for one :class:`Watcher` or for many.  ``run`` must be running for events to
    come.

    The kernel has one watch for a directory, even if several watchers ask for it.

    :param network: finds network file systems; None: by the mounts of this machine.
    """

    def __init__(self, network: NetworkMounts | None = None) -> None:
        self._network = NetworkMounts() if network is None else network
        self._inotify: INotify | None = None
        self._watchers: dict[int, set[Watcher]] = {}
        self._complained = self._said_elsewhere = False
        try:
            self._inotify = INotify(inheritable=False, nonblocking=True)
        except OSError as exc:
            self.complain("inotify", exc)

    @property
    def watches(self) -> int:
        """Number of directories that are watched."""
        return len(self._watchers)

    def add(self, watcher: Watcher, directory: str) -> int | None:
        """Report changes in *directory* to *watcher*; gives the kernel's number of the watch.

        :return: None: there is no inotify, or it would not report all changes.
        :raises OSError: the directory can't be watched.
        """
        if self._inotify is None or self._is_elsewhere(directory):
            return None
        wd: int = self._inotify.add_watch(os.fsencode(directory), _MASK)
        self._watchers.setdefault(wd, set()).add(watcher)
        return wd

    def _is_elsewhere(self, directory: str) -> bool:
        kind = self._network.kind_of(directory)
        if kind is not None and not self._said_elsewhere:
            self._said_elsewhere = True
            log.info("%s lies on a network file system (%s); changes are looked for", directory, kind)
        return kind is not None

    def remove(self, watcher: Watcher, wd: int) -> None:
        """Remove *watcher* from the watch *wd*."""
        watchers = self._watchers.get(wd, set())
        watchers.discard(watcher)
        if watchers or self._inotify is None or self._watchers.pop(wd, None) is None:
            return
        try:
            self._inotify.rm_watch(wd)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # EINVAL: the directory is gone, and its watch with it
                raise

    async def run(self) -> None:
        """Deliver events until cancelled."""
        if self._inotify is None:
            await trio.sleep_forever()
        assert self._inotify is not None
        while True:
            await trio.lowlevel.wait_readable(self._inotify.fileno())
            await trio.sleep(SETTLE)
            self._deliver(self._inotify)

    def _deliver(self, inotify: INotify) -> None:
        changed: dict[int, set[str | None]] = {}
        lost = False
        for event in inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                lost = True
            elif event.mask & flags.IGNORED:
                for watcher in self._watchers.pop(event.wd, set()):
                    watcher.gone(event.wd)
            else:
                name = None if event.mask & (flags.DELETE_SELF | flags.MOVE_SELF) else event.name
                changed.setdefault(event.wd, set()).add(name)
        if lost:
            log.warning("inotify events were lost; looking at the whole store again")
            changed = {wd: {None} for wd in self._watchers}
        for wd, names in changed.items():
            for watcher in list(self._watchers.get(wd, ())):
                watcher.deliver(wd, names)

    def close(self) -> None:
        """Close the descriptor; all watches end."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def complain(self, what: str, exc: OSError) -> None:
        """Log once that something can't be watched."""
        if not self._complained:
            self._complained = True
            why = _REMEDIES.get(exc.errno or 0, exc.strerror)
            log.warning(
                "%s can't be watched (%s); changes are looked for when a directory is opened", what, why
            )


class Watcher:
    """The directories of one store, or a part of it, and the callbacks behind them.

    :param inotify: shared with others, run and closed by its maker; None: make an own one, which :meth:`run`
        runs.
    """

    def __init__(self, inotify: Inotify | None = None) -> None:
        self._shared = inotify is not None
        self._inotify = Inotify() if inotify is None else inotify
        self._by_wd: dict[int, dict[str, dict[str, Callback]]] = {}
        self._by_path: dict[str, int] = {}

    @property
    def watches(self) -> int:
        """Number of directories that are watched."""
        return len(self._by_wd)

    def watching(self, directory: str, key: str) -> bool:
        """Whether *directory* is watched with *key*, by the events so far."""
        wd = self._by_path.get(directory)
        return wd is not None and key in self._by_wd[wd][directory]

    def add(self, directory: str, key: str, callback: Callback) -> Watched:
        """Call *callback* when names in *directory* change, instead of an earlier one of the same *key*."""
        try:
            wd = self._inotify.add(self, directory)
        except OSError as exc:
            self.remove(directory)
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._inotify.complain(directory, exc)
            return Watched.NO
        if wd is None:
            self.remove(directory)
            return Watched.NO
        if self._by_path.get(directory, wd) != wd:  # the name means another directory now
            self.remove(directory)
        callbacks = self._by_wd.setdefault(wd, {}).setdefault(directory, {})
        self._by_path[directory] = wd
        known = key in callbacks
        callbacks[key] = callback
        return Watched.STILL if known else Watched.NEW

    def remove(self, directory: str) -> None:
        """End all watches of *directory*.  No change if it isn't watched."""
        wd = self._by_path.pop(directory, None)
        if wd is None:
            return
        del self._by_wd[wd][directory]
        if not self._by_wd[wd]:
            del self._by_wd[wd]
            self._inotify.remove(self, wd)

    async def run(self) -> None:
        """Deliver events until cancelled; the maker of a shared inotify runs it."""
        if self._shared:
            await trio.sleep_forever()
        await self._inotify.run()

    def deliver(self, wd: int, names: set[str | None]) -> None:
        """Call the callbacks: *names* in the directory of the watch *wd* have changed."""
        _call(self._by_wd.get(wd, {}), names)

    def gone(self, wd: int) -> None:
        """Call the callbacks: the kernel has ended the watch *wd*, since its directory is gone."""
        names = self._by_wd.pop(wd, {})
        for directory in names:
            del self._by_path[directory]
        _call(names, {None})

    def close(self) -> None:
        """End all watches."""
        for wd in list(self._by_wd):
            del self._by_wd[wd]
            if self._shared:
                self._inotify.remove(self, wd)
        self._by_path.clear()
        if not self._shared:
            self._inotify.close()


def _call(names: dict[str, dict[str, Callback]], changed: set[str | None]) -> None:
    for callback in [callback for keys in names.values() for callback in keys.values()]:
        callback(changed)
