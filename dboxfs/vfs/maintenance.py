"""Maintenance of a store that no Dovecot serves (``-o rw,alone``), while it is mounted.

It runs :data:`BEGIN` seconds after the mount was made, and then every :data:`EVERY` seconds if something
was written meanwhile, else every :data:`AT_LEAST`.  It gives way: it goes on to the next mailbox when the
kernel has asked nothing for :data:`QUIET` seconds, or when it has waited :data:`LONGEST_DELAY` seconds for
that; and it rests as long as it has worked.  The end of the mount cancels it between two steps of the write
protocol.

What it did is in stats.json: ``maintenance``.  A run that fails is logged and counted; the next one is not
given up for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from dboxfs.errors import DboxfsError
from dboxfs.store.write import Maintained, StoreWriter

log = logging.getLogger(__name__)

BEGIN = 1.0
EVERY = 600.0
AT_LEAST = 24 * 3600.0
QUIET = 0.05
LONGEST_DELAY = 1.0
_LONGEST_REST = 1.0


class Maintenance:
    """Runs the maintenance of one store in the background.

    :param requests: the counters of what the kernel has asked for so far.
    :param every: seconds between two runs.
    :param begin: seconds until the first one.
    """

    def __init__(
        self,
        writer: StoreWriter,
        requests: Mapping[str, int],
        every: float = EVERY,
        begin: float = BEGIN,
    ) -> None:
        self._writer = writer
        self._requests = requests
        self._every = every
        self._begin = begin
        self._total = Maintained()
        self._runs = 0
        self._failed_runs = 0
        self._running = False
        self._seconds = 0.0
        self._resumed = 0.0
        self._changes = -1
        self._asked = -1

    async def run(self) -> None:
        """Until cancelled."""
        last = trio.current_time()
        await trio.sleep(self._begin)
        while True:
            changes = self._written()
            if changes != self._changes or trio.current_time() - last >= AT_LEAST:
                last = trio.current_time()
                await self._once()
                self._changes = changes
            await trio.sleep(self._every)

    def stats(self) -> dict[str, object]:
        """Totals over all runs; of the last run ``left``, and ``seconds`` that it took, waiting included."""
        total = self._total
        return {
            "runs": self._runs,
            "failed_runs": self._failed_runs,
            "running": self._running,
            "seconds": round(self._seconds, 3),
            "mailboxes": total.mailboxes,
            "expunged": total.expunged,
            "recovered": total.recovered,
            "removed": total.removed,
            "left": total.left,
            "failed": total.failed,
        }

    def _written(self) -> int:
        """Changes so far.  The group of a save is none of its own: it is counted before the save is."""
        return sum(count for name, count in self._writer.stats().items() if name != "groups")

    async def _once(self) -> None:
        started = self._resumed = trio.current_time()
        self._running = True
        try:
            done = await self._writer.maintain(self._pause)
        except (DboxfsError, OSError) as error:
            log.error("maintenance: %s", error)
            self._failed_runs += 1
        else:
            self._runs += 1
            self._add(done)
        finally:
            self._running = False
            self._seconds = trio.current_time() - started

    def _add(self, done: Maintained) -> None:
        total = self._total
        total.mailboxes += done.mailboxes
        total.expunged += done.expunged
        total.recovered += done.recovered
        total.removed += done.removed
        total.left = done.left
        total.failed += done.failed
        if done.expunged or done.recovered or done.removed:
            log.info(
                "maintenance: %d requested expunges, %d recovered, %d left-over files",
                done.expunged,
                done.recovered,
                done.removed,
            )

    async def _pause(self) -> None:
        """Rest, then wait for a quiet moment if the kernel has asked for something meanwhile."""
        await trio.sleep(min(trio.current_time() - self._resumed, _LONGEST_REST))
        deadline = trio.current_time() + LONGEST_DELAY
        while self._asked != (now := sum(self._requests.values())) and trio.current_time() < deadline:
            self._asked = now
            await trio.sleep(QUIET)
        self._resumed = trio.current_time()
