"""Notice that somebody walks through a mailbox, message after message, and have the next ones brought ahead.

A walk is a run of opens at rising positions with small gaps, as ``tar``, ``grep -r`` and backup software
make them (they take files in the order of the listing or of inode numbers, which here is the order of
uids).  The first opens of a walk bring :data:`FIRST` messages ahead; each time half of what was brought is
used up the window doubles, up to
:data:`MOST`.  Anything else ends the walk and brings nothing.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST = 16
MOST = 128
_GAP = 4


class Walk:
    """Follows the opens of one mailbox.

    :param bring: called with positions [first, last): bring these messages ahead.  ``last`` may be beyond
    the end.
    """

    __slots__ = ("_bring", "_brought", "_last", "_window")

    def __init__(self, bring: Callable[[int, int], None]) -> None:
        self._bring = bring
        self._last = -1
        self._brought = 0
        self._window = 0

    def opened(self, position: int, *, useful: bool) -> None:
        """The message at *position* is opened now; *useful*: not everything is in memory anyhow."""
        step = position - self._last
        self._last = position
        if not 0 < step <= _GAP or not useful:
            self._window = 0
            return
        if not self._window:
            self._window, self._brought = FIRST, position + 1
        elif self._brought - position > self._window // 2:
            return
        else:
            self._window = min(self._window * 2, MOST)
            self._brought = max(self._brought, position + 1)
        first, self._brought = self._brought, position + 1 + self._window
        self._bring(first, self._brought)
