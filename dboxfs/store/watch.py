"""Know when files of the store change: inotify on directories, one descriptor for the whole store.

A watch is a directory and a callback; the callback gets the set of names in that directory that changed
since the last call (``None`` in the set means: events were lost, look at everything).  Callbacks run on the
event loop's thread, one after the other, and must not block.

inotify is not everywhere (network file systems) and not without end (``fs.inotify.max_user_watches``).  A
directory that can't be watched is reported by :meth:`Watcher.add` returning False, once in the log; whoever
asked must then look at the files when somebody asks for them.  inotify says nothing of changes made on
another host: the same holds.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable

import trio
from inotify_simple import INotify, flags

log = logging.getLogger(__name__)

Callback = Callable[[set[str | None]], None]

_EVENTS = (
    flags.MODIFY
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
_MASK = _EVENTS | flags.ONLYDIR | flags.DONT_FOLLOW


class Watcher:
    """One inotify descriptor and the callbacks behind it.  ``run`` must be running for callbacks to come."""

    def __init__(self) -> None:
        self._inotify: INotify | None = None
        self._by_wd: dict[int, tuple[str, list[Callback]]] = {}
        self._by_path: dict[str, int] = {}
        self._complained = False
        try:
            self._inotify = INotify(inheritable=False, nonblocking=True)
        except OSError as exc:
            self._complain("inotify", exc)

    @property
    def watches(self) -> int:
        """How many directories are watched."""
        return len(self._by_wd)

    def add(self, directory: str, callback: Callback) -> bool:
        """Call *callback* too when names in *directory* change; False when that can't be had."""
        if self._inotify is None:
            return False
        try:
            wd = self._inotify.add_watch(os.fsencode(directory), _MASK)
        except FileNotFoundError:
            return False
        except OSError as exc:
            self._complain(directory, exc)
            return False
        old = self._by_path.get(directory)
        if old is not None and old != wd:
            self._by_wd.pop(old, None)
        known = self._by_wd.get(wd)
        if known is None or known[0] != directory:  # another name for this watch: the directory was renamed
            if known is not None:
                self._by_path.pop(known[0], None)
            known = self._by_wd[wd] = (directory, [])
        known[1].append(callback)
        self._by_path[directory] = wd
        return True

    def remove(self, directory: str) -> None:
        """Watch *directory* no more.  Nothing happens when it isn't watched."""
        wd = self._by_path.pop(directory, None)
        if wd is None or self._by_wd.pop(wd, None) is None or self._inotify is None:
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
            self._deliver(self._inotify)

    def _deliver(self, inotify: INotify) -> None:
        changed: dict[int, set[str | None]] = {}
        lost = False
        for event in inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                lost = True
            elif event.mask & flags.IGNORED:
                self._forget(event.wd)
            else:
                name = None if event.mask & (flags.DELETE_SELF | flags.MOVE_SELF) else event.name
                changed.setdefault(event.wd, set()).add(name)
        if lost:
            log.warning("inotify events were lost; looking at the whole store again")
            changed = {wd: {None} for wd in self._by_wd}
        for wd, names in changed.items():
            watch = self._by_wd.get(wd)
            for callback in watch[1] if watch is not None else ():
                callback(names)

    def _forget(self, wd: int) -> None:
        watch = self._by_wd.pop(wd, None)
        if watch is not None and self._by_path.get(watch[0]) == wd:
            del self._by_path[watch[0]]
            for callback in watch[1]:
                callback({None})

    def close(self) -> None:
        """Close the descriptor; all watches end."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _complain(self, what: str, exc: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "%s can't be watched (%s); changes are looked for when a directory is opened",
                what,
                exc.strerror,
            )
