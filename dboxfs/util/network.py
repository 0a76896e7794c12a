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
        self._mounts: Sequence[Mount] = ()
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
            self._mounts = mounts if any(network_kind(mount) for mount in mounts) else ()
        if not self._mounts:
            return None
        real = os.path.realpath(path)
        above = [mount for mount in self._mounts if os.path.commonpath((mount.point, real)) == mount.point]
        found = max(reversed(above), key=lambda mount: len(mount.point), default=None)
        return network_kind(found) if found is not None else None
