"""Scenarios on a slow or failing storage, and of the cache: the places where they go.

Each function has the bench, measures, and puts its numbers into ``bench.cells.values`` under the cells that
its rows in :mod:`bench.goals` name.  They need a mount over the ``faults`` driver, which the command line
can't make; until it can, there are no rows for them and the report names them as not measured.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.run import Bench


class NotMeasured(Exception):
    """A scenario that can't be run with this dboxfs; the text says why."""


def latency(bench: Bench) -> None:
    """12: storage that takes 5 ms an open and a read; tar of 2,000 messages with 1, 10 and 64 workers."""
    raise NotMeasured("storage with 5 ms latency: no mount over the faults driver")


def many_readers(bench: Bench) -> None:
    """13: 500 readers at once on storage of 20 ms, 64 workers, against one reader."""
    raise NotMeasured("500 readers on slow storage: no mount over the faults driver")


def hot_set(bench: Bench) -> None:
    """14: 1,000 compressed messages read again after a scan of 10 GB, cache of 64 MiB: its hit rate."""
    raise NotMeasured("hot set after a scan: no statistics of the cache")


SCENARIOS: dict[int, Callable[[Bench], None]] = {12: latency, 13: many_readers, 14: hot_set}
