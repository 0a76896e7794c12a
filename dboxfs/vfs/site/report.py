"""The files of a site's control directory: ``stats.json`` and ``metrics`` about the whole mount and the users
that used it most (:data:`TOP`), ``users.json`` about all users with requests or trouble.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from dboxfs import __version__
from dboxfs.fsapi import FileSystem
from dboxfs.util.held_locks import held_locks
from dboxfs.vfs.control import Maker
from dboxfs.vfs.host import Host
from dboxfs.vfs.metrics import health, metrics
from dboxfs.vfs.observed import EARNED
from dboxfs.vfs.site.stores import Stores
from dboxfs.vfs.site.user import SiteUser
from dboxfs.vfs.site.users import SiteUsers

TOP = 10
"""Users that are named in stats.json and metrics, at most."""


class SiteReport:
    """Makes the files.

    :ivar more: functions that give further parts of stats.json.
    """

    def __init__(self, fs: FileSystem, users: SiteUsers, stores: Stores, host: Host) -> None:
        self._fs = fs
        self._users = users
        self._stores = stores
        self._host = host
        self.more: list[Callable[[], Mapping[str, object]]] = [host.stats]
        self._started = trio.current_time()

    def makers(self) -> dict[bytes, Maker]:
        """The files, by name."""
        return {
            b"stats.json": self._stats, b"metrics": self.metrics, b"users.json": self._all,
            b"locks": held_locks,
        }  # fmt: skip

    def _counters(self) -> dict[str, object]:
        open_now = [user.store.served.reading.store for user in self._stores.users if user.store is not None]
        boxes = [f.mailbox for store in open_now for f in store.folders.values() if f.mailbox is not None]
        return {
            "version": __version__,
            "uptime_seconds": round(trio.current_time() - self._started, 3),
            "requests": dict(self._host.requests),
            "users": len(self._users),
            "stores": {
                "open": len(open_now),
                "opened": self._stores.opened,
                "closed": self._stores.closed,
                "failed": self._stores.failed,
            },
            "mailboxes": len(boxes),
            "messages": sum(len(box) for box in boxes),
            "messages_not_looked_at_yet": sum(box.facts.unknown for box in boxes),
            "damaged_messages": sum(store.damaged_messages for store in open_now),
            "index_errors": sum(len(store.index_errors) for store in open_now),
            "directories_watched": self._stores.inotify.watches,
            **{key: value for part in self.more for key, value in part().items()},
            "files": self._fs.stats(),
        }

    def _stats(self) -> dict[str, object]:
        counters = self._counters()
        found = {"health": health(counters, self._host.observed), **counters}
        found["durations_by_powers_of_two_ns"] = self._host.observed.counts()
        return {**found, "top_users": {user.name: _of(user) for user in self._top()}}

    def _top(self) -> list[SiteUser]:
        """The users that used the mount most."""
        used = [user for user in self._users.all.values() if user.requests]
        return sorted(used, key=lambda user: (-user.seconds, -sum(user.requests.values())))[:TOP]

    def metrics(self) -> str:
        """The content of ``metrics``."""
        text = metrics(self._counters(), self._host.observed)
        return text + "\n".join([*_by_user(self._top()), ""])

    def _all(self) -> Mapping[str, object]:
        return {
            user.name.encode("utf-8", "backslashreplace").decode(): _of(user)
            for user in self._users.all.values()
            if user.requests or user.trouble
        }


def _of(user: SiteUser) -> dict[str, object]:
    """Counts and times of one user's requests."""
    found: dict[str, object] = {
        "requests": sum(user.requests.values()),
        "seconds": round(user.seconds, 3),
        "errors": {name: count for name, count in user.errors.items() if name not in EARNED},
        "opened": user.opened,
        "open": user.store is not None,
    }
    if user.trouble:
        found["trouble"] = user.trouble
    return found


def _by_user(users: list[SiteUser]) -> list[str]:
    """Samples of the users that used the mount most, in the format of Prometheus."""
    families: dict[str, tuple[str, Callable[[SiteUser], float]]] = {
        "user_requests_total": (
            "requests about the users that used the mount most", lambda user: sum(user.requests.values()),
        ),
        "user_seconds_total": ("seconds that these requests took together", lambda user: user.seconds),
        "user_errors_total": ("how many of them ended with an error of the store", _errors),
    }  # fmt: skip
    lines = []
    for name, (text, value) in families.items():
        lines += [f"# HELP dboxfs_{name} {text}", f"# TYPE dboxfs_{name} counter"]
        lines += [f"dboxfs_{name}{{user={_label(user.name)}}} {value(user):g}" for user in users]
    return lines


def _errors(user: SiteUser) -> int:
    return sum(count for name, count in user.errors.items() if name not in EARNED)


def _label(name: str) -> str:
    """A name as a label's value: backslash, quote and newline are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode()
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
