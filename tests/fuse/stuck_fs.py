"""A daemon whose thread waits in the kernel for a READ that is never answered: the moment to be killed at.

Run as a program (``python -m tests.fuse.stuck_fs MOUNTPOINT [alone]``): mounts a file, waits for a READ of
it, has the thread of a :class:`~dboxfs.fuse.pusher.Pusher` store the same file, and prints ``stuck``.
*alone*: without the companion that ends the connection.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

import dboxfs.fuse  # noqa: F401 - its hook comes before pyfuse3
from dboxfs.fuse.companion import Companion
from dboxfs.util import mounts
from tests.fuse.openless_fs import FILES, Openless, pyfuse3


class Stuck(Openless):
    def __init__(self) -> None:
        super().__init__()
        self.asked = trio.Event()

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        self.asked.set()
        await trio.sleep_forever()
        raise AssertionError("unreachable")


async def main(mountpoint: str, companion: Companion | None) -> None:
    from dboxfs.fuse.pusher import Pusher

    operations: Any = Stuck()
    before = mounts.devices()
    pyfuse3.init(operations, mountpoint, {"ro", "fsname=stuck", "subtype=dboxfs", "default_permissions"})
    device, mount = max(mounts.devices() - before), mounts.mounted_on(mountpoint)
    assert mount is not None
    if companion is not None:
        companion.own(device, mount)
    pusher = Pusher.onto(device)
    pusher.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        print("mounted", flush=True)
        await operations.asked.wait()
        pusher.expect([2]).push([(2, FILES[2][1])])
        print("stuck", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], None if "alone" in sys.argv[2:] else Companion.start())
