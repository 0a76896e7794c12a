"""Maintenance of a store that no Dovecot serves (``-o rw,alone``), while it is mounted.

It runs :data:`BEGIN` seconds after the mount was made.  Then it runs every :data:`EVERY` seconds if this
mount has written in that time, else every :data:`AT_LEAST`.  It gives way to requests: after each mailbox it
rests as long as it has worked (a second at most), and then waits, :data:`LONGEST_DELAY` seconds at most,
until the kernel has sent no request for :data:`QUIET` seconds.  The end of the mount cancels it between two
steps of the write protocol.

Its counts are in stats.json, ``maintenance``.  A run that fails is logged and counted, and the next run comes
as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from dboxfs.errors import DboxfsError
from dboxfs.store.write import Maintained, StoreWriter

log = logging.getLogger(__name__)

BEGIN = 1.0
"""Seconds from the start of the mount to the first run."""

EVERY = 600.0
"""Seconds between two runs while the store is written."""

AT_LEAST = 24 * 3600.0
"""Seconds between two runs while it is not."""

QUIET = 0.05
"""Seconds without a request after which the next mailbox follows."""

LONGEST_DELAY = 1.0
"""Seconds to wait for such a pause, at most."""

_LONGEST_REST = 1.0


class Maintenance:
    """Runs the maintenance of one store in the background.

    :param requests: the counters of the kernel's requests.
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
        """Run the maintenance again and again, until cancelled."""
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
        """Totals over all runs; ``left`` and ``seconds`` (with all waits) are those of the last run."""
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
        """Changes so far, without the groups of saves, which are counted before their saves."""
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
        """Rest, then wait for a pause if the kernel has sent requests meanwhile."""
        await trio.sleep(min(trio.current_time() - self._resumed, _LONGEST_REST))
        deadline = trio.current_time() + LONGEST_DELAY
        while self._asked != (now := sum(self._requests.values())) and trio.current_time() < deadline:
            self._asked = now
            await trio.sleep(QUIET)
        self._resumed = trio.current_time()
