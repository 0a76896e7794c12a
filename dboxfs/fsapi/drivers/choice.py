"""The choice of a driver: ``--io auto|threads|uring``.

``auto`` is ``threads``: ``uring`` keeps every promise of the conformance suite, but is not faster.
Measured with 2 cores, ext4 on a virtual disk, Linux 6.18, 20,000 files (591 MB), 64 ahead; medians of 5
interleaved rounds; the first two columns are the same driver, and show the noise:

==========================  ==============  ==============  ==============
seconds                     threads (10)    threads (10)    uring (64)
==========================  ==============  ==============  ==============
open and read all, cold     1.57            1.68            1.77
open and read all, warm     0.67            0.73            0.98
peek at each, cold          0.92            0.94            0.95
peek at each, warm          0.23            0.29            0.45
one 4 KiB read, cold        123 µs          122 µs          127 µs
one 4 KiB read, warm        30 µs           29 µs           31 µs
one 128 KiB read, warm      39 µs           42 µs           109 µs
==========================  ==============  ==============  ==============

Where the time goes: ``read_nowait`` answers warm reads, which reach no driver; cold reads wait for the disk;
the ring's copying and its Python code run on the loop's own thread, and the threads' copying runs beside it.

Why our own binding: the one on PyPI (liburing 2026.3.30) calls itself alpha, needs Linux 6.14, and leaves it
to its caller to keep buffers alive: with a read in flight whose ``bytearray`` was dropped, the kernel wrote
all of its 64 KiB into another object; an entry prepared after the ring was closed is a segmentation fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.threads import ThreadsDriver
from dboxfs.fsapi.drivers.uring import ENTRIES, UringDriver
from dboxfs.fsapi.drivers.uring_abi import Ring

log = logging.getLogger(__name__)

CHOICES = ("auto", "threads", "uring")

_DEPTH = 64


def choose_driver(io: str, workers: int = 10, *, make_ring: Callable[[int, int], Ring] = Ring) -> Driver:
    """The driver for a choice, not started yet.

    ``uring`` is tested by making its rings and closing them again.  If the kernel has no suitable io_uring,
    or forbids it, one line is logged and the answer is ``threads``.

    :param io: one of :data:`CHOICES`.
    :param workers: threads; with ``uring`` they run the operations that the ring can't, and more operations
        are in flight.
    :raises ValueError: no such choice.
    """
    if io not in CHOICES:
        raise ValueError(f"{io!r} is none of {', '.join(CHOICES)}")
    if io == "uring":
        depth = max(workers, _DEPTH)
        try:
            make_ring(ENTRIES, depth).close()
        except OSError as error:
            log.warning("io_uring can't be used (%s); going on with threads", error.strerror)
        else:
            return UringDriver(workers, depth)
    return ThreadsDriver(workers)
