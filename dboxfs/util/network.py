"""Which directories lie on a file system whose files other machines may change.

There inotify can be asked, and says nothing of what another machine does.  The kernel's table of mounts tells
what a directory lies on; no file system is asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from dboxfs.util.mounts import Mount, table

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "glusterfs", "sshfs", "ocfs2"}
)
"""File systems whose files other machines may change, as mountinfo calls them (``fuse.`` left out)."""

TABLE_SECONDS = 10.0
"""Seconds for which the table is not read again."""


def network_kind(mount: Mount) -> str | None:
    """The kind of network file system that *mount* is; None: it is none."""
    kind = mount.kind.removeprefix("fuse.")
    return kind if kind in NETWORK else None


class NetworkMounts:
    """The table of mounts, read now and then.

    :param read: gives the table.
    """

    def __init__(self, read: Callable[[], Sequence[Mount]] = table) -> None:
        self._read = read
        self._mounts: Sequence[Mount] = ()
        self._read_at = -TABLE_SECONDS

    def kind_of(self, path: str) -> str | None:
        """The kind of network file system that *path* lies on; None: on none, or nobody can tell."""
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
