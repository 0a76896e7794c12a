"""A mount over storage with latency: every open and every read takes longer, as over a network.

The latency is slept by the ``faults`` driver, which lets no answer from the kernel's cache through, so what
the machine's own disk does is of no weight.  Runs in the foreground until it is unmounted.

With ``--one-at-a-time`` it is the peer of itself: one worker, and nothing is brought ahead of who walks
through a mailbox.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import trio

from dboxfs.fsapi import FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fuse.mount import check_mountpoint, run
from dboxfs.store import Location, parse_location, prefetch
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.serving import OneStore


def main(argv: Sequence[str] | None = None) -> int:
    """Mount as *argv* says; returns when it is unmounted."""
    parser = argparse.ArgumentParser("python -m bench.slow", description=__doc__)
    parser.add_argument("--latency", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=10, metavar="N")
    parser.add_argument("--one-at-a-time", action="store_true")
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    arguments = parser.parse_args(argv)
    if arguments.one_at_a_time:
        arguments.workers = 1
        prefetch.FIRST_WINDOW = prefetch.LARGEST_WINDOW = 0
    location = parse_location(arguments.store)
    mountpoint = check_mountpoint(arguments.mountpoint)
    trio.run(_serve, location, mountpoint, arguments.workers, arguments.latency)
    return 0


async def _serve(location: Location, mountpoint: str, workers: int, latency: float) -> None:
    kinds = dict.fromkeys(("open", "read", "peek"), latency)
    driver = FaultsDriver(ThreadsDriver(workers), latency=kinds, depth=workers)
    async with FileSystem(driver) as fs:
        options = MountOptions()
        store = OneStore(fs, location, options, logging.getLogger(__name__).warning)
        await run(fs, store, mountpoint, options, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
