"""The progress meter: one line on stderr that is overwritten; nothing if stderr is no terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_MEGABYTE = 1_000_000

INTERVAL = 0.5
"""Seconds between two updates of the line, at least."""

SURE_AFTER = 2.0
"""Seconds after which the remaining time is shown: before, it would jump."""


class Meter:
    """Shows the progress of a command, its speed and the remaining time.

    :param quiet: show nothing.
    :param stream: gets the line; None: stderr.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._on = not quiet and self._stream.isatty()
        self._began = self._phase_began = time.monotonic()
        self._shown = self._began
        self._doing = ""
        self._first = 0
        self._open = False

    @property
    def seconds(self) -> float:
        """Seconds since the command began; never 0."""
        return max(time.monotonic() - self._began, 1e-3)

    def show(self, doing: str, done: int, of: int = 0, size: int = 0, *, what: str = "messages") -> None:
        """Show the progress, unless the line was updated less than :data:`INTERVAL` seconds ago.

        :param doing: a participle ("converted"); when it changes, the estimate of the time begins anew.
        :param of: number of all items; 0: not known.
        :param size: bytes so far; 0: not shown.
        :param what: name of the items.
        """
        if not self._on:
            return
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._phase_began, self._first = doing, now, done
        if now - self._shown < INTERVAL:
            return
        self._shown = now
        count = f"{done} of {of} {what}" if of else f"{done} {what}"
        parts = [f"{doing} {count}", *([self.rate(size)] if size else [])]
        if left := self._left(now, done, of):
            parts.append(left)
        self._stream.write(f"\r{', '.join(parts)}\x1b[K")
        self._stream.flush()
        self._open = True

    def _left(self, now: float, done: int, of: int) -> str:
        """The remaining time, in words; empty: not known yet."""
        seconds, fresh = now - self._phase_began, done - self._first
        if seconds < SURE_AFTER or fresh <= 0 or of <= done:
            return ""
        return f"{duration(seconds / fresh * (of - done))} left"

    def rate(self, size: int) -> str:
        """*size* bytes in MB, and in MB a second."""
        return f"{size / _MEGABYTE:.1f} MB, {size / _MEGABYTE / self.seconds:.1f} MB/s"

    def clear(self) -> None:
        """Erase the line: call it before anything else is printed, and at the end."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False


def duration(seconds: float) -> str:
    """A time for people: ``45 s``, ``3 min``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
