"""Know when files of the store change: inotify on directories, one descriptor for the whole store.

A watch is a directory, a key and a callback; the callback gets the set of names in that directory that
changed since the last call (``None`` in the set means: the directory itself went or was renamed, or events
were lost: look at everything).  Callbacks run on the event loop's thread, one after the other, and must not
block.

A watch sticks to the directory, not to its name: it goes along when the directory, or one above it, is
renamed.  So names are watched again from time to time with :meth:`Watcher.add`, which tells whether a name
means the same directory as before.  Several names may lead to one directory (symbolic links).

inotify is not everywhere (network file systems) and not without end (``fs.inotify.max_user_watches``).  A
directory that can't be watched is reported by :meth:`Watcher.add`, the first one in the log; whoever
asked must then look at the files when they are asked for.  inotify says nothing of changes made on
another host: the same holds.
"""

from __future__ import annotations

import enum
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
_MASK = _EVENTS | flags.ONLYDIR


class Watched(enum.Enum):
    """What :meth:`Watcher.add` found.

    ``NEW``: the directory wasn't watched under this name before: what happened in it until now is unknown.
    """

    NO = enum.auto()
    NEW = enum.auto()
    STILL = enum.auto()


class Watcher:
    """One inotify descriptor and the callbacks behind it.  ``run`` must be running for callbacks to come."""

    def __init__(self) -> None:
        self._inotify: INotify | None = None
        self._by_wd: dict[int, dict[str, dict[str, Callback]]] = {}
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

    def watching(self, directory: str, key: str) -> bool:
        """Whether *directory* is watched with *key*, as far as we have heard."""
        wd = self._by_path.get(directory)
        return wd is not None and key in self._by_wd[wd][directory]

    def add(self, directory: str, key: str, callback: Callback) -> Watched:
        """Call *callback* when names in *directory* change, instead of an earlier one of the same *key*."""
        if self._inotify is None:
            return Watched.NO
        try:
            wd = self._inotify.add_watch(os.fsencode(directory), _MASK)
        except OSError as exc:
            self.remove(directory)
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._complain(directory, exc)
            return Watched.NO
        if self._by_path.get(directory, wd) != wd:  # the name means another directory now
            self.remove(directory)
        callbacks = self._by_wd.setdefault(wd, {}).setdefault(directory, {})
        self._by_path[directory] = wd
        known = key in callbacks
        callbacks[key] = callback
        return Watched.STILL if known else Watched.NEW

    def remove(self, directory: str) -> None:
        """Watch *directory* no more, whatever the key.  Nothing happens when it isn't watched."""
        wd = self._by_path.pop(directory, None)
        if wd is None or self._inotify is None:
            return
        del self._by_wd[wd][directory]
        if self._by_wd[wd]:
            return
        del self._by_wd[wd]
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
                self._gone(event.wd)
            else:
                name = None if event.mask & (flags.DELETE_SELF | flags.MOVE_SELF) else event.name
                changed.setdefault(event.wd, set()).add(name)
        if lost:
            log.warning("inotify events were lost; looking at the whole store again")
            changed = {wd: {None} for wd in self._by_wd}
        for wd, names in changed.items():
            _call(self._by_wd.get(wd, {}), names)

    def _gone(self, wd: int) -> None:
        """The kernel has ended the watch *wd*: its directory is gone."""
        names = self._by_wd.pop(wd, {})
        for directory in names:
            del self._by_path[directory]
        _call(names, {None})

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


def _call(names: dict[str, dict[str, Callback]], changed: set[str | None]) -> None:
    for callback in [callback for keys in names.values() for callback in keys.values()]:
        callback(changed)
