"""What seems to be damaged may only be old, on a network file system.

There a file may be shown smaller than it is, or not at all, for a while after another machine has written it
(GlusterFS: up to two seconds), while the index that names the message is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from dboxfs.util.network import NetworkMounts

LOOKS, LOOK_SECONDS = 8, 0.3


def looks_again(path: str) -> Iterator[float]:
    """Seconds to wait before each further look at what seems damaged at *path*; none on a local file
    system."""
    if NetworkMounts().kind_of(path) is not None:
        for _ in range(LOOKS):
            yield LOOK_SECONDS
