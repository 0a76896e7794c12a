"""The daemon's answer to each signal.

=======  =================================================================================================
TERM     unmount, and end
INT      the same
HUP      drop all caches and read the configuration again; the same as TERM if the daemon's terminal is gone
USR1     log what every task is doing (:mod:`dboxfs.fuse.taskdump`)
USR2     begin to log each request, or end it: its kind, inode or handle, and time; no name and no byte
=======  =================================================================================================

Concurrency: each signal has a task; a second HUP waits for the first one's work.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack

import pyfuse3
import trio
from msgspec import Struct, field

from dboxfs.errors import DboxfsError
from dboxfs.fuse import taskdump
from dboxfs.fuse.notify import Notifier
from dboxfs.util.systemd import notify
from dboxfs.vfs.observed import Observed
from dboxfs.vfs.serving import Serving

log = logging.getLogger(__name__)


class Commander(Struct, frozen=True):
    """Callbacks of the command line that started the daemon; a HUP uses them.

    :ivar reread: reads the configuration again and puts it in force; gives lines for the log.  Raises
        DboxfsError or OSError: it can't be read, and nothing has changed.
    :ivar hung_up: whether the daemon had a terminal that is gone now.
    """

    reread: Callable[[], Iterable[str]] = tuple
    hung_up: Callable[[], bool] = field(default=lambda: False)


def _if_unexpected(exc: Exception) -> Exception | None:
    """*exc* if the log shall have its traceback, which stands for a bug; None for an expected error."""
    return None if isinstance(exc, DboxfsError | OSError) else exc


class Signals(Struct, frozen=True):
    """The signals of one mount.

    :ivar told: set when a signal says to unmount.
    """

    serving: Serving
    observed: Observed
    notifier: Notifier
    commander: Commander
    told: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Carry signals out, until cancelled; started when all of them are received here."""
        with ExitStack() as stack:
            ends, hangups, questions, traces = (
                stack.enter_context(trio.open_signal_receiver(*numbers))
                for numbers in (
                    (signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,), (signal.SIGUSR1,), (signal.SIGUSR2,)
                )
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._terminate_on, ends)
                nursery.start_soon(self._reload_on, hangups)
                nursery.start_soon(self._report_on, questions)
                nursery.start_soon(self._trace_on, traces)
                task_status.started()

    async def _terminate_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._terminate(number)

    def _terminate(self, number: int) -> None:
        self.told.set()
        log.info("signal %s: unmounting", signal.Signals(number).name)
        pyfuse3.terminate()

    async def _reload_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if self.commander.hung_up():
                self._terminate(number)
                continue
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self._reload()
            finally:
                notify("READY=1")

    async def _reload(self) -> None:
        try:
            for line in self.commander.reread():
                log.info("SIGHUP: %s", line)
        except Exception as exc:  # the mount goes on with the old configuration
            log.error("SIGHUP: the configuration stays as it was: %s", exc, exc_info=_if_unexpected(exc))
        try:
            self.notifier.all_names()
            await self.serving.drop_caches()
        except Exception as exc:  # the mount goes on with the store as it was read
            text = "SIGHUP: the store can't be read again, and is shown as it was: %s"
            log.error(text, exc, exc_info=_if_unexpected(exc))
        else:
            log.info("SIGHUP: caches dropped, the store read again")

    async def _report_on(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            for line in taskdump.report():
                log.info("%s", line)

    async def _trace_on(self, signals: AsyncIterator[int]) -> None:
        observed = self.observed
        async for _ in signals:
            observed.trace = not observed.trace
            log.info(
                "SIGUSR2: requests are %s", "logged from now on" if observed.trace else "not logged any more"
            )
