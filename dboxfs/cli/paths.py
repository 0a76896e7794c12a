"""The directories of a store: the one list with which commands compare other paths."""

from __future__ import annotations

import os

from dboxfs.store import Location


def store_paths(location: Location) -> list[str]:
    """Every directory of mail, indexes and control files that a location names, symbolic links resolved."""
    mail = (location.root, location.alt, location.inbox, location.attachments)
    index = (location.index, location.index_cache, location.control)
    return [os.path.realpath(path) for path in (*mail, *index) if path is not None]


def overlap(location: Location, path: str) -> str | None:
    """The directory of the store that lies in *path*, or in which *path* lies; None: there is none."""
    place = os.path.realpath(path)
    for part in store_paths(location):
        if os.path.commonpath((place, part)) in (place, part):
            return part
    return None


def around(location: Location, path: str) -> str | None:
    """The directory of the store in which *path* lies; None: there is none."""
    place = os.path.realpath(path)
    return next((part for part in store_paths(location) if os.path.commonpath((place, part)) == part), None)


def default_cache_dir() -> str:
    """What the XDG base directory specification says, and a system-wide one for root."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = "/var/cache" if os.geteuid() == 0 else os.path.expanduser("~/.cache")
    return os.path.join(base, "dboxfs")
