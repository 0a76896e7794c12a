"""Processes that wait in poll(2) until a file has grown.

A process that polls a file and has read all of it leaves a wake.  When the file grows, each wake is called
once and forgotten; the kernel then asks again for each process that still waits.  So a wake too many costs
one request.  If :data:`MOST_WAKES` are kept, all of them are called, so that none is lost.

Concurrency: nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Wake = Callable[[], None]
"""Has the kernel ask again, for a process that waits."""

MOST_WAKES = 256
"""Wakes that are kept, at most."""


@runtime_checkable
class Polled(Protocol):
    """An open file that may have nothing to be read."""

    def is_ready(self, wake: Wake | None) -> bool:
        """Whether the file has bytes that were not read yet.

        :param wake: to be called when it has, if it has none now; None: the process does not wait.
        """


class Waiting:
    """The wakes of one file."""

    def __init__(self) -> None:
        self._wakes: list[Wake] = []

    def add(self, wake: Wake) -> None:
        """Call *wake* when the file has grown."""
        self._wakes.append(wake)
        if len(self._wakes) >= MOST_WAKES:
            self.wake_all()

    def wake_all(self) -> None:
        """The file has grown, or will never grow again."""
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()
