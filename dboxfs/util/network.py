"""Find directories on network file systems, whose files other machines may change.

There inotify works, but does not report changes of other machines.  The kernel's table of mounts gives the
file system of a directory; no file system gets a request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from dboxfs.util.mounts import Mount, table

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "glusterfs", "sshfs", "ocfs2"}
)
"""File systems whose files other machines may change, by their names in mountinfo (without ``fuse.``)."""

TABLE_SECONDS = 10.0
"""Seconds for which the table is not read again."""


def network_kind(mount: Mount) -> str | None:
    """The kind of the network file system *mount*; None: it is no network file system."""
    kind = mount.kind.removeprefix("fuse.")
    return kind if kind in NETWORK else None


class NetworkMounts:
    """The table of mounts, read again from time to time.

    :param read: gives the table.
    """

    def __init__(self, read: Callable[[], Sequence[Mount]] = table) -> None:
        self._read = read
        self._points: list[tuple[str, str | None]] = []
        self._read_at = -TABLE_SECONDS

    def kind_of(self, path: str) -> str | None:
        """The kind of the network file system of *path*; None: it is on none, or that is unknown."""
        now = time.monotonic()
        if now - self._read_at >= TABLE_SECONDS:
            self._read_at = now
            try:
                mounts = self._read()
            except OSError:
                mounts = ()
            self._points = _by_length(mounts)
        if not self._points:
            return None
        real = os.path.realpath(path) + "/"
        return next((kind for point, kind in self._points if real.startswith(point)), None)


def _by_length(mounts: Sequence[Mount]) -> list[tuple[str, str | None]]:
    """Mountpoints that end with a slash, the longest first and of equal ones the last, and the kind of each;
    empty where none is a network file system.
    """
    kinds = {mount.point.rstrip("/") + "/": network_kind(mount) for mount in mounts}
    return sorted(kinds.items(), key=lambda one: -len(one[0])) if any(kinds.values()) else []
